"""What people look at: scores as text and tables, pictures of clips and of curves."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data.atomic import replacing, write_text
from ...data.labels import Truth
from .predict import TARGETS, Prediction

SEEN = "scored on the clips that chose the epoch and the smoothing: too good for unseen ones"
COLOURS = (  # Okabe and Ito, safe for colour-blind readers
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
STYLES = ("-", "--", ":")


def cautions(random_weights: Sequence[str], split: str = "") -> list[str]:
    """What must be said of a result: encoders that were never trained, and clips that are not unseen."""
    lines = [f"UNTRAINED ENCODER (random weights): {', '.join(random_weights)}"] if random_weights else []
    return [*lines, SEEN] if "val" in split else lines


def untrained(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the streams of these runs whose encoders have random weights."""
    return sorted({name for run in runs for name in run["random_weights"]})


def title_of(run: dict[str, Any]) -> str:
    """Returns a run's folder and variant as text."""
    return f"{run['run']} ({run['variant']})"


def write_robustness(out: Path, found: dict[str, Any]) -> None:
    """`{"runs": results of `robustness`}` as `robustness.json`, `.csv` (a row per point) and `.png` into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "robustness.json", json.dumps(found, indent=2, ensure_ascii=False))
    with replacing(out / "robustness.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(_points(found["runs"]))
    plot_robustness(out / "robustness.png", found["runs"])


def _points(runs: Sequence[dict[str, Any]]) -> Iterator[Sequence[Any]]:
    """Rows of the table: a cell is empty where a number is not defined."""
    trust, scores = ("weight", "reliability"), (*TARGETS, "mean")
    yield ("run", "variant", "random_weights", "kind", "modality", "strength", *scores, *trust)
    for run in runs:
        about = (run["run"], run["variant"], " ".join(run["random_weights"]))
        for name, kind in run["kinds"].items():
            for k, strength in enumerate(run["strengths"] if kind["taken"] else ()):
                ccc = [kind["ccc"][score][k] for score in scores]
                yield (
                    *about,
                    name,
                    kind["modality"],
                    strength,
                    *ccc,
                    *(kind[t][k] if kind[t] else None for t in trust),
                )


def plot_robustness(path: Path, runs: Sequence[dict[str, Any]]) -> None:
    """A picture of the mean CCC by strength: a panel per kind of corruption, a line per run that takes the modality.

    Args:
        path: .png, .svg or .pdf.
        runs: results of `robustness`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    kinds = list(runs[0]["kinds"])
    num_columns = len(kinds) // 2 + 1  # the last panel of two rows is the legend's
    figure, axes = plt.subplots(2, num_columns, figsize=(3 * num_columns, 6), sharey=True, layout="constrained")
    lines = {}
    for axis, name in zip(axes.flat, kinds, strict=False):
        for k, run in enumerate(runs):
            if (kind := run["kinds"][name])["taken"]:
                style = {"color": COLOURS[k % len(COLOURS)], "ls": STYLES[k // len(COLOURS) % len(STYLES)]}
                height = np.array(kind["ccc"]["mean"], float)
                (lines[title_of(run)],) = axis.plot(run["strengths"], height, marker="o", ms=3, **style)
        axis.set_title(name, fontsize="medium")
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(kinds) :]:
        axis.set_axis_off()
    axes.flat[-1].legend(lines.values(), lines.keys(), loc="center", fontsize="x-small", frameon=False)
    figure.supxlabel("strength of corruption")
    figure.supylabel("CCC, mean of valence and arousal")
    if warned := cautions(untrained(runs)):
        figure.suptitle("\n".join(warned), fontsize="medium")
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
    """A picture of one clip: valence, arousal and, where there is a gate, reliability per stream over time.

    Args:
        path: .png, .svg or .pdf.
        prediction: what is shown in colour.
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
    """Each kind of stage in a shade of its own, named above the picture."""
    names = sorted({name for _, _, name in spans})
    for start, end, name in spans:
        for axis in axes:
            axis.axvspan(start, end, color=f"C{names.index(name)}", alpha=0.1, lw=0)
            axis.axvline(start, color="grey", alpha=0.4, lw=0.8)
        text = name.replace("_", "\n")
        axes[0].text((start + end) / 2, 1.1, text, ha="center", va="bottom", fontsize="small", color="dimgrey")
