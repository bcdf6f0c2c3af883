"""Visual steps of a clip: which image each step shows, and the images gathered in chunks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from av import VideoFrame

from ..buffers import Buffers
from .frame_times import FrameTimes
from .frames import Frames, ImageTransform, Pixels

CHUNK_IMAGES = 32
_ROUNDING = 1e-6  # a step half way between two images shows the later one, despite rounding errors


@dataclass
class Timeline:
    """Chooses the image that each step shows, as the images of a clip come in order.

    Without `fps` every image is a step at its own time. With it, steps stand at k / fps on the clip's clock, from the
    one nearest to the first image to the one nearest to the last, and each shows the image nearest in time.

    Args:
        fps: steps per second; None = the images' own times.
        times_s: of each step so far.
        shown: for each step so far, the number of the kept image that it shows; -1 = none (masked).
        num_images: images kept so far.
    """

    fps: float | None = None
    times_s: list[float] = field(default_factory=list[float])
    shown: list[int] = field(default_factory=list[int])
    num_images: int = 0
    _waiting: tuple[float, Any] | None = None
    _next_step: int = 0

    def push(self, time_s: float, image: Any) -> Any:
        """Takes the next image (None = missing); returns the image that is to be kept now, or None."""
        if self.fps is None:
            return self._show([time_s], image)
        waiting, self._waiting = self._waiting, (time_s, image)
        if waiting is None:
            self._next_step = math.floor(time_s * self.fps + 0.5)
            return None
        return self._show_until(math.ceil((waiting[0] + time_s) / 2 * self.fps - _ROUNDING), waiting[1])

    def finish(self) -> Any:
        """Returns the last image if it is to be kept, or None."""
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
    """Gathers transformed images in chunks of `CHUNK_IMAGES`.

    Args:
        transform: turns each image into an encoder's input.
        buffers: lends the memory of the chunks.
    """

    def __init__(self, transform: ImageTransform, buffers: Buffers) -> None:
        self._transform, self._buffers = transform, buffers
        self._pixels = self._empty_chunk()
        self._quality: list[tuple[float, ...]] = []

    def push(self, image: VideoFrame | None, aspect: Fraction = Fraction(1)) -> Sequence[Frames]:
        """Takes an image, or None; returns a chunk when it is full. `aspect` as for `ImageTransform`."""
        if image is None:
            return ()
        quality = self._transform(image, self._pixels[len(self._quality)], aspect)
        if quality is not None:
            self._quality.append(quality)
        return self.finish() if len(self._quality) == CHUNK_IMAGES else ()

    def finish(self) -> Sequence[Frames]:
        """Returns the images that wait for a full chunk."""
        if not self._quality:
            return ()
        frames = Frames(self._pixels[: len(self._quality)], np.array(self._quality, np.float32))
        self._pixels, self._quality = self._empty_chunk(), []
        return (frames,)

    def _empty_chunk(self) -> Pixels:
        return self._buffers.take((CHUNK_IMAGES, *self._transform.size, 3), np.dtype(np.uint8))


class ImageSink:
    """Takes the images of a clip in order, with their times; drops those outside the clip, yields the rest in chunks.

    Args:
        times: the cut.
        transform: turns each image into an encoder's input; None = no images are wanted.
        fps: steps per second; None = the images' own times.
        buffers: lends the memory of the chunks.
    """

    def __init__(
        self, times: FrameTimes, transform: ImageTransform | None, fps: float | None, buffers: Buffers
    ) -> None:
        self._times = times
        self._chunker = Chunker(transform, buffers) if transform else None
        self.timeline = Timeline(fps)

    @property
    def active(self) -> bool:
        """True if images are wanted."""
        return self._chunker is not None

    def wants(self, time_s: float) -> bool:
        """True if an image at this instant is wanted."""
        return self.active and self._times.contains(time_s)

    def push(self, time_s: float, image: VideoFrame | None, aspect: Fraction = Fraction(1)) -> Sequence[Frames]:
        """Takes the next image (None = missing); returns a chunk when it is full."""
        if self._chunker and self.wants(time_s):
            return self._chunker.push(self.timeline.push(time_s, image), aspect)
        return ()

    def finish(self, aspect: Fraction = Fraction(1)) -> Iterator[Frames]:
        """Yields the last chunk."""
        if self._chunker:
            yield from self._chunker.push(self.timeline.finish(), aspect)
            yield from self._chunker.finish()
