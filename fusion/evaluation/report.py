"""The reliability diagram as a picture; cautions for readers of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...data.terms import untrained_mark
from .reliability import ReliabilityReport
from .style import COLOURS, house_style, legend_above, save_picture

CAUTIONS = {
    "train": "scored on clips that the model was trained on: too good for other ones",
    "val": "scored on the clips that chose the epoch and the smoothing: too good for unseen ones",
}


def cautions(random_weights: Sequence[str], split: str = "") -> list[str]:
    """Returns the lines that go with a result: encoders that were never trained, clips that decided something."""
    lines = [untrained_mark(random_weights)] if random_weights else []
    return [*lines, *(caution for part, caution in CAUTIONS.items() if part in split)]


def plot_diagram(path: Path, report: ReliabilityReport, title: str = "") -> None:
    """Draws the reliability diagram of a report: a line per stream against the diagonal, counts below.

    Args:
        path: .png, .svg or .pdf.
        report: see `reliability_report`.
        title: above the picture.
    """
    from matplotlib.figure import Figure

    with house_style():
        figure = Figure(figsize=(5, 6), layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
        above.plot([0, 1], [0, 1], ":", color="grey")
        for m, (label, stream) in enumerate(report.streams.items()):
            bins, colour = stream.diagram, COLOURS[m % len(COLOURS)]
            text = f"{label}: ECE {stream.ece:.3f}, Spearman {stream.spearman:.2f}"
            above.plot(bins.reliability, bins.target, "o-", color=colour, label=text)
            below.stairs(bins.count, np.linspace(0, 1, len(bins.count) + 1), color=colour)
        above.set(ylabel=f"mean exp(-|err| / {report.sigma:.2f})", ylim=(0, 1), xlim=(0, 1))
        above.grid()
        legend_above(above, ncols=1)
        below.set(xlabel="reliability", ylabel="steps")
        figure.suptitle(title, fontsize="medium")
    save_picture(figure, path)
