"""The table of a comparison: CCC of each variant over seeds, and its difference to the base."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..evaluation.metrics import NAMES, Interval
from ..evaluation.paired import DRAWS, draw_clips, drawn_scores, intervals_of, undefined, with_mean
from ..evaluation.predict import TARGETS
from ..result import Result
from .runs import CellScore

KINDS = ("raw", "smoothed")


@dataclass(frozen=True)
class SeedScores(Result):
    """The pooled CCC of each seed, with mean and sample standard deviation; NaN where not defined.

    interval: 95 % of the mean, by bootstrap over clips.
    """

    mean: float
    std: float
    each: list[float]
    interval: Interval


@dataclass(frozen=True)
class Difference(Result):
    """The gain in CCC over the base, averaged over seeds, with its 95 % interval by paired bootstrap over clips.

    p: two-sided p-value of the same bootstrap: twice the share of draws on the rarer side of 0. p_holm: that after the
    correction of Holm (1979) for all variants of the table that are compared with the base.
    """

    mean: float
    interval: Interval
    p: float
    p_holm: float


@dataclass(frozen=True)
class VariantRow(Result):
    """A variant in the table: for each target its scores and its difference to the base, raw and smoothed.

    seeds: those whose folds are all there. A difference is None for the base, and without a common seed.
    num_parameters, seconds_per_cell: None where no cell is trained; seconds are the median.
    """

    variant: str
    seeds: list[int]
    raw: dict[str, SeedScores]
    raw_difference: dict[str, Difference] | None
    smoothed: dict[str, SeedScores]
    smoothed_difference: dict[str, Difference] | None
    num_parameters: int | None
    seconds_per_cell: float | None
    random_weights: list[str]


@dataclass(frozen=True)
class ComparisonTable(Result):
    """One row per variant, and the clips and labels that all of them are scored on."""

    base: str
    split: str
    num_folds: int | None
    num_clips: int
    num_labels: int
    random_weights: list[str]
    rows: list[VariantRow]


def tabulate(scores: Sequence[CellScore], variants: Sequence[str], base: str, num_folds: int | None) -> ComparisonTable:
    """Returns one row per variant: CCC over seeds, and its difference to the base.

    Only seeds count whose folds are all there, and in a difference those that both sides have.

    Args:
        scores: of each cell.
        variants: the rows.
        base: the variant that the others are compared with.
        num_folds: folds that make one score, or None.
    """
    clips = sorted({clip.clip_id for score in scores for clip in score.clips if clip.raw[0][0] > 0})
    cells = {variant: [score for score in scores if score.variant == variant] for variant in variants}
    sums = {variant: _by_seed(cells[variant], clips, num_folds or 1) for variant in variants}
    counts = [of_seed[0, :, 0, 0] for of_variant in sums.values() for of_seed in of_variant.values()]
    most = torch.stack(counts).amax(0) if counts else torch.zeros(0)
    return ComparisonTable(
        base=base,
        split=", ".join(sorted({score.split for score in scores})),
        num_folds=num_folds,
        num_clips=int((most > 0).sum()),
        num_labels=int(most.sum()),
        random_weights=_random_weights(scores),
        rows=_corrected(
            [_row(variant, cells[variant], sums[variant], sums[base], variant == base) for variant in variants]
        ),
    )


def _corrected(rows: list[VariantRow]) -> list[VariantRow]:
    """Sets `p_holm` of all differences: over the rows, for each target, raw and smoothed by themselves."""
    for parts in ([row.raw_difference for row in rows], [row.smoothed_difference for row in rows]):
        compared = [part for part in parts if part]
        for name in NAMES:
            for part, p_holm in zip(compared, holm([part[name].p for part in compared]), strict=True):
                part[name] = replace(part[name], p_holm=p_holm)
    return rows


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values after the correction of Holm (1979), which bounds the chance of any false finding; NaN stay."""
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    corrected, least = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - rank)))
        corrected[place] = least
    return corrected


def _random_weights(scores: Sequence[CellScore]) -> list[str]:
    return sorted({name for score in scores for name in score.random_weights})


def _by_seed(scores: Sequence[CellScore], clips: Sequence[str], needed: int) -> dict[int, Tensor]:
    """seed -> (2, C, 2, 6) moments, raw and smoothed, of each clip; 0 for a clip that this seed does not score."""
    place = {clip_id: index for index, clip_id in enumerate(clips)}
    of_seeds: dict[int, Tensor] = {}
    for seed in sorted({score.seed for score in scores}):
        folds = [score for score in scores if score.seed == seed]
        if len(folds) == needed:
            sums = torch.zeros(len(KINDS), len(clips), len(TARGETS), 6, dtype=torch.float64)
            for clip in (clip for score in folds for clip in score.clips if clip.clip_id in place):
                for k, moments in enumerate((clip.raw, clip.smoothed)):
                    sums[k, place[clip.clip_id]] = torch.tensor(moments, dtype=torch.float64)
            of_seeds[seed] = sums
    return of_seeds


def _row(
    variant: str, scores: Sequence[CellScore], sums: dict[int, Tensor], base: dict[int, Tensor], is_base: bool
) -> VariantRow:
    both = [] if is_base else [seed for seed in sums if seed in base]
    kinds = range(len(KINDS))
    raw, smoothed = [_over_seeds([sums[seed][k] for seed in sums]) for k in kinds]
    raw_difference, smoothed_difference = [
        difference(torch.stack([sums[s][k] for s in both]), torch.stack([base[s][k] for s in both])) if both else None
        for k in kinds
    ]
    return VariantRow(
        variant,
        list(sums),
        raw,
        raw_difference,
        smoothed,
        smoothed_difference,
        num_parameters=max((score.num_parameters for score in scores), default=None),
        seconds_per_cell=statistics.median(score.seconds for score in scores) if scores else None,
        random_weights=_random_weights(scores),
    )


def _over_seeds(sums: Sequence[Tensor]) -> dict[str, SeedScores]:
    """(C, 2, 6) moments of each seed -> for each target the pooled CCC of the seeds."""
    intervals = _intervals(torch.stack(list(sums))) if sums else dict.fromkeys(NAMES, Interval(math.nan, math.nan))
    each = with_mean(torch.stack([clips.sum(0) for clips in sums])) if sums else torch.empty(0, len(NAMES))
    scores = {}
    for name, values in zip(NAMES, each.T.tolist(), strict=True):
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        mean = statistics.fmean(values) if values else math.nan
        scores[name] = SeedScores(mean, spread, values, intervals[name])
    return scores


def _intervals(sums: Tensor) -> dict[str, Interval]:
    """(S, C, 2, 6) moments -> for each target the 95 % interval of the mean over seeds."""
    return _bootstrapped(sums, None, DRAWS, 0)[1]


def _bootstrapped(
    sums: Tensor, base: Tensor | None, draws: int, seed: int
) -> tuple[NDArray[np.float64], dict[str, Interval]]:
    """Returns (R, 3) scores, or their gains over the base, of drawn clips, and the 95 % intervals."""
    scored = sums[:, :, 0, 0].sum(0) > 0
    n = int(scored.sum())
    if n < 2:
        return np.full((1, len(NAMES)), math.nan), undefined()
    times_drawn = draw_clips(n, draws, seed)
    drawn = drawn_scores(sums[:, scored], times_drawn)
    if base is not None:
        drawn = drawn - drawn_scores(base[:, scored], times_drawn)
    return drawn, intervals_of(drawn)


def _p_value(gains: NDArray[np.float64]) -> float:
    """(R,) gains of drawn clips -> two-sided p-value against no gain; one draw more than there are on either side."""
    gains = gains[~np.isnan(gains)]
    if not len(gains):
        return math.nan
    rarer = min(int((gains <= 0).sum()), int((gains >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(gains) + 1))


def difference(sums: Tensor, base: Tensor, draws: int = DRAWS, seed: int = 0) -> dict[str, Difference]:
    """Returns the difference in CCC to the base, for each target, with a 95 % interval by paired bootstrap over clips.

    Each draw takes the same clips for both sides and all seeds, and averages the seeds' scores before it subtracts.

    Args:
        sums: (S, C, 2, 6) moments of S seeds and C clips; 0 where a seed does not score a clip.
        base: the same of the base: the same seeds, clips and labels.
        draws: how often clips are drawn.
        seed: decides which clips.
    """
    scored = sums[:, :, 0, 0].sum(0) > 0
    once = np.ones((1, int(scored.sum())))
    point = (drawn_scores(sums[:, scored], once) - drawn_scores(base[:, scored], once))[0].tolist()
    gains, intervals = _bootstrapped(sums, base, draws, seed)
    p_values = [_p_value(column) for column in gains.T]
    values = zip(NAMES, point, p_values, strict=True)
    return {name: Difference(mean, intervals[name], p, p) for name, mean, p in values}
