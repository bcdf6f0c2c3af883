"""Pictures and loudness of a recording, small enough for a page: extraction makes them, a report shows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClipPreview:
    """A strip of small pictures of a clip, and the outline of its audio.

    Args:
        times_s: (P,) times of the pictures, seconds on the clip's clock.
        jpeg: the P pictures side by side, each as wide as the others; empty where there are none.
        size: width and height of one picture in pixels.
        peaks: (B, 2) int8 lowest and highest sample in each of B equal parts of the audio, full scale = 127; None where
            there is no audio.
        audio_s: begin and end of the audio.
    """

    times_s: NDArray[np.float64]
    jpeg: bytes
    size: tuple[int, int]
    peaks: NDArray[np.int8] | None
    audio_s: tuple[float, float]
