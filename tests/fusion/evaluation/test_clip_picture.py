"""The picture of a clip: what is drawn, where its legends are, and the files that it can be written to."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from sage_va.data import Grid, InputError
from sage_va.data.labels import Truth
from sage_va.fusion.evaluation.clip_picture import draw_clip
from sage_va.fusion.evaluation.predict import Prediction
from sage_va.fusion.evaluation.style import save_picture

TIMES_S = Grid(25.0, 0, 100).times_s
VA = np.column_stack([np.sin(TIMES_S), np.cos(TIMES_S)])
MASK = np.column_stack([(np.arange(100) < 20) | (np.arange(100) >= 60), np.ones(100, bool)])
SHARE = np.full((100, 2), 0.5)
STAGE = np.eye(2)[np.arange(100) // 50]
PREDICTION = Prediction("clip", TIMES_S, 0.8 * VA, MASK, SHARE, SHARE, STAGE, np.zeros((100, 2, 2)))
TRUTH = Truth(TIMES_S, VA.astype(np.float32), np.arange(100) > 10)
WITHOUT_GATE = dataclasses.replace(PREDICTION, reliability=None, weights=None, stage=None)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_picture_is_written_as_its_suffix_says(tmp_path: Path, suffix: str) -> None:
    spans = [(1.0, 2.0, "dark")]
    figure = draw_clip(
        WITHOUT_GATE, ["face", "voice"], truth=TRUTH, other=("concat", PREDICTION), spans=spans, title="t"
    )
    save_picture(figure, tmp_path / "new" / f"clip{suffix}")
    content = (tmp_path / "new" / f"clip{suffix}").read_bytes()
    assert content.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])
    assert len(content) > 10_000


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a name that ends in .png, .svg or .pdf, got .jpeg"):
        save_picture(draw_clip(WITHOUT_GATE, ["face", "voice"]), tmp_path / "clip.jpeg")


def test_legends_cover_no_line() -> None:
    figure = draw_clip(PREDICTION, ["face", "voice"], name="sage", truth=TRUTH)
    figure.draw_without_rendering()
    legends = [axis.get_legend() for axis in figure.axes[:4]]
    assert [text.get_text() for text in legends[0].get_texts()] == ["sage", "gold standard"]
    assert [text.get_text() for text in legends[2].get_texts()] == ["face", "voice"]
    for axis, legend in zip(figure.axes, legends, strict=False):
        assert not axis.get_window_extent().overlaps(legend.get_window_extent())


def test_reliability_is_drawn_where_a_stream_is_valid_and_gold_standard_where_it_counts() -> None:
    figure = draw_clip(PREDICTION, ["face", "voice"], truth=TRUTH)
    reliability = figure.axes[2].lines[0].get_ydata()
    assert (np.isnan(reliability) == ~MASK[:, 0]).all()
    gold = figure.axes[0].lines[1].get_ydata()
    assert (np.isnan(gold) == ~TRUTH.mask).all()


def test_masked_steps_and_stages_are_bars() -> None:
    bars = draw_clip(PREDICTION, ["face", "voice"]).axes[-1]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["face", "voice", "stage"]
    masked = bars.collections[1].get_paths()[0].get_extents()
    assert (masked.x0, masked.x1) == pytest.approx((0.8, 2.4))
    assert [text.get_text() for text in bars.texts] == ["1", "2"]
    assert len(draw_clip(WITHOUT_GATE, ["face", "voice"]).axes) == 3


def test_names_are_no_formulas(tmp_path: Path) -> None:
    figure = draw_clip(WITHOUT_GATE, ["$\\a$", "b"], name="$\\frac", other=("$x$", WITHOUT_GATE), title="<a>$\\oops$")
    save_picture(figure, tmp_path / "clip.svg")
    assert "&lt;a&gt;$\\oops$" in (tmp_path / "clip.svg").read_text(encoding="utf-8")
