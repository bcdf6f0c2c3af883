"""Timestamps of a clip's frames, and the cut that they fall into."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Frame = tuple[int, int]  # pts and duration, in ticks


@dataclass
class FrameTimes:
    """Timestamps of the frames of a recording in presentation order, on the recording's own clock.

    Args:
        start_s: frames before this instant lie outside the clip; None = the clip begins with the recording.
        end_s: frames at and after this instant lie outside the clip; None = the clip ends with the recording.
        time_base: seconds per tick; 0 until a stream or a frame rate sets it.
        frames: (pts, duration) of each frame in ticks.
    """

    start_s: float | None
    end_s: float | None
    time_base: Fraction = Fraction(0)
    frames: list[Frame] = field(default_factory=list[Frame])

    @property
    def last_s(self) -> float:
        """Presentation time of the last frame in seconds; minus infinity while there is none."""
        return self.seconds(self.frames[-1][0]) if self.frames else -math.inf

    def seconds(self, ticks: int) -> float:
        """Converts ticks to seconds."""
        return ticks * self.time_base.numerator / self.time_base.denominator  # float(ticks * time_base) is 40 x slower

    def contains(self, time_s: float) -> bool:
        """True if an instant lies inside the clip."""
        return (self.start_s is None or time_s >= self.start_s) and (self.end_s is None or time_s < self.end_s)

    def is_past(self, time_s: float) -> bool:
        """True if an instant lies at or after the end of the clip."""
        return self.end_s is not None and time_s >= self.end_s

    def inside(self) -> list[Frame]:
        """Returns the frames that lie inside the clip."""
        return [(pts, ticks) for pts, ticks in self.frames if self.contains(self.seconds(pts))]

    def gaps_s(self) -> NDArray[np.float64]:
        """Returns seconds from each frame inside the clip to the next, (N - 1,)."""
        ticks = np.array([pts for pts, _ in self.inside()], np.float64)
        return np.diff(ticks) * float(self.time_base)

    def end_of(self, frames: Sequence[Frame]) -> float:
        """Returns the end of the last frame in seconds; a frame without a duration lasts the median gap."""
        pts, ticks = frames[-1]
        gaps = np.diff([pts for pts, _ in frames])
        return self.seconds(pts + (ticks or (int(np.median(gaps)) if len(gaps) else 0)))
