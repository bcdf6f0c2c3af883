"""Images laid into an encoder's input, and which of them each step of a visual track shows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from av import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from ...data.errors import InputError
from ..batch import mapped

CHUNK_IMAGES = 32
INTERPOLATION = "area, bicubic where enlarged; bit-exact"
FIT = "whole frame at its display aspect, padded with the mean colour"
VISUAL_QUALITY_UNITS = {"brightness": "share of white", "sharpness": "variance of the Laplacian in squared grey levels"}
SAME_ON_ALL = Interpolation.ACCURATE_RND | Interpolation.BITEXACT  # whatever instructions a processor has
_ROUNDING = 1e-6  # a step half way between two images shows the later one, whatever floats make of it
_SANE_ASPECT = (Fraction(1, 4), Fraction(4))

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Frames:
    """Some images of a clip in order: pixels (N, H, W, 3) uint8 RGB, and their quality (N, Q) float32."""

    pixels: Pixels
    quality: NDArray[np.float32]

    @property
    def num_bytes(self) -> int:
        """What the chunk holds of memory."""
        return self.pixels.nbytes


class Layer(Protocol):
    """Lays images, one after the other, into an encoder's input of `size` (height, width), and measures them."""

    size: tuple[int, int]

    def __call__(self, image: VideoFrame, canvas: Pixels, aspect: Fraction = ...) -> tuple[float, ...] | None:
        """Fills `canvas` (H, W, 3) and returns the quality; None where the image shows nothing for the encoder.

        `aspect` is the width of the image's pixels over their height.
        """
        ...


class Shrinker:
    """Lays images into an encoder's input and measures them; for one thread.

    The whole image, turned upright and at its display aspect, fits into `size`; the rest takes the colour that
    normalises to about zero, so that it says nothing.

    Args:
        size: (height, width) in pixels.
        pad: RGB colour, 0 to 255.
    """

    def __init__(self, size: tuple[int, int], pad: tuple[int, int, int]) -> None:
        self.size = size
        self._blank = np.full((*size, 3), pad, np.uint8)
        self._reformatter = VideoReformatter()

    def __call__(self, image: VideoFrame, canvas: Pixels, aspect: Fraction = Fraction(1)) -> tuple[float, float]:
        """Lays an image into `canvas` (H, W, 3); returns its brightness and sharpness.

        `aspect` is the width of the image's pixels over their height.
        """
        turns = round(image.rotation / 90) % 4
        width, height = _fit(image.width * float(aspect), image.height, turns, self.size)
        smaller = width <= image.width and height <= image.height
        kernel = Interpolation.AREA if smaller else Interpolation.BICUBIC
        shrunk = self._reformatter.reformat(
            image, width, height, "rgb24", interpolation=kernel | SAME_ON_ALL, threads=1
        )
        pixels = np.asarray(shrunk.to_ndarray(), np.uint8)
        upright = np.rot90(pixels, turns)
        canvas[...] = self._blank
        top, left = ((whole - part) // 2 for whole, part in zip(self.size, upright.shape, strict=False))
        canvas[top : top + upright.shape[0], left : left + upright.shape[1]] = upright
        return measure(pixels)


def _fit(width: float, height: float, turns: int, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the image, still lying as stored, that fill (height, width) once turned upright."""
    box_height, box_width = size if turns % 2 == 0 else size[::-1]
    scale = min(box_width / width, box_height / height)
    return min(box_width, max(1, round(width * scale))), min(box_height, max(1, round(height * scale)))


def measure(image: Pixels) -> tuple[float, float]:
    """Brightness and sharpness of an RGB image, see `VISUAL_QUALITY_UNITS`."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    _, spread = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F))
    return cv2.mean(grey)[0] / 255, float(spread[0, 0]) ** 2


def sane_aspect(aspect: Fraction | None) -> Fraction:
    """A sample aspect ratio, or 1 where it is unknown or beyond belief."""
    return aspect if aspect and _SANE_ASPECT[0] <= aspect <= _SANE_ASPECT[1] else Fraction(1)


@dataclass
class Timeline:
    """Which image each step shows, decided as the images of a clip come in order.

    Without `fps` every image is a step at its own time. With it, steps stand at k / fps on the clip's clock, from the
    one nearest to the first image to the one nearest to the last, and each shows the image nearest in time.

    Args:
        fps: steps a second; None = the images' own times.
        times_s: of each step so far.
        shown: for each step so far, the number of the kept image that it shows; -1 = none (masked).
    """

    fps: float | None = None
    times_s: list[float] = field(default_factory=list[float])
    shown: list[int] = field(default_factory=list[int])
    num_images: int = 0
    _waiting: tuple[float, Any] | None = None
    _next_step: int = 0

    def push(self, time_s: float, image: Any) -> Any:
        """Takes the next image (None = missing); returns the image that is to be kept now, if any."""
        if self.fps is None:
            return self._show([time_s], image)
        waiting, self._waiting = self._waiting, (time_s, image)
        if waiting is None:
            self._next_step = math.floor(time_s * self.fps + 0.5)
            return None
        return self._show_until(math.ceil((waiting[0] + time_s) / 2 * self.fps - _ROUNDING), waiting[1])

    def finish(self) -> Any:
        """The last image, if it is to be kept."""
        if self._waiting is None or self.fps is None:
            return None
        (time_s, image), self._waiting = self._waiting, None
        return self._show_until(math.floor(time_s * self.fps + 0.5) + 1, image)

    def _show_until(self, end_step: int, image: Any) -> Any:
        steps = range(self._next_step, end_step)
        self._next_step = max(self._next_step, end_step)
        return self._show([step / self.fps for step in steps], image) if self.fps else None

    def _show(self, times_s: list[float], image: Any) -> Any:
        if not times_s:
            return None
        self.times_s += times_s
        self.shown += [-1 if image is None else self.num_images] * len(times_s)
        self.num_images += image is not None
        return image


class Chunker:
    """Gathers images laid into an encoder's input into chunks of `CHUNK_IMAGES`."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._pixels = self._fresh()
        self._quality: list[tuple[float, ...]] = []

    def push(self, image: VideoFrame | None, aspect: Fraction = Fraction(1)) -> Iterator[Frames]:
        """Takes an image, or none; yields a chunk when one is full."""
        if image is None:
            return
        quality = self._layer(image, self._pixels[len(self._quality)], aspect)
        if quality is not None:
            self._quality.append(quality)
        if len(self._quality) == CHUNK_IMAGES:
            yield from self.finish()

    def finish(self) -> Iterator[Frames]:
        """The rest."""
        if self._quality:
            yield Frames(self._pixels[: len(self._quality)], np.array(self._quality, np.float32))
            self._pixels, self._quality = self._fresh(), []

    def _fresh(self) -> Pixels:
        return mapped((CHUNK_IMAGES, *self._layer.size, 3), np.dtype(np.uint8))


def load_crop(path: Path) -> VideoFrame:
    """One crop as an RGB frame.

    Raises:
        InputError: if the file is not a whole image.
    """
    try:
        with Image.open(path) as image:
            return VideoFrame.from_ndarray(np.asarray(image.convert("RGB")), format="rgb24")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        todo = "Make this crop again, or delete it to have the frame masked."
        raise InputError(path, expected="a whole image", got=f"{error}".splitlines()[0], todo=todo) from error
