"""Pictures of results: reliability diagrams, a clip over time; cautions for readers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data.atomic import replacing
from ...data.labels import Truth
from ...data.terms import untrained_mark
from .predict import TARGETS, Prediction
from .reliability import ReliabilityReport

SEEN = "scored on the clips that chose the epoch and the smoothing: too good for unseen ones"
COLOURS = (  # Okabe and Ito, safe for colour-blind readers
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
STYLES = ("-", "--", ":")


def cautions(random_weights: Sequence[str], split: str = "") -> list[str]:
    """Returns the lines that go with a result: encoders that were never trained, clips that decided something."""
    lines = [untrained_mark(random_weights)] if random_weights else []
    return [*lines, SEEN] if "val" in split else lines


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
