"""The table of a comparison: what the scores of all cells say, as text, CSV, Markdown and a picture."""

from __future__ import annotations

import csv
import json
import math
import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...data.atomic import replacing, write_text
from ..ccc import ccc_of_moments
from ..evaluation.predict import TARGETS
from ..evaluation.report import COLOURS, cautions
from ..result import plain

KINDS = ("raw", "smoothed")
NAMES = (*TARGETS, "mean")
DRAWS = 2000
Score = dict[str, Any]


def tabulate(scores: Sequence[Score], variants: Sequence[str], base: str, num_folds: int | None) -> dict[str, Any]:
    """One row per variant: CCC over seeds, and its difference to the base.

    Only seeds count whose folds are all there, and in a difference those that both sides have.

    Args:
        scores: of each cell, as `compare` keeps them.
        variants: the rows.
        base: the variant that the others are compared with.
        num_folds: folds that make one score, or None.

    Returns:
        What JSON can hold; a number that is not defined is None.
    """
    clips = sorted({clip["clip_id"] for score in scores for clip in score["clips"] if clip["raw"][0][0] > 0})
    cells = {variant: [score for score in scores if score["variant"] == variant] for variant in variants}
    sums = {variant: _by_seed(cells[variant], clips, num_folds or 1) for variant in variants}
    rows = [_row(variant, cells[variant], sums[variant], sums[base], variant == base) for variant in variants]
    counts = [clips[0, :, 0, 0] for of_seed in sums.values() for clips in of_seed.values()]
    most = torch.stack(counts).amax(0) if counts else torch.zeros(0)
    found = {
        "base": base,
        "split": ", ".join(sorted({score["split"] for score in scores})),
        "num_folds": num_folds,
        "num_clips": int((most > 0).sum()),
        "num_labels": int(most.sum()),
        "random_weights": sorted({name for score in scores for name in score["random_weights"]}),
        "rows": rows,
    }
    return plain(found)


def _by_seed(scores: Sequence[Score], clips: Sequence[str], needed: int) -> dict[int, Tensor]:
    """seed -> (2, C, 2, 6) moments, raw and smoothed, of each clip; 0 for a clip that this seed does not score."""
    place = {clip_id: index for index, clip_id in enumerate(clips)}
    found: dict[int, Tensor] = {}
    for seed in sorted({score["seed"] for score in scores}):
        folds = [score for score in scores if score["seed"] == seed]
        if len(folds) == needed:
            sums = torch.zeros(len(KINDS), len(clips), len(TARGETS), 6, dtype=torch.float64)
            for clip in (clip for score in folds for clip in score["clips"] if clip["clip_id"] in place):
                for k, kind in enumerate(KINDS):
                    sums[k, place[clip["clip_id"]]] = torch.tensor(clip[kind], dtype=torch.float64)
            found[seed] = sums
    return found


def _row(
    variant: str, scores: Sequence[Score], sums: dict[int, Tensor], base: dict[int, Tensor], is_base: bool
) -> dict[str, Any]:
    both = [seed for seed in sums if seed in base]
    row: dict[str, Any] = {"variant": variant, "seeds": list(sums)}
    for k, kind in enumerate(KINDS):
        row[kind] = _over_seeds([sums[seed][k] for seed in sums])
        sides = (torch.stack([side[seed][k] for seed in both]) if both else None for side in (sums, base))
        one, other = sides
        row[f"{kind}_difference"] = None if is_base or one is None or other is None else difference(one, other)
    row["num_parameters"] = max((score["num_parameters"] for score in scores), default=None)
    row["seconds_per_cell"] = statistics.median(score["seconds"] for score in scores) if scores else None
    row["random_weights"] = sorted({name for score in scores for name in score["random_weights"]})
    return row


def _over_seeds(sums: Sequence[Tensor]) -> dict[str, Any]:
    """(C, 2, 6) moments of each seed -> of each target, mean and (sample) standard deviation of the pooled CCC."""
    each = _with_mean(torch.stack([clips.sum(0) for clips in sums])) if sums else torch.empty(0, len(NAMES))
    found = {}
    for name, values in zip(NAMES, each.T.tolist(), strict=True):
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        found[name] = {"mean": statistics.fmean(values) if values else math.nan, "std": spread, "each": values}
    return found


def _with_mean(sums: Tensor) -> Tensor:
    """(..., 2, 6) moments -> (..., 3) CCC of valence, of arousal, and their mean."""
    scores = ccc_of_moments(sums)
    return torch.cat([scores, scores.mean(-1, keepdim=True)], dim=-1)


def difference(sums: Tensor, base: Tensor, draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """How much more CCC than the base, averaged over seeds, with a 95 % interval by paired bootstrap over clips.

    Each draw takes the same clips for both sides and all seeds, and averages the seeds' scores before it subtracts.

    Args:
        sums: (S, C, 2, 6) moments of S seeds and C clips; 0 where a seed does not score a clip.
        base: the same of the base: the same seeds, clips and labels.
        draws: how often clips are drawn.
        seed: decides which.

    Returns:
        valence, arousal and mean -> `{"mean", "interval": (low, high)}`; the interval of one clip is NaN.
    """
    scored = sums[:, :, 0, 0].sum(0) > 0
    sums, base, n = sums[:, scored], base[:, scored], int(scored.sum())
    point = (_drawn(sums, np.ones((1, n))) - _drawn(base, np.ones((1, n))))[0]
    low = high = np.full(len(NAMES), math.nan)
    if n > 1:
        times_drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
        low, high = np.nanpercentile(_drawn(sums, times_drawn) - _drawn(base, times_drawn), [2.5, 97.5], axis=0)
    values = zip(NAMES, point.tolist(), low.tolist(), high.tolist(), strict=True)
    return {name: {"mean": mean, "interval": (a, b)} for name, mean, a, b in values}


def _drawn(sums: Tensor, times_drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """(S, C, 2, 6) moments, (R, C) how often each clip is drawn -> (R, 3) CCC, averaged over seeds that score any."""
    pooled = torch.einsum("rc,scdm->rsdm", torch.from_numpy(times_drawn), sums)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw that no seed scores is NaN
        return np.nanmean(_with_mean(pooled).numpy(), axis=1)


def write_table(found: dict[str, Any], folder: Path) -> list[Path]:
    """`table.json`, `table.csv`, `table.md` and `table.png`."""
    paths = [folder / f"table.{suffix}" for suffix in ("json", "csv", "md", "png")]
    write_text(paths[0], json.dumps(found, indent=2, ensure_ascii=False))
    with replacing(paths[1]) as part, part.open("w", newline="", encoding="utf-8") as file:
        lines = [_csv_row(row, found["base"]) for row in found["rows"]]
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    write_text(paths[2], as_markdown(found))
    plot_differences(found, paths[3])
    return paths


def _csv_row(row: dict[str, Any], base: str) -> dict[str, Any]:
    cells: dict[str, Any] = {"variant": row["variant"], "num_seeds": len(row["seeds"])}
    for kind in KINDS:
        cells |= {f"{kind}_{name}_{what}": row[kind][name][what] for name in NAMES for what in ("mean", "std")}
    for kind in KINDS:
        for name in NAMES:
            one = (row[f"{kind}_difference"] or {}).get(name, {"mean": None, "interval": (None, None)})
            values = (one["mean"], *one["interval"])
            titles = (f"{kind}_{name}_difference{end}" for end in ("", "_low", "_high"))
            cells |= dict(zip(titles, values, strict=True))
    cells |= {"base": base, "num_parameters": row["num_parameters"], "seconds_per_cell": row["seconds_per_cell"]}
    return {**cells, "random_weights": " ".join(row["random_weights"])}


def as_markdown(found: dict[str, Any]) -> str:
    """The table as a page."""
    base = found["base"]
    titles = ["variant", *(f"CCC {name}" for name in NAMES), "CCC mean, smoothed"]
    titles += [*(f"{name} − {base}" for name in NAMES), "parameters", "s per run"]
    lines = [*(f"{line}\n" for line in heading(found))]
    lines += [f"| {' | '.join(titles)} |", f"|---|{'---:|' * (len(titles) - 1)}"]
    for row in found["rows"]:
        cells = [title(row, found), *(spread(row["raw"][name]) for name in NAMES), spread(row["smoothed"]["mean"])]
        cells += [gain(row["raw_difference"][name]) if row["raw_difference"] else "–" for name in NAMES]
        lines.append(f"| {' | '.join([*cells, *cost(row).split()])} |")
    lines.append(
        "\nCCC: mean ± standard deviation over seeds. Differences: of the raw score, averaged over seeds, with"
    )
    lines.append("95 % interval by paired bootstrap over clips. Smoothed: widths chosen on validation clips.")
    return "\n".join(lines) + "\n"


def plot_differences(found: dict[str, Any], path: Path) -> None:
    """A picture: for each target, a dot per variant at its difference to the base, with its interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = found["rows"]
    figure, axes = plt.subplots(
        1, len(NAMES), figsize=(10, 1.9 + 0.32 * len(rows)), sharex=True, sharey=True, layout="constrained"
    )
    for axis, name, colour in zip(axes, NAMES, COLOURS, strict=False):
        axis.axvline(0, color="grey", lw=0.8)
        for height, row in enumerate(rows):
            one = (row["raw_difference"] or {}).get(name)
            if one is not None and one["mean"] is not None:
                low, high = (one["mean"] if end is None else end for end in one["interval"])
                axis.plot([low, high], [height, height], color=colour, lw=2)
                axis.plot(one["mean"], height, "o", color=colour)
            elif row["variant"] == found["base"]:
                axis.plot(0, height, "o", color="grey", mfc="white")
        axis.set(title=name, xlabel=f"CCC − CCC of {found['base']}")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(rows)), [title(row, found) for row in rows])
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.suptitle("\n".join(heading(found)), fontsize="medium")
    figure.supxlabel("raw score, averaged over seeds; 95 % interval by paired bootstrap over clips", fontsize="small")
    with replacing(path) as part:
        figure.savefig(part, dpi=110)
    plt.close(figure)


def heading(found: dict[str, Any]) -> list[str]:
    """Returns the lines above the table: its clips, folds, seeds and base, and cautions."""
    lines = [f"{found['num_clips']} clips, {found['num_labels']} labels ({found['split'] or 'no score'}), "
             f"{_folds(found)}, {_num_seeds(found)} seeds; base {found['base']}"]  # fmt: skip
    return [*lines, *cautions(found["random_weights"], found["split"])]


def _folds(found: dict[str, Any]) -> str:
    return f"{found['num_folds']} folds pooled" if found["num_folds"] else "no folds"


def _num_seeds(found: dict[str, Any]) -> int:
    return max(len(row["seeds"]) for row in found["rows"])


def title(row: dict[str, Any], found: dict[str, Any]) -> str:
    """A variant's name, and how many seeds it has where others have more."""
    short = len(row["seeds"]) < _num_seeds(found)
    return f"{row['variant']} ({len(row['seeds'])} seeds)" if short else row["variant"]


def spread(cell: dict[str, Any]) -> str:
    """Returns a mean and its standard deviation over seeds as text."""
    if cell["mean"] is None:
        return "–"
    return f"{cell['mean']:.3f}" + ("" if cell["std"] is None else f" ± {cell['std']:.3f}")


def gain(cell: dict[str, Any]) -> str:
    """Returns a difference and its interval as text."""
    if cell["mean"] is None:
        return "–"
    low, high = cell["interval"]
    return f"{cell['mean']:+.3f}" + ("" if low is None else f" [{low:+.3f}, {high:+.3f}]")


def cost(row: dict[str, Any]) -> str:
    """Returns the number of parameters and the seconds of a training as text."""
    if row["num_parameters"] is None:
        return f"  {'–':>10}  {'–':>7}"
    return f"  {row['num_parameters']:>10,}  {row['seconds_per_cell']:>7.1f}"
