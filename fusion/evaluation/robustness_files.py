"""Files and pictures of robustness: a table of all points, an overview, and one figure per kind of corruption."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.atomic import replacing, write_text
from ..result import plain
from .metrics import NAMES
from .paired import Gain
from .report import cautions
from .robustness import Robustness, RobustnessReport
from .style import COLOURS, STYLES, as_text, house_style, save_pictures

if TYPE_CHECKING:  # it takes half a second to import
    from matplotlib.figure import Figure

NUM_COLUMNS = 5  # of the overview


def untrained(runs: Sequence[Robustness]) -> list[str]:
    """Returns the streams of these runs whose encoders have random weights."""
    return sorted({name for run in runs for name in run.random_weights})


def title_of(run: Robustness) -> str:
    """Returns a run's folder and variant as text."""
    return f"{run.run} ({run.variant})"


def write_robustness(out: Path, report: RobustnessReport) -> None:
    """Writes `robustness.json`, `robustness.csv` (a row per point) and `robustness.png`, `.svg`, `.pdf` into a folder.

    Where runs of several variants compare, a figure per kind of corruption stands beside them, `KIND.png` and so on.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "robustness.json", json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    with replacing(out / "robustness.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(_points(report.runs))
    save_pictures(draw_robustness(report.runs), out / "robustness")
    for kind in report.runs[0].kinds if report.differences else ():
        save_pictures(draw_kind(report, kind), out / kind)


def _points(runs: Sequence[Robustness]) -> Iterator[Sequence[Any]]:
    """Rows of the table: a cell is empty where a number is not defined."""
    yield ("run", "variant", "random_weights", "kind", "modality", "strength", *NAMES, "weight", "reliability")
    for run in runs:
        about = (run.run, run.variant, " ".join(run.random_weights))
        for name, kind in run.kinds.items():
            columns = [*(plain((kind.ccc or {})[target]) for target in NAMES)] if kind.taken else []
            columns += [values or [None] * len(run.strengths) for values in (kind.weight, kind.reliability)]
            for strength, *cells in zip(run.strengths, *columns, strict=True) if kind.taken else ():
                yield (*about, name, kind.modality, strength, *cells)


@house_style()
def draw_robustness(runs: Sequence[Robustness]) -> Figure:
    """Returns the mean CCC by strength: a panel per kind of corruption, a line per run that takes the modality.

    Args:
        runs: results of `robustness`.
    """
    from matplotlib.figure import Figure

    kinds = list(runs[0].kinds)
    num_rows = len(kinds) // NUM_COLUMNS + 1  # the last panel is the legend's
    figure = Figure(figsize=(3 * NUM_COLUMNS, 3 * num_rows), layout="constrained")
    axes: Any = figure.subplots(num_rows, NUM_COLUMNS, sharey=True)
    lines = {}
    for axis, name in zip(axes.flat, kinds, strict=False):
        for k, run in enumerate(runs):
            if (ccc := run.kinds[name].ccc) is not None:
                style = {"color": COLOURS[k % len(COLOURS)], "ls": STYLES[k // len(COLOURS) % len(STYLES)]}
                (lines[as_text(title_of(run))],) = axis.plot(run.strengths, ccc["mean"], marker="o", ms=3, **style)
        axis.set_title(name)
        axis.grid()
    for axis in axes.flat[len(kinds) :]:
        axis.set_axis_off()
    axes.flat[-1].legend(lines.values(), lines.keys(), loc="center", fontsize="x-small", frameon=False)
    figure.supxlabel("strength of corruption")
    figure.supylabel("CCC, mean of valence and arousal")
    if warnings := cautions(untrained(runs)):
        figure.suptitle("\n".join(warnings), fontsize="medium")
    return figure


@house_style()
def draw_kind(report: RobustnessReport, kind: str) -> Figure:
    """Returns the picture of a kind of corruption: all runs by strength, and the gains in area over the base.

    Left a thin line per run and a thick one per variant, the mean of its runs. Right the paired difference of the area,
    with its 95 % interval.

    Args:
        report: of runs that compare.
        kind: one of `CORRUPTIONS`.
    """
    from matplotlib.figure import Figure

    variants = list(dict.fromkeys(run.variant for run in report.runs))
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    curves, gains = figure.subplots(1, 2, width_ratios=(3, 2))
    for k, variant in enumerate(variants):
        style = {"color": COLOURS[k % len(COLOURS)], "ls": STYLES[k // len(COLOURS) % len(STYLES)]}
        heights = [_heights(run, kind) for run in report.runs if run.variant == variant]
        for height in heights if len(heights) > 1 else ():
            curves.plot(report.runs[0].strengths, height, lw=0.6, alpha=0.5, **style)
        curves.plot(report.runs[0].strengths, np.mean(heights, axis=0), marker="o", ms=3, lw=2, label=variant, **style)
    for k, difference in enumerate(report.differences):
        colour = COLOURS[variants.index(difference.variant) % len(COLOURS)]
        _draw_gain(gains, len(report.differences) - 1 - k, difference.kinds[kind]["mean"], colour)
    base = report.differences[0].base
    gains.axvline(0, color="grey", lw=0.8)
    gains.set_yticks(range(len(report.differences)), [each.variant for each in reversed(report.differences)])
    gains.set(title=f"area − area of {base}, 95 %", xlabel="CCC", ylim=(-0.5, len(report.differences) - 0.5))
    curves.set(xlabel="strength", ylabel="CCC, mean of valence and arousal", title=report.runs[0].kinds[kind].means)
    gains.locator_params(axis="x", nbins=4)
    curves.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=4)
    for axis in (curves, gains):
        axis.grid()
    lines = [kind, *cautions(untrained(report.runs))]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize="medium")
    return figure


def _heights(run: Robustness, kind: str) -> list[float]:
    """The mean CCC by strength; the clean score throughout, where the run does not take the modality."""
    ccc = run.kinds[kind].ccc
    return [run.clean["mean"]] * len(run.strengths) if ccc is None else ccc["mean"]


def _draw_gain(axis: Any, height: float, gain: Gain, colour: str) -> None:
    if not math.isnan(gain.mean):
        axis.plot(gain.mean, height, "o", color=colour)
        axis.plot(gain.interval, [height, height], color=colour, lw=2)
