"""The picture of a comparison: scores with their intervals, and below them the differences to the base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..evaluation.metrics import NAMES, Interval
from ..evaluation.style import COLOURS, MUTED, as_text, house_style
from .table import ComparisonTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIGNIFICANT = 0.05
BEHIND, AHEAD, UNCLEAR = COLOURS[1], COLOURS[2], "#6b7580"


def draw_table(table: ComparisonTable, names: Sequence[str], lines: Sequence[str]) -> Figure:
    """Returns the picture of a table: for each target a panel of scores and, where there are any, one of differences.

    Args:
        table: the table.
        names: of its rows.
        lines: above the picture: clips and cautions.
    """
    from matplotlib.figure import Figure

    kinds = 2 if any(row.raw_difference for row in table.rows) else 1
    tall = 0.7 + 0.27 * len(table.rows)
    with house_style():
        figure = Figure(figsize=(10, kinds * (tall + 0.35) + 0.35 + 0.18 * len(lines)), layout="constrained")
        axes = figure.subplots(kinds, len(NAMES), sharex="row", sharey=True, squeeze=False)
        for axis, name in zip(axes[0], NAMES, strict=True):
            _draw_scores(axis, table, name)
        for axis, name in zip(axes[1], NAMES, strict=True) if kinds == 2 else ():
            _draw_differences(axis, table, name)
        axes[0, 0].set_yticks(range(len(names)), [as_text(name) for name in names])
        axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
        figure.suptitle(as_text("\n".join(lines)), x=0.01, ha="left", fontsize=9.5)
        text = "raw scores; dots: means over seeds; ticks: seeds; bars: 95 % intervals by bootstrap over clips"
        figure.supxlabel(text, fontsize=8, color=MUTED)
    return figure


def _draw_scores(axis: Axes, table: ComparisonTable, name: str) -> None:
    for height, row in enumerate(table.rows):
        scores = row.raw[name]
        colour = UNCLEAR if row.variant == table.base else COLOURS[0]
        axis.plot(scores.each, [height] * len(scores.each), "|", color=colour, ms=6, mew=0.8, alpha=0.7)
        _draw_interval(axis, height, scores.mean, scores.interval, colour)
    axis.set(title=f"CCC, {name}")
    _quiet(axis)


def _draw_differences(axis: Axes, table: ComparisonTable, name: str) -> None:
    """Draws a dot per variant at its difference: green or orange where it is significant, grey where it is not."""
    axis.axvline(0, color=MUTED, lw=0.9)
    for height, row in enumerate(table.rows):
        one = (row.raw_difference or {}).get(name)
        if one is not None:
            sure = not math.isnan(one.p_holm) and one.p_holm < SIGNIFICANT
            colour = UNCLEAR if not sure else AHEAD if one.mean > 0 else BEHIND
            _draw_interval(axis, height, one.mean, one.interval, colour)
        elif row.variant == table.base:
            axis.plot(0, height, "o", color=UNCLEAR, mfc="white", ms=5.5)
    axis.set(title=f"difference to {table.base}, {name}")
    _quiet(axis)


def _draw_interval(axis: Axes, height: int, mean: float, interval: Interval, colour: str) -> None:
    if not math.isnan(mean):
        low, high = (mean if math.isnan(end) else end for end in interval)
        axis.plot([low, high], [height, height], color=colour, lw=2.2, alpha=0.55, solid_capstyle="round")
        axis.plot(mean, height, "o", color=colour, ms=5.5)


def _quiet(axis: Axes) -> None:
    axis.grid(axis="x")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.locator_params(axis="x", nbins=4)
