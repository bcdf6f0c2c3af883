"""The picture of one clip of a run: what it says about the clip, and the verb."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from sage_va import evaluate, plot_clip
from sage_va.cli import main
from sage_va.data import InputError, open_store
from sage_va.data.windows.load import choose_streams
from sage_va.data.windows.splits import read_split
from sage_va.fusion.evaluation.clip_picture import panel_of
from sage_va.fusion.evaluation.score import load_part
from sage_va.fusion.report import clip_plot
from sage_va.tests.synthetic import add_namesake, make_cache


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


@pytest.mark.parametrize("folder", ["", "old"])
def test_a_clip_without_labels_does_not_get_those_of_its_namesake(tmp_path: Path, folder: str) -> None:
    cache, labels = make_cache(tmp_path, num_clips=1, seconds=2.4)
    name, store = add_namesake(cache, "clip00"), open_store(cache)
    labels = Path(shutil.copytree(labels, tmp_path / "all" / folder))  # also in a folder of another name than its own
    data = SimpleNamespace(hz=25.0)
    run: Any = SimpleNamespace(streams=choose_streams(store, ["visual"]), config=SimpleNamespace(data=data))
    (truth,) = clip_plot._corpus(run, store, "clip00", tmp_path / "all").truths
    assert truth is not None
    assert clip_plot._corpus(run, store, name, tmp_path / "all").truths == [None]
    run.roles, run.path = {"clip00": "train", name: "test"}, tmp_path
    with pytest.raises(InputError, match=f"expected labelled test clips, got no labels for {name}"):
        load_part(run, store, labels, "test")


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


def test_the_film_verb(runs: dict[str, Path], tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    from sage_va.tests.media import grey_frames, tone, write_media

    write_media(tmp_path / "media" / "clip00.mp4", grey_frames(20), audio=tone(0.8))
    arguments = ["render", str(runs["sage-0"]), "clip00", "--media", str(tmp_path / "media"), "--device", "cpu"]
    done = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "a.mp4")])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{tmp_path / 'a.mp4'}: 20 frames, 0.80 s, with sound; ")
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (1280, 720)
    done = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "a.avi")])
    assert "expected a name that ends in .mp4, got .avi" in done.output
    arguments[2] = "clip01"
    done = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "b.mp4")])
    assert "clip01: " in done.output
    assert "media has no recording of that name. Name the folder or manifest" in done.output


def test_the_time_axis_of_a_panel_is_where_the_figure_has_it(runs: dict[str, Path]) -> None:
    figure = plot_clip(runs["sage-0"], "clip00")
    panel = panel_of(figure, (880, 720))
    assert panel.pixels.shape == (720, 880, 3)
    (start_s, end_s), axis = figure.axes[0].get_xlim(), figure.axes[0]
    assert (panel.start_s, panel.end_s) == (start_s, end_s)
    for time_s in (start_s, (start_s + end_s) / 2, end_s):
        assert panel.column(time_s) == pytest.approx(axis.transData.transform((time_s, 0))[0])
    assert 0 < panel.top < panel.bottom < 720
    title, blank = panel.pixels[: panel.top // 2], panel.pixels[panel.top + 2, :30]
    assert title.min() < 100 < 250 < blank.min()
