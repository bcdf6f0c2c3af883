"""Which image each step shows, and how an image lies in the encoder's input."""

from fractions import Fraction

import numpy as np
import pytest
from av import VideoFrame
from hypothesis import given
from hypothesis import strategies as st

from sage_va.data import Grid, InputError
from sage_va.extract.decode.frames import Letterbox, load_crop, sane_aspect
from sage_va.extract.decode.steps import Timeline

GREY = (124, 116, 104)


def shown_by(times_s, fps, missing=()):
    timeline, kept = Timeline(fps), []
    for number, time_s in enumerate(times_s):
        kept.append(timeline.push(time_s, None if number in missing else number))
    kept.append(timeline.finish())
    kept = [number for number in kept if number is not None]
    assert timeline.num_images == len(kept)
    return timeline.times_s, [kept[index] if index >= 0 else -1 for index in timeline.shown]


def test_every_image_is_a_step_at_its_own_time():
    assert shown_by([0.1, 0.5, 0.7], None, missing={1}) == ([0.1, 0.5, 0.7], [0, -1, 2])


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=40),
    st.sampled_from([1.0, 5.0, 12.5, 25.0, 100.0]),
    st.integers(0, 3000),
)
def test_steps_of_a_rate_show_the_nearest_image(gaps_ms, fps, start_ms):
    times_s = (start_ms + np.cumsum(gaps_ms)) / 1000
    steps_s, shown = shown_by(times_s.tolist(), fps)
    grid = Grid.over(fps, float(times_s[0]), float(times_s[-1]))
    np.testing.assert_allclose(steps_s, grid.times_s)
    distance = np.abs(np.array(steps_s)[:, None] - times_s)
    np.testing.assert_allclose(distance[np.arange(len(shown)), shown], distance.min(axis=1), atol=1e-9)


def frame_of(pixels):
    return VideoFrame.from_ndarray(np.ascontiguousarray(pixels, np.uint8), format="rgb24")


def laid(size, pixels, aspect=Fraction(1)):
    canvas = np.empty((*size, 3), np.uint8)
    return canvas, Letterbox(size, GREY)(frame_of(pixels), canvas, aspect)


def test_a_whole_image_fits_and_the_rest_says_nothing():
    canvas, (brightness, sharpness) = laid((32, 32), np.full((50, 100, 3), 255))
    assert canvas.shape == (32, 32, 3)
    assert (canvas[8:24] == 255).all()
    assert (canvas[:8] == GREY).all()
    assert (canvas[24:] == GREY).all()
    assert brightness == pytest.approx(1)
    assert sharpness == 0


def test_display_aspect_is_kept():
    canvas, _ = laid((32, 32), np.full((32, 32, 3), 255), Fraction(2))
    assert (canvas[8:24] == 255).all()
    assert (canvas[:8] == GREY).all()
    assert sane_aspect(Fraction(100)) == sane_aspect(None) == sane_aspect(Fraction(0)) == 1


def test_shrinking_averages_areas():
    stripes = np.zeros((64, 64, 3))
    stripes[::2] = 254
    canvas, _ = laid((16, 16), stripes)
    assert np.abs(canvas.astype(int) - 127).max() <= 2


def test_sharpness_falls_with_blur():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3))
    smooth = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1) + np.roll(noise, 2, 1)) // 4
    assert laid((64, 64), noise)[1][1] > 4 * laid((64, 64), smooth)[1][1]


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 7)])
def test_any_size_of_image_can_be_laid(size):
    _, (brightness, _) = laid((24, 40), np.zeros((*size, 3)))
    assert brightness == 0


def test_a_torn_crop_is_an_error(tmp_path):
    whole = tmp_path / "00001.jpg"
    frame_of(np.random.default_rng(0).integers(0, 255, (112, 112, 3))).to_image().save(whole)
    assert load_crop(whole).width == 112
    whole.write_bytes(whole.read_bytes()[:900])
    with pytest.raises(InputError, match=r"00001\.jpg: expected a whole image"):
        load_crop(whole)
