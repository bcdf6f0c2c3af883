"""What people look at: scores as text and tables, pictures of clips and of curves."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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


def describe_score(found: dict[str, Any]) -> str:
    """The result of `score_run` as text."""
    folds = f", {found['num_folds']} folds pooled" if found["num_folds"] else ""
    lines = [f"{found['run']} ({found['variant']}), {found['split']}: {found['num_clips']} clips, "
             f"{found['num_labels']} labels{folds}"]  # fmt: skip
    lines += cautions(found["random_weights"], found["split"])
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
    lines += _trust_lines(found["trust"])
    width = max(len(clip["clip_id"]) for clip in found["clips"])
    lines += [f"  {clip['clip_id']:<{width}}  V {_number(clip['valence'], 6, 3)}  A {_number(clip['arousal'], 6, 3)}  "
              f"({clip['num_labels']} labels)" for clip in found["clips"]]  # fmt: skip
    return "\n".join(lines)


def describe_robustness(found: dict[str, Any]) -> str:
    """`{"runs": results of `robustness`}` as text: the curves of one run, or a table of the areas of several."""
    runs = found["runs"]
    lines = cautions(_untrained(runs))
    if len({(*run["clip_ids"], run["num_labels"]) for run in runs}) > 1:
        lines.append("These runs are scored on different clips or labels: their areas do not compare.")
    return "\n".join([*lines, *(_curves(runs[0]) if len(runs) == 1 else _areas(runs))])


def _untrained(runs: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({name for run in runs for name in run["random_weights"]})


def _name(run: dict[str, Any]) -> str:
    return f"{run['run']} ({run['variant']})"


def _curves(run: dict[str, Any]) -> list[str]:
    folds = f", {run['num_folds']} folds pooled" if run["num_folds"] else ""
    strengths = "".join(f"{strength:7g}" for strength in run["strengths"])
    lines = [
        f"{_name(run)}, {run['split']}: {len(run['clip_ids'])} clips, {run['num_labels']} labels{folds}",
        f"mean CCC by strength {strengths}   area (valence, arousal)   weight         reliability",
    ]
    for name, kind in run["kinds"].items():
        if not kind["taken"]:
            lines.append(f"  {name:<19}{kind['modality']} not taken: the score does not change")
            continue
        curve = "".join(_number(value, 7, 3) for value in kind["ccc"]["mean"])
        mean, *each = (_number(kind["area"][key], 6, 3) for key in ("mean", *TARGETS))
        trust = "   ".join(_fall(kind[key]) for key in ("weight", "reliability"))
        lines.append(f"  {name:<19}{curve}  {mean} ({', '.join(each)})   {trust}".rstrip())
    return [*lines, "weight, reliability: of the corrupted modality, at the first and the last strength",
            *(f"{name}: {kind['means']}" for name, kind in run["kinds"].items())]  # fmt: skip


def _fall(values: Sequence[float | None] | None) -> str:
    return f"{'–':^12}" if values is None else f"{_number(values[0], 4, 2)} -> {_number(values[-1], 4, 2)}"


def _areas(runs: Sequence[dict[str, Any]]) -> list[str]:
    width = max(len(_name(run)) for run in runs)
    kinds = list(runs[0]["kinds"])
    lines = ["Area under the mean CCC by strength of corruption, raw",
             f"  {'':<{width}}   clean  {'  '.join(kinds)}"]  # fmt: skip
    for run in runs:
        cells = [
            _number(kind["area"]["mean"], len(name), 3) if kind["taken"] else f"{'not taken':>{len(name)}}"
            for name, kind in run["kinds"].items()
        ]
        lines.append(f"  {_name(run):<{width}}  {_number(run['clean']['mean'], 6, 3)}  {'  '.join(cells)}")
    return lines


def write_robustness(out: Path, found: dict[str, Any]) -> None:
    """`{"runs": results of `robustness`}` as `robustness.json`, `.csv` (a row per point) and `.png` into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "robustness.json").write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding="utf-8")
    with (out / "robustness.csv").open("w", newline="", encoding="utf-8") as file:
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
                (lines[_name(run)],) = axis.plot(run["strengths"], height, marker="o", ms=3, **style)
        axis.set_title(name, fontsize="medium")
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(kinds) :]:
        axis.set_axis_off()
    axes.flat[-1].legend(lines.values(), lines.keys(), loc="center", fontsize="x-small", frameon=False)
    figure.supxlabel("strength of corruption")
    figure.supylabel("CCC, mean of valence and arousal")
    if warned := cautions(_untrained(runs)):
        figure.suptitle("\n".join(warned), fontsize="medium")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _trust_lines(reports: list[dict[str, Any]]) -> list[str]:
    """What became of reliability, for each stream on the average over folds."""
    lines = []
    for label in reports[0]["streams"] if reports else ():
        parts = [report["streams"][label] for report in reports]
        means = []
        for name in ("spearman", "ece"):
            known = [part[name] for part in parts if part[name] is not None]
            means.append(_number(sum(known) / len(known) if known else None, 5, 2))
        lines.append(f"  reliability of {label}: Spearman(1 - r, error) {means[0]}, calibration error (ECE) {means[1]}")
    return lines


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


def describe_calibration(found: dict[str, Any]) -> str:
    """The result of `calibrate` as text."""
    lines = ["Reliability on the validation clips       ECE before  after   Spearman with the error before  after"]
    for run in found["runs"]:
        lines.append(run["run"])
        for label, before in run["before"]["streams"].items():
            after = run["after"]["streams"][label]
            ece, rank = ((_number(part[name], 6, 3) for part in (before, after)) for name in ("ece", "spearman"))
            lines.append(f"  {label:<40}{'  '.join(ece):>18}{'':24}{'  '.join(rank)}")
    return "\n".join(lines)
