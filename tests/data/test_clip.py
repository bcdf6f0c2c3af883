"""Clips, frame clocks and Tracks: what they hold survives JSON, and what they refuse is said in words."""

import re
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_va.data import Clip, FrameClock, InputError, Track
from sage_va.data.clip import finite_rows

VALUES = "values of shape (T, D), float16, bfloat16 or float32"
gaps = st.lists(st.one_of(st.sampled_from([33, 33, 33, 34, 512]), st.integers(1, 10**6)), max_size=60)
clocks = st.builds(
    lambda base, first, steps, some: FrameClock(
        base, np.cumsum([first, *steps]).astype(np.int64)[: None if some else 0]
    ),
    st.builds(Fraction, st.integers(1, 1001), st.integers(1, 10**6)),
    st.integers(-(10**6), 10**9),
    gaps,
    st.booleans(),
)


@given(clocks)
def test_a_clock_survives_json(clock: FrameClock) -> None:
    again = FrameClock.from_json(clock.to_json())
    assert again.time_base == clock.time_base
    assert again.pts.dtype == np.int64
    assert np.array_equal(again.pts, clock.pts)
    assert np.array_equal(again.times_s, clock.times_s)


def test_an_even_clock_is_one_run_and_a_long_uneven_one_is_quick() -> None:
    assert FrameClock.regular(25, 1000).to_json() == {"time_base": "1/25", "runs": [[0, 1, 1000]]}
    rounded = FrameClock(Fraction(1, 1000), np.round(np.arange(100_000) * 1001 / 30).astype(np.int64))
    assert np.array_equal(FrameClock.from_json(rounded.to_json()).pts, rounded.pts)


def test_times_are_exact_fractions() -> None:
    clock = FrameClock.regular(29.97, 3000)
    assert clock.times_s[2997] == 100.0
    assert FrameClock.regular(30000 / 1001, 30001).times_s[-1] == 1001.0


@settings(max_examples=40)
@given(
    st.builds(
        Clip,
        st.text(min_size=1),
        st.none() | st.text(),
        st.none() | st.floats(0, 1e6),
        st.none() | clocks,
        st.none() | st.just({"path": "a.mp4", "bytes": 3, "sha256": "0"}),
    )
)
def test_a_clip_survives_json(clip: Clip) -> None:
    again = Clip.from_json(clip.to_json())
    assert again == clip
    assert (again.clock is None) == (clip.clock is None)
    if clip.clock and again.clock:
        assert np.array_equal(again.clock.pts, clip.clock.pts)


def parts(**other: Any) -> dict[str, Any]:
    good = {
        "values": np.ones((4, 2), np.float16),
        "times_s": np.arange(4) / 25,
        "mask": np.ones(4, bool),
        "quality": np.zeros((4, 1), np.float32),
        "quality_units": {"score": "1"},
    }
    return {**good, **other}


TODO = "Look at the code or file that made these features."


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"values": np.ones(4, np.float16)}, f"{VALUES}, got (4,) float16"),
        ({"values": np.ones((4, 2))}, f"{VALUES}, got (4, 2) float64"),
        (
            {"values": np.ones((0, 2), np.float16)},
            f"{VALUES}, got (0, 2) float16",
        ),
        ({"times_s": np.arange(3.0)}, "times_s of shape (4,), float64, got (3,) float64"),
        ({"times_s": np.arange(4, dtype=np.float32)}, "times_s of shape (4,), float64, got (4,) float32"),
        ({"mask": np.ones(4, np.uint8)}, "mask of shape (4,), bool, got (4,) uint8"),
        ({"quality_units": {}}, "quality of shape (4, 0), float32, got (4, 1) float32"),
        (
            {"times_s": np.array([0, 1, 1, 2.0])},
            "finite, strictly increasing times, got times that stand still or go back",
        ),
        (
            {"times_s": np.array([0, 1, np.nan, 2])},
            "finite, strictly increasing times, got times that stand still or go back",
        ),
        (
            {"mask": np.array([True, True, False, True])},
            "finite values under the mask and NaN outside it, got 1 frames that break this",
        ),
        (
            {"values": np.array([[np.inf, 0]] * 4, np.float32)},
            "finite values under the mask and NaN outside it, got 4 frames that break this",
        ),
    ],
)
def test_a_wrong_track_is_refused(other: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match="^" + re.escape(f"track: expected {text}. {TODO}") + "$"):
        Track(**parts(**other))


def test_of_masks_with_nan_and_keeps_the_order_of_signals() -> None:
    mask = np.array([True, False, True])
    signals = {"z": ("dB", np.arange(3.0)), "a": ("1", np.ones(3))}
    track = Track.of(np.ones((3, 2), np.float16), np.arange(3.0), mask, signals)
    assert track.values.dtype == np.float16
    assert np.array_equal(np.isnan(track.values).all(axis=1), ~mask)
    assert list(track.quality_units) == ["z", "a"]
    assert np.array_equal(track.quality[:, 0], [0, 1, 2])
    assert (track.num_frames, track.dim) == (3, 2)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, ">f2", ">f4"])
def test_rows_are_finite_exactly_where_numpy_finds_them_so(dtype: Any) -> None:
    dtype = np.dtype(dtype)
    every = np.arange(1 << 16, dtype=np.uint16)
    bits = (
        every if dtype.itemsize == 2 else np.concatenate([every, every.astype(np.uint32) << 16, (~every).astype("u4")])
    )
    column = bits.astype(f"{dtype.byteorder.replace('=', '<')}u{dtype.itemsize}").view(dtype)[:, None]
    with np.errstate(invalid="ignore"):
        assert np.array_equal(finite_rows(column), np.isfinite(column).all(axis=1))
        wide = np.ones((2 * len(column), 3), dtype)
        wide[::2, 1] = column[:, 0]
        assert np.array_equal(finite_rows(wide), np.isfinite(wide).all(axis=1))
        assert np.array_equal(finite_rows(wide[:, 1:]), np.isfinite(wide).all(axis=1))
    assert np.array_equal(finite_rows(np.ones((2, 1 << 18), dtype)), [True, True])
