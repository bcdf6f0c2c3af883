"""Outlines in face units, and a canvas to paint them on."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from .script import Array, Colour

# Face units: the middle of the head is (0, 0), the chin (0, 1), y points down; a picture is SPAN units wide.
FINE = 2  # canvas pixels to one of the picture
SPAN = 2.7
SHIFT = 4  # OpenCV's fixed point: sixteenths of a canvas pixel
BLOOD, LIGHT, WHITE, INK = (120, 45, 45), (255, 244, 226), (252, 250, 246), (20, 12, 14)


def band(x: Array, upper: Array, lower: Array) -> tuple[Array, Array]:
    """Returns the outline x, y (T, 2 K) of the area between two curves (T, K)."""
    x, upper, lower = np.broadcast_arrays(x, upper, lower)
    return np.hstack([x, x[:, ::-1]]), np.hstack([upper, lower[:, ::-1]])


def line(x: Array, y: Array, half_width: Any) -> tuple[Array, Array]:
    """Returns the outline of a line of some thickness about a curve (T, K)."""
    return band(x, y - half_width, y + half_width)


def fixed(points: Array, size: int) -> Array:
    """Converts face units to canvas pixels in OpenCV's fixed point."""
    return np.round(((points / SPAN + 0.5) * size * FINE - 0.5) * (1 << SHIFT)).astype(np.int32, order="C")


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Returns a colour between two; share 0 is the first."""
    return tuple((1 - share) * a + share * b for a, b in zip(one, other, strict=True))


def oval(x: float, y: float, rx: float, ry: float, squareness: float = 1.0) -> Array:
    """Returns an ellipse (40, 2); a squareness above 1 takes it towards a rectangle."""
    angle = np.linspace(0, 2 * np.pi, 40)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.sign(ring) * np.abs(ring) ** (1 / squareness) * (rx, ry) + (x, y)


def curve(*half: tuple[float, float]) -> Array:
    """Returns a closed smooth outline (8 K, 2), symmetric, through the knots of its right half (Catmull-Rom)."""
    p = np.array([*half, *((-x, y) for x, y in half[::-1] if x)], float)
    before, after, beyond = np.roll(p, 1, axis=0), np.roll(p, -1, axis=0), np.roll(p, -2, axis=0)
    t = np.linspace(0, 1, 8, endpoint=False)[:, None, None]
    cubic = 2 * before - 5 * p + 4 * after - beyond + t * (3 * (p - after) + beyond - before)
    return (p + 0.5 * t * (after - before + t * cubic)).transpose(1, 0, 2).reshape(-1, 2)


class Canvas:
    """A picture to paint on by outlines in face units; `rgba` (canvas, canvas, 4), float32."""

    def __init__(self, size: int, colour: Colour) -> None:
        self.size, self.rgba = size, np.full((size * FINE, size * FINE, 4), (*colour, 0), np.float32)

    def paint(self, outline: Array, colour: Colour, *, soft: float = 0, share: float = 1, within: Any = None) -> Array:
        """Fills an outline, its edge softened over `soft` face units, and returns the coverage (canvas, canvas, 1)."""
        mask = np.zeros(self.rgba.shape[:2], np.uint8)
        cv2.fillPoly(mask, [fixed(outline, self.size)], 255, cv2.LINE_AA, SHIFT)
        if soft:
            mask = cv2.stackBlur(mask, (2 * round(0.6 * soft * len(mask)) + 1,) * 2)
        cover = mask[..., None].astype(np.float32) / 255 if within is None else mask[..., None] * (within / 255)
        x, y, width, height = cv2.boundingRect(mask)
        part = np.s_[y : y + height, x : x + width]
        self.rgba[part] += share * cover[part] * (np.array([*colour, 255], np.float32) - self.rgba[part])
        return cover

    def done(self) -> Array:
        return np.clip(self.rgba, 0, 255).astype(np.uint8)
