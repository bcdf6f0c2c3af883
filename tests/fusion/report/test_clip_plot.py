"""The picture of one clip of a run: what it says about the clip, and the verb."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from sage_va import evaluate, plot_clip
from sage_va.cli import main
from sage_va.data import InputError
from sage_va.data.windows.splits import read_split


def clip_of(run: Path, part: str) -> str:
    return next(clip_id for clip_id, role in read_split(run / "split.csv").items() if role == part)


def test_the_picture_has_the_scores_and_marks_of_the_clip(runs: dict[str, Path]) -> None:
    clip_id = clip_of(runs["sage-0"], "test")
    figure = plot_clip(runs["sage-0"], clip_id)
    (clip,) = [clip for clip in evaluate(runs["sage-0"]).clips if clip.clip_id == clip_id]
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles[:2] == [f"{name}, CCC {clip.ccc[name]:.3f}" for name in ("valence", "arousal")]
    assert titles[2:] == ["reliability", "weight", "valid steps, stage"]
    title = figure.get_suptitle()
    assert title.startswith(f"{clip_id}: sage, a test clip")
    assert "UNTRAINED ENCODER (random weights)" in title


def test_a_training_clip_is_named_as_one(runs: dict[str, Path]) -> None:
    figure = plot_clip(runs["concat-0"], clip_of(runs["concat-0"], "train"))
    assert "a training clip: its fit is no measure of quality" in figure.get_suptitle()


def test_of_folds_the_one_is_taken_that_held_the_clip_out(runs: dict[str, Path], tmp_path: Path) -> None:
    for fold in range(2):
        shutil.copytree(runs["concat-0"], tmp_path / f"fold-{fold}")
    clip_id = clip_of(runs["concat-0"], "test")
    split = tmp_path / "fold-0" / "split.csv"
    split.write_text(split.read_text().replace(f"{clip_id},test", f"{clip_id},train"))
    assert "a test clip" in plot_clip(tmp_path, clip_id).get_suptitle()


def test_a_clip_without_labels_has_no_gold_standard(runs: dict[str, Path], tmp_path: Path) -> None:
    labels = Path(shutil.copytree(runs["sage-0"].parent / "labels", tmp_path / "labels"))
    clip_id = clip_of(runs["concat-0"], "val")
    (labels / f"{clip_id}.csv").unlink()
    valence = plot_clip(runs["concat-0"], clip_id, labels=labels).axes[0]
    assert valence.get_title(loc="left") == "valence"
    assert [text.get_text() for text in valence.get_legend().get_texts()] == ["concat"]


def test_an_unknown_clip_is_named_with_one_like_it(runs: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"clip0: .*cache\.zarr has no clip of that name\. Did you mean clip0\d\?"):
        plot_clip(runs["concat-0"], "clip0")


def test_the_verb(runs: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["plot", str(runs["concat-0"]), "clip00", "--device", "cpu", "--out"]
    done = CliRunner().invoke(main, [*arguments, str(tmp_path / "a.svg")])
    assert (done.exit_code, done.stdout.strip()) == (0, str(tmp_path / "a.svg"))
    assert "gold standard" in (tmp_path / "a.svg").read_text(encoding="utf-8")
    done = CliRunner().invoke(main, [*arguments, str(tmp_path / "a.gif")])
    assert done.exit_code == 1
    assert "expected a name that ends in .png, .svg or .pdf, got .gif" in done.output
