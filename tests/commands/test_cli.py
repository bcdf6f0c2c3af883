"""The verbs of stage 2 and of the cache, as a user meets them: output, exit codes, and one line per error."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from sage_va.cli import main
from sage_va.tests.synthetic import latent, tiny, write_labels

torch.set_num_threads(1)
CLIPS = [f"clip{i}" for i in range(6)]


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def ok(*arguments: Any) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features to import, labels, and settings of a small run."""
    folder = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    maps = {"face": rng.standard_normal((2, 6)), "voice": rng.standard_normal((2, 5))}
    for name in (*maps, "labels"):
        (folder / name).mkdir()
    for clip in CLIPS:
        times, va = latent(rng, 4.0)
        for name, mixing in maps.items():
            np.save(
                folder / name / f"{clip}.npy", (va[::4] @ mixing + 0.2 * rng.standard_normal((100, mixing.shape[1])))
            )
        write_labels(folder / "labels" / f"{clip}.csv", times, va, 30.0)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny(train={"epochs": 3, "crossfit_epochs": 1})), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def cache(place: Path) -> Path:
    for modality, name in (("visual", "face"), ("audio", "voice")):
        options = ["--stream", f"{modality}/{name}", "--hz", 25, "--out", place / "c.zarr", "--licence", "CC0"]
        text = ok("cache", "import", place / name, *options)
        assert text.startswith(f"6 clips in {modality}/{name}-")
    return place / "c.zarr"


@pytest.fixture(scope="module")
def trained(place: Path, cache: Path) -> Path:
    places = ["--labels", place / "labels", "--out", place / "run", "--config", place / "tiny.yaml"]
    result = json.loads(ok("train", cache, *places, "--json"))
    assert result["runs"] == [str(place / "run")]
    assert set(result["val"][0]) == {"valence", "arousal", "mean"}
    return place / "run"


def test_cache_verbs(cache: Path) -> None:
    assert "6 clips" in ok("cache", "info", cache)
    info = json.loads(ok("cache", "info", cache, "--json"))
    assert (info["clips"], info["licence"], len(info["streams"])) == (6, "CC0", 2)
    assert [line.split()[0] for line in ok("cache", "ls", cache).splitlines()] == CLIPS
    assert [row["clip_id"] for row in json.loads(ok("cache", "ls", cache, "--json"))["clips"]] == CLIPS
    assert "12 streams checked, whole" in ok("cache", "verify", cache)


def test_a_log_without_a_terminal_has_a_line_per_epoch(place: Path, cache: Path, tmp_path: Path) -> None:
    places = ["--labels", place / "labels", "--out", tmp_path / "run", "--config", place / "tiny.yaml"]
    result = run("train", cache, *places, "--variant", "concat")
    lines = [line for line in result.stderr.splitlines() if line.startswith("run: epoch ")]
    assert [line.split(",")[0] for line in lines] == [f"run: epoch {number} of 3" for number in (1, 2, 3)]
    assert "val CCC " in lines[0]
    assert "\r" not in result.stderr


def test_eval(trained: Path) -> None:
    result = json.loads(ok("eval", trained, "--json"))
    assert result["split"] == "test"
    assert -1 <= result["raw"]["ccc"]["mean"] <= 1
    assert f"{trained} (sage), val: 1 clips, " in ok("eval", trained, "--split", "val")


def test_json_of_one_clip_has_null_for_what_is_not_defined(trained: Path) -> None:
    text = ok("eval", trained, "--split", "val", "--json")
    assert "NaN" not in text
    assert json.loads(text)["raw"]["interval"]["mean"] == [None, None]


def test_predict(trained: Path, cache: Path, tmp_path: Path) -> None:
    text = ok("predict", trained, cache, "--out", tmp_path / "out", "--device", "cpu")
    assert text == f"6 clips -> {tmp_path / 'out'}\n"
    with (tmp_path / "out" / "clip0.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 100
    assert list(rows[0])[:3] == ["time_s", "valence", "arousal"]
    text = ok("predict", trained, trained, cache, "--out", tmp_path / "twice", "--device", "cpu")
    assert text == f"6 clips -> {tmp_path / 'twice'}, mean of 2 models\n"
    assert (tmp_path / "twice/clip0.csv").read_bytes() == (tmp_path / "out/clip0.csv").read_bytes()
    result = run("predict", trained, trained, "--out", tmp_path / "none")
    assert (result.exit_code, "Missing argument 'MEDIA...'" in result.stderr) == (2, True)


def test_show_config_prints_what_would_be_used_and_stops(place: Path, cache: Path, tmp_path: Path) -> None:
    settings = ["--variant", "audio", "--seed", 3, "--set", "seed=4", "--set", "train.noise=0.5", "--show-config"]
    places = ["--labels", place / "labels", "--out", tmp_path / "run", "--config", place / "tiny.yaml"]
    text = ok("train", cache, *places, *settings)
    result = yaml.safe_load(text)
    assert (result["model"]["variant"], result["model"]["dim"]) == ("audio", 16)
    assert (result["seed"], result["train"]["noise"]) == (4, 0.5)
    assert json.loads(ok("train", cache, *places, *settings, "--json")) == result
    assert not (tmp_path / "run").exists()


def test_scores_of_runs_that_were_done_before_stand_beside_the_new_ones(
    place: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    means = {"fold-0": [0.25, None, 0.75, 0.5], "fold-1": [None, None, None, None], "fold-2": []}
    for name, each in means.items():
        (tmp_path / name).mkdir()
        rows = [{"epoch": epoch, "val": {"mean": mean}} for epoch, mean in enumerate(each)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        (tmp_path / name / "config.yaml").write_text(f"train: {{keep: {'best' if name == 'fold-0' else 'last'}}}\n")

    def resumed(*_: Any, log: Any, **options: Any) -> list[Path]:
        val = {"valence": 0.0, "arousal": 1.0, "mean": 0.5}
        log({"event": "done", "path": str(tmp_path / "fold-2"), "val": val, "smoothing_s": 0.0})
        return [tmp_path / name for name in means]

    monkeypatch.setattr("sage_va.fusion.training.train.train", resumed)
    options = ["--labels", place / "labels", "--out", tmp_path, "--resume", "--device", "cpu", "--json"]
    result = json.loads(ok("train", cache, *options))
    assert [score["mean"] for score in result["val"]] == [0.75, None, 0.5]
    assert [Path(path).name for path in result["runs"]] == list(means)


def test_a_damaged_cache_is_found_with_exit_code_1(place: Path, tmp_path: Path) -> None:
    ok("cache", "import", place / "face", "--stream", "visual/face", "--hz", 25, "--out", tmp_path / "c.zarr")
    (file,) = (tmp_path / "c.zarr").glob("visual/face-*/clip2/values/c/0/0")
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    result = run("cache", "verify", tmp_path / "c.zarr")
    assert result.exit_code == 1
    assert "clip2 visual/face-" in result.stdout
    assert "6 streams checked, 1 problem." in result.stdout


def test_failed_imports_are_listed_with_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "good.npy", np.zeros((5, 2)))
    np.save(tmp_path / "in" / "flat.npy", np.zeros(5))
    result = run("cache", "import", tmp_path / "in", "--stream", "visual/x", "--hz", 5, "--out", tmp_path / "c.zarr")
    assert result.exit_code == 1
    assert "1 clips in visual/x-" in result.stdout
    assert "failed: flat: expected numbers of shape (T, D), got (5,) float64." in result.stdout


TRAIN = "train {cache} --labels {labels} --out"
ERRORS = {
    "cache info {tmp}/none.zarr": "none.zarr: expected a feature cache, got no such folder or not one.",
    "cache ls {tmp}/none": "expected a cache: *.zarr, *.h5, ",
    f"{TRAIN} {{tmp}}/r --set train.epoch=1": "Did you mean train.epochs?",
    f"{TRAIN} {{run}}": "expected a new folder, got one with files in it.",
    f"{TRAIN} {{tmp}}/r --device quantum": "--device quantum: this machine has none",
    f"{TRAIN} {{tmp}}/r --set split.by=official": "expected a part in the official split, got none.",
    f"{TRAIN} {{tmp}}/r --set data.streams=[visual]": "at least 2 streams",
    "train {cache} --labels {tmp} --out {tmp}/r": "expected a folder of label files, got none.",
    "eval {tmp}": "expected the folder of a finished run, got none.",
    "eval {run} --cache {tmp}/none.zarr": "expected a feature cache",
    "predict {run} {tmp}/none.zarr --out {tmp}/o": "expected a feature cache",
    "predict {run} {cache} {cache} --out {tmp}/o": "MEDIA: expected one cache, or recordings",
}


@pytest.mark.parametrize("command", ERRORS)
def test_a_users_error_is_one_line_and_exit_code_1(
    command: str, place: Path, cache: Path, trained: Path, tmp_path: Path
) -> None:
    filled = [part.format(tmp=tmp_path, cache=cache, labels=place / "labels", run=trained) for part in command.split()]
    result = run(*filled)
    assert result.exit_code == 1
    assert ERRORS[command] in result.stderr
    usual = ("6 labelled clips", "preset ", "grid ")
    lines = [line for line in result.stderr.splitlines() if not line.startswith(usual)]
    assert [line[:7] for line in lines] == ["Error: "]
    assert result.stdout == ""
    debugged = run("--debug", *filled)
    assert isinstance(debugged.exception, ValueError)
    assert ERRORS[command].split(",")[0] in str(debugged.exception)


def test_usage_errors_are_clicks_own() -> None:
    result = run("train")
    assert result.exit_code == 2
    assert "Missing argument 'CACHE'" in result.stderr


def test_as_a_program_there_is_no_traceback_without_debug(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sage_va.cli"]
    arguments = ["cache", "info", str(tmp_path / "none.zarr")]
    plain = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert plain.returncode == 1
    assert plain.stdout == ""
    assert plain.stderr.count("\n") == 1
    debugged = subprocess.run([*command, "--debug", *arguments], capture_output=True, text=True, check=False)
    assert debugged.returncode == 1
    assert debugged.stderr.startswith("Traceback (most recent call last):")
    assert "InputError" in debugged.stderr


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [(["variants"], 0), (["variants", "--json"], 0), (["cache", "info", "none.zarr", "--json"], 1)],
)
def test_a_reader_that_is_gone_is_no_error(arguments: list[str], lines: int, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sage_va.cli", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path)
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr.count("\n") == lines, done.stderr


def test_without_the_extraction_packages_one_line_says_what_to_install(place: Path) -> None:
    blocker = (
        "import sys; sys.modules.update(dict.fromkeys(['av', 'cv2', 'timm', 'transformers', 'soxr', 'librosa']));"
        "from sage_va.cli import main; main()"
    )
    (place / "clip.mp4").write_bytes(b"")
    command = ["extract", str(place / "clip.mp4"), "--out", str(place / "x.zarr"), "--visual", "resnet18"]
    done = subprocess.run([sys.executable, "-c", blocker, *command], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'the extraction packages are not installed. Run: pip install "sage-va[extract]".' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(28, "No space left on device", "c.zarr"),
            "c.zarr: cannot be read or written: No space left on device.",
        ),
        (MemoryError(), "out of memory: no more can be allocated. Lower the batch size"),
        (RuntimeError("CUDA out of memory.\nTried"), "out of memory: CUDA out of memory. Lower the batch size"),
    ],
)
def test_errors_of_the_machine_are_one_line(error: Exception, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("sage_va.data.store.base.open_store", fail)
    monkeypatch.setattr("sage_va.data.open_store", fail)
    result = run("cache", "info", "c.zarr")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {line}")
    assert run("--debug", "cache", "info", "c.zarr").exception is error


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage_va.data.open_store", lambda *_: 1 / 0)
    assert isinstance(run("cache", "info", "c.zarr").exception, ZeroDivisionError)
