"""A drawn corpus of talking faces whose face and voice follow known valence and arousal."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain, cycle, pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from .data.errors import InputError

STAGES = ("both", "face_hidden", "face_away", "silence", "noise")
BOTH, FACE_HIDDEN, FACE_AWAY, SILENCE, NOISE = range(len(STAGES))

Array = np.ndarray[Any, Any]
Colour = tuple[float, ...]

SAMPLING_RATE_HZ = 16_000
_CONTROL_HZ = 50  # how often the voice is told what to do
_VOICE_DB, _NOISE_DB, _ROOM_DB = -30.0, -13.0, -50.0
_FINE = 2  # canvas pixels to one of the picture
_SPAN = 2.7
_SHIFT = 4  # OpenCV's fixed point: sixteenths of a canvas pixel


@dataclass(frozen=True)
class DrawnClip:
    """One written clip and the truth behind it.

    `stage` (T,) indexes STAGES, `times_s` (T,) float64 is k / fps, `va` (T, 2) float32 is the latent valence and
    arousal in [-1, 1], also where the label file says "not annotated".
    """

    name: str
    path: Path
    label_path: Path
    stage: Array
    times_s: Array
    va: Array
    subject_id: str


@dataclass(frozen=True)
class Subject:
    """Who is drawn: colours are RGB, 0-255; `jaw` (width) and `tract` (formants) are factors near 1."""

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
    """What happens in one clip: T video frames, and C control steps of the voice, 50 a second.

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


def draw_corpus(
    out: Path,
    *,
    num_clips: int = 12,
    seconds: float = 20.0,
    fps: int = 25,
    size: int = 160,
    num_subjects: int = 6,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[DrawnClip]:
    """Write clips, labels, stages and a manifest under `out`; `progress` hears how many clips are done.

    `media/<name>.mp4` is H.264 and AAC, `labels/<name>.txt` is in Aff-Wild2's form (-5 = not annotated). The same
    arguments give the same clips. Raises InputError for impossible sizes, and where PyAV has no H.264 encoder.
    """
    if min(num_clips, num_subjects, fps, seconds * fps / 2) < 1:
        got = f"{num_clips} clips of {num_subjects} subjects, {seconds:g} s at {fps} fps"
        todo = "Give each option a larger number."
        raise InputError("draw_corpus", expected="a clip, a subject and two frames at least", got=got, todo=todo)
    if size < 64 or size % 2:
        raise InputError("draw_corpus", expected="an even size from 64 pixels on", got=str(size), todo="Try 160.")
    encoder, out = h264_encoder(), Path(out)
    for folder in ("media", "labels"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    clips = []
    for index in range(num_clips):
        rng = np.random.default_rng([seed, index])
        subject, script = cast(index % num_subjects, seed), write_script(rng, seconds=seconds, fps=fps)
        name = f"talk_{index:02d}"
        path, label_path = out / "media" / f"{name}.mp4", out / "labels" / f"{name}.txt"
        _write_media(path, draw_frames(subject, script, size), speak(subject, script), fps, encoder)
        _write_labels(label_path, script.va, fps, rng)
        truth = (script.stage, script.times_s, script.va)
        clips.append(DrawnClip(name, path, label_path, *truth, subject.subject_id))
        if progress:
            progress(index + 1)
    _write_tables(out, clips, fps)
    return clips


def h264_encoder() -> str:
    """Name of an H.264 encoder in this PyAV; InputError where it has none."""
    for name in ("libx264", "libopenh264"):
        if name in av.codecs_available:
            return name
    raise InputError("PyAV", expected="libx264 or libopenh264", got="neither", todo="Run `pip install av`.")


# -- what happens -----------------------------------------------------------------------------------------------------


def cast(number: int, seed: int = 0) -> Subject:
    """The `number`-th person: six looks made by hand; the seventh has the first's face and the second's hair."""
    skin, _, iris, shirt, backdrop, _, *build = _LOOKS[number % len(_LOOKS)]
    _, hair, _, _, _, hairstyle, *_ = _LOOKS[(number + number // len(_LOOKS)) % len(_LOOKS)]
    jaw, pitch_hz, tract = build * np.random.default_rng([seed, number, 7]).uniform(0.98, 1.02, 3)
    return Subject(f"s{number:02d}", skin, hair, iris, shirt, backdrop, hairstyle, jaw, pitch_hz, tract)


def write_script(rng: np.random.Generator, *, seconds: float, fps: int) -> Script:
    """Draw one clip's course of events from `rng`."""
    num_frames, num_steps = round(seconds * fps), int(np.ceil(seconds * _CONTROL_HZ))
    times_s, steps_s = np.arange(num_frames) / fps, np.arange(num_steps) / _CONTROL_HZ

    def drift(swing_s: float, num: int) -> Array:
        return np.stack([_drift(rng, num_frames, fps, swing_s) for _ in range(num)], axis=1)

    va = 0.93 * np.tanh(0.95 * np.hstack([drift(rng.uniform(3.0, 6.0), 1) for _ in range(2)]))
    blinks_s = np.cumsum(rng.uniform(1.5, 5.0, int(seconds) + 1))
    rate_hz = 4.0 + 1.7 * np.interp(steps_s, times_s, va[:, 1])
    count, phase = np.divmod(np.cumsum(rate_hz) / _CONTROL_HZ, 1.0)
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
        syllable=_smooth(stress[said] * np.sin(np.pi * phase), 3),
        formants_hz=np.stack([_smooth(track, 5) for track in vowels_hz.T], axis=1),
        voice_seed=int(rng.integers(2**31)),
    )


def _drift(rng: np.random.Generator, num: int, rate_hz: float, swing_s: float) -> Array:
    """Smooth noise (num,) of unit variance that crosses zero about every `swing_s` seconds."""
    padded = 1 << int(num + 6 * swing_s * rate_hz).bit_length()
    spectrum = np.fft.rfft(rng.standard_normal(padded))
    noise = np.fft.irfft(spectrum * np.exp(-((np.fft.rfftfreq(padded, 1 / rate_hz) * swing_s) ** 2)), padded)
    return noise[:num] / noise.std()


def _smooth(track: Array, width: int) -> Array:
    kernel = np.hanning(width + 2)[1:-1]
    return np.convolve(np.pad(track, width // 2, mode="edge"), kernel / kernel.sum(), mode="valid")


def _stages(rng: np.random.Generator, num_frames: int, fps: int) -> Array:
    """Stage of each frame (T,): runs of 2-6 s, about 45 % "both", the other four by turns."""
    others, broken = cycle(rng.permutation(np.arange(1, len(STAGES)))), rng.random() < 0.55
    runs: list[int] = []
    while (left := num_frames - len(runs)) > 0:
        length = left if left < 4 * fps else int(rng.integers(2 * fps, min(6 * fps, left - 2 * fps) + 1))
        runs += [next(others) if broken else BOTH] * length
        broken = not broken or rng.random() < 0.18
    return np.array(runs)


# -- the face ---------------------------------------------------------------------------------------------------------
# Face units: the middle of the head is (0, 0), the chin (0, 1), y points down; a picture is _SPAN units wide.


def draw_frames(subject: Subject, script: Script, size: int) -> Iterator[Array]:
    """Yields T pictures (size, size, 3), uint8 RGB; where the face is hidden or away they do not depend on `va`."""
    room, faces, turned, book = _paint_sprites(subject, size)
    hidden, away = (_approach(script, stage) for stage in (FACE_HIDDEN, FACE_AWAY))
    shown, (valence, arousal) = (1 - hidden) * (1 - away), script.va.T.astype(float)
    pose = 0.25 * script.pose + (shown * (0.05 + 0.35 * ((1 + arousal) / 2) ** 2))[:, None] * script.fidget
    mood = np.round((1 + valence) / 2 * (len(faces) - 1)).astype(int)
    layers = _features(subject, script, pose[:, 3] - 2 * away, pose[:, 4])
    drawn = [(_fixed(points, size), (*colour, 255)) for points, colour in layers]
    for t, (x, y, roll) in enumerate(pose[:, :3] * (0.09, 0.09, 5.0)):
        head = faces[mood[t]].copy()
        for points, colour in drawn:
            cv2.fillPoly(head, [points[t]], colour, cv2.LINE_AA, _SHIFT)
        edge = round((1 - away[t]) * len(head))
        head[:, edge:] = turned[:, edge:]
        frame = _lay(room, head, x, y, roll, 1 + 0.04 * shown[t] * arousal[t])
        if hidden[t]:
            frame = _lay(frame, book, x, 0.8 * y + 2.6 * (1 - hidden[t]), 0.5 * roll - 2, 1.0)
        yield cv2.cvtColor(frame, cv2.COLOR_RGBA2RGB)


def _approach(script: Script, stage: int) -> Array:
    """How near (T,) a stage is: 1 inside it, a ramp of 0.24 s on both sides."""
    inside = script.times_s[script.stage == stage]
    if not len(inside):
        return np.zeros(len(script.times_s))
    after = np.searchsorted(inside, script.times_s)
    gap_s = np.abs(inside[np.clip([after - 1, after], 0, len(inside) - 1)] - script.times_s).min(axis=0)
    return np.clip(1 - gap_s / 0.24, 0, 1)


def _lay(frame: Array, sprite: Array, x: float, y: float, roll_deg: float, scale: float) -> Array:
    """Lays a canvas over a frame (size, size, 4), moved by (x, y) face units."""
    size = len(frame)
    middle = (size * _FINE - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), roll_deg, scale / _FINE)
    matrix[:, 2] += (size - 1) / 2 - middle + np.array([x, y]) * size / _SPAN
    laid = cv2.warpAffine(sprite, matrix, (size, size))
    weight = cv2.extractChannel(laid, 3).astype(np.float32) / 255
    return cv2.blendLinear(laid, frame, weight, 1 - weight)


def _features(subject: Subject, script: Script, yaw: Array, pitch: Array) -> list[tuple[Array, Colour]]:
    """All that moves in the face, back to front: outlines (T, K, 2) to fill, and their colours."""
    layers: list[tuple[Array, Colour]] = []

    def add(x: Array, y: Array, colour: Colour) -> None:
        x, y = np.broadcast_arrays(x, y, np.empty((len(yaw), 1)))[:2]
        depth = 1 - 0.5 * x**2 - 0.2 * y**2
        moved = (x + 0.12 * yaw[:, None] * depth, y + 0.08 * pitch[:, None] * depth)
        layers.append((np.stack(moved, axis=2), colour))

    shade, s = _mix(subject.skin, _BLOOD, 0.45), np.linspace(-1, 1, 17)[None]
    smile = np.clip(script.va[:, :1].astype(float), 0, 1)
    add(*_line(0.1 * s, 0.2 + 0.05 * (1 - s**2), 0.015), shade)
    for side in (-1, 1):
        _add_eye(add, subject, script, side, s)
        fold = smile * (s + 1) / 2
        add(*_line(side * (0.13 + 0.3 * fold), 0.22 + 0.28 * fold**1.5, 0.011 * smile), shade)
    _add_mouth(add, subject, script, s)
    return layers


def _add_eye(add: Callable[..., None], subject: Subject, script: Script, side: int, s: Array) -> None:
    valence, awake = script.va[:, :1].astype(float), (1 + script.va[:, 1:].astype(float)) / 2
    ink, bow, middle, open_ = _mix(subject.hair, _INK, 0.6), 1 - s**2, side * 0.34, 1 - script.blink[:, None]
    lift, drop = open_ * (0.03 + 0.2 * awake), open_ * (0.03 + 0.07 * awake - 0.02 * valence) + 0.01
    look = 0.04 * script.gaze[:, None]

    def disc(x: float, y: float, radius: Any) -> tuple[Array, Array]:
        ring = (x, y) + look + radius * _oval(0, 0, 1, 1)
        inside = np.clip(1 - (ring[..., 0] / 0.23) ** 2, 0, 1)  # what the lids leave open
        return middle + ring[..., 0], np.clip(ring[..., 1], -0.08 - lift * inside, -0.08 + drop * inside)

    add(*_band(middle + 0.23 * s, -0.08 - lift * bow, -0.08 + drop * bow), _WHITE)
    add(*disc(0, -0.09, 0.125), _mix(subject.iris, ink, 0.5))
    add(*disc(0, -0.09, 0.105), subject.iris)
    add(*disc(0, -0.09, 0.045 + 0.02 * awake[:, None]), _INK)
    add(*disc(-0.035, -0.13, 0.028), _WHITE)
    add(*_line(middle + 0.24 * s, -0.08 - lift * bow, 0.02), ink)
    add(*_line(middle + 0.2 * s, -0.075 + drop * bow, 0.008), _mix(subject.skin, _BLOOD, 0.45))
    tilt = np.where(valence < 0, 0.11, 0.03) * valence * side * s
    brow = -0.28 - 0.8 * lift - 0.05 * bow + tilt
    add(*_line(middle + 0.25 * s, brow, 0.03 * (1.2 - 0.6 * side * s)), _mix(subject.hair, _INK, 0.35))


def _add_mouth(add: Callable[..., None], subject: Subject, script: Script, s: Array) -> None:
    valence, awake = script.va[:, :1].astype(float), (1 + script.va[:, 1:].astype(float)) / 2
    steps_s, bow = np.arange(len(script.syllable)) / _CONTROL_HZ, 1 - s**2
    talk = (np.interp(script.times_s, steps_s, script.syllable) * (script.stage != SILENCE))[:, None]
    x, rest = (0.33 + 0.11 * valence - 0.03 * talk) * s, 0.5 + 0.26 * valence * (0.45 - s**2)
    gap = (0.01 + 0.18 * awake**1.5 + 0.05 * talk + 0.06 * np.clip(valence, 0, 1)) * bow**0.7
    top, bottom = rest - 0.4 * gap, rest + gap
    cupid = 1 - 0.4 * np.exp(-((s / 0.2) ** 2))
    add(*_band(x, top - 0.05 * bow**0.6 * cupid, bottom + 0.065 * bow**0.6), _mix(subject.skin, (190, 40, 60), 0.5))
    add(*_band(x, top, bottom), (96, 24, 34))
    add(*_band(0.8 * x, np.maximum(top, bottom - 0.4 * gap), bottom), (214, 96, 100))
    add(*_band(x, top, top + np.minimum(0.09 * bow**0.5, 0.6 * gap) * np.clip(0.5 + valence, 0, 1)), _WHITE)


def _band(x: Array, upper: Array, lower: Array) -> tuple[Array, Array]:
    """Outline x, y (T, 2 K) of what lies between two curves (T, K)."""
    x, upper, lower = np.broadcast_arrays(x, upper, lower)
    return np.hstack([x, x[:, ::-1]]), np.hstack([upper, lower[:, ::-1]])


def _line(x: Array, y: Array, half_width: Any) -> tuple[Array, Array]:
    return _band(x, y - half_width, y + half_width)


def _fixed(points: Array, size: int) -> Array:
    """Face units to canvas pixels in OpenCV's fixed point."""
    return np.round(((points / _SPAN + 0.5) * size * _FINE - 0.5) * (1 << _SHIFT)).astype(np.int32, order="C")


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    return tuple((1 - share) * a + share * b for a, b in zip(one, other, strict=True))


def _oval(x: float, y: float, rx: float, ry: float, squareness: float = 1.0) -> Array:
    """Ellipse (40, 2); a squareness above 1 takes it towards a rectangle."""
    angle = np.linspace(0, 2 * np.pi, 40)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.sign(ring) * np.abs(ring) ** (1 / squareness) * (rx, ry) + (x, y)


def _curve(*half: tuple[float, float]) -> Array:
    """Closed smooth outline (8 K, 2), symmetric, through the knots of its right half (Catmull-Rom)."""
    p = np.array([*half, *((-x, y) for x, y in half[::-1] if x)], float)
    before, after, beyond = np.roll(p, 1, axis=0), np.roll(p, -1, axis=0), np.roll(p, -2, axis=0)
    t = np.linspace(0, 1, 8, endpoint=False)[:, None, None]
    cubic = 2 * before - 5 * p + 4 * after - beyond + t * (3 * (p - after) + beyond - before)
    return (p + 0.5 * t * (after - before + t * cubic)).transpose(1, 0, 2).reshape(-1, 2)


class _Canvas:
    """A picture to paint on by outlines in face units; `rgba` (canvas, canvas, 4), float32."""

    def __init__(self, size: int, colour: Colour) -> None:
        self.size, self.rgba = size, np.full((size * _FINE, size * _FINE, 4), (*colour, 0), np.float32)

    def paint(self, outline: Array, colour: Colour, *, soft: float = 0, share: float = 1, within: Any = None) -> Array:
        """Fills an outline, its edge softened over `soft` face units, and gives the coverage (canvas, canvas, 1)."""
        mask = np.zeros(self.rgba.shape[:2], np.uint8)
        cv2.fillPoly(mask, [_fixed(outline, self.size)], 255, cv2.LINE_AA, _SHIFT)
        if soft:
            mask = cv2.stackBlur(mask, (2 * round(0.6 * soft * len(mask)) + 1,) * 2)
        cover = mask[..., None].astype(np.float32) / 255 if within is None else mask[..., None] * (within / 255)
        x, y, width, height = cv2.boundingRect(mask)
        part = np.s_[y : y + height, x : x + width]
        self.rgba[part] += share * cover[part] * (np.array([*colour, 255], np.float32) - self.rgba[part])
        return cover

    def done(self) -> Array:
        return np.clip(self.rgba, 0, 255).astype(np.uint8)


@lru_cache(maxsize=8)
def _paint_sprites(subject: Subject, size: int) -> tuple[Array, list[Array], Array, Array]:
    """RGBA, uint8: the room (size, size, 4); canvases of the face from gloomy to rosy, the head's back, a book."""
    gloomy, plain, rosy = (_paint_face(subject, size, mood) for mood in (-1, 0, 1))
    faces = [cv2.addWeighted(gloomy, 1 - share, plain, share, 0) for share in np.linspace(0, 1, 16)]
    faces += [cv2.addWeighted(plain, 1 - share, rosy, share, 0) for share in np.linspace(0, 1, 16)[1:]]
    return _paint_room(subject, size), faces, _paint_back(subject, size), _paint_book(subject, size)


def _paint_room(subject: Subject, size: int) -> Array:
    canvas = _Canvas(size, _mix(subject.backdrop, subject.iris, 0.25))
    canvas.paint(_oval(-0.5, -0.6, 1.2, 1.2), subject.backdrop, soft=0.5)
    for x, y, r in ((-1.2, -1.0, 0.28), (-1.3, 0.1, 0.16), (1.15, -1.1, 0.2), (1.35, -0.5, 0.3), (1.2, 0.35, 0.14)):
        canvas.paint(_oval(x, y, r, r), _WHITE, soft=0.03, share=0.22)
    neck = canvas.paint(_curve((0.3, 0.5), (0.29, 1.05), (0.42, 1.22), (0.3, 1.5)), subject.skin)
    canvas.paint(_oval(0.03, 0.93, 0.4, 0.3), _mix(subject.skin, _BLOOD, 0.4), soft=0.06, share=0.8, within=neck)
    body = canvas.paint(_curve((0.0, 1.42), (0.3, 1.14), (0.85, 1.24), (1.25, 1.45), (1.35, 1.8)), subject.shirt)
    canvas.paint(_oval(0.75, 1.7, 0.35, 0.5), _mix(subject.shirt, _INK, 0.5), soft=0.12, share=0.5, within=body)
    return cv2.resize(canvas.done(), (size, size), interpolation=cv2.INTER_AREA)


def _paint_face(subject: Subject, size: int, mood: int) -> Array:
    skin, hair, jaw = subject.skin, subject.hair, subject.jaw
    canvas, shade, (outline, fringe) = _Canvas(size, hair), _mix(skin, _BLOOD, 0.3), _HAIRSTYLES[subject.hairstyle]
    canvas.paint(outline, _mix(hair, _INK, 0.3))
    for side in (-1, 1):
        canvas.paint(_oval(side * 0.8, 0.02, 0.12, 0.19), skin)
        canvas.paint(_oval(side * 0.82, 0.03, 0.06, 0.11), shade, soft=0.02)
    chin = ((0.75 * jaw, 0.3), (0.55 * jaw, 0.74), (0.24 * jaw, 0.97))
    face = canvas.paint(_curve((0, -0.98), (0.5, -0.86), (0.78, -0.3), *chin), skin)
    canvas.paint(_oval(-0.2, -0.1, 0.55, 0.8), _mix(skin, _LIGHT, 0.5), soft=0.2, share=0.4, within=face)
    canvas.paint(_oval(0.95, 0.35, 0.35, 1.0), shade, soft=0.14, share=0.7, within=face)
    canvas.paint(np.add(fringe, (0, 0.07)), shade, soft=0.04, share=0.6, within=face)
    for side in (-1, 1) if mood > 0 else ():
        rosy = _mix(skin, (240, 60, 75), 0.6)
        canvas.paint(_oval(side * 0.46, 0.24, 0.22, 0.17), rosy, soft=0.1, within=face)
    if mood < 0:
        canvas.paint(_oval(0, -0.55, 0.9, 0.55), _mix(skin, (70, 90, 150), 0.6), soft=0.2, share=0.8, within=face)
    before = canvas.paint(fringe, hair)
    canvas.paint(_oval(-0.35, -0.92, 0.4, 0.1), _mix(hair, _LIGHT, 0.25), soft=0.06, share=0.8, within=before)
    return canvas.done()


def _paint_back(subject: Subject, size: int) -> Array:
    canvas, s = _Canvas(size, subject.hair), np.linspace(0, 1, 12)
    for side in (-1, 1):
        canvas.paint(_oval(side * 0.8, 0.02, 0.12, 0.19), subject.skin)
    canvas.paint(_curve((0.4, 0.2), (0.5, 0.6), (0.3, 0.9), (0.29, 1.2)), _mix(subject.skin, _BLOOD, 0.25))
    canvas.paint(_HAIRSTYLES[subject.hairstyle][0], _mix(subject.hair, _INK, 0.2))
    hair = canvas.paint(_oval(0, -0.2, 0.8, 0.88, 1.15), _mix(subject.hair, _INK, 0.1))
    for bend in np.linspace(-0.85, 0.85, 9):
        down, across = _line(1.4 * s[None] - 0.9, bend * np.sin(1.7 * s)[None], 0.03 * np.sin(np.pi * s))
        canvas.paint(np.vstack([across, down]).T, _mix(subject.hair, _LIGHT, 0.16), soft=0.012, share=0.8, within=hair)
    return canvas.done()


def _paint_book(subject: Subject, size: int) -> Array:
    cover = _mix(subject.shirt, (30, 30, 60), 0.25)
    canvas, frame = _Canvas(size, cover), _oval(0, 0.1, 0.8, 0.86, 6)
    canvas.paint(_oval(0.03, 0.13, 0.98, 1.03, 8), _mix(cover, _INK, 0.4))
    canvas.paint(_oval(0, 0.1, 0.96, 1.02, 8), cover)
    sky = canvas.paint(frame, _mix(cover, _WHITE, 0.15))
    canvas.paint(_oval(0.1, 0.0, 0.36, 0.36), (250, 206, 110))
    for x, y, rx, share in ((-0.5, 0.75, 0.8, 0.35), (0.55, 0.85, 0.9, 0.6)):
        canvas.paint(_oval(x, y, rx, 0.55), _mix(cover, (20, 40, 60), share), within=sky)
    for y, rx in ((-0.58, 0.5), (-0.44, 0.3)):
        canvas.paint(_oval(0, y, rx, 0.045, 4), _LIGHT)
    for x, y in ((side * (0.86 - 0.02 * finger), 0.42 + 0.15 * finger) for side in (-1, 1) for finger in range(4)):
        canvas.paint(_oval(x, y, 0.2, 0.085, 1.6), _mix(subject.skin, _BLOOD, 0.3))
        canvas.paint(_oval(x, y - 0.01, 0.18, 0.066, 1.6), subject.skin)
    return canvas.done()


# -- the voice --------------------------------------------------------------------------------------------------------


def speak(subject: Subject, script: Script) -> Array:
    """The sound (N,), float32 in [-1, 1] at 16 kHz.

    Arousal sets pitch, loudness, pace and breath, valence the brightness of the timbre and the lilt.
    """
    rng, num_steps, hop = (
        np.random.default_rng(script.voice_seed),
        len(script.syllable),
        SAMPLING_RATE_HZ // _CONTROL_HZ,
    )
    steps_s, num_samples = np.arange(num_steps) / _CONTROL_HZ, num_steps * hop
    valence, arousal = (np.interp(steps_s, script.times_s, track) for track in script.va.T)
    heard = script.stage[np.searchsorted(script.times_s, steps_s, side="right") - 1]
    silent, noisy = (_smooth((heard == stage).astype(float), 5) for stage in (SILENCE, NOISE))
    lilt = 0.04 * (1 + valence) * np.sin(2 * np.pi * 5.0 * steps_s) + 0.08 * script.syllable
    level = _amplitude(_VOICE_DB + 10 * arousal) * (0.35 + 0.65 * script.syllable) * (1 - silent)
    source = _breathing_pulses(rng, subject.pitch_hz * 2 ** (0.5 * arousal + lilt), 0.1 - 0.06 * arousal)
    voice = _resonate(source, _tract(subject.tract * script.formants_hz, valence), level)
    crowd = _amplitude(_NOISE_DB) * noisy * (1 + 0.25 * _drift(rng, num_steps, _CONTROL_HZ, 0.3))
    crowd = np.interp(np.arange(num_samples), np.arange(num_steps) * hop, crowd)
    sound = voice + (crowd + _amplitude(_ROOM_DB)) * _pink(rng, num_samples)
    return np.tanh(sound[: round(len(script.times_s) * script.times_s[1] * SAMPLING_RATE_HZ)]).astype(np.float32)


def _amplitude(decibels: Any) -> Any:
    return 10 ** (decibels / 20)


def _breathing_pulses(rng: np.random.Generator, pitch_hz: Array, breath: Array) -> Array:
    """Sound of the glottis (N,): the slope of Rosenberg's airflow pulses, and noise."""
    num_samples = len(pitch_hz) * SAMPLING_RATE_HZ // _CONTROL_HZ
    at = np.arange(num_samples) * _CONTROL_HZ / SAMPLING_RATE_HZ
    phase = np.cumsum(np.interp(at, np.arange(len(pitch_hz)), pitch_hz)) / SAMPLING_RATE_HZ % 1.0
    opening = np.minimum(phase / 0.6, 1.0)
    pulses = np.diff(opening**2 * (1 - opening), prepend=0.0)
    return pulses / pulses.std() + np.interp(at, np.arange(len(breath)), breath) * rng.standard_normal(num_samples)


def _tract(formants_hz: Array, valence: Array) -> Array:
    """Response (C, 513) of the vocal tract: a smile shortens it and tilts the spectrum up by 6 dB an octave."""
    hz = np.fft.rfftfreq(1024, 1 / SAMPLING_RATE_HZ)[None]
    tilt = (np.maximum(hz, 100.0) / 600.0) ** (0.5 + 1.0 * valence[:, None])
    response = tilt.astype(complex)
    for index, bandwidth_hz in enumerate((90.0, 120.0, 180.0)):
        formant_hz = formants_hz[:, index : index + 1] * (1 + (0.04, 0.1, 0.1)[index] * valence[:, None])
        response *= formant_hz**2 / (formant_hz**2 - hz**2 + 1j * bandwidth_hz * hz)
    return response


def _resonate(source: Array, response: Array, level: Array) -> Array:
    """Filter a source (N,) by one response and to one loudness (rms) a control step: overlap and add."""
    hop = SAMPLING_RATE_HZ // _CONTROL_HZ
    pieces = np.lib.stride_tricks.sliding_window_view(np.pad(source, hop), 2 * hop)[::hop][: len(level)]
    pieces = np.fft.irfft(np.fft.rfft(pieces * np.hanning(2 * hop), 1024) * response, 1024)
    pieces *= (level / (1.63 * np.sqrt((pieces**2).sum(axis=1) / (2 * hop)) + 1e-9))[:, None]  # 1.63: Hann's rms
    out = np.zeros((len(level) + 4, hop))
    for step in range(4):
        part = pieces[:, step * hop : (step + 1) * hop]
        out[step : step + len(level), : part.shape[1]] += part
    return out.ravel()[hop:][: len(source)]


def _pink(rng: np.random.Generator, num_samples: int) -> Array:
    """Noise (num_samples,) of unit rms that falls by 3 dB an octave."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples)) / np.sqrt(np.arange(num_samples // 2 + 1) + 20.0)
    noise = np.fft.irfft(spectrum, num_samples)
    return noise / noise.std()


# -- the files --------------------------------------------------------------------------------------------------------


def _write_media(path: Path, frames: Iterator[Array], sound: Array, fps: int, encoder: str) -> None:
    """H.264 (yuv420p) and AAC (mono, 16 kHz) in an mp4; frame k is shown at k / fps."""
    first = next(frames)
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(
            encoder, rate=fps, width=first.shape[1], height=first.shape[0], pix_fmt="yuv420p"
        )
        if encoder == "libx264":
            video.options = {"preset": "ultrafast", "crf": "18", "threads": "1"}
        audio = container.add_stream("aac", rate=SAMPLING_RATE_HZ, layout="mono", bit_rate=64_000)
        audio.options = {"aac_coder": "fast"}
        packets = []
        for index, picture in enumerate(chain([first], frames)):
            planes = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420), np.uint8)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            packets += video.encode(frame)
        spoken = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        spoken.sample_rate, spoken.pts, spoken.time_base = SAMPLING_RATE_HZ, 0, Fraction(1, SAMPLING_RATE_HZ)
        packets += video.encode(None) + audio.encode(spoken) + audio.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)


def _write_labels(path: Path, va: Array, fps: int, rng: np.random.Generator) -> None:
    """Header and one row a frame; up to two runs of 0.2-0.8 s are -5, not annotated."""
    rows = [f"{valence:.4f},{arousal:.4f}" for valence, arousal in va]
    for start in rng.integers(len(rows), size=2):
        length = min(int(rng.uniform(0.2, 0.8) * fps), len(rows) - start)
        rows[start : start + length] = ["-5,-5"] * length
    path.write_text("\n".join(["valence,arousal", *rows]) + "\n")


def _write_tables(out: Path, clips: list[DrawnClip], fps: int) -> None:
    """stages.csv, the runs of each clip's stages, and manifest.csv."""
    with (out / "stages.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["clip", "start_s", "end_s", "stage"])
        for clip in clips:
            edges = [0, *(np.flatnonzero(np.diff(clip.stage)) + 1), len(clip.stage)]
            for start, end in pairwise(edges):
                table.writerow([clip.name, round(start / fps, 6), round(end / fps, 6), STAGES[clip.stage[start]]])
    with (out / "manifest.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["clip_id", "path", "subject_id"])
        table.writerows([clip.name, clip.path.relative_to(out).as_posix(), clip.subject_id] for clip in clips)


# -- the looks --------------------------------------------------------------------------------------------------------

_BLOOD, _LIGHT, _WHITE, _INK = (120, 45, 45), (255, 244, 226), (252, 250, 246), (20, 12, 14)
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
_HAIRSTYLES = {  # outline behind the face, fringe before it
    "bob": (
        _curve((0, -1.22), (0.62, -1.08), (0.98, -0.45), (1.04, 0.3), (0.86, 0.78), (0.5, 0.7)),
        _curve((0, -1.22), (0.62, -1.08), (0.97, -0.45), (0.92, 0.2), (0.78, 0.1), (0.7, -0.42), (0.3, -0.52)),
    ),
    "long": (
        _curve((0, -1.22), (0.6, -1.08), (0.95, -0.45), (1.0, 0.4), (1.08, 1.1), (0.9, 1.48), (0.55, 1.3)),
        _curve((0, -1.22), (0.6, -1.08), (0.94, -0.45), (0.98, 0.5), (0.84, 0.45), (0.72, -0.2), (0.1, -0.82)),
    ),
    "short": (
        _curve((0, -1.2), (0.6, -1.05), (0.88, -0.5), (0.82, 0.05), (0.5, 0.2)),
        _curve((0, -1.24), (0.58, -1.1), (0.88, -0.5), (0.8, -0.1), (0.7, -0.5), (0.4, -0.68), (0.12, -0.58)),
    ),
    "bun": (
        _curve((0, -1.34), (0.27, -1.28), (0.25, -1.08), (0.72, -0.8), (0.86, -0.3), (0.8, 0.15), (0.5, 0.3)),
        _curve((0, -1.1), (0.5, -1.0), (0.83, -0.5), (0.8, -0.05), (0.68, -0.42), (0.36, -0.7), (0, -0.8)),
    ),
    "curls": (
        _curve((0, -1.3), (0.3, -1.22), (0.55, -1.28), (0.7, -1.0), (0.98, -0.92), (0.98, -0.58), (1.18, -0.35),
               (1.05, -0.05), (1.14, 0.25), (0.9, 0.45), (0.6, 0.4)),
        _curve((0, -1.2), (0.6, -1.0), (0.95, -0.5), (0.92, 0.1), (0.76, 0.02), (0.72, -0.3), (0.5, -0.52),
               (0.25, -0.56), (0, -0.62)),
    ),
}
