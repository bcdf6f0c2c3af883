"""Seconds to steps and back: put samples with their own times on a common grid, with a mask.

Step k of a grid stands at (first_step + k) / hz seconds and owns the half-open interval of half a step around it,
[k - 1/2, k + 1/2) / hz. So `floor(t * hz + 1/2)` is the step of instant t; `round` would send ties to even steps. Grids
of one rate share their instants whatever their first step, since 0 s is always a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Grid:
    """A common timebase: step k stands at (first_step + k) / hz seconds on the clip's own clock."""

    hz: float
    first_step: int
    num_steps: int

    @classmethod
    def over(cls, hz: float, start_s: float, end_s: float) -> Grid:
        """Returns the smallest grid whose steps cover the instants start_s … end_s."""
        first = math.floor(start_s * hz + 0.5)
        return cls(hz, first, math.floor(end_s * hz + 0.5) - first + 1)

    @property
    def times_s(self) -> NDArray[np.float64]:
        """(num_steps,) float64."""
        return (self.first_step + np.arange(self.num_steps)) / self.hz


def usual_gap_s(times_s: NDArray[np.float64]) -> float:
    """Returns the median distance of neighbouring samples in seconds; 0 for a single sample."""
    return float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0


def to_grid(
    times_s: NDArray[np.float64], values: Floats, mask: NDArray[np.bool_], grid: Grid
) -> tuple[Floats, NDArray[np.bool_]]:
    """Puts samples (T, D) with times and mask on a grid: (num_steps, D) float32 values and (num_steps,) mask.

    A step is the mean of the valid samples nearest to it. A step with none (the grid is the faster one) is
    interpolated between valid neighbours that are no more than 1.5 usual gaps apart; otherwise it is masked and NaN.
    """
    times, samples = times_s[mask], np.asarray(values[mask], np.float32)
    out = np.full((grid.num_steps, values.shape[1]), np.nan, np.float32)
    step = np.floor(times * grid.hz + 0.5).astype(np.int64) - grid.first_step
    inside = (step >= 0) & (step < grid.num_steps)
    filled, starts, counts = np.unique(step[inside], return_index=True, return_counts=True)
    if len(filled):
        out[filled] = np.add.reduceat(samples[inside], starts, axis=0) / counts[:, None]
    _interpolate(times, samples, grid, 1.5 * usual_gap_s(times_s), filled, out)
    return out, np.logical_not(np.isnan(out).any(axis=1))


def _interpolate(
    times: NDArray[np.float64], samples: Floats, grid: Grid, max_gap_s: float, filled: NDArray[np.int64], out: Floats
) -> None:
    """Fills steps of `out` that own no sample, where the valid samples on both sides are near enough."""
    empty = np.setdiff1d(np.arange(grid.num_steps), filled)
    instants = grid.times_s[empty]
    right = np.searchsorted(times, instants)
    between = (right > 0) & (right < len(times))
    empty, instants, right = empty[between], instants[between], right[between]
    gap = times[right] - times[right - 1]
    near = gap <= max_gap_s
    weight = ((instants - times[right - 1]) / np.where(gap > 0, gap, 1))[near, None].astype(np.float32)
    out[empty[near]] = (1 - weight) * samples[right - 1][near] + weight * samples[right][near]
