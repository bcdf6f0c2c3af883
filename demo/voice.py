"""The drawn voice: a waveform whose pitch, loudness and timbre follow valence and arousal."""

from __future__ import annotations

from typing import Any

import numpy as np

from .script import CONTROL_HZ, NOISE, SILENCE, Array, Script, Subject, smooth_noise, smoothed

SAMPLING_RATE_HZ = 16_000
_VOICE_DB, _NOISE_DB, _ROOM_DB = -30.0, -13.0, -50.0


def speak(subject: Subject, script: Script) -> Array:
    """Returns the waveform (N,), float32 in [-1, 1] at 16 kHz.

    Arousal sets pitch, loudness, pace and breath, valence the brightness of the timbre and the lilt.
    """
    rng, num_steps, hop = (
        np.random.default_rng(script.voice_seed),
        len(script.syllable),
        SAMPLING_RATE_HZ // CONTROL_HZ,
    )
    steps_s, num_samples = np.arange(num_steps) / CONTROL_HZ, num_steps * hop
    valence, arousal = (np.interp(steps_s, script.times_s, track) for track in script.va.T)
    spoken = script.stage[np.searchsorted(script.times_s, steps_s, side="right") - 1]
    silent, noisy = (smoothed((spoken == stage).astype(float), 5) for stage in (SILENCE, NOISE))
    lilt = 0.04 * (1 + valence) * np.sin(2 * np.pi * 5.0 * steps_s) + 0.08 * script.syllable
    level = _amplitude(_VOICE_DB + 10 * arousal) * (0.35 + 0.65 * script.syllable) * (1 - silent)
    source = _breathing_pulses(rng, subject.pitch_hz * 2 ** (0.5 * arousal + lilt), 0.1 - 0.06 * arousal)
    voice = _resonate(source, _tract(subject.tract * script.formants_hz, valence), level)
    crowd = _amplitude(_NOISE_DB) * noisy * (1 + 0.25 * smooth_noise(rng, num_steps, CONTROL_HZ, 0.3))
    crowd = np.interp(np.arange(num_samples), np.arange(num_steps) * hop, crowd)
    sound = voice + (crowd + _amplitude(_ROOM_DB)) * _pink(rng, num_samples)
    return np.tanh(sound[: round(len(script.times_s) * script.times_s[1] * SAMPLING_RATE_HZ)]).astype(np.float32)


def _amplitude(decibels: Any) -> Any:
    return 10 ** (decibels / 20)


def _breathing_pulses(rng: np.random.Generator, pitch_hz: Array, breath: Array) -> Array:
    """Returns the waveform of the glottis (N,): the slope of Rosenberg's airflow pulses, and noise."""
    num_samples = len(pitch_hz) * SAMPLING_RATE_HZ // CONTROL_HZ
    at = np.arange(num_samples) * CONTROL_HZ / SAMPLING_RATE_HZ
    phase = np.cumsum(np.interp(at, np.arange(len(pitch_hz)), pitch_hz)) / SAMPLING_RATE_HZ % 1.0
    opening = np.minimum(phase / 0.6, 1.0)
    pulses = np.diff(opening**2 * (1 - opening), prepend=0.0)
    return pulses / pulses.std() + np.interp(at, np.arange(len(breath)), breath) * rng.standard_normal(num_samples)


def _tract(formants_hz: Array, valence: Array) -> Array:
    """Returns the response (C, 513) of the vocal tract: a smile shortens it and lifts it by 6 dB per octave."""
    hz = np.fft.rfftfreq(1024, 1 / SAMPLING_RATE_HZ)[None]
    tilt = (np.maximum(hz, 100.0) / 600.0) ** (0.5 + 1.0 * valence[:, None])
    response = tilt.astype(complex)
    for index, bandwidth_hz in enumerate((90.0, 120.0, 180.0)):
        formant_hz = formants_hz[:, index : index + 1] * (1 + (0.04, 0.1, 0.1)[index] * valence[:, None])
        response *= formant_hz**2 / (formant_hz**2 - hz**2 + 1j * bandwidth_hz * hz)
    return response


def _resonate(source: Array, response: Array, level: Array) -> Array:
    """Filters a source (N,) by one response and to one loudness (rms) per control step: overlap and add."""
    hop = SAMPLING_RATE_HZ // CONTROL_HZ
    pieces = np.lib.stride_tricks.sliding_window_view(np.pad(source, hop), 2 * hop)[::hop][: len(level)]
    pieces = np.fft.irfft(np.fft.rfft(pieces * np.hanning(2 * hop), 1024) * response, 1024)
    pieces *= (level / (1.63 * np.sqrt((pieces**2).sum(axis=1) / (2 * hop)) + 1e-9))[:, None]  # 1.63: Hann's rms
    out = np.zeros((len(level) + 4, hop))
    for step in range(4):
        part = pieces[:, step * hop : (step + 1) * hop]
        out[step : step + len(level), : part.shape[1]] += part
    return out.ravel()[hop:][: len(source)]


def _pink(rng: np.random.Generator, num_samples: int) -> Array:
    """Returns noise (num_samples,) of unit rms that falls by 3 dB per octave."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples)) / np.sqrt(np.arange(num_samples // 2 + 1) + 20.0)
    noise = np.fft.irfft(spectrum, num_samples)
    return noise / noise.std()
