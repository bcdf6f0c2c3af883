"""The picture of a clip's traces with its time axis: fusion draws it, extraction moves a playhead over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClipPanel:
    """A picture with time from left to right.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        left, right: places of `start_s` and `end_s`, in pixels from the left edge.
        top, bottom: rows between which the traces lie.
        start_s, end_s: ends of the time axis, seconds on the recording's clock.
    """

    pixels: NDArray[Any]
    left: float
    right: float
    top: int
    bottom: int
    start_s: float
    end_s: float

    def column(self, time_s: float) -> float:
        """Returns the place of an instant in pixels from the left edge; the nearer end for one off the axis."""
        share = np.clip((time_s - self.start_s) / max(self.end_s - self.start_s, 1e-9), 0, 1)
        return float(self.left + share * (self.right - self.left))
