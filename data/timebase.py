"""Seconds to steps and back: put samples with their own times on a common grid, with a mask."""

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
        """The smallest grid whose steps cover the instants start_s … end_s."""
        first = math.floor(start_s * hz + 0.5)
        return cls(hz, first, math.floor(end_s * hz + 0.5) - first + 1)

    @property
    def times_s(self) -> NDArray[np.float64]:
        """(num_steps,) float64."""
        return (self.first_step + np.arange(self.num_steps)) / self.hz


def usual_gap_s(times_s: NDArray[np.float64]) -> float:
    """The median distance of neighbouring samples in seconds; 0 for a single sample."""
    return float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0


def to_grid(
    times_s: NDArray[np.float64], values: Floats, mask: NDArray[np.bool_], grid: Grid
) -> tuple[Floats, NDArray[np.bool_]]:
    """Samples (T, D) with times and mask -> (num_steps, D) float32 values and (num_steps,) mask.

    A step is the mean of the valid samples nearest to it. A step with none (the grid is the faster one) is
    interpolated between valid neighbours that are no more than 1.5 usual gaps apart; otherwise it is masked and NaN.
    """
    times, found = times_s[mask], np.asarray(values[mask], np.float32)
    out = np.full((grid.num_steps, values.shape[1]), np.nan, np.float32)
    step = np.floor(times * grid.hz + 0.5).astype(np.int64) - grid.first_step
    inside = (step >= 0) & (step < grid.num_steps)
    filled, starts, counts = np.unique(step[inside], return_index=True, return_counts=True)
    if len(filled):
        out[filled] = np.add.reduceat(found[inside], starts, axis=0) / counts[:, None]
    _interpolate(times, found, grid, 1.5 * usual_gap_s(times_s), filled, out)
    return out, np.logical_not(np.isnan(out).any(axis=1))


def _interpolate(
    times: NDArray[np.float64], found: Floats, grid: Grid, max_gap_s: float, filled: NDArray[np.int64], out: Floats
) -> None:
    empty = np.setdiff1d(np.arange(grid.num_steps), filled)
    wanted = grid.times_s[empty]
    right = np.searchsorted(times, wanted)
    between = (right > 0) & (right < len(times))
    empty, wanted, right = empty[between], wanted[between], right[between]
    gap = times[right] - times[right - 1]
    near = gap <= max_gap_s
    weight = ((wanted - times[right - 1]) / np.where(gap > 0, gap, 1))[near, None].astype(np.float32)
    out[empty[near]] = (1 - weight) * found[right - 1][near] + weight * found[right][near]
