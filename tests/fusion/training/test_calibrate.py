"""Post-hoc calibration: only offset and temperature move, the held-out error falls, and what has no gate is refused."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from sage_va.cli import main
from sage_va.data import InputError, open_store
from sage_va.fusion.config import check_config
from sage_va.fusion.evaluation.score import load_part, score_run
from sage_va.fusion.run_folder import finish_run, load_run, start_run
from sage_va.fusion.training.calibrate import calibrate, refit
from sage_va.fusion.training.train import train
from sage_va.tests.synthetic import make_cache, tiny

torch.set_num_threads(1)
MOVED = {"fusion.gate.offset", "fusion.gate.raw_temperature"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def overconfident(cache: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose gate says near 0 or near 1."""
    folder = tmp_path_factory.mktemp("runs")
    train(open_store(cache[0]), cache[1], folder / "learnt", check_config(tiny(train={"epochs": 6}), "test"))
    run = load_run(folder / "learnt")
    with torch.no_grad():
        run.model.get_parameter("fusion.gate.offset").add_(1.5)
        run.model.get_parameter("fusion.gate.raw_temperature").fill_(-3)
    start_run(folder / "sure", run.config, run.roles)
    kept = ("cache", "labels", "licence", "restricted", "smoothing_s", "sigma")
    finish_run(folder / "sure", run.model, run.config, {name: getattr(run, name) for name in kept})
    (folder / "sure" / "metrics.jsonl").write_text("")
    return folder / "sure"


def test_it_mends_what_was_too_sure(overconfident: Path, tmp_path: Path) -> None:
    (run,) = calibrate(overconfident, tmp_path / "new").runs
    for label, before in run.before.streams.items():
        assert before.ece > 0.15
        assert run.after.streams[label].ece < 0.5 * before.ece
    old, new = load_run(overconfident), load_run(tmp_path / "new")
    states = old.model.state_dict(), new.model.state_dict()
    assert {name for name in states[0] if not torch.equal(states[0][name], states[1][name])} == MOVED
    assert (new.config, new.roles, new.sigma) == (old.config, old.roles, old.sigma)
    assert json.loads((tmp_path / "new" / "config.json").read_text())["calibrated_from"] == str(overconfident)
    assert score_run(tmp_path / "new").raw.ccc["mean"] > 0.3


def test_how_windows_are_batched_does_not_matter(overconfident: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offsets = []
    for batch_size in (1, 3, 32):
        monkeypatch.setattr("sage_va.fusion.training.calibrate.BATCH_SIZE", batch_size)
        run = load_run(overconfident)
        refit(run, load_part(run, open_store(run.cache), Path(run.labels), "val"))
        offsets.append(run.model.get_parameter("fusion.gate.offset"))
    torch.testing.assert_close(offsets[0], offsets[2], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(offsets[1], offsets[2], rtol=1e-3, atol=1e-3)


def test_labels_of_which_none_counts_are_refused(overconfident: Path, tmp_path: Path) -> None:
    run = load_run(overconfident)
    for clip_id in run.roles:
        (tmp_path / f"{clip_id}.csv").write_text("time_s,valence,arousal\n900,0.1,0.1\n")
    with pytest.raises(InputError, match=r"expected validation labels that count, got none\. Check --labels"):
        calibrate(overconfident, tmp_path / "new", labels=tmp_path)
    assert not (tmp_path / "new").exists()


def test_the_columns_hold_what_their_titles_say(overconfident: Path, tmp_path: Path) -> None:
    """The text of a calibration, number by number, against its JSON."""
    texts = [
        CliRunner().invoke(main, ["calibrate", str(overconfident), "--out", str(tmp_path / name), *options]).stdout
        for name, options in (("text", []), ("json", ["--json"]))
    ]
    (run,) = json.loads(texts[1])["runs"]
    title, _, *lines = texts[0].splitlines()
    assert title.index("ECE before  after") < title.index("Spearman with the error before  after")
    for line, (label, before) in zip(lines, run["before"]["streams"].items(), strict=True):
        after = run["after"]["streams"][label]
        name, *numbers = line.split()
        assert name == label
        assert numbers == [f"{part[key]:.3f}" for key in ("ece", "spearman") for part in (before, after)]


def test_a_folder_with_files_is_refused(overconfident: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["calibrate", str(overconfident), "--out", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    again = CliRunner().invoke(main, ["calibrate", str(overconfident), "--out", str(tmp_path / "new")])
    assert again.exit_code == 1
    assert "expected a new folder, got one with files in it" in again.output


def test_a_model_without_a_gate_is_refused(cache: tuple[Path, Path], tmp_path: Path) -> None:
    config = check_config(tiny(model={"variant": "concat"}, train={"epochs": 1}), "test")
    train(open_store(cache[0]), cache[1], tmp_path / "run", config)
    with pytest.raises(InputError, match=r"expected a trained gate, got concat\. Train `sage`"):
        calibrate(tmp_path / "run", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_variants_are_listed() -> None:
    done = CliRunner().invoke(main, ["variants", "--json"])
    assert list(json.loads(done.output))[:3] == ["linear", "visual", "audio"]
