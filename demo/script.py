"""The script of a drawn clip: the person who is drawn, and the course of events."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

STAGES = ("both", "face_hidden", "face_away", "silence", "noise")
BOTH, FACE_HIDDEN, FACE_AWAY, SILENCE, NOISE = range(len(STAGES))

Array = np.ndarray[Any, Any]
Colour = tuple[float, ...]

CONTROL_HZ = 50  # rate at which the voice is controlled
# fmt: off
_VOWELS_HZ = np.array([(640, 1250, 2480), (420, 1750, 2700), (430, 1200, 2400), (530, 1600, 2500), (500, 1400, 2500)])
_LOOKS = (  # skin, hair, iris, shirt, backdrop; hairstyle; jaw, pitch_hz, tract
    ((244, 205, 180), (103, 57, 39), (76, 105, 87), (79, 104, 139), (223, 231, 235), "bob", 0.96, 178, 1.06),
    ((226, 176, 139), (62, 42, 40), (81, 64, 54), (127, 97, 106), (228, 229, 225), "short", 1.06, 118, 0.94),
    ((185, 134, 102), (56, 38, 33), (68, 55, 48), (140, 127, 106), (220, 229, 227), "curls", 1.00, 164, 1.03),
    ((241, 200, 170), (160, 113, 66), (75, 99, 127), (100, 97, 134), (227, 226, 233), "bun", 0.94, 188, 1.08),
    ((212, 160, 125), (71, 44, 34), (82, 69, 55), (83, 111, 122), (230, 227, 224), "long", 1.00, 170, 1.02),
    ((245, 210, 186), (142, 72, 45), (81, 106, 109), (84, 94, 118), (220, 229, 233), "short", 1.02, 126, 0.96),
)
# fmt: on


@dataclass(frozen=True)
class Subject:
    """The person who is drawn: colours are RGB, 0-255; `jaw` (width) and `tract` (formants) are factors near 1."""

    subject_id: str
    skin: Colour
    hair: Colour
    iris: Colour
    shirt: Colour
    backdrop: Colour
    hairstyle: str
    jaw: float
    pitch_hz: float
    tract: float


@dataclass(frozen=True)
class Script:
    """The course of one clip: T video frames, and C control steps of the voice, 50 per second.

    `va` (T, 2) latent; `stage` (T,); `pose` (T, 5) slow drift of x, y, roll, yaw, pitch and `fidget` (T, 5) its
    restless part, both about [-1, 1]; `gaze` (T, 2); `blink` (T,), 1 = shut; `syllable` (C,) loudness, 0-1;
    `formants_hz` (C, 3); `voice_seed` seeds the noises.
    """

    times_s: Array
    va: Array
    stage: Array
    pose: Array
    fidget: Array
    gaze: Array
    blink: Array
    syllable: Array
    formants_hz: Array
    voice_seed: int


def cast(number: int, seed: int = 0) -> Subject:
    """Returns person `number`: six looks made by hand; the seventh has the first's face and the second's hair."""
    skin, _, iris, shirt, backdrop, _, *build = _LOOKS[number % len(_LOOKS)]
    _, hair, _, _, _, hairstyle, *_ = _LOOKS[(number + number // len(_LOOKS)) % len(_LOOKS)]
    jaw, pitch_hz, tract = build * np.random.default_rng([seed, number, 7]).uniform(0.98, 1.02, 3)
    return Subject(f"s{number:02d}", skin, hair, iris, shirt, backdrop, hairstyle, jaw, pitch_hz, tract)


def write_script(rng: np.random.Generator, *, seconds: float, fps: int) -> Script:
    """Draws the course of one clip from `rng`."""
    num_frames, num_steps = round(seconds * fps), int(np.ceil(seconds * CONTROL_HZ))
    times_s, steps_s = np.arange(num_frames) / fps, np.arange(num_steps) / CONTROL_HZ

    def drift(swing_s: float, num: int) -> Array:
        return np.stack([smooth_noise(rng, num_frames, fps, swing_s) for _ in range(num)], axis=1)

    va = 0.93 * np.tanh(0.95 * np.hstack([drift(rng.uniform(3.0, 6.0), 1) for _ in range(2)]))
    blinks_s = np.cumsum(rng.uniform(1.5, 5.0, int(seconds) + 1))
    rate_hz = 4.0 + 1.7 * np.interp(steps_s, times_s, va[:, 1])
    count, phase = np.divmod(np.cumsum(rate_hz) / CONTROL_HZ, 1.0)
    said = count.astype(int)
    stress = rng.uniform(0.7, 1.0, num_steps) * (rng.random(num_steps) > 0.05)  # a breath now and then
    vowels_hz = _VOWELS_HZ[rng.integers(len(_VOWELS_HZ), size=num_steps)][said]
    return Script(
        times_s=times_s,
        va=va.astype(np.float32),
        stage=_stages(rng, num_frames, fps),
        pose=drift(2.0, 5) / 2,
        fidget=drift(0.35, 5) / 2,
        gaze=np.round(drift(1.0, 2)) / 2,
        blink=np.clip(1 - np.abs(times_s - blinks_s[:, None]) / 0.1, 0, 1).max(axis=0),
        syllable=smoothed(stress[said] * np.sin(np.pi * phase), 3),
        formants_hz=np.stack([smoothed(track, 5) for track in vowels_hz.T], axis=1),
        voice_seed=int(rng.integers(2**31)),
    )


def smooth_noise(rng: np.random.Generator, num: int, rate_hz: float, swing_s: float) -> Array:
    """Returns smooth noise (num,) of unit variance that crosses zero about every `swing_s` seconds."""
    padded = 1 << int(num + 6 * swing_s * rate_hz).bit_length()
    spectrum = np.fft.rfft(rng.standard_normal(padded))
    noise = np.fft.irfft(spectrum * np.exp(-((np.fft.rfftfreq(padded, 1 / rate_hz) * swing_s) ** 2)), padded)
    return noise[:num] / noise.std()


def smoothed(track: Array, width: int) -> Array:
    """Smooths a track (N,) with a Hann window of odd `width`."""
    kernel = np.hanning(width + 2)[1:-1]
    return np.convolve(np.pad(track, width // 2, mode="edge"), kernel / kernel.sum(), mode="valid")


def _stages(rng: np.random.Generator, num_frames: int, fps: int) -> Array:
    """Returns the stage of each frame (T,): runs of 2-6 s, about 45 % "both", the other four by turns."""
    others, broken = cycle(rng.permutation(np.arange(1, len(STAGES)))), rng.random() < 0.55
    runs: list[int] = []
    while (left := num_frames - len(runs)) > 0:
        length = left if left < 4 * fps else int(rng.integers(2 * fps, min(6 * fps, left - 2 * fps) + 1))
        runs += [next(others) if broken else BOTH] * length
        broken = not broken or rng.random() < 0.18
    return np.array(runs)
