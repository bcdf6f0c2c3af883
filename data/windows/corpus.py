"""Cached Tracks -> one block on a common grid, in memory or mapped into it -> windows cut from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..clip import Clip
from ..errors import InputError
from ..hashing import json_sha256
from ..labels import Truth
from ..store.base import Store
from ..store.fingerprint import stream_alias
from ..timebase import Grid, to_grid
from .memmap_cache import open_form
from .to_grid import Laid, end_to_end, lay_clip, span_s

HUGE_BYTES = 1 << 22
CPU = torch.device("cpu")


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
        values: for each stream (N, D) float16, bfloat16 or float32, 0 where its mask is False.
        quality: for each stream (N, Q) float32, NaN where not measured.
        mask: (N, M) bool, True = the stream is valid at this step.
        va: (N, 2) float32 valence and arousal on the grid, 0 where not counted.
        va_mask: (N,) bool, True = the step counts.
        truths: the labels of each clip at their own times, for scoring; None where unlabelled.
        device: where windows are wanted; the tensors lie there too, or in main memory where they are too large.
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
        """Returns the corpus with its tensors on another device."""
        mask = self.mask.to(device)
        return replace(
            self,
            values=[values.to(device) for values in self.values],
            quality=[quality.to(device) for quality in self.quality],
            mask=mask,
            va=self.va.to(device),
            va_mask=self.va_mask.to(device),
            device=mask.device,  # "cuda" is not equal to "cuda:0", the device of every tensor sent to "cuda"
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

    def each(self, change: Callable[[Tensor], Tensor]) -> Windows:
        """The same windows with every tensor changed."""
        values, quality = ([change(tensor) for tensor in tensors] for tensors in (self.values, self.quality))
        rest = (self.mask, self.inside, self.va, self.va_mask, self.steps)
        return Windows(values, quality, *(change(tensor) for tensor in rest))


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
    keep: bool = True,
) -> Corpus:
    """Reads clips whole, checked, and puts streams and labels on one grid.

    A clip's grid spans all frames of the recording, or these streams where no frames are known, so that every choice of
    streams is scored on the same labels. A stream that a clip lacks altogether is an error: silence and missing
    faces are masked tracks, not absent ones.

    Args:
        store: the cache.
        streams: the M inputs.
        clip_ids: which clips, in this order.
        grid_hz: steps per second.
        truths: labels by clip_id.
        keep: map the features from their training form, which is made from the cache where there is none yet; then
            they need no memory, and from the second time on only the cache's records are read. False reads the
            clips into memory and leaves nothing behind.

    Raises:
        InputError: if a clip lacks a stream, or a stream is not the one that is described. DamagedError: if bytes
            changed.
    """
    if not clip_ids:
        raise InputError(store.url, expected="clips to load", got="none", todo="See `sage-va cache ls`.")
    names = [stream.name for stream in streams]
    clips = [store.clip(clip_id) for clip_id in clip_ids]
    records = _checked_records(store, streams, clip_ids)
    parts = (lay_clip(store, names, *pair, grid_hz) for pair in zip(clips, records, strict=True))
    if keep:
        told = [
            {"clip_id": clip.clip_id, "records": known, "span_s": span_s(clip)}
            for clip, known in zip(clips, records, strict=True)
        ]
        laid = open_form(store, names, grid_hz, told, parts)
    else:
        laid = end_to_end(parts)
    return _corpus(clips, streams, laid, truths or {})


def _checked_records(store: Store, streams: Sequence[Stream], clip_ids: Sequence[str]) -> list[list[str]]:
    """The SHA-256 of the record of every stream of every clip, after a look at what each says."""
    wanted = [json_sha256(stream.fingerprint) for stream in streams]
    found, dtypes = [], {}
    for clip_id in clip_ids:
        records = [store.record(clip_id, stream.name) for stream in streams]
        for stream, record, sha256 in zip(streams, records, wanted, strict=True):
            _check_fingerprint(clip_id, stream, json_sha256(record["fingerprint"]), sha256)
            _check_form(clip_id, stream, record, dtypes.setdefault(stream.name, record["dtype"]))
        found.append([json_sha256(record) for record in records])
    return found


def _check_fingerprint(clip_id: str, stream: Stream, found: str, wanted: str) -> None:
    if found != wanted:
        raise InputError(
            f"{clip_id} {stream.name}",
            expected=f"features with fingerprint {wanted[:8]}",
            got=found[:8],
            todo="Extract with the encoder that the model was trained on.",
        )


def _check_form(clip_id: str, stream: Stream, record: Mapping[str, Any], dtype: str) -> None:
    signals = tuple(name for name, _ in record["columns"][2:])
    found, wanted = (record["dtype"], record["shape"][1], signals), (dtype, stream.dim, stream.quality_names)
    if found != wanted:
        expected, got = (
            f"{d} values of {n} dimensions, quality {', '.join(q) or 'none'}" for d, n, q in (wanted, found)
        )
        todo = "Extract or import all clips of a stream in the same way."
        raise InputError(f"{clip_id} {stream.name}", expected=expected, got=got, todo=todo)


def _corpus(clips: list[Clip], streams: Sequence[Stream], laid: Laid, truths: Mapping[str, Truth]) -> Corpus:
    offsets = np.concatenate([[0], np.cumsum([grid.num_steps for grid in laid.grids])])
    va, va_mask = np.zeros((offsets[-1], 2), np.float32), np.zeros(offsets[-1], bool)
    found = [truths.get(clip.clip_id) for clip in clips]
    for truth, grid, first, end in zip(found, laid.grids, offsets[:-1], offsets[1:], strict=True):
        if truth is not None and truth.mask.any():
            on_grid, va_mask[first:end] = to_grid(truth.times_s, truth.va, truth.mask, grid)
            va[first:end] = np.nan_to_num(on_grid, copy=False)
    values, quality = (
        [_tensor(laid.arrays[f"{what}-{m}"]) for m in range(len(streams))] for what in ("values", "quality")
    )
    mask = _tensor(laid.arrays["mask"])
    return Corpus(
        clips, list(streams), laid.grids, offsets, values, quality, mask, _tensor(va), _tensor(va_mask), found
    )


def _tensor(array: NDArray[Any]) -> Tensor:
    """The same memory as a tensor."""
    if array.dtype.name == "bfloat16":  # torch does not know numpy's
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


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
    """The windows of a plan, copied where the corpus lies and then, if that is elsewhere, to its device."""
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
    """A copy on a device, which the host does not wait for where it need not."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def _slicer(rows: Tensor, steps: Tensor, num_steps: int) -> Callable[[Tensor], Tensor]:
    """What takes `tensor[steps]` on a CPU, by one copy for each window instead of one for each step."""
    length, last = steps.shape[1], num_steps - steps.shape[1]
    if last < 0:
        return lambda tensor: tensor[steps]
    starts = rows[:, 0].clamp(max=last)
    short = (rows[:, 1] - rows[:, 0] < length).nonzero()[:, 0]
    any_short = len(short) > 0

    def take(tensor: Tensor) -> Tensor:
        windows = tensor.as_strided((last + 1, length, *tensor.shape[1:]), (tensor.stride(0), *tensor.stride()))
        found = _select(windows, starts)
        if any_short:  # beyond a clip's end, its last step stands
            found[short] = tensor[steps[short]]
        return found

    return take


def _select(windows: Tensor, starts: Tensor) -> Tensor:
    """`windows[starts]`; where that is large, into memory from numpy, which asks the system for huge pages."""
    if len(starts) * windows.element_size() * windows[:1].numel() < HUGE_BYTES:
        return windows.index_select(0, starts)
    plain = windows.view(torch.int16) if windows.dtype == torch.bfloat16 else windows
    found = torch.from_numpy(np.empty((len(starts), *windows.shape[1:]), plain[:0].numpy().dtype))
    return torch.index_select(plain, 0, starts, out=found).view(windows.dtype)
