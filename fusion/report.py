"""What people look at: the score as text, and a picture per clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.labels import Truth
from .evaluate import TARGETS, Prediction

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito, safe for colour-blind readers


def describe_score(found: dict[str, Any]) -> str:
    """The result of `score_run` as text."""
    folds = f", {found['num_folds']} folds pooled" if found["num_folds"] else ""
    lines = [f"{found['run']} ({found['variant']}), {found['split']}: {found['num_clips']} clips, "
             f"{found['num_labels']} labels{folds}"]  # fmt: skip
    if found["random_weights"]:
        lines.append(f"UNTRAINED ENCODER (random weights): {', '.join(found['random_weights'])}")
    lines.append("CCC (95 % interval, bootstrap over clips)   valence               arousal               mean")
    for name in ("raw", "smoothed"):
        row, title = found[name], name
        if name == "smoothed":
            widths = sorted(set(found["smoothing_s"]))
            title = f"smoothed over {'/'.join(f'{w:g}' for w in widths)} s (chosen on validation)"
        lines.append(f"  {title:<40}  " + "  ".join(_cell(row, key) for key in (*TARGETS, "mean")))
        if "face_frames_only" in row:
            only = "  ".join(f"{_number(row['face_frames_only'][key], 6, 3)}{'':14}" for key in (*TARGETS, "mean"))
            lines.append(f"  {'  face frames only':<40}  {only}")
    width = max(len(clip["clip_id"]) for clip in found["clips"])
    lines += [f"  {clip['clip_id']:<{width}}  V {_number(clip['valence'], 6, 3)}  A {_number(clip['arousal'], 6, 3)}  "
              f"({clip['num_labels']} labels)" for clip in found["clips"]]  # fmt: skip
    return "\n".join(lines)


def _cell(row: dict[str, Any], key: str) -> str:
    low, high = row["interval"][key]
    return f"{_number(row['ccc'][key], 6, 3)} [{_number(low, 5, 2)}, {_number(high, 5, 2)}]"


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'–':>{width}}" if value is None else f"{value:{width}.{digits}f}"


def plot_clip(
    path: Path,
    prediction: Prediction,
    streams: Sequence[str],
    *,
    truth: Truth | None = None,
    other: tuple[str, Prediction] | None = None,
    spans: Sequence[tuple[float, float, str]] = (),
    title: str = "",
) -> None:
    """A picture of one clip: valence, arousal and, where there is a gate, reliability per stream over time.

    Args:
        path: .png, .svg or .pdf.
        prediction: what is shown in colour.
        streams: name of each of the M streams.
        truth: gold standard, drawn in black.
        other: name and prediction of a second model, drawn dashed.
        spans: (start_s, end_s, name) of stages to shade.
        title: above the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    num_rows = 2 + (prediction.reliability is not None)
    figure, axes = plt.subplots(num_rows, 1, figsize=(10, 2 * num_rows + 0.5), sharex=True, layout="constrained")
    for target, axis in enumerate(axes[:2]):
        if truth is not None:
            axis.plot(truth.times_s, np.where(truth.mask, truth.va[:, target], np.nan), color="black", label="truth")
        if other is not None:
            axis.plot(other[1].times_s, other[1].va[:, target], "--", color="grey", lw=1, label=other[0])
        axis.plot(prediction.times_s, prediction.va[:, target], color=COLOURS[target], label="prediction")
        axis.set(ylabel=TARGETS[target], ylim=(-1.05, 1.05))
        axis.legend(loc="lower right", fontsize="x-small", ncols=3)
    if prediction.reliability is not None:
        for m, stream in enumerate(streams):
            shown = np.where(prediction.mask[:, m], prediction.reliability[:, m], np.nan)
            axes[2].plot(prediction.times_s, shown, color=COLOURS[(m + 2) % len(COLOURS)], label=stream)
        axes[2].set(ylabel="reliability", ylim=(0, 1))
        axes[2].legend(loc="lower right", fontsize="x-small", ncols=3)
    _shade(axes, spans)
    axes[-1].set(xlabel="time (s)", xlim=(prediction.times_s[0], prediction.times_s[-1]))
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _shade(axes: Any, spans: Sequence[tuple[float, float, str]]) -> None:
    """Each kind of stage in a shade of its own, named above the picture."""
    names = sorted({name for _, _, name in spans})
    for start, end, name in spans:
        for axis in axes:
            axis.axvspan(start, end, color=f"C{names.index(name)}", alpha=0.1, lw=0)
            axis.axvline(start, color="grey", alpha=0.4, lw=0.8)
        text = name.replace("_", "\n")
        axes[0].text((start + end) / 2, 1.1, text, ha="center", va="bottom", fontsize="x-small", color="dimgrey")
