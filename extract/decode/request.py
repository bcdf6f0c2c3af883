"""Input and result of decoding a clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.clip import FrameClock
from ..buffers import Buffers
from .frames import ImageTransform


@dataclass(frozen=True)
class DecodeOptions:
    """Options of a decoding pass.

    Args:
        transform: turns each image into an encoder's input; None = no images are decoded.
        sampling_rate: of the audio in Hz; None = no audio is decoded.
        faces: "full" for whole frames, "crops" for the images of a crop folder.
        fps: images per second; None = all of them.
        num_threads: threads of the video decoder.
        beat: called before the file is opened and for every packet that is read: a sign of life for a watchdog.
        buffers: lends the memory of the images.
    """

    transform: ImageTransform | None = None
    sampling_rate: int | None = None
    faces: str = "full"
    fps: float | None = None
    num_threads: int = 1
    beat: Callable[[], None] = lambda: None
    buffers: Buffers = field(default_factory=Buffers)


@dataclass(frozen=True)
class DecodeResult:
    """Times and reports of a clip that was decoded to its end.

    Args:
        clock: times of all frames of the clip, whether or not they were kept; None without a video stream.
        start_s: first instant of the clip, in seconds on the recording's own clock.
        duration_s: from there to the end of its last frame or sample, whichever is later.
        times_s: (T,) times of the visual steps.
        shown: (T,) for each visual step the number of the image that it shows; -1 = none.
        audio_start_s: time of the first sample; None = there is no audio.
        visual_report: findings about the images, for people.
        audio_report: findings about the audio, for people.
    """

    clock: FrameClock | None
    start_s: float
    duration_s: float
    times_s: NDArray[np.float64]
    shown: NDArray[np.int64]
    audio_start_s: float | None
    visual_report: dict[str, Any]
    audio_report: dict[str, Any]
