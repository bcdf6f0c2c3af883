"""The painted parts of a drawn picture: room, faces, the back of the head, a book."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from .canvas import BLOOD, INK, LIGHT, WHITE, Canvas, curve, line, mix, oval
from .script import Array, Subject

# fmt: off
_HAIRSTYLES = {  # outline behind the face, fringe before it
    "bob": (
        curve((0, -1.22), (0.62, -1.08), (0.98, -0.45), (1.04, 0.3), (0.86, 0.78), (0.5, 0.7)),
        curve((0, -1.22), (0.62, -1.08), (0.97, -0.45), (0.92, 0.2), (0.78, 0.1), (0.7, -0.42), (0.3, -0.52)),
    ),
    "long": (
        curve((0, -1.22), (0.6, -1.08), (0.95, -0.45), (1.0, 0.4), (1.08, 1.1), (0.9, 1.48), (0.55, 1.3)),
        curve((0, -1.22), (0.6, -1.08), (0.94, -0.45), (0.98, 0.5), (0.84, 0.45), (0.72, -0.2), (0.1, -0.82)),
    ),
    "short": (
        curve((0, -1.2), (0.6, -1.05), (0.88, -0.5), (0.82, 0.05), (0.5, 0.2)),
        curve((0, -1.24), (0.58, -1.1), (0.88, -0.5), (0.8, -0.1), (0.7, -0.5), (0.4, -0.68), (0.12, -0.58)),
    ),
    "bun": (
        curve((0, -1.34), (0.27, -1.28), (0.25, -1.08), (0.72, -0.8), (0.86, -0.3), (0.8, 0.15), (0.5, 0.3)),
        curve((0, -1.1), (0.5, -1.0), (0.83, -0.5), (0.8, -0.05), (0.68, -0.42), (0.36, -0.7), (0, -0.8)),
    ),
    "curls": (
        curve((0, -1.3), (0.3, -1.22), (0.55, -1.28), (0.7, -1.0), (0.98, -0.92), (0.98, -0.58), (1.18, -0.35),
               (1.05, -0.05), (1.14, 0.25), (0.9, 0.45), (0.6, 0.4)),
        curve((0, -1.2), (0.6, -1.0), (0.95, -0.5), (0.92, 0.1), (0.76, 0.02), (0.72, -0.3), (0.5, -0.52),
               (0.25, -0.56), (0, -0.62)),
    ),
}
# fmt: on


@lru_cache(maxsize=8)
def paint_sprites(subject: Subject, size: int) -> tuple[Array, list[Array], Array, Array]:
    """Returns RGBA, uint8: the room (size, size, 4); canvases of the face, gloomy to rosy, the head's back, a book."""
    gloomy, plain, rosy = (_paint_face(subject, size, mood) for mood in (-1, 0, 1))
    faces = [cv2.addWeighted(gloomy, 1 - share, plain, share, 0) for share in np.linspace(0, 1, 16)]
    faces += [cv2.addWeighted(plain, 1 - share, rosy, share, 0) for share in np.linspace(0, 1, 16)[1:]]
    return _paint_room(subject, size), faces, _paint_back(subject, size), _paint_book(subject, size)


def _paint_room(subject: Subject, size: int) -> Array:
    canvas = Canvas(size, mix(subject.backdrop, subject.iris, 0.25))
    canvas.paint(oval(-0.5, -0.6, 1.2, 1.2), subject.backdrop, soft=0.5)
    for x, y, r in ((-1.2, -1.0, 0.28), (-1.3, 0.1, 0.16), (1.15, -1.1, 0.2), (1.35, -0.5, 0.3), (1.2, 0.35, 0.14)):
        canvas.paint(oval(x, y, r, r), WHITE, soft=0.03, share=0.22)
    neck = canvas.paint(curve((0.3, 0.5), (0.29, 1.05), (0.42, 1.22), (0.3, 1.5)), subject.skin)
    canvas.paint(oval(0.03, 0.93, 0.4, 0.3), mix(subject.skin, BLOOD, 0.4), soft=0.06, share=0.8, within=neck)
    body = canvas.paint(curve((0.0, 1.42), (0.3, 1.14), (0.85, 1.24), (1.25, 1.45), (1.35, 1.8)), subject.shirt)
    canvas.paint(oval(0.75, 1.7, 0.35, 0.5), mix(subject.shirt, INK, 0.5), soft=0.12, share=0.5, within=body)
    return cv2.resize(canvas.done(), (size, size), interpolation=cv2.INTER_AREA)


def _paint_face(subject: Subject, size: int, mood: int) -> Array:
    skin, hair, jaw = subject.skin, subject.hair, subject.jaw
    canvas, shade, (outline, fringe) = Canvas(size, hair), mix(skin, BLOOD, 0.3), _HAIRSTYLES[subject.hairstyle]
    canvas.paint(outline, mix(hair, INK, 0.3))
    for side in (-1, 1):
        canvas.paint(oval(side * 0.8, 0.02, 0.12, 0.19), skin)
        canvas.paint(oval(side * 0.82, 0.03, 0.06, 0.11), shade, soft=0.02)
    chin = ((0.75 * jaw, 0.3), (0.55 * jaw, 0.74), (0.24 * jaw, 0.97))
    face = canvas.paint(curve((0, -0.98), (0.5, -0.86), (0.78, -0.3), *chin), skin)
    canvas.paint(oval(-0.2, -0.1, 0.55, 0.8), mix(skin, LIGHT, 0.5), soft=0.2, share=0.4, within=face)
    canvas.paint(oval(0.95, 0.35, 0.35, 1.0), shade, soft=0.14, share=0.7, within=face)
    canvas.paint(np.add(fringe, (0, 0.07)), shade, soft=0.04, share=0.6, within=face)
    for side in (-1, 1) if mood > 0 else ():
        rosy = mix(skin, (240, 60, 75), 0.6)
        canvas.paint(oval(side * 0.46, 0.24, 0.22, 0.17), rosy, soft=0.1, within=face)
    if mood < 0:
        canvas.paint(oval(0, -0.55, 0.9, 0.55), mix(skin, (70, 90, 150), 0.6), soft=0.2, share=0.8, within=face)
    before = canvas.paint(fringe, hair)
    canvas.paint(oval(-0.35, -0.92, 0.4, 0.1), mix(hair, LIGHT, 0.25), soft=0.06, share=0.8, within=before)
    return canvas.done()


def _paint_back(subject: Subject, size: int) -> Array:
    canvas, s = Canvas(size, subject.hair), np.linspace(0, 1, 12)
    for side in (-1, 1):
        canvas.paint(oval(side * 0.8, 0.02, 0.12, 0.19), subject.skin)
    canvas.paint(curve((0.4, 0.2), (0.5, 0.6), (0.3, 0.9), (0.29, 1.2)), mix(subject.skin, BLOOD, 0.25))
    canvas.paint(_HAIRSTYLES[subject.hairstyle][0], mix(subject.hair, INK, 0.2))
    hair = canvas.paint(oval(0, -0.2, 0.8, 0.88, 1.15), mix(subject.hair, INK, 0.1))
    for bend in np.linspace(-0.85, 0.85, 9):
        down, across = line(1.4 * s[None] - 0.9, bend * np.sin(1.7 * s)[None], 0.03 * np.sin(np.pi * s))
        canvas.paint(np.vstack([across, down]).T, mix(subject.hair, LIGHT, 0.16), soft=0.012, share=0.8, within=hair)
    return canvas.done()


def _paint_book(subject: Subject, size: int) -> Array:
    cover = mix(subject.shirt, (30, 30, 60), 0.25)
    canvas, frame = Canvas(size, cover), oval(0, 0.1, 0.8, 0.86, 6)
    canvas.paint(oval(0.03, 0.13, 0.98, 1.03, 8), mix(cover, INK, 0.4))
    canvas.paint(oval(0, 0.1, 0.96, 1.02, 8), cover)
    sky = canvas.paint(frame, mix(cover, WHITE, 0.15))
    canvas.paint(oval(0.1, 0.0, 0.36, 0.36), (250, 206, 110))
    for x, y, rx, share in ((-0.5, 0.75, 0.8, 0.35), (0.55, 0.85, 0.9, 0.6)):
        canvas.paint(oval(x, y, rx, 0.55), mix(cover, (20, 40, 60), share), within=sky)
    for y, rx in ((-0.58, 0.5), (-0.44, 0.3)):
        canvas.paint(oval(0, y, rx, 0.045, 4), LIGHT)
    for x, y in ((side * (0.86 - 0.02 * finger), 0.42 + 0.15 * finger) for side in (-1, 1) for finger in range(4)):
        canvas.paint(oval(x, y, 0.2, 0.085, 1.6), mix(subject.skin, BLOOD, 0.3))
        canvas.paint(oval(x, y - 0.01, 0.18, 0.066, 1.6), subject.skin)
    return canvas.done()
