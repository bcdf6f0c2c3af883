"""Cached Tracks -> one resident block of memory on a common grid -> windows cut by index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .clip import Clip, Track
from .errors import InputError
from .fingerprint import json_sha256, stream_alias
from .labels import Truth
from .store import Store
from .timebase import Grid, to_grid


@dataclass(frozen=True)
class Stream:
    """An input of a model: full stream name, dims D, names of its Q quality signals, whole fingerprint.

    `label` is what people read: the modality; the alias where it has several streams; the full name where those
    share an alias.
    """

    name: str
    label: str
    modality: str
    dim: int
    quality_names: tuple[str, ...]
    fingerprint: Mapping[str, Any] = field(repr=False)

    @property
    def random_weights(self) -> bool:
        """Whether the encoder was never trained, which every result made with it says."""
        return self.fingerprint.get("encoder", {}).get("weights") == "random"


@dataclass(frozen=True)
class Corpus:
    """Clips on the grid, laid end to end: clip i is steps offsets[i] … offsets[i + 1] of every tensor.

    Args:
        clips: what the cache knows of each clip.
        streams: the M inputs.
        grids: the grid of each clip.
        offsets: (C + 1,) first step of each clip.
        values: for each stream (N, D) float16 or float32, 0 where its mask is False.
        quality: for each stream (N, Q) float32, NaN where not measured.
        mask: (N, M) bool, True = the stream is valid at this step.
        va: (N, 2) float32 valence and arousal on the grid, 0 where not counted.
        va_mask: (N,) bool, True = the step counts.
        truths: the labels of each clip at their own times, for scoring; None where unlabelled.
    """

    clips: list[Clip]
    streams: list[Stream]
    grids: list[Grid]
    offsets: NDArray[np.int64]
    values: list[Tensor]
    quality: list[Tensor]
    mask: Tensor
    va: Tensor
    va_mask: Tensor
    truths: list[Truth | None]

    @property
    def num_steps(self) -> int:
        """N."""
        return int(self.offsets[-1])

    def steps(self, index: int) -> slice:
        """The steps of one clip."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def find(self, clip_ids: Sequence[str]) -> list[int]:
        """Positions of clips by id."""
        places = {clip.clip_id: index for index, clip in enumerate(self.clips)}
        return [places[clip_id] for clip_id in clip_ids]

    def only(self, streams: Sequence[int]) -> Corpus:
        """The same clips with fewer streams, sharing memory."""
        kept = list(streams)
        return replace(
            self,
            streams=[self.streams[m] for m in kept],
            values=[self.values[m] for m in kept],
            quality=[self.quality[m] for m in kept],
            mask=self.mask[:, kept],
        )

    def to(self, device: torch.device) -> Corpus:
        """The same corpus on another device."""
        return replace(
            self,
            values=[values.to(device) for values in self.values],
            quality=[quality.to(device) for quality in self.quality],
            mask=self.mask.to(device),
            va=self.va.to(device),
            va_mask=self.va_mask.to(device),
        )


@dataclass(frozen=True)
class Windows:
    """B windows of L steps cut from a corpus.

    values: M × (B, L, D); quality: M × (B, L, Q); mask (B, L, M); inside (B, L) False = padding past the clip's
    end; va (B, L, 2); va_mask (B, L); steps (B, L) positions in the corpus.
    """

    values: list[Tensor]
    quality: list[Tensor]
    mask: Tensor
    inside: Tensor
    va: Tensor
    va_mask: Tensor
    steps: Tensor


def choose_streams(store: Store, names: Sequence[str]) -> list[Stream]:
    """The streams that aliases, modalities or full names mean.

    Raises:
        InputError: if a name means none or several, or two names mean the same one.
    """
    full = [store.resolve(name) for name in names]
    if len(set(full)) < len(full):
        raise InputError("streams", expected="different streams", got=", ".join(full), todo="Name each stream once.")
    return [_describe(store, name, _label(name, full)) for name in full]


def _label(name: str, among: Sequence[str]) -> str:
    modality, alias = stream_alias(name).split("/")
    if sum(other.startswith(f"{modality}/") for other in among) == 1:
        return modality
    return alias if sum(stream_alias(other).endswith(f"/{alias}") for other in among) == 1 else name


def _describe(store: Store, name: str, label: str) -> Stream:
    """The Stream of a full name, read from the first clip that has it."""
    record = store.record(store.clip_ids(name)[0], name)
    signals = tuple(signal for signal, _ in record["columns"][2:])
    return Stream(name, label, name.split("/")[0], record["shape"][1], signals, record["fingerprint"])


def load_corpus(
    store: Store,
    streams: Sequence[Stream],
    clip_ids: Sequence[str],
    *,
    grid_hz: float,
    truths: Mapping[str, Truth] | None = None,
) -> Corpus:
    """Reads clips whole, checked, and puts streams and labels on one grid.

    A clip's grid spans these streams and all frames of the recording, so that every choice of streams is scored on the
    same labels. A stream that a clip lacks altogether is an error: silence and missing
    faces are masked tracks, not absent ones.

    Raises:
        InputError: if a clip lacks a stream or a stream's fingerprint differs. DamagedError: if bytes changed.
    """
    clips, grids, rows = [], [], []
    for clip_id in clip_ids:
        tracks = [_checked(store, clip_id, stream) for stream in streams]
        clips.append(store.clip(clip_id))
        grid = _grid_over(grid_hz, tracks, clips[-1])
        grids.append(grid)
        rows.append(_on_grid(tracks, grid, truths.get(clip_id) if truths else None))
    if not clips:
        raise InputError(store.url, expected="clips to load", got="none", todo="See `sage-va cache ls`.")
    offsets = np.concatenate([[0], np.cumsum([grid.num_steps for grid in grids])])
    columns = [[row[c] for row in rows] for c in range(5)]
    values = [torch.from_numpy(np.concatenate(parts)) for parts in zip(*columns[0], strict=True)]
    quality = [torch.from_numpy(np.concatenate(parts)) for parts in zip(*columns[1], strict=True)]
    mask, va, va_mask = (torch.from_numpy(np.concatenate(column)) for column in columns[2:])
    found = [truths.get(clip.clip_id) if truths else None for clip in clips]
    return Corpus(clips, list(streams), grids, offsets, values, quality, mask, va, va_mask, found)


def _grid_over(hz: float, tracks: list[Track], clip: Clip) -> Grid:
    spans = [track.times_s[[0, -1]] for track in tracks]
    if clip.clock is not None and len(clip.clock.pts):
        spans.append(clip.clock.times_s[[0, -1]])
    return Grid.over(hz, float(np.min(spans)), float(np.max(spans)))


def _checked(store: Store, clip_id: str, stream: Stream) -> Track:
    entry = store.entry(clip_id, stream.name)
    found, wanted = json_sha256(entry.record["fingerprint"]), json_sha256(stream.fingerprint)
    if found != wanted:
        raise InputError(
            f"{clip_id} {stream.name}",
            expected=f"features with fingerprint {wanted[:8]}",
            got=found[:8],
            todo="Extract with the encoder that the model was trained on.",
        )
    return entry.track()


def _on_grid(tracks: list[Track], grid: Grid, truth: Truth | None) -> tuple[list, list, NDArray, NDArray, NDArray]:
    values, quality, masks = [], [], []
    for track in tracks:
        found, mask = to_grid(track.times_s, track.values, track.mask, grid)
        values.append(np.nan_to_num(found, copy=False).astype(track.values.dtype))
        masks.append(mask)
        quality.append(_quality_on_grid(track, grid))
    va, va_mask = np.zeros((grid.num_steps, 2), np.float32), np.zeros(grid.num_steps, bool)
    if truth is not None and truth.mask.any():
        va, va_mask = to_grid(truth.times_s, truth.va, truth.mask, grid)
        va = np.nan_to_num(va, copy=False)
    return values, quality, np.stack(masks, axis=1), va, va_mask


def _quality_on_grid(track: Track, grid: Grid) -> NDArray[np.float32]:
    """(num_steps, Q), each signal from the frames where it was measured, NaN where there are none."""
    columns = [
        to_grid(track.times_s, track.quality[:, q : q + 1], measured, grid)[0]
        for q, measured in enumerate(np.isfinite(track.quality).T)
    ]
    return np.concatenate([np.zeros((grid.num_steps, 0), np.float32), *columns], axis=1)


def window_starts(num_steps: int, window_steps: int, hop_steps: int, jitter: int = 0) -> NDArray[np.int64]:
    """First steps of the windows over one clip: every hop from `jitter` on, the last one ending with the clip.

    A clip shorter than a window gets one window, padded.
    """
    last = max(0, num_steps - window_steps)
    starts = np.arange(min(jitter, last), last + 1, hop_steps)
    return np.unique(np.concatenate([starts, [0] if jitter else [], [last]]).astype(np.int64))


def plan_windows(
    corpus: Corpus, clips: Sequence[int], window_steps: int, hop_steps: int, rng: np.random.Generator | None = None
) -> NDArray[np.int64]:
    """(W, 2) of first step in the corpus and end step of its clip; with `rng`, starts are jittered by up to a hop."""
    rows = []
    for index in clips:
        first, end = int(corpus.offsets[index]), int(corpus.offsets[index + 1])
        jitter = int(rng.integers(hop_steps)) if rng else 0
        rows += [(first + start, end) for start in window_starts(end - first, window_steps, hop_steps, jitter)]
    return np.array(rows, np.int64).reshape(-1, 2)


def cut(corpus: Corpus, plan: NDArray[np.int64] | Tensor, window_steps: int) -> Windows:
    """Gathers the windows of a plan on the corpus's own device."""
    device = corpus.mask.device
    rows = torch.as_tensor(plan, device=device)
    steps = rows[:, :1] + torch.arange(window_steps, device=device)
    inside = steps < rows[:, 1:]
    steps = torch.minimum(steps, rows[:, 1:] - 1)
    return Windows(
        [values[steps] for values in corpus.values],
        [quality[steps] for quality in corpus.quality],
        corpus.mask[steps] & inside[..., None],
        inside,
        corpus.va[steps],
        corpus.va_mask[steps] & inside,
        steps,
    )
