"""Images as an encoder takes them: scaled, padded and measured."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from av import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from ...data.errors import InputError
from .bounds import check_pixels

INTERPOLATION = "area, bicubic where enlarged; bit-exact"
FIT = "whole frame at its display aspect, padded with the mean colour"
VISUAL_QUALITY_UNITS = {"brightness": "share of white", "sharpness": "variance of the Laplacian in squared grey levels"}
SAME_ON_ALL = Interpolation.ACCURATE_RND | Interpolation.BITEXACT  # whatever instructions a processor has
_SANE_ASPECT = (Fraction(1, 4), Fraction(4))

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Frames:
    """A chunk of a clip's images in order.

    Args:
        pixels: (N, H, W, 3) uint8 RGB.
        quality: (N, Q) float32 quality signals.
    """

    pixels: Pixels
    quality: NDArray[np.float32]

    @property
    def num_bytes(self) -> int:
        """Memory of the pixels in bytes."""
        return self.pixels.nbytes


class ImageTransform(Protocol):
    """Turns images, one after the other, into an encoder's input of `size` (height, width), and measures them."""

    size: tuple[int, int]

    def __call__(self, image: VideoFrame, canvas: Pixels, aspect: Fraction = ...) -> tuple[float, ...] | None:
        """Fills `canvas` (H, W, 3) and returns the quality; None where the image shows nothing for the encoder.

        Args:
            image: decoded frame, as stored.
            canvas: uint8 RGB, overwritten.
            aspect: width of the image's pixels over their height.
        """
        ...


class Letterbox:
    """Fits whole images into an encoder's input and measures them; use one per thread.

    The image is turned upright and scaled at its display aspect until it fits into `size`. The rest is filled with a
    colour that normalises to about zero, so that it carries no signal.

    Args:
        size: (height, width) in pixels.
        pad: RGB colour of the rest, 0 to 255.
    """

    def __init__(self, size: tuple[int, int], pad: tuple[int, int, int]) -> None:
        self.size = size
        self._blank = np.full((*size, 3), pad, np.uint8)
        self._reformatter = VideoReformatter()
        self._placed: tuple[tuple[int, int, int], Fraction, _Placement] | None = None  # of the image before

    def __call__(self, image: VideoFrame, canvas: Pixels, aspect: Fraction = Fraction(1)) -> tuple[float, float]:
        """Fills `canvas` (H, W, 3) with an image; returns its brightness and sharpness, see `measure`."""
        turns = round(image.rotation / 90) % 4
        place = self._placement(image.width, image.height, turns, aspect)
        scaled = self._reformatter.reformat(
            image, place.width, place.height, "rgb24", interpolation=place.interpolation, threads=1
        )
        pixels = np.asarray(scaled.to_ndarray(), np.uint8)
        upright = np.rot90(pixels, turns) if turns else pixels
        if upright.shape == canvas.shape:
            canvas[...] = upright
        else:
            canvas[...] = self._blank
            canvas[place.top : place.top + upright.shape[0], place.left : place.left + upright.shape[1]] = upright
        return measure(pixels)

    def _placement(self, width: int, height: int, turns: int, aspect: Fraction) -> _Placement:
        """Returns the place of an image on the canvas; computed anew only where it may differ from the last one's."""
        shape = (width, height, turns)
        if self._placed is None or self._placed[0] != shape or self._placed[1] is not aspect:
            self._placed = shape, aspect, _Placement.of(width, height, turns, aspect, self.size)
        return self._placed[2]


@dataclass(frozen=True)
class _Placement:
    """Size of a scaled image before it is turned upright, and the place of its upright corner on the canvas."""

    width: int
    height: int
    interpolation: Interpolation
    top: int
    left: int

    @classmethod
    def of(cls, width: int, height: int, turns: int, aspect: Fraction, size: tuple[int, int]) -> _Placement:
        fit_width, fit_height = _fit(width * float(aspect), height, turns, size)
        smaller = fit_width <= width and fit_height <= height
        kernel = Interpolation.AREA if smaller else Interpolation.BICUBIC
        upright = (fit_height, fit_width) if turns % 2 == 0 else (fit_width, fit_height)
        top, left = ((whole - part) // 2 for whole, part in zip(size, upright, strict=True))
        return cls(fit_width, fit_height, kernel | SAME_ON_ALL, top, left)


def _fit(width: float, height: float, turns: int, size: tuple[int, int]) -> tuple[int, int]:
    """Returns width and height of the image, before it is turned upright, that fit into (height, width) after it."""
    box_height, box_width = size if turns % 2 == 0 else size[::-1]
    scale = min(box_width / width, box_height / height)
    return min(box_width, max(1, round(width * scale))), min(box_height, max(1, round(height * scale)))


def measure(image: Pixels) -> tuple[float, float]:
    """Returns brightness and sharpness of an (H, W, 3) uint8 RGB image, in `VISUAL_QUALITY_UNITS`."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    _, spread = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F))
    return cv2.mean(grey)[0] / 255, float(spread[0, 0]) ** 2


def sane_aspect(aspect: Fraction | None) -> Fraction:
    """Returns a sample aspect ratio; 1 where it is unknown or outside 1/4 to 4."""
    return aspect if aspect and _SANE_ASPECT[0] <= aspect <= _SANE_ASPECT[1] else Fraction(1)


def load_crop(path: Path) -> VideoFrame:
    """Reads a crop as an RGB frame.

    Raises:
        InputError: if the file is not a whole image, or one of too many pixels.
    """
    todo = "Write this crop again, or delete it to have the frame masked."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound is lower
            image = Image.open(path)
        with image:
            check_pixels(path, image.width, image.height, todo)
            return VideoFrame.from_ndarray(np.asarray(image.convert("RGB")), format="rgb24")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(path, expected="a whole image", got=f"{error}".splitlines()[0], todo=todo) from error
