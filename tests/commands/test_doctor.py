"""`doctor`: findings with advice, an exit code, and a report without names and paths."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from sage_va.cli import main
from sage_va.commands import checkup, self_test
from sage_va.commands.anonymous import anonymous, private_names
from sage_va.commands.checkup import Checkup, Finding
from sage_va.data import Clip, Track, environment, open_store, stream_name
from sage_va.data.environment import Device, Environment

MACHINE = Environment(
    versions={"sage-va": "0.1.0", "python": "3.11.7", "torch": "2.15.0"},
    missing={"extract": [], "ray": ["ray"]},
    system="Linux x86_64",
    num_cores=2,
    devices=[],
    memory_bytes=16_000_000_000,
    disk_bytes={"derived files": 50_000_000_000, "temporary files": 50_000_000_000},
    hub=True,
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine that is described, and no self-test nor encoder."""
    place = SimpleNamespace(machine=MACHINE)
    monkeypatch.setattr(Environment, "of_this_machine", classmethod(lambda cls, **_: place.machine))
    monkeypatch.setattr(checkup, "_self_test", lambda can_extract: Finding("self-test", "good", "in 2 s"))
    monkeypatch.setattr(checkup, "_default_encoder", lambda device: Finding("visual/x", "good", "equal"))
    monkeypatch.setattr(checkup, "_decoders", lambda can_extract: Finding("decoders", "good", "h264"))
    return place


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache whose names are private, with features of a local encoder that is not here."""
    place = tmp_path / "of-annika" / "patients.zarr"
    place.parent.mkdir()
    store = open_store(place, "a")
    encoder = {"kind": "transformers", "name": "annikas-voice", "weights": "pretrained", "weights_sha256": "0" * 64}
    fingerprint = {"modality": "audio", "encoder": encoder, "preprocessing": {}, "compute_dtype": "float32"}
    track = Track.of(np.ones((9, 4), np.float32), np.arange(9) / 10)
    name = stream_name("audio", "annikas-voice", fingerprint)
    store.commit(Clip("annika_at_home.mp4"), name, track, fingerprint=fingerprint, source_sha256="")
    return place


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["doctor", *map(str, arguments)])


def states(*arguments: object) -> dict[str, str]:
    return {row["name"]: row["state"] for row in json.loads(run(*arguments, "--json").stdout)["findings"]}


def test_findings_have_a_line_each_and_advice(quick: Any) -> None:
    quick.machine = replace(MACHINE, memory_bytes=1_000_000_000, hub=False)
    result = run()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[1] for line in lines if not line.startswith(" ")][:-1] == [
        "versions", "extras", "memory", "disk", "hub", "decoders", "devices", "self-test", "visual/x",
    ]  # fmt: skip
    assert "1.0 GB free" in result.stdout
    assert "Close other programs, or lower --batch-size and --workers." in result.stdout
    assert "not installed: ray (1 packages)" in result.stdout
    assert "no GPU; 2 cores" in result.stdout
    assert lines[-1] == "nothing is broken"


@pytest.mark.parametrize(
    ("change", "name", "state"),
    [
        ({"hub": None}, "hub", "skipped"),
        ({"hub": False}, "hub", "note"),
        ({"missing": {"extract": ["av"]}}, "extras", "note"),
        ({"disk_bytes": {"derived files": 10, "temporary files": 10**12}}, "disk", "note"),
        ({"memory_bytes": None}, "memory", "skipped"),
        ({"versions": {"sage-va": None, "python": "3.11.7"}}, "versions", "note"),
        ({"devices": [Device("cuda:0", "H", 1, 1)]}, "devices", "good"),
        ({"devices": [Device("cuda:0", "H", 1, None, "no kernel image")]}, "devices", "broken"),
    ],
)
def test_what_is_found(quick: Any, change: dict[str, Any], name: str, state: str) -> None:
    quick.machine = replace(MACHINE, **change)
    assert states()[name] == state


def test_what_does_not_work_ends_in_exit_code_1(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "_self_test", lambda can_extract: 1 / 0)
    result = run()
    assert result.exit_code == 1
    assert "broken   self-test" in result.stdout
    assert "ZeroDivisionError: division by zero" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 broken"


def test_without_the_packages_of_extraction_encoders_are_skipped(quick: Any) -> None:
    quick.machine = replace(MACHINE, missing={"extract": ["av", "timm"]})
    assert states()["batches"] == "skipped"


def test_the_hub_is_not_asked_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "hub_answers", lambda: pytest.fail("the hub was asked"))
    monkeypatch.setattr(environment, "devices", list)
    assert Environment.of_this_machine(offline=True).hub is None
    assert Environment.of_this_machine(offline=True).versions["torch"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert Environment.of_this_machine().hub is None


def test_a_report_has_no_names_and_no_paths(
    quick: Any, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "annikas-home"))
    monkeypatch.setenv("USER", "annika")
    monkeypatch.setattr("socket.gethostname", lambda: "lab7.annika.org")
    result = run(cache, "--json")
    assert result.exit_code == 0, result.output
    assert not [
        word for word in ("annika", "lab7", "patients", str(tmp_path), "/tmp", "/home") if word in result.stdout
    ]
    assert states(cache)["cache"] == "good"
    (row,) = [row for row in json.loads(result.stdout)["findings"] if row["name"].startswith("audio/")]
    assert row["name"].startswith("audio/<encoder>-")
    assert row["state"] == "note"
    assert "annikas-voice" in run(cache).stdout  # on the own screen, names help


def test_a_target_that_is_not_there_is_broken(quick: Any) -> None:
    result = run("nowhere")
    assert result.exit_code == 1
    assert "nowhere: expected a cache, a run or a saved model, got nothing of that name" in result.stdout
    assert states("nowhere")["run"] == "broken"
    assert "run" not in private_names("run")  # our own words stay


def test_a_file_that_is_no_cache_is_not_looked_for_on_the_hub(
    quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.csv").write_text("clip_id\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sage_va.fusion.export.ensemble.load_models", lambda *_: pytest.fail("it was loaded"))
    result = run("data/manifest.csv")
    assert "data/manifest.csv: expected a cache, a run or a saved model, got another file" in result.stdout


@pytest.mark.parametrize("target", ["of-annika/run/", "./of-annika/run", "of-annika//run", "x/../of-annika/run/"])
def test_the_folders_of_a_target_are_taken_out_however_it_is_written(
    quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    (tmp_path / "of-annika" / "run").mkdir(parents=True)
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path)
    result = run(target, "--json")
    assert "<target>: expected the folder of a finished run" in result.stdout
    assert "annika" not in result.stdout


def test_names_of_a_target_do_not_spoil_the_facts_about_the_machine(quick: Any, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    fingerprint = {"encoder": {"name": "drawn", "modality": "audio"}}
    track = Track.of(np.ones((9, 4), np.float32), np.arange(9) / 10)
    name, store = stream_name("audio", "drawn", fingerprint), open_store(place, "a")
    for clip_id in ("11", "15"):  # as in Python 3.11.7 and torch 2.15.0
        store.commit(Clip(clip_id), name, track, fingerprint=fingerprint, source_sha256="")
    report = json.loads(run(place, "--json").stdout)
    assert report["environment"] == MACHINE.to_json()
    assert report["findings"][0]["text"] == "sage-va 0.1.0, python 3.11.7, torch 2.15.0, Linux x86_64"
    assert "sage" not in private_names("runs/sage")  # `sage-va` stays


def test_a_damaged_cache_is_broken_and_its_report_anonymous(quick: Any, cache: Path) -> None:
    (file,) = cache.glob("audio/*/*/values/c/0/0")
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    result = run(cache, "--json")
    assert result.exit_code == 1
    assert "annika" not in result.stdout
    (row,) = [row for row in json.loads(result.stdout)["findings"] if row["name"] == "cache"]
    assert row["state"] == "broken"
    assert "<clip>" in row["text"]


def test_texts_lose_names_paths_and_addresses() -> None:
    names = {"anna": "<user>", "anna.mp4": "<clip>", "lab7": "<host>"}
    value = {"x": ["/data/anna/c.zarr: 3 frames/s, (~/y) C:\\x on lab7", "anna.mp4", "annabel", 3], "anna": None}
    assert anonymous(value, names) == {
        "x": ["<path>: 3 frames/s, (<path>) <path> on <host>", "<clip>", "annabel", 3],
        "<user>": None,
    }
    texts = "[Errno 13] Permission denied: '/mnt/My study/anna b.mp4'", 'in "~/My x/y" it isn\'t', "file:/data/x"
    assert [anonymous(text, {}) for text in texts] == [
        "[Errno 13] Permission denied: '<path>'",
        'in "<path>" it isn\'t',
        "file:<path>",
    ]
    assert anonymous("s3://lab7/x and hf://datasets/anna/y", names) == "<address> and <address>"


def test_a_checkup_goes_on_after_a_fault() -> None:
    result = Checkup(MACHINE)
    result.examine("a", lambda: 1 / 0)
    result.examine("b", lambda: Finding("b", "good", "fine"))
    assert [finding.state for finding in result.findings] == ["broken", "good"]
    assert result.broken


@pytest.mark.slow
@pytest.mark.parametrize("extraction", [False, True])
def test_the_self_test_goes_from_recordings_to_estimates(extraction: bool) -> None:
    if extraction:
        for package in ("av", "timm", "librosa", "cv2"):
            pytest.importorskip(package)
    before = os.environ["SAGE_VA_CACHE"]
    result = self_test.self_test(extraction=extraction)
    assert result.num_steps == 20
    assert (
        list(result.seconds) == ["draw", "extract", "train", "predict"]
        if extraction
        else ["draw features", "train", "predict"]
    )
    assert os.environ["SAGE_VA_CACHE"] == before


@pytest.mark.slow
def test_it_works_with_the_fusion_half_alone() -> None:
    code = """
import sys
from importlib import metadata
EXTRACT = {"av", "cv2", "librosa", "PIL", "soxr", "timm", "torchvision", "transformers"}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in EXTRACT:
            raise ModuleNotFoundError("blocked: " + name, name=name.split(".")[0])
sys.meta_path.insert(0, Blocker())
from sage_va.data import environment
plain = environment.version_of
environment.version_of = lambda name: None if name in EXTRACT else plain(name)
from sage_va.cli import main
main(["doctor", "--offline"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "from drawn features to estimates" in done.stdout
    assert 'pip install "sage-va[extract]"' in done.stdout
