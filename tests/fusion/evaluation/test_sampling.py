"""Instants and smoothing of predictions, and the files that people get of them."""

import csv
import dataclasses
import io
import re
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_va.data import Clip, FrameClock, Grid, InputError
from sage_va.data.corpora.readers import read_eaf
from sage_va.data.labels import read_label_file
from sage_va.fusion.evaluation.predict import Prediction
from sage_va.fusion.evaluation.prediction_files import FORMATS, write_prediction
from sage_va.fusion.evaluation.sampling import Sampling

LABELS = ["visual", "audio"]


def clip_of(pts: list[int], time_base: Fraction = Fraction(1, 1000)) -> Clip:
    media = {"path": "a/film.mp4", "bytes": 1, "sha256": "0"}
    return Clip("film.mp4", clock=FrameClock(time_base, np.array(pts, np.int64)), media=media)


def on_grid(grid: Grid, gate: bool = True) -> Prediction:
    """A prediction whose valence is the time in tens of seconds, and whose arousal is its negative."""
    va = np.column_stack([grid.times_s / 10, -grid.times_s / 10])
    mask = np.column_stack([np.arange(grid.num_steps) % 2 == 0, np.ones(grid.num_steps, bool)])
    unimodal = np.repeat(va[:, None], 2, axis=1)
    reliability = np.tile([0.25, 0.75], (grid.num_steps, 1)) if gate else None
    return Prediction("film.mp4", grid.times_s, va, mask, reliability, reliability, None, unimodal)


@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=60), st.sampled_from([4.0, 7.5, 25.0, 30.0]), st.integers(0, 500)
)
def test_frame_k_gets_the_value_of_the_grid_at_its_own_time(gaps: list[int], hz: float, start: int) -> None:
    clip = clip_of(np.cumsum([start, *gaps]).tolist())
    times_s = clip.clock.times_s
    grid = Grid.over(hz, times_s[0], times_s[-1])
    sampled = Sampling("frames").sample(on_grid(grid), clip, grid)
    assert (sampled.times_s == times_s).all()
    inside = np.clip(times_s, grid.times_s[0], grid.times_s[-1])  # half a step at either end holds its value
    assert np.abs(times_s - inside).max() <= 0.5 / hz + 1e-9
    np.testing.assert_allclose(sampled.va[:, 0], inside / 10, atol=1e-9)
    np.testing.assert_allclose(sampled.unimodal[:, 1, 1], -inside / 10, atol=1e-9)
    nearest = np.abs(times_s[:, None] - grid.times_s).argmin(1)
    unique = np.abs(np.abs(times_s - grid.times_s[nearest]) - 0.5 / hz) > 1e-9
    assert (sampled.mask[unique, 0] == (nearest[unique] % 2 == 0)).all()


def test_a_rate_gives_its_instants_within_the_frames() -> None:
    clip = clip_of([120, 160, 200, 1900])
    grid = Grid.over(25, 0.12, 1.9)
    assert Sampling(2.0).sample(on_grid(grid), clip, grid).times_s.tolist() == [0.5, 1.0, 1.5]
    assert Sampling("grid").sample(on_grid(grid), clip, grid).times_s.tolist() == grid.times_s.tolist()
    unclocked = dataclasses.replace(clip, clock=None)
    assert len(Sampling(50.0).instants(unclocked, grid)) == 2 * grid.num_steps - 1
    with pytest.raises(InputError, match=r"film.mp4: no instant of 0.1 Hz lies in 0.12 to 1.9 s. Ask for a higher"):
        Sampling(0.1).instants(clip, grid)
    with pytest.raises(InputError, match=r"expected a recording whose frame times are known, got features without a"):
        Sampling("frames").instants(unclocked, grid)


def test_smoothing_is_a_centred_average_on_the_grid() -> None:
    grid = Grid(10, 0, 21)
    spike = dataclasses.replace(on_grid(grid), va=np.eye(21)[:, [10, 10]])
    smoothed = Sampling(smooth_s=0.5).smooth(spike, 10, best_s=4.0).va[:, 0]
    assert np.flatnonzero(smoothed).tolist() == [8, 9, 10, 11, 12]  # 5 steps of 0.1 s, two of them later
    np.testing.assert_allclose(smoothed[8:13], 0.2, atol=1e-12)
    best = Sampling(smooth_s="auto").smooth(spike, 10, best_s=0.2).va[:, 0]
    assert np.flatnonzero(best).tolist() == [9, 10, 11]
    assert (Sampling().smooth(spike, 10, best_s=0.3).va == spike.va).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"at": "frame"}, r"at: expected grid, frames, or a rate above 0 and at most 1000, got 'frame'"),
        ({"at": 0.0}, r"at: expected grid, frames, or a rate"),
        ({"smooth_s": -1.0}, r"smooth: expected auto, or seconds from 0 to 3600, got -1.0"),
        ({"smooth_s": "best"}, r"smooth: expected auto, or seconds from 0 to 3600, got 'best'"),
        ({"smooth_s": 1e300}, r"smooth: expected auto, or seconds from 0 to 3600, got 1e\+300. Change the option"),
        ({"smooth_s": float("nan")}, r"smooth: expected auto, or seconds from 0 to 3600, got nan"),
    ],
)
def test_other_instants_and_widths_are_refused(settings: dict[str, str | float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**settings)


GRID = Grid(25, 3, 5)
CLIP = clip_of([120, 160, 200, 240, 280])


def test_csv_leaves_a_masked_reliability_empty() -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](on_grid(GRID), CLIP, LABELS))))
    assert [row["time_s"] for row in rows[:2]] == ["0.120000", "0.160000"]
    assert [(row["reliability_visual"], row["mask_visual"]) for row in rows[:2]] == [("0.2500", "1"), ("", "0")]
    plain = list(csv.DictReader(io.StringIO(FORMATS["csv"](on_grid(GRID, gate=False), CLIP, LABELS))))
    assert {row["reliability_audio"] for row in plain} == {""}


def test_txt_is_read_back_as_a_label_file(tmp_path: Path) -> None:
    write_prediction(tmp_path / "film.txt", on_grid(GRID), CLIP, LABELS)
    truth = read_label_file(tmp_path / "film.txt").timed(CLIP)
    np.testing.assert_allclose(truth.va, on_grid(GRID).va, atol=1e-5)
    assert truth.times_s.tolist() == CLIP.clock.times_s.tolist()


def test_vtt_shows_each_value_around_its_instant() -> None:
    text = FORMATS["vtt"](on_grid(GRID), CLIP, LABELS)
    assert text.startswith("WEBVTT\n\n00:00:00.100 --> 00:00:00.140\nvalence +0.01  arousal -0.01\n\n00:00:00.140 -->")
    assert len(re.findall("-->", text)) == 5
    late = dataclasses.replace(on_grid(GRID), times_s=GRID.times_s + 3725)
    assert "01:02:05.100 --> 01:02:05.140" in FORMATS["vtt"](late, CLIP, LABELS)


def test_eaf_has_a_tier_for_each_target_and_names_the_recording() -> None:
    root = ElementTree.fromstring(FORMATS["eaf"](on_grid(GRID), CLIP, LABELS))
    times = {slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE")) for slot in root.iter("TIME_SLOT")}
    assert list(times.values()) == [100, 140, 180, 220, 260, 300]
    tiers = {tier.get("TIER_ID"): list(tier.iter("ALIGNABLE_ANNOTATION")) for tier in root.iter("TIER")}
    assert list(tiers) == ["valence", "arousal"]
    ids = [annotation.get("ANNOTATION_ID") for annotations in tiers.values() for annotation in annotations]
    assert len(set(ids)) == 10
    second = tiers["arousal"][1]
    assert [times[second.get(f"TIME_SLOT_REF{end}")] for end in (1, 2)] == [140, 180]
    assert second.findtext("ANNOTATION_VALUE") == "-0.01600"
    media = root.find("HEADER/MEDIA_DESCRIPTOR")
    assert (media.get("RELATIVE_MEDIA_URL"), media.get("MIME_TYPE")) == ("a/film.mp4", "video/mp4")


def test_eaf_is_read_back_as_a_label_file(tmp_path: Path) -> None:
    write_prediction(tmp_path / "film.eaf", on_grid(GRID), CLIP, LABELS)
    traces = read_eaf(tmp_path / "film.eaf")
    for target, name in enumerate(("valence", "arousal")):
        trace = traces[name]
        at = np.interp(GRID.times_s, trace.times_s, trace.values[:, 0])
        np.testing.assert_allclose(at, on_grid(GRID).va[:, target], atol=2e-3)


@pytest.mark.parametrize("times_s", [[0.1, 0.1002, 0.1004], [-3.0, -2.0, 1.0]])
def test_instants_that_milliseconds_cannot_hold_are_refused(times_s: list[float]) -> None:
    prediction = dataclasses.replace(on_grid(Grid(25, 0, 3)), times_s=np.array(times_s))
    for name in ("eaf", "vtt"):
        with pytest.raises(InputError, match=r"film.mp4: some instants are less than a millisecond apart, or before 0"):
            FORMATS[name](prediction, CLIP, LABELS)
