"""Windows of sound: each step once, in its place, whatever the blocks; signals as a second implementation has them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_va.extract.windows import Windower, WindowPlan, measure

RAW = WindowPlan(16_000, 320 * 20 + 80, 320, 400, 200, 20, 3, padded=False)
PADDED = WindowPlan(16_000, 320 * 20, 320, 400, 0, 20, 3, padded=True)
BASE = WindowPlan(16_000, 320_080, 320, 400, 200, 1000, 50, padded=False)


def cut(plan, samples, blocks):
    windower = Windower(plan)
    windows = []
    for block in np.split(samples, np.cumsum(blocks)):
        windows += windower.push(block)
    return [*windows, *windower.finish()]


@settings(max_examples=300)
@given(st.sampled_from([RAW, PADDED]), st.integers(0, 40_000), st.lists(st.integers(0, 9_000), max_size=8))
def test_every_step_comes_once_with_its_own_sound(plan, num_samples, blocks):
    samples = np.arange(1, num_samples + 1, dtype=np.float32)
    windows = cut(plan, samples, blocks)
    place = 0
    for window in windows:
        first_step = (int(window.samples[0]) - 1) // plan.step  # sample n has the value n + 1
        assert (int(window.samples[0]) - 1) % plan.step == 0
        assert first_step + window.first == place
        place = first_step + window.end
        assert window.end > window.first
        assert len(window.quality) == len(window.audible) == window.end - window.first
        assert len(window.samples) == plan.window or (not plan.padded and len(windows) == 1)
    assert place == plan.num_steps(num_samples)
    for before, after in pairwise(windows):
        assert before.end == plan.window_steps - plan.context_steps
        assert after.first >= plan.context_steps


def test_raw_windows_end_where_the_recording_ends():
    last = cut(RAW, np.arange(1, 20_001, dtype=np.float32), [1000] * 20)[-1]
    assert 20_000 - int(last.samples[-1]) < RAW.step


def test_one_second_has_49_steps_of_wav2vec2():
    assert BASE.num_steps(16_000) == 49
    assert BASE.num_steps(399) == 0
    np.testing.assert_allclose(BASE.times_s(3, 2.5), [2.5125, 2.5325, 2.5525])


def test_absent_sound_has_at_least_one_step():
    assert RAW.absent_steps(0.0) == 1
    assert RAW.absent_steps(1.0) == 49
    assert PADDED.absent_steps(1.0) == 50


@pytest.mark.parametrize("plan", [RAW, PADDED])
def test_loudness_and_clipping(plan):
    samples = np.zeros(6_400, np.float32)
    samples[3_200:] = 0.5
    samples[4_800:] = 1.0
    quality = measure(samples, plan)
    np.testing.assert_allclose(quality[[0, -2]], [[-120, 0], [0, 1]], atol=1e-4)
    assert quality[11, 0] == pytest.approx(-6.02, abs=0.01)


def test_a_gap_in_the_sound_is_not_audible():
    samples = np.full(12_800, 0.1, np.float32)
    samples[3_200:6_400] = 0
    heard = np.concatenate([window.audible for window in cut(RAW, samples, [5_000])])
    times = RAW.times_s(len(heard), 0)
    assert not heard[(times > 0.22) & (times < 0.38)].any()
    assert heard[(times < 0.18) | (times > 0.42)].all()


@pytest.mark.slow
def test_loudness_as_librosa_has_it():
    import librosa

    samples = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    for plan, centred in ((RAW, False), (PADDED, True)):
        theirs = librosa.feature.rms(y=samples, frame_length=400, hop_length=320, center=centred, pad_mode="constant")
        mine = measure(samples, plan)[:, 0]
        np.testing.assert_allclose(mine, 20 * np.log10(theirs[0][: len(mine)]), atol=1e-3)
