"""Files and pictures of results: robustness curves, reliability diagrams, a clip over time; cautions for readers."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data.atomic import replacing, write_text
from ...data.labels import Truth
from ...data.terms import untrained_mark
from ..result import plain
from .metrics import NAMES
from .predict import TARGETS, Prediction
from .reliability import ReliabilityReport
from .robustness import Robustness, RobustnessReport

SEEN = "scored on the clips that chose the epoch and the smoothing: too good for unseen ones"
COLOURS = (  # Okabe and Ito, safe for colour-blind readers
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
STYLES = ("-", "--", ":")


def cautions(random_weights: Sequence[str], split: str = "") -> list[str]:
    """Returns the lines that go with a result: encoders that were never trained, clips that decided something."""
    lines = [untrained_mark(random_weights)] if random_weights else []
    return [*lines, SEEN] if "val" in split else lines


def untrained(runs: Sequence[Robustness]) -> list[str]:
    """Returns the streams of these runs whose encoders have random weights."""
    return sorted({name for run in runs for name in run.random_weights})


def title_of(run: Robustness) -> str:
    """Returns a run's folder and variant as text."""
    return f"{run.run} ({run.variant})"


def write_robustness(out: Path, report: RobustnessReport) -> None:
    """Writes `robustness.json`, `robustness.csv` (a row per point) and `robustness.png` into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "robustness.json", json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    with replacing(out / "robustness.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(_points(report.runs))
    plot_robustness(out / "robustness.png", report.runs)


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


def plot_robustness(path: Path, runs: Sequence[Robustness]) -> None:
    """Draws the mean CCC by strength: a panel per kind of corruption, a line per run that takes the modality.

    Args:
        path: .png, .svg or .pdf.
        runs: results of `robustness`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    kinds = list(runs[0].kinds)
    num_columns = len(kinds) // 2 + 1  # the last panel of two rows is the legend's
    figure, axes = plt.subplots(2, num_columns, figsize=(3 * num_columns, 6), sharey=True, layout="constrained")
    lines = {}
    for axis, name in zip(axes.flat, kinds, strict=False):
        for k, run in enumerate(runs):
            if (ccc := run.kinds[name].ccc) is not None:
                style = {"color": COLOURS[k % len(COLOURS)], "ls": STYLES[k // len(COLOURS) % len(STYLES)]}
                (lines[title_of(run)],) = axis.plot(run.strengths, ccc["mean"], marker="o", ms=3, **style)
        axis.set_title(name, fontsize="medium")
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(kinds) :]:
        axis.set_axis_off()
    axes.flat[-1].legend(lines.values(), lines.keys(), loc="center", fontsize="x-small", frameon=False)
    figure.supxlabel("strength of corruption")
    figure.supylabel("CCC, mean of valence and arousal")
    if warnings := cautions(untrained(runs)):
        figure.suptitle("\n".join(warnings), fontsize="medium")
    with replacing(path) as part:
        figure.savefig(part, dpi=110)
    plt.close(figure)


def plot_diagram(path: Path, report: ReliabilityReport, title: str = "") -> None:
    """Draws the reliability diagram of a report: a line per stream against the diagonal, counts below.

    Args:
        path: .png, .svg or .pdf.
        report: see `reliability_report`.
        title: above the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(5, 6), height_ratios=(3, 1), sharex=True, layout="constrained")
    above.plot([0, 1], [0, 1], ":", color="grey")
    for m, (label, stream) in enumerate(report.streams.items()):
        bins, colour = stream.diagram, COLOURS[m % len(COLOURS)]
        text = f"{label}: ECE {stream.ece:.3f}, Spearman {stream.spearman:.2f}"
        above.plot(bins.reliability, bins.target, "o-", color=colour, label=text)
        below.stairs(bins.count, np.linspace(0, 1, len(bins.count) + 1), color=colour)
    above.set(ylabel=f"mean exp(-|err| / {report.sigma:.2f})", ylim=(0, 1), xlim=(0, 1))
    above.legend(loc="upper left", fontsize="small")
    below.set(xlabel="reliability", ylabel="steps")
    figure.suptitle(title, fontsize="medium")
    with replacing(path) as part:
        figure.savefig(part, dpi=110)
    plt.close(figure)


def plot_clip(
    path: Path,
    prediction: Prediction,
    streams: Sequence[str],
    *,
    name: str = "prediction",
    truth: Truth | None = None,
    other: tuple[str, Prediction] | None = None,
    spans: Sequence[tuple[float, float, str]] = (),
    title: str = "",
) -> None:
    """Draws one clip: valence, arousal and, where there is a gate, reliability per stream over time.

    Args:
        path: .png, .svg or .pdf.
        prediction: drawn in colour.
        streams: name of each of the M streams.
        name: name of the prediction in the legend.
        truth: gold standard, drawn in black.
        other: name and prediction of a second model, drawn dashed.
        spans: (start_s, end_s, name) of stages to shade.
        title: above the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    num_rows = 2 + (prediction.reliability is not None)
    figure, axes = plt.subplots(num_rows, 1, figsize=(10, 1.8 * num_rows + 0.6), sharex=True, layout="constrained")
    for target, axis in enumerate(axes[:2]):
        if truth is not None:
            axis.plot(
                truth.times_s, np.where(truth.mask, truth.va[:, target], np.nan), color="black", label="gold standard"
            )
        if other is not None:
            axis.plot(other[1].times_s, other[1].va[:, target], "--", color="grey", lw=1.2, label=other[0])
        axis.plot(prediction.times_s, prediction.va[:, target], color=COLOURS[target], label=name)
        axis.set(ylabel=TARGETS[target], ylim=(-1.05, 1.05))
    if prediction.reliability is not None:
        for m, stream in enumerate(streams):
            shown = np.where(prediction.mask[:, m], prediction.reliability[:, m], np.nan)
            axes[2].plot(prediction.times_s, shown, color=COLOURS[(m + 2) % len(COLOURS)], label=stream)
        axes[2].set(ylabel="reliability", ylim=(0, 1))
    for axis in axes:
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", frameon=False)
    _shade(axes, spans)
    axes[-1].set(xlabel="time (s)", xlim=(prediction.times_s[0], prediction.times_s[-1]))
    figure.suptitle(title, fontsize="medium")
    with replacing(path) as part:
        figure.savefig(part, dpi=110)
    plt.close(figure)


def _shade(axes: Any, spans: Sequence[tuple[float, float, str]]) -> None:
    """Shades each kind of stage in a colour of its own, named above the picture."""
    names = sorted({name for _, _, name in spans})
    for start, end, name in spans:
        for axis in axes:
            axis.axvspan(start, end, color=f"C{names.index(name)}", alpha=0.1, lw=0)
            axis.axvline(start, color="grey", alpha=0.4, lw=0.8)
        text = name.replace("_", "\n")
        axes[0].text((start + end) / 2, 1.1, text, ha="center", va="bottom", fontsize="small", color="dimgrey")
