"""Samples on a grid: means, interpolation over small gaps only, and what is missing stays missing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_va.data import Grid, to_grid
from sage_va.data.timebase import usual_gap_s


def regular(hz: float, num_samples: int, start_s: float = 0.0) -> np.ndarray:
    return start_s + np.arange(num_samples) / hz


def test_the_same_grid_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((50, 3)).astype(np.float16)
    mask = rng.random(50) < 0.7
    grid = Grid(25, 10, 50)
    resampled, known = to_grid(grid.times_s, values, mask, grid)
    assert resampled.dtype == np.float32
    assert np.array_equal(known, mask)
    assert np.array_equal(resampled[mask], values[mask].astype(np.float32))
    assert np.isnan(resampled[~mask]).all()


def test_a_slower_grid_takes_means_of_valid_samples() -> None:
    times = regular(50, 8, start_s=0.005)  # nearest steps: 0, 1, 1, 2, 2, 3, 3, 4
    values = np.array([[1], [1], [3], [5], [np.nan], [7], [np.nan], [np.nan]], np.float32)
    resampled, known = to_grid(times, values, ~np.isnan(values[:, 0]), Grid(25, 0, 5))
    assert known.tolist() == [True, True, True, True, False]
    assert resampled[:4, 0].tolist() == [1, 2, 5, 7]


def test_a_faster_grid_interpolates_over_small_gaps_only() -> None:
    times, values = np.array([0, 0.1, 0.2, 0.3, 0.6, 0.7]), np.array([[0], [1], [2], [3], [6], [7]], np.float16)
    resampled, known = to_grid(times, values, np.ones(6, bool), Grid(20, -2, 18))
    steps = np.arange(-2, 16)
    assert steps[known].tolist() == [0, 1, 2, 3, 4, 5, 6, 12, 13, 14]
    assert np.allclose(resampled[known, 0], steps[known] / 2)


def test_masked_samples_are_neither_bridged_nor_zero() -> None:
    times = regular(10, 10)
    mask = np.ones(10, bool)
    mask[4] = False
    resampled, known = to_grid(times, np.ones((10, 1), np.float32), mask, Grid(20, 0, 19))
    assert np.flatnonzero(~known).tolist() == [7, 8, 9]
    assert np.isnan(resampled[7:10]).all()


def test_nothing_valid_and_a_single_sample() -> None:
    resampled, known = to_grid(regular(10, 5), np.full((5, 2), np.nan, np.float32), np.zeros(5, bool), Grid(10, 0, 5))
    assert not known.any()
    assert np.isnan(resampled).all()
    one, known = to_grid(np.array([0.3]), np.ones((1, 2), np.float32), np.ones(1, bool), Grid(10, 0, 5))
    assert np.flatnonzero(known).tolist() == [3]
    assert one[3].tolist() == [1, 1]
    assert usual_gap_s(np.array([0.3])) == 0.0


rates = st.floats(1, 120)


@given(rates, rates, st.floats(-5, 500), st.integers(2, 200))
def test_a_constant_stays_constant_and_a_ramp_a_ramp(hz: float, grid_hz: float, start_s: float, num: int) -> None:
    times = regular(hz, num, start_s)
    grid = Grid.over(grid_hz, times[0], times[-1])
    values = np.stack([np.full(num, 0.3), times - start_s], axis=1).astype(np.float32)
    resampled, known = to_grid(times, values, np.ones(num, bool), grid)
    assert known[1:-1].all()
    assert np.allclose(resampled[known, 0], 0.3, atol=1e-6)
    away_s = np.abs(resampled[known, 1] - (grid.times_s[known] - start_s))
    edges_s = 0.5 / grid_hz + 1e-5 * num / hz  # a mean stands where its samples do, within half a step …
    assert away_s.max() <= edges_s
    inner_s = 0.5 / max(hz, grid_hz) + 1e-5 * num / hz  # … and inside the clip within half a sample
    assert (away_s[1:-1] <= inner_s).all()


@given(st.floats(0.5, 100), st.floats(-100, 1000), st.floats(0, 100))
def test_a_grid_covers_its_instants(hz: float, start_s: float, length_s: float) -> None:
    grid = Grid.over(hz, start_s, start_s + length_s)
    half = 0.5 / hz + 1e-9
    assert len(grid.times_s) == grid.num_steps >= 1
    assert abs(grid.times_s[0] - start_s) <= half
    assert abs(grid.times_s[-1] - start_s - length_s) <= half


def test_steps_stand_on_the_clips_own_clock() -> None:
    assert np.allclose(Grid.over(25, 1.01, 1.13).times_s, [1.0, 1.04, 1.08, 1.12])
    assert Grid.over(25, 0.0, 0.0).times_s == pytest.approx([0.0])
