"""The picture of one clip over time: estimates, gold standard, the gate, and which steps are valid."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...data.clip_panel import ClipPanel
from ...data.labels import Truth
from .predict import TARGETS, Prediction
from .style import COLOURS, INK, MUTED, STYLES, as_text, house_style, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STREAMS = COLOURS[1:6]
TALL, LOW = 1.35, 0.8  # inches of a row
WIDTH = 100  # letters of a line of the title
STAGE_COLOURS = ("#b3b9be", "#e0c38a", "#dbaecb", "#9cc7e2", "#94cdb9", "#e9b28e")


def draw_clip(
    prediction: Prediction,
    streams: Sequence[str],
    *,
    name: str = "prediction",
    truth: Truth | None = None,
    other: tuple[str, Prediction] | None = None,
    spans: Sequence[tuple[float, float, str]] = (),
    title: str = "",
    notes: Mapping[str, str] | None = None,
) -> Figure:
    """Returns the picture of one clip: valence, arousal and, where there is a gate, reliability and weights over time.

    Below them, a bar per stream shows valid steps, hatched where they are masked, and a ribbon the likeliest stage.

    Args:
        prediction: drawn in colour.
        streams: name of each of the M streams.
        name: name of the prediction in the legend.
        truth: gold standard, drawn in black.
        other: name and prediction of a second model, drawn dashed.
        spans: (start_s, end_s, name) of stages to shade.
        title: above the picture.
        notes: target -> what stands beside its name, such as its CCC.
    """
    from matplotlib.figure import Figure

    streams, name, title = [as_text(stream) for stream in streams], as_text(name), as_text(title)
    shares = [part for part in ("reliability", "weights") if getattr(prediction, part) is not None]
    heights = [TALL, TALL, *[LOW] * len(shares), 0.16 * (len(streams) + (prediction.stage is not None)) + 0.1]
    with house_style():
        figure = Figure(figsize=(9, sum(heights) + 0.3 * len(heights) + 0.7), layout="constrained")
        axes: list[Axes] = list(figure.subplots(len(heights), 1, height_ratios=heights, sharex=True))
        for target, axis in enumerate(axes[:2]):
            _draw_target(axis, target, prediction, name, truth, other)
            axis.set_title(", ".join(filter(None, [TARGETS[target], (notes or {}).get(TARGETS[target])])))
        for part, axis in zip(shares, axes[2:], strict=False):
            _draw_shares(axis, prediction, part, streams)
        _draw_bars(axes[-1], prediction, streams)
        _shade(axes[: 2 + len(shares)], spans)
        axes[-1].set(xlabel="time (s)", xlim=(prediction.times_s[0], prediction.times_s[-1]))
        if title:
            lines = [part for line in title.splitlines() for part in textwrap.wrap(line, WIDTH)]
            figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10)
    return figure


def panel_of(figure: Figure, size: tuple[int, int], dpi: int = 100) -> ClipPanel:
    """Returns the picture of `draw_clip` as pixels of a size (width, height), with the place of its time axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    figure.set_size_inches(size[0] / dpi, size[1] / dpi)
    canvas = FigureCanvasAgg(figure)
    with house_style():
        canvas.draw()
    first, last = figure.axes[0], figure.axes[-1]
    start_s, end_s = first.get_xlim()
    (left, _), (right, _) = first.transData.transform([(start_s, 0), (end_s, 0)])
    top, bottom = (size[1] - edge for edge in (first.bbox.y1, last.bbox.y0))
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return ClipPanel(pixels, float(left), float(right), round(top), round(bottom), float(start_s), float(end_s))


def _draw_target(
    axis: Axes,
    target: int,
    prediction: Prediction,
    name: str,
    truth: Truth | None,
    other: tuple[str, Prediction] | None,
) -> None:
    """Draws one target: the prediction above a second model, the gold standard above both."""
    axis.plot(prediction.times_s, prediction.va[:, target], color=COLOURS[0], label=name, zorder=3)
    if truth is not None:
        shown = np.where(truth.mask, truth.va[:, target], np.nan)
        axis.plot(truth.times_s, shown, color=INK, lw=1.3, label="gold standard", zorder=4)
    if other is not None:
        axis.plot(
            other[1].times_s, other[1].va[:, target], "--", color=COLOURS[3], lw=1.2, label=as_text(other[0]), zorder=2
        )
    axis.set(ylim=(-1.05, 1.05), yticks=(-1, 0, 1))
    axis.grid(axis="y")
    legend_above(axis)


def _draw_shares(axis: Axes, prediction: Prediction, part: str, streams: Sequence[str]) -> None:
    """Draws reliability or weight of each stream where it is valid."""
    values: Any = getattr(prediction, part)
    for m, stream in enumerate(streams):
        shown = np.where(prediction.mask[:, m], values[:, m], np.nan)
        axis.plot(prediction.times_s, shown, STYLES[m % len(STYLES)], color=STREAMS[m % len(STREAMS)], label=stream)
    axis.set(ylim=(0, 1), yticks=(0, 0.5, 1))
    axis.set_title(part.removesuffix("s"))
    axis.grid(axis="y")
    legend_above(axis)


def _draw_bars(axis: Axes, prediction: Prediction, streams: Sequence[str]) -> None:
    """Draws a bar per stream, hatched where it is masked, and the ribbon of stages."""
    names = [*streams, *(["stage"] if prediction.stage is not None else [])]
    start_s, end_s = prediction.times_s[0], prediction.times_s[-1]
    for m in range(len(streams)):
        colour, place = STREAMS[m % len(STREAMS)], (m - 0.36, 0.72)
        axis.broken_barh([(start_s, end_s - start_s)], place, facecolor=colour, alpha=0.5, lw=0)
        masked = _runs(~prediction.mask[:, m], prediction.times_s)
        axis.broken_barh(masked, place, facecolor="white", edgecolor=MUTED, hatch="//////", lw=0)
    if prediction.stage is not None:
        stages = prediction.stage.argmax(axis=1)
        for stage in np.unique(stages):
            colour = STAGE_COLOURS[stage % len(STAGE_COLOURS)]
            axis.broken_barh(_runs(stages == stage, prediction.times_s), (len(streams) - 0.36, 0.72), facecolor=colour)
            for first_s, width_s in _runs(stages == stage, prediction.times_s):
                if width_s > 0.03 * (end_s - start_s):
                    axis.text(first_s + width_s / 2, len(streams), str(stage + 1), ha="center", va="center", size=7)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.45, -0.55)
    axis.tick_params(axis="y", length=0)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.set_title("valid steps" + (", stage" if prediction.stage is not None else ""))


def _runs(flags: NDArray[np.bool_], times_s: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Begin and width in seconds of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    step_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1.0
    ends_s = np.append(times_s, times_s[-1] + step_s)
    return [(float(ends_s[a]), float(ends_s[b] - ends_s[a])) for a, b in edges.reshape(-1, 2)]


def _shade(axes: Sequence[Axes], spans: Sequence[tuple[float, float, str]]) -> None:
    """Shades each kind of stage in a colour of its own, named inside the first axis at its foot."""
    names = sorted({name for _, _, name in spans})
    for start, end, name in spans:
        for axis in axes:
            axis.axvspan(start, end, color=STAGE_COLOURS[names.index(name) % len(STAGE_COLOURS)], alpha=0.22, lw=0)
        text = name.replace("_", " ")
        axes[0].text((start + end) / 2, -1.02, text, ha="center", va="bottom", fontsize=6.5, color=MUTED)
