"""Paired bootstrap over clips: one draw takes the same clips for both sides of a difference and for all seeds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..ccc import ccc_of_moments
from ..result import Result
from .metrics import NAMES, Interval

DRAWS = 2000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Gain(Result):
    """A difference of scores or areas, with its 95 % interval by paired bootstrap over clips."""

    mean: float
    interval: Interval


def draw_clips(num_clips: int, draws: int = DRAWS, seed: int = 0) -> Floats:
    """Returns (R, C): how often each draw takes each clip; the draws depend on these numbers alone."""
    return (
        np.random.default_rng(seed).multinomial(num_clips, np.full(num_clips, 1 / num_clips), size=draws).astype(float)
    )


def with_mean(sums: Tensor) -> Tensor:
    """(..., 2, 6) moments -> (..., 3) CCC of valence, of arousal, and their mean."""
    scores = ccc_of_moments(sums)
    return torch.cat([scores, scores.mean(-1, keepdim=True)], dim=-1)


def drawn_scores(sums: Tensor, times_drawn: Floats) -> Floats:
    """(S, C, 2, 6) moments, (R, C) counts of each clip's draws -> (R, 3) CCC, averaged over seeds that score any."""
    pooled = torch.einsum("rc,scdm->rsdm", torch.from_numpy(times_drawn), sums)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw that no seed scores is NaN
        return np.nanmean(with_mean(pooled).numpy(), axis=1)


def intervals_of(drawn: Floats) -> dict[str, Interval]:
    """(R, 3) numbers of the draws -> for each target the 95 % percentile interval; NaN where none is defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a target that is never defined is NaN
        low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0).tolist()
    return {name: Interval(a, b) for name, a, b in zip(NAMES, low, high, strict=True)}


def undefined() -> dict[str, Interval]:
    """Returns intervals that are not defined."""
    return dict.fromkeys(NAMES, Interval(math.nan, math.nan))


def drawn_areas(curves: Tensor, strengths: Sequence[float], times_drawn: Floats) -> Floats:
    """Returns (R, 3): the area of each draw, the mean height of the score between straight lines.

    Args:
        curves: (strengths, S, C, 2, 6) moments.
        strengths: rising.
        times_drawn: (R, C) counts.
    """
    heights = np.stack([drawn_scores(sums, times_drawn) for sums in curves])
    return np.asarray(np.trapezoid(heights, strengths, axis=0)) / (strengths[-1] - strengths[0])
