"""A corpus: clips on a common grid as tensors, end to end, and the windows that are cut from them.

Every tensor has one row per step. A clip is a slice of steps, a window a shorter slice that never leaves its clip: a
clip shorter than a window is padded, and `inside` is False there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..clip import Clip
from ..labels import Truth
from ..timebase import Grid
from .normalise import Normalise

HUGE_BYTES = 1 << 22
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Stream:
    """An input of a model: full stream name, dims D, names of its Q quality signals, whole fingerprint, normalisation.

    `label` is for people: the modality; the alias where it has several streams; the full name where those share an
    alias.
    """

    name: str
    label: str
    modality: str
    dim: int
    quality_names: tuple[str, ...]
    fingerprint: Mapping[str, Any] = field(repr=False)
    normalise: Normalise = "training"

    @property
    def random_weights(self) -> bool:
        """True if the encoder was never trained; every result made with it states so."""
        return self.fingerprint.get("encoder", {}).get("weights") == "random"


@dataclass(frozen=True)
class Corpus:
    """Clips on the grid, laid end to end: clip i is steps offsets[i] … offsets[i + 1] of every tensor.

    Args:
        clips: name, person and frame times of each clip.
        streams: the M inputs.
        grids: the grid of each clip.
        offsets: (C + 1,) first step of each clip.
        values: for each stream (N, D) float16, bfloat16 or float32, 0 where its mask is False.
        quality: for each stream (N, Q) float32, NaN where not measured.
        mask: (N, M) bool, True = the stream is valid at this step.
        va: (N, 2) float32 valence and arousal on the grid, 0 where not counted.
        va_mask: (N,) bool, True = the step counts.
        truths: the labels of each clip at their own times, for scoring; None where unlabelled.
        device: of the windows; the tensors lie there too, or in main memory where they are too large.
        kept: figures of its streams that were computed once, by name. `only` and `to` share them, since the streams
            stay what they are; a copy with other tensors begins without any.
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
    device: torch.device = CPU
    kept: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def num_steps(self) -> int:
        """N."""
        return int(self.offsets[-1])

    @property
    def hz(self) -> float:
        """Steps per second, the same for all clips."""
        return self.grids[0].hz

    @property
    def longest_steps(self) -> int:
        """The number of steps of the longest clip."""
        return int(np.diff(self.offsets).max())

    def steps(self, index: int) -> slice:
        """Returns the steps of one clip."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def find(self, clip_ids: Sequence[str]) -> list[int]:
        """Returns the positions of clips by id."""
        places = {clip.clip_id: index for index, clip in enumerate(self.clips)}
        return [places[clip_id] for clip_id in clip_ids]

    def only(self, streams: Sequence[int]) -> Corpus:
        """Returns the corpus with fewer streams, sharing memory."""
        chosen = list(streams)
        return self._like(
            streams=[self.streams[m] for m in chosen],
            values=[self.values[m] for m in chosen],
            quality=[self.quality[m] for m in chosen],
            mask=self.mask[:, chosen],
        )

    def to(self, device: torch.device) -> Corpus:
        """Returns the corpus with its tensors on another device."""
        mask = self.mask.to(device)
        return self._like(
            values=[values.to(device) for values in self.values],
            quality=[quality.to(device) for quality in self.quality],
            mask=mask,
            va=self.va.to(device),
            va_mask=self.va_mask.to(device),
            device=mask.device,  # "cuda" is not equal to "cuda:0", the device of every tensor sent to "cuda"
        )

    def with_earlier_labels(self, num_steps: int) -> Corpus:
        """Returns the corpus with the labels on its grid `num_steps` earlier; the last steps of a clip have none.

        The labels at their own times, by which predictions are scored, stay what they are.
        """
        if not num_steps:
            return self
        va, va_mask = torch.zeros_like(self.va), torch.zeros_like(self.va_mask)
        for index in range(len(self.clips)):
            steps = self.steps(index)
            later = slice(min(steps.start + num_steps, steps.stop), steps.stop)
            earlier = slice(steps.start, steps.start + later.stop - later.start)
            va[earlier], va_mask[earlier] = self.va[later], self.va_mask[later]
        return self._like(va=va, va_mask=va_mask)

    def _like(self, **changes: Any) -> Corpus:
        """Returns a copy of some of its streams, or elsewhere, that shares `kept`."""
        corpus = replace(self, **changes)
        object.__setattr__(corpus, "kept", self.kept)
        return corpus


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

    def each(self, change: Callable[[Tensor], Tensor]) -> Windows:
        """Returns the windows with every tensor changed."""
        values, quality = ([change(tensor) for tensor in tensors] for tensors in (self.values, self.quality))
        rest = (self.mask, self.inside, self.va, self.va_mask, self.steps)
        return Windows(values, quality, *(change(tensor) for tensor in rest))


def window_starts(num_steps: int, window_steps: int, hop_steps: int, jitter: int = 0) -> NDArray[np.int64]:
    """Returns the first steps of the windows over one clip: every hop from `jitter` on, the last ends with the clip.

    A clip shorter than a window gets one window, padded.
    """
    last = max(0, num_steps - window_steps)
    starts = np.arange(min(jitter, last), last + 1, hop_steps)
    return np.unique(np.concatenate([starts, [0] if jitter else [], [last]]).astype(np.int64))


def plan_windows(
    corpus: Corpus, clips: Sequence[int], window_steps: int, hop_steps: int, rng: np.random.Generator | None = None
) -> NDArray[np.int64]:
    """Returns (W, 2) of first step in the corpus and end step of its clip; `rng` jitters starts by up to a hop."""
    rows = []
    for index in clips:
        first, end = int(corpus.offsets[index]), int(corpus.offsets[index + 1])
        jitter = int(rng.integers(hop_steps)) if rng else 0
        rows += [(first + start, end) for start in window_starts(end - first, window_steps, hop_steps, jitter)]
    return np.array(rows, np.int64).reshape(-1, 2)


def cut(corpus: Corpus, plan: NDArray[np.int64] | Tensor, window_steps: int) -> Windows:
    """Copies the windows of a plan where the tensors lie and then, if that is elsewhere, to the corpus's device."""
    device = corpus.mask.device
    rows = torch.as_tensor(plan, device=device)
    steps = rows[:, :1] + torch.arange(window_steps, device=device)
    inside = steps < rows[:, 1:]
    steps = torch.minimum(steps, rows[:, 1:] - 1)

    take = _slicer(rows, steps, corpus.num_steps) if device.type == "cpu" else lambda tensor: tensor[steps]
    windows = Windows(
        [take(values) for values in corpus.values],
        [take(quality) for quality in corpus.quality],
        take(corpus.mask) & inside[..., None],
        inside,
        take(corpus.va),
        take(corpus.va_mask) & inside,
        steps,
    )
    return windows if device == corpus.device else windows.each(lambda tensor: _sent(tensor, corpus.device))


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies to a device; from pinned memory to a GPU, so that the host does not wait."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def _slicer(rows: Tensor, steps: Tensor, num_steps: int) -> Callable[[Tensor], Tensor]:
    """Returns a function for `tensor[steps]` on a CPU that copies once per window instead of once per step.

    A window is a row of an overlapping view (num_steps - L + 1, L, …) of the tensor. Where a clip ends inside the
    window, its rows are taken step by step.
    """
    length, last = steps.shape[1], num_steps - steps.shape[1]
    if last < 0:
        return lambda tensor: tensor[steps]
    starts = rows[:, 0].clamp(max=last)
    short = (rows[:, 1] - rows[:, 0] < length).nonzero()[:, 0]
    any_short = len(short) > 0

    def take(tensor: Tensor) -> Tensor:
        windows = windows_of(tensor, starts, length)
        if any_short:  # past a clip's end, its last step is repeated
            windows[short] = tensor[steps[short]]
        return windows

    return take


def windows_of(tensor: Tensor, starts: Tensor, length: int) -> Tensor:
    """Returns (B, L, …), the steps from each start on; large ones by one copy for each, as fast as memory is.

    A large result lies in memory of numpy, which asks the system for huge pages.
    """
    shape = (len(starts), length, *tensor.shape[1:])
    if math.prod(shape) * tensor.element_size() < HUGE_BYTES:
        windows = tensor.as_strided((len(tensor) - length + 1, *shape[1:]), (tensor.stride(0), *tensor.stride()))
        return windows.index_select(0, starts)
    source = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    rows = np.empty(shape, source.dtype)
    for row, start in zip(rows, starts.tolist(), strict=True):
        row[...] = source[start : start + length]
    return torch.from_numpy(rows).view(tensor.dtype)
