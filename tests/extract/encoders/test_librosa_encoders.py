"""Audio features that need no weights: librosa's own numbers, on the clock that they promise, however audio is cut."""

import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sage_va.data import InputError
from sage_va.extract.encoders.audio_windows import Windower
from sage_va.extract.encoders.factory import WITHOUT_WEIGHTS, encoder_from_fingerprint, encoders_from
from sage_va.extract.encoders.librosa_encoders import librosa

RATE = 16_000


def voice(seconds: float):
    """A voice that glides between 100 and 200 Hz and pauses, and its pitch at each sample (0 in a pause)."""
    times = np.arange(round(seconds * RATE)) / RATE
    pitch = 150 + 50 * np.sin(2 * np.pi * 0.3 * times)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    speaks = np.sin(2 * np.pi * 0.5 * times) > -0.3
    samples = sum(np.sin(k * phase) / k for k in range(1, 8)) * 0.1 * speaks
    noise = 1e-3 * np.random.default_rng(0).standard_normal(len(times))
    return (samples + noise).astype(np.float32), pitch * speaks


def audio_encoder(name, **options):
    return encoders_from(audio=name, **options)[1]


def by_windows(encoder, samples):
    windower = Windower(encoder.plan)
    windows = [*windower.push(samples), *windower.finish()]
    return np.concatenate([encoder.encode(w.samples[None])[0, w.first : w.end] for w in windows])


def test_logmel_is_what_librosa_computes_in_decibels():
    samples, _ = voice(2.0)
    power = librosa.feature.melspectrogram(y=samples, sr=RATE, n_fft=400, hop_length=320, n_mels=64, center=False)
    np.testing.assert_allclose(audio_encoder("logmel").encode(samples[None])[0], 10 * np.log10(power.T), atol=1e-3)


def test_logmel_is_the_same_however_audio_is_cut():
    samples, _ = voice(45.0)
    encoder = audio_encoder("logmel")
    np.testing.assert_allclose(by_windows(encoder, samples), encoder.encode(samples[None])[0], atol=1e-4)


@pytest.mark.slow  # 4 CPU s of pYIN
def test_prosody_hardly_depends_on_how_audio_is_cut():
    samples, _ = voice(45.0)
    encoder = audio_encoder("prosody")
    cut, whole = by_windows(encoder, samples), encoder.encode(samples[None])[0]
    np.testing.assert_allclose(cut[:, :28], whole[:, :28], atol=1e-3)
    assert (np.abs(cut[:, 28] - whole[:, 28]) > 0.05).mean() < 0.01


def test_pitch_is_that_of_the_voice_and_zero_where_there_is_none():
    samples, pitch_hz = voice(4.0)
    features = audio_encoder("prosody").encode(samples[None])[0]
    expected_hz = pitch_hz[np.arange(len(features)) * 320 + 200]
    sure = features[:, 29] >= 0.5
    assert sure[expected_hz > 0].mean() > 0.9
    assert sure[expected_hz == 0].mean() < 0.1
    inside = sure & (expected_hz > 0)
    assert np.abs(60 * 2 ** features[inside, 28] / expected_hz[inside] - 1).max() < 0.03
    assert (features[~sure, 28] == 0).all()


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_any_length_and_silence_give_finite_steps(name):
    encoder = audio_encoder(name)
    for num_samples, num_steps in ((400, 1), (720, 2), (1400, 4)):
        features = encoder.encode(np.zeros((2, num_samples), np.float32))
        assert features.shape == (2, num_steps, encoder.dim)
        assert np.isfinite(features).all()


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_it_is_built_again_from_its_fingerprint_and_is_not_random(name):
    encoder = audio_encoder(name)
    assert encoder.fingerprint["encoder"]["weights"] == "none"
    assert encoder.alias == name
    assert encoder_from_fingerprint(encoder.fingerprint).fingerprint == encoder.fingerprint


@pytest.mark.parametrize("options", [{"layer": "6"}, {"audio_weights": "random"}, {"runtime": "openvino"}])
def test_options_of_models_are_refused(options):
    with pytest.raises(InputError, match="logmel"):
        audio_encoder("logmel", **options)


def test_a_near_miss_is_named():
    with pytest.raises(InputError, match="logmel"):
        audio_encoder("logmels")


@pytest.mark.slow
def test_audio_of_any_length_meets_functions_that_are_compiled() -> None:
    """Else processes at work would compile them at once, and spoil each other's files."""
    code = """
import numpy as np
from sage_va.extract.encoders.librosa_encoders import Prosody, librosa
for num_samples in (400, 720, 16_000):
    Prosody().encode(np.zeros((1, num_samples), np.float32))
print(len(librosa.sequence._viterbi.stats.cache_hits), len(librosa.sequence._viterbi.stats.cache_misses))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "0"]


def test_windows_that_are_tracked_in_parallel_leave_the_filters_of_warnings_as_they_are() -> None:
    encoder, before = audio_encoder("prosody"), list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(encoder.encode, [voice(0.3)[0][None]] * 12))
    assert list(warnings.filters) == before
