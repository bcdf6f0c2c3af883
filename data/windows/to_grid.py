"""One clip on its grid: streams of different rates become arrays of the same steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..clip import Clip, Track
from ..errors import InputError
from ..hashing import json_sha256
from ..store.base import Store
from ..timebase import Grid, to_grid


@dataclass(frozen=True)
class Laid:
    """One clip or several, end to end: the grid of each, and arrays by name whose first axis is all their steps."""

    grids: list[Grid]
    arrays: dict[str, NDArray[Any]]


def end_to_end(parts: Iterable[Laid]) -> Laid:
    """The same clips as one, in memory."""
    found = list(parts)
    grids = [grid for part in found for grid in part.grids]
    return Laid(grids, {name: np.concatenate([part.arrays[name] for part in found]) for name in found[0].arrays})


def span_s(clip: Clip) -> list[float]:
    """The first and last frame of the recording, [] where they are not known."""
    return clip.clock.times_s[[0, -1]].tolist() if clip.clock is not None and len(clip.clock.pts) else []


def lay_clip(store: Store, streams: Sequence[str], clip: Clip, records: Sequence[str], hz: float) -> Laid:
    """One clip on its grid, every byte of it checked."""
    tracks = [_track(store, clip.clip_id, stream, sha256) for stream, sha256 in zip(streams, records, strict=True)]
    known = span_s(clip)  # of the tracks only where no frames are known: the choice of streams must not move the grid
    spans = [known] if known else [track.times_s[[0, -1]] for track in tracks]
    grid = Grid.over(hz, float(np.min(np.concatenate(spans))), float(np.max(np.concatenate(spans))))
    arrays, masks = {}, []
    for m, track in enumerate(tracks):
        found, mask = to_grid(track.times_s, track.values, track.mask, grid)
        arrays[f"values-{m}"] = np.nan_to_num(found, copy=False).astype(track.values.dtype)
        arrays[f"quality-{m}"] = _quality_on_grid(track, grid)
        masks.append(mask)
    return Laid([grid], {**arrays, "mask": np.stack(masks, axis=1)})


def _track(store: Store, clip_id: str, stream: str, record_sha256: str) -> Track:
    entry = store.entry(clip_id, stream)
    if json_sha256(entry.record) != record_sha256:
        todo = "Start again when nobody writes to the cache any more."
        raise InputError(f"{clip_id} {stream}", expected="features that stay", got="others meanwhile", todo=todo)
    return entry.track()


def _quality_on_grid(track: Track, grid: Grid) -> NDArray[np.float32]:
    """(num_steps, Q), each signal from the frames where it was measured, NaN where there are none."""
    columns = [
        to_grid(track.times_s, track.quality[:, q : q + 1], measured, grid)[0]
        for q, measured in enumerate(np.isfinite(track.quality).T)
    ]
    return np.concatenate([np.zeros((grid.num_steps, 0), np.float32), *columns], axis=1)
