"""Predictions at other instants than those of the grid: at the times of frames, or at a rate.

Valence and arousal are interpolated linearly between the two steps around an instant. The grid covers all frames of a
recording, so that an instant lies at most half a step before its first or behind its last step; there, the value of
that step holds. Nothing is extrapolated any further. Mask, reliability and weights are those of the nearest step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ...data.clip import Clip
from ...data.errors import InputError
from ...data.timebase import Grid
from ...data.windows.to_grid import span_s
from .metrics import at_instants, smoothed
from .predict import Floats, Prediction

GRID, FRAMES, AUTO = "grid", "frames", "auto"
MOST_HZ, MOST_SMOOTH_S = 1000, 3600


@dataclass(frozen=True)
class Sampling:
    """Instants of a prediction, and its smoothing.

    Args:
        at: "grid", "frames" of the recording, or instants per second.
        smooth_s: width in seconds of a centred moving average over valence and arousal, at most 3600, on the grid,
            before they are interpolated; 0 = none; "auto" = the best on the validation clips of each model.

    Raises:
        InputError: for another word, or a number out of its range.
    """

    at: str | float = GRID
    smooth_s: str | float = 0.0

    def __post_init__(self) -> None:
        at, width = self.at, self.smooth_s
        if not (at in (GRID, FRAMES) if isinstance(at, str) else 0 < at <= MOST_HZ):
            expected = f"grid, frames, or a rate above 0 and at most {MOST_HZ}"
            raise InputError("at", expected=expected, got=repr(at), todo="Change the option.")
        if not (width == AUTO if isinstance(width, str) else 0 <= width <= MOST_SMOOTH_S):
            expected = f"auto, or seconds from 0 to {MOST_SMOOTH_S}"
            raise InputError("smooth", expected=expected, got=repr(width), todo="Change the option.")

    def width_s(self, best_s: float) -> float:
        """Returns the width of the moving average; `best_s` is that of a model's validation clips."""
        return best_s if isinstance(self.smooth_s, str) else self.smooth_s

    def smooth(self, prediction: Prediction, hz: float, best_s: float) -> Prediction:
        """Returns a prediction on the grid with its valence and arousal smoothed."""
        return replace(prediction, va=smoothed(prediction.va, hz, self.width_s(best_s)))

    def instants(self, clip: Clip, grid: Grid) -> Floats:
        """Returns the times of a clip's values in seconds, increasing.

        Raises:
            InputError: if the times of its frames are not known, or no instant of a rate falls into it.
        """
        if self.at == GRID:
            return grid.times_s
        if self.at == FRAMES:
            return frame_times(clip)
        hz = float(self.at)
        start, end = span_s(clip) or grid.times_s[[0, -1]].tolist()
        times_s = np.arange(math.ceil(start * hz - 1e-9), math.floor(end * hz + 1e-9) + 1) / hz
        if not len(times_s):
            todo = "Ask for a higher rate, or for frames."
            raise InputError(clip.clip_id, f"no instant of {hz:g} Hz lies in {start:g} to {end:g} s", todo=todo)
        return times_s

    def sample(self, prediction: Prediction, clip: Clip, grid: Grid) -> Prediction:
        """Returns a prediction of a clip, given on its grid, at the instants that are asked for; errors as above."""
        return prediction if self.at == GRID else resampled(prediction, grid, self.instants(clip, grid))


PLAIN = Sampling()  # the steps of the grid, not smoothed


def frame_times(clip: Clip) -> Floats:
    """Returns the (F,) times of a clip's frames in seconds.

    Raises:
        InputError: if they are not known: of imported features, or a recording without video.
    """
    if clip.clock is None or not len(clip.clock.pts):
        got = "features without a frame clock"
        todo = "Ask for the grid or a rate."
        raise InputError(clip.clip_id, expected="a recording whose frame times are known", got=got, todo=todo)
    return clip.clock.times_s


def resampled(prediction: Prediction, grid: Grid, times_s: Floats) -> Prediction:
    """Returns a prediction, given on a grid, at instants that the grid covers."""
    num_streams = prediction.mask.shape[1]
    both = np.concatenate([prediction.va, prediction.unimodal.reshape(len(prediction.va), -1)], axis=1)
    values, covered = at_instants(both, grid, times_s)
    assert covered.all(), "the grid covers the frames"
    nearest = np.clip(np.floor(times_s * grid.hz + 0.5).astype(np.int64) - grid.first_step, 0, grid.num_steps - 1)
    of_steps = {
        name: None if (part := getattr(prediction, name)) is None else part[nearest]
        for name in ("mask", "reliability", "weights", "stage")
    }
    unimodal = values[:, 2:].reshape(-1, num_streams, 2)
    return replace(prediction, times_s=times_s, va=values[:, :2], unimodal=unimodal, **of_steps)
