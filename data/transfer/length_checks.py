"""Checks that imported features are as long as the recording, and as the labels, that they are for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..clip import Clip, Track
from ..errors import InputError
from ..labels import Labels
from ..timebase import usual_gap_s

TOLERANCE_S = 0.5
TOLERANCE = 0.02  # of the length


def last_end_s(times_s: NDArray[np.float64]) -> float:
    """Returns the end of the last row: a usual gap after it begins."""
    return float(times_s[-1]) + usual_gap_s(times_s)


def _fits(length: float, wanted: float, slack: float) -> bool:
    return abs(length - wanted) <= max(slack, TOLERANCE * wanted)


def check_length(clip: Clip, track: Track, hz: float | None) -> None:
    """Refuses features that do not fit the recording: by rows where they have its rate, and by their end.

    Raises:
        InputError: stating both.
    """
    todo = "Check --hz, the unit of the times, and that this is the same recording."
    if hz and clip.clock and (gap_s := usual_gap_s(clip.clock.times_s)) and abs(gap_s * hz - 1) < 0.01:
        num_frames = len(clip.clock.pts)
        if not _fits(track.num_frames, num_frames, TOLERANCE_S * hz):
            expected = f"about {num_frames} rows, one per frame of the recording"
            raise InputError(clip.clip_id, expected=expected, got=f"{track.num_frames} rows", todo=todo)
    end_s = last_end_s(track.times_s)
    if clip.duration_s is not None and not _fits(end_s, clip.duration_s, TOLERANCE_S):
        expected = f"features that end at about {clip.duration_s:.2f} s, where the recording does"
        raise InputError(clip.clip_id, expected=expected, got=f"an end at {end_s:.2f} s", todo=todo)


def check_labels(clip: Clip, track: Track, labels: Labels) -> None:
    """Refuses features that do not end where their labels do, where times or a clock of frames give that end.

    Raises:
        InputError: stating both.
    """
    num_rows = len(labels.va)
    if labels.times_s is not None:
        labels_end_s = last_end_s(labels.times_s)
    elif clip.clock is not None:
        frames_s = clip.clock.times_s[:num_rows]
        labels_end_s = last_end_s(frames_s) + (num_rows - len(frames_s)) * usual_gap_s(frames_s)
    else:
        return
    end_s = last_end_s(track.times_s)
    if not _fits(end_s, labels_end_s, TOLERANCE_S):
        expected = f"features that end at about {labels_end_s:.2f} s, as the {num_rows} rows of {labels.path.name} do"
        got = f"an end at {end_s:.2f} s after {track.num_frames} rows"
        todo = "Check --hz, the unit of the times, and that the labels are those of this clip."
        raise InputError(clip.clip_id, expected=expected, got=got, todo=todo)
