"""The drawn face: pictures whose expression follows valence and arousal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from .canvas import BLOOD, FINE, INK, SHIFT, SPAN, WHITE, band, fixed, line, mix, oval
from .script import CONTROL_HZ, FACE_AWAY, FACE_HIDDEN, SILENCE, Array, Colour, Script, Subject
from .sprites import paint_sprites


def draw_frames(subject: Subject, script: Script, size: int) -> Iterator[Array]:
    """Yields T pictures (size, size, 3), uint8 RGB; where the face is hidden or away they do not depend on `va`."""
    room, faces, turned, book = paint_sprites(subject, size)
    hidden, away = (_approach(script, stage) for stage in (FACE_HIDDEN, FACE_AWAY))
    shown, (valence, arousal) = (1 - hidden) * (1 - away), script.va.T.astype(float)
    pose = 0.25 * script.pose + (shown * (0.05 + 0.35 * ((1 + arousal) / 2) ** 2))[:, None] * script.fidget
    mood = np.round((1 + valence) / 2 * (len(faces) - 1)).astype(int)
    layers = _features(subject, script, pose[:, 3] - 2 * away, pose[:, 4])
    drawn = [(fixed(points, size), (*colour, 255)) for points, colour in layers]
    for t, (x, y, roll) in enumerate(pose[:, :3] * (0.09, 0.09, 5.0)):
        head = faces[mood[t]].copy()
        for points, colour in drawn:
            cv2.fillPoly(head, [points[t]], colour, cv2.LINE_AA, SHIFT)
        edge = round((1 - away[t]) * len(head))
        head[:, edge:] = turned[:, edge:]
        frame = _lay(room, head, x, y, roll, 1 + 0.04 * shown[t] * arousal[t])
        if hidden[t]:
            frame = _lay(frame, book, x, 0.8 * y + 2.6 * (1 - hidden[t]), 0.5 * roll - 2, 1.0)
        yield cv2.cvtColor(frame, cv2.COLOR_RGBA2RGB)


def _approach(script: Script, stage: int) -> Array:
    """Returns the nearness (T,) of a stage: 1 inside it, a ramp of 0.24 s on both sides."""
    inside = script.times_s[script.stage == stage]
    if not len(inside):
        return np.zeros(len(script.times_s))
    after = np.searchsorted(inside, script.times_s)
    gap_s = np.abs(inside[np.clip([after - 1, after], 0, len(inside) - 1)] - script.times_s).min(axis=0)
    return np.clip(1 - gap_s / 0.24, 0, 1)


def _lay(frame: Array, sprite: Array, x: float, y: float, roll_deg: float, scale: float) -> Array:
    """Lays a canvas over a frame (size, size, 4), moved by (x, y) face units."""
    size = len(frame)
    middle = (size * FINE - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), roll_deg, scale / FINE)
    matrix[:, 2] += (size - 1) / 2 - middle + np.array([x, y]) * size / SPAN
    laid = cv2.warpAffine(sprite, matrix, (size, size))
    weight = cv2.extractChannel(laid, 3).astype(np.float32) / 255
    return cv2.blendLinear(laid, frame, weight, 1 - weight)


def _features(subject: Subject, script: Script, yaw: Array, pitch: Array) -> list[tuple[Array, Colour]]:
    """Returns the moving parts of the face, back to front: outlines (T, K, 2) to fill, and their colours."""
    layers: list[tuple[Array, Colour]] = []

    def add(x: Array, y: Array, colour: Colour) -> None:
        x, y = np.broadcast_arrays(x, y, np.empty((len(yaw), 1)))[:2]
        depth = 1 - 0.5 * x**2 - 0.2 * y**2
        moved = (x + 0.12 * yaw[:, None] * depth, y + 0.08 * pitch[:, None] * depth)
        layers.append((np.stack(moved, axis=2), colour))

    shade, s = mix(subject.skin, BLOOD, 0.45), np.linspace(-1, 1, 17)[None]
    smile = np.clip(script.va[:, :1].astype(float), 0, 1)
    add(*line(0.1 * s, 0.2 + 0.05 * (1 - s**2), 0.015), shade)
    for side in (-1, 1):
        _add_eye(add, subject, script, side, s)
        fold = smile * (s + 1) / 2
        add(*line(side * (0.13 + 0.3 * fold), 0.22 + 0.28 * fold**1.5, 0.011 * smile), shade)
    _add_mouth(add, subject, script, s)
    return layers


def _add_eye(add: Callable[..., None], subject: Subject, script: Script, side: int, s: Array) -> None:
    valence, awake = script.va[:, :1].astype(float), (1 + script.va[:, 1:].astype(float)) / 2
    ink, bow, middle, open_ = mix(subject.hair, INK, 0.6), 1 - s**2, side * 0.34, 1 - script.blink[:, None]
    lift, drop = open_ * (0.03 + 0.2 * awake), open_ * (0.03 + 0.07 * awake - 0.02 * valence) + 0.01
    look = 0.04 * script.gaze[:, None]

    def disc(x: float, y: float, radius: Any) -> tuple[Array, Array]:
        ring = (x, y) + look + radius * oval(0, 0, 1, 1)
        inside = np.clip(1 - (ring[..., 0] / 0.23) ** 2, 0, 1)  # what the lids leave open
        return middle + ring[..., 0], np.clip(ring[..., 1], -0.08 - lift * inside, -0.08 + drop * inside)

    add(*band(middle + 0.23 * s, -0.08 - lift * bow, -0.08 + drop * bow), WHITE)
    add(*disc(0, -0.09, 0.125), mix(subject.iris, ink, 0.5))
    add(*disc(0, -0.09, 0.105), subject.iris)
    add(*disc(0, -0.09, 0.045 + 0.02 * awake[:, None]), INK)
    add(*disc(-0.035, -0.13, 0.028), WHITE)
    add(*line(middle + 0.24 * s, -0.08 - lift * bow, 0.02), ink)
    add(*line(middle + 0.2 * s, -0.075 + drop * bow, 0.008), mix(subject.skin, BLOOD, 0.45))
    tilt = np.where(valence < 0, 0.11, 0.03) * valence * side * s
    brow = -0.28 - 0.8 * lift - 0.05 * bow + tilt
    add(*line(middle + 0.25 * s, brow, 0.03 * (1.2 - 0.6 * side * s)), mix(subject.hair, INK, 0.35))


def _add_mouth(add: Callable[..., None], subject: Subject, script: Script, s: Array) -> None:
    valence, awake = script.va[:, :1].astype(float), (1 + script.va[:, 1:].astype(float)) / 2
    steps_s, bow = np.arange(len(script.syllable)) / CONTROL_HZ, 1 - s**2
    talk = (np.interp(script.times_s, steps_s, script.syllable) * (script.stage != SILENCE))[:, None]
    x, rest = (0.33 + 0.11 * valence - 0.03 * talk) * s, 0.5 + 0.26 * valence * (0.45 - s**2)
    gap = (0.01 + 0.18 * awake**1.5 + 0.05 * talk + 0.06 * np.clip(valence, 0, 1)) * bow**0.7
    top, bottom = rest - 0.4 * gap, rest + gap
    cupid = 1 - 0.4 * np.exp(-((s / 0.2) ** 2))
    add(*band(x, top - 0.05 * bow**0.6 * cupid, bottom + 0.065 * bow**0.6), mix(subject.skin, (190, 40, 60), 0.5))
    add(*band(x, top, bottom), (96, 24, 34))
    add(*band(0.8 * x, np.maximum(top, bottom - 0.4 * gap), bottom), (214, 96, 100))
    add(*band(x, top, top + np.minimum(0.09 * bow**0.5, 0.6 * gap) * np.clip(0.5 + valence, 0, 1)), WHITE)
