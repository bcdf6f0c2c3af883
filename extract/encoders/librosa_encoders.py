"""Audio features that need no weights, by librosa: the acoustic baselines that papers of the field report."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..decode.audio import Samples
from .base import AudioEncoder, plan_of
from .compiled import compiled_by_one_process

RATE, STEP, FIELD = 16_000, 320, 400  # Hz, and samples: fifty steps per second of 25 ms each, as wav2vec2 has them
NUM_MELS, NUM_MFCC = 64, 13
FLOOR_POWER = 1e-10
DELTA_STEPS = 9
PITCH_FIELD, PITCH_HZ = 1024, (60.0, 500.0)  # samples; from a low man's to a child's voice
CONTEXT_S = 1.0  # of pitch tracking at the end of a window

# Of a low pitch in a short window; 60 Hz has four periods here. Several threads track pitch, so that the filters, which
# all threads share, must not be changed for each window.
warnings.filterwarnings("ignore", f"With fmin=60.000, sr={RATE} and frame_length={PITCH_FIELD}", UserWarning)


def _tracked(samples: Samples) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Returns pitch in Hz, whether there is a voice, and the probability of one, each (T,)."""
    return librosa.pyin(
        samples, fmin=PITCH_HZ[0], fmax=PITCH_HZ[1], sr=RATE,
        frame_length=PITCH_FIELD, hop_length=STEP, center=False, fill_na=None,
    )  # fmt: skip


with compiled_by_one_process("librosa") as is_new:
    import librosa
    import librosa.core.pitch
    import librosa.sequence
    import librosa.util.matching

    for num_steps in (1, 2) if is_new else ():  # some functions are compiled at a call, anew where there is one step
        _tracked(np.zeros(PITCH_FIELD + (num_steps - 1) * STEP, np.float32))


class LogMel(AudioEncoder):
    """Measures log power in 64 mel bands, fifty times per second: 25 ms under a Hann window, in decibels."""

    kind = "librosa"
    name = "logmel"
    dim = NUM_MELS
    layer = f"{NUM_MELS} log-mel bands in dB, 25 ms every 20 ms"
    plan = plan_of(RATE, step=STEP, receptive_field=FIELD, context_s=0)

    def embed(self, items: Samples) -> NDArray[np.float32]:
        """Returns the bands of (B, N) samples -> (B, T, 64)."""
        return np.stack([_log_mel(samples, NUM_MELS).T for samples in items])


class Prosody(AudioEncoder):
    """Measures the voice in 30 numbers, fifty times per second.

    13 MFCC, their 13 slopes over nine steps, energy in dB, spectral flux (mean rise of the 40 mel bands since the step
    before, in dB), pitch and the probability that there is one (pYIN, Mauch and Dixon 2014). Pitch is in octaves above
    60 Hz, and 0 where the probability is below one half: without a voice there is no pitch to miss.
    """

    kind = "librosa"
    name = "prosody"
    dim = 2 * NUM_MFCC + 4
    layer = "13 MFCC, 13 deltas, energy in dB, spectral flux, pYIN pitch in octaves above 60 Hz and its probability"
    plan = plan_of(RATE, step=STEP, receptive_field=FIELD, context_s=CONTEXT_S)

    def embed(self, items: Samples) -> NDArray[np.float32]:
        """Returns the features of (B, N) samples -> (B, T, 30)."""
        return np.stack([_prosody(samples) for samples in items]).astype(np.float32)


def _log_mel(samples: Samples, num_bands: int) -> NDArray[np.float32]:
    power: Any = librosa.feature.melspectrogram(
        y=samples, sr=RATE, n_fft=FIELD, hop_length=STEP, n_mels=num_bands, center=False
    )
    return librosa.power_to_db(power, ref=1.0, amin=FLOOR_POWER, top_db=None)


def _prosody(samples: Samples) -> NDArray[np.floating[Any]]:
    bands = _log_mel(samples, 40)
    mfcc = librosa.feature.mfcc(S=bands, n_mfcc=NUM_MFCC)
    width = min(DELTA_STEPS, (mfcc.shape[1] - 1) // 2 * 2 + 1)  # odd, and no longer than the audio
    slope = librosa.feature.delta(mfcc, width=width) if width >= 3 else np.zeros_like(mfcc)
    rms = librosa.feature.rms(y=samples, frame_length=FIELD, hop_length=STEP, center=False)
    energy = librosa.power_to_db(rms**2, ref=1.0, amin=FLOOR_POWER, top_db=None)
    flux = np.maximum(0, np.diff(bands, axis=1, prepend=bands[:, :1])).mean(axis=0, keepdims=True)
    return np.concatenate([mfcc, slope, energy, flux, _pitch(samples, mfcc.shape[1])]).T


def _pitch(samples: Samples, num_steps: int) -> NDArray[np.floating[Any]]:
    """Returns (2, T): pitch and its probability, in windows of 64 ms around the same centres as all else."""
    before = (PITCH_FIELD - FIELD) // 2
    after = max(before, (num_steps - 1) * STEP + PITCH_FIELD - before - len(samples))
    pitch_hz, _, probability = _tracked(np.pad(samples, (before, after)))
    octaves = np.where(probability >= 0.5, np.log2(pitch_hz / PITCH_HZ[0]), 0.0)
    return np.stack([octaves, probability])[:, :num_steps]
