"""One clip on its grid: streams of different rates become arrays of the same steps.

Step k of a grid stands at (first_step + k) / hz seconds on the clip's own clock, the same for all streams and labels.
The grid spans the frames of the recording, so that it does not depend on the choice of streams; audio that goes on
after the last frame is left out, since no label can belong to it. `timebase.to_grid` moves the samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..clip import Clip, Track
from ..errors import DamagedError, InputError
from ..store.base import Store
from ..timebase import Grid, to_grid

MAX_EMPTY_STEPS, MAX_EMPTY_TIMES = 500_000, 100  # 4.6 hours at 30 Hz, and times the samples


@dataclass(frozen=True)
class CachedClip:
    """A clip with the commit records of its streams, by full name."""

    clip: Clip
    records: Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class OnGrid:
    """One clip or several, end to end: the grid of each, and arrays by name whose first axis is all their steps."""

    grids: list[Grid]
    arrays: dict[str, NDArray[Any]]


def joined(parts: Iterable[OnGrid]) -> OnGrid:
    """Returns clips end to end, in memory."""
    clips = list(parts)
    grids = [grid for clip in clips for grid in clip.grids]
    return OnGrid(grids, {name: np.concatenate([clip.arrays[name] for clip in clips]) for name in clips[0].arrays})


def span_s(clip: Clip) -> list[float]:
    """Returns the instants of the recording's first and last frame, [] where they are not known."""
    return clip.clock.times_s[[0, -1]].tolist() if clip.clock is not None and len(clip.clock.pts) else []


def clip_on_grid(store: Store, streams: Sequence[str], clip: CachedClip, hz: float) -> OnGrid:
    """Reads one clip and puts it on its grid, every byte checked against its records.

    Raises:
        InputError: if the cache changed since the records were read. DamagedError: if bytes changed.
    """
    tracks = [_track(store, clip, stream) for stream in streams]
    frames = span_s(clip.clip)  # the tracks only where no frames are known: streams must not move the grid
    spans = [frames] if frames else [track.times_s[[0, -1]] for track in tracks]
    grid = Grid.over(hz, float(np.min(np.concatenate(spans))), float(np.max(np.concatenate(spans))))
    _check_size(clip.clip.clip_id, grid, max(track.num_frames for track in tracks))
    arrays, masks = {}, []
    for m, track in enumerate(tracks):
        values, mask = to_grid(track.times_s, track.values, track.mask, grid)
        arrays[f"values-{m}"] = np.nan_to_num(values, copy=False).astype(track.values.dtype)
        arrays[f"quality-{m}"] = _quality_on_grid(track, grid)
        masks.append(mask)
    return OnGrid([grid], {**arrays, "mask": np.stack(masks, axis=1)})


def _check_size(clip_id: str, grid: Grid, num_samples: int) -> None:
    """Refuses a grid of which hardly a step has a sample: it takes memory by the length of the gaps.

    Raises:
        InputError: stating its length.
    """
    if grid.num_steps > max(MAX_EMPTY_STEPS, MAX_EMPTY_TIMES * num_samples):
        expected = f"features without gaps of hours, for a grid of {grid.hz:g} Hz"
        got = f"{num_samples} steps of features in {grid.num_steps / grid.hz:.6g} s"
        todo = "Correct the times, or cut the recording into parts."
        raise InputError(clip_id, expected=expected, got=got, todo=todo)


def _track(store: Store, clip: CachedClip, stream: str) -> Track:
    record = clip.records[stream]
    try:
        return store.entry(clip.clip.clip_id, stream, record).track()
    except DamagedError:
        if store.record(clip.clip.clip_id, stream) == record:
            raise
    todo = "Run again when no writer is active."
    raise InputError(f"{clip.clip.clip_id} {stream}", "the cache changed while it was being read", todo=todo)


def _quality_on_grid(track: Track, grid: Grid) -> NDArray[np.float32]:
    """(num_steps, Q), each signal from the frames where it was measured, NaN where there are none."""
    columns = [
        to_grid(track.times_s, track.quality[:, q : q + 1], measured, grid)[0]
        for q, measured in enumerate(np.isfinite(track.quality).T)
    ]
    return np.concatenate([np.zeros((grid.num_steps, 0), np.float32), *columns], axis=1)
