"""From a cache to a Corpus in one pass: each record is read once, each track is read, verified and put on the grid.

read_clips     records of the clips, which also describe their streams
load_corpus    checks the records against the wanted streams; where the memory-mapped cache holds these very
               records, nothing else is read; else each entry is read whole, verified and put on its grid
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, MalformedError
from ..hashing import json_sha256
from ..labels import Truth
from ..store.base import Store
from ..store.entry import clip_of
from ..store.fingerprint import stream_alias
from ..timebase import to_grid, usual_gap_s
from .corpus import Corpus, Stream
from .memmap_cache import open_mapped
from .normalise import Normaliser
from .to_grid import CachedClip, OnGrid, clip_on_grid, joined, span_s

RATE_CLIPS = 5  # about so many clips are read to find the rate of a stream


def read_clips(store: Store, clip_ids: Sequence[str], left_out: list[MalformedError] | None = None) -> list[CachedClip]:
    """Reads the records of all streams of clips, each once.

    Args:
        store: the cache.
        clip_ids: of the clips.
        left_out: gets the error of each clip that has a malformed record; the others are returned. None = raise it.

    Raises:
        InputError: if a clip has none. DamagedError: if a record is not what was written.
    """
    clips: list[CachedClip] = []
    for clip_id in clip_ids:
        try:
            records = {stream: store.record(clip_id, stream) for stream in store.streams(clip_id)}
        except MalformedError as error:
            if left_out is None:
                raise
            left_out.append(error)
            continue
        if not records:
            todo = "See `sage-va cache ls`."
            raise InputError(clip_id, expected=f"a clip of {store.url}", got="none of that name", todo=todo)
        clips.append(CachedClip(clip_of(list(records.values())), records))
    return clips


def choose_streams(store: Store, names: Sequence[str], clips: Sequence[CachedClip] = ()) -> list[Stream]:
    """Returns the streams that aliases, modalities or full names mean.

    Args:
        store: the cache.
        names: one for each stream.
        clips: whose records describe the streams; where none has a stream, a record is read.

    Raises:
        InputError: if a name means none or several, or two names mean the same one.
    """
    full = [store.resolve(name) for name in names]
    if len(set(full)) < len(full):
        raise InputError("streams", expected="different streams", got=", ".join(full), todo="Name each stream once.")
    streams: list[Stream] = []
    for name in full:
        record = next((clip.records[name] for clip in clips if name in clip.records), None)
        streams.append(_stream(name, _label(name, full), record or store.record(store.clip_ids(name)[0], name)))
    return streams


def _label(name: str, among: Sequence[str]) -> str:
    modality, alias = stream_alias(name).split("/")
    if sum(other.startswith(f"{modality}/") for other in among) == 1:
        return modality
    return alias if sum(stream_alias(other).endswith(f"/{alias}") for other in among) == 1 else name


def _stream(name: str, label: str, record: Mapping[str, Any]) -> Stream:
    signals = tuple(signal for signal, _ in record["columns"][2:])
    return Stream(name, label, name.split("/")[0], record["shape"][1], signals, record["fingerprint"])


def stream_hz(store: Store, stream: str, clip_ids: Sequence[str]) -> float | None:
    """Returns the rate of a stream: steps per second, to two decimals; None if no clip has two steps.

    It is the median over a few of the clips, each by the usual distance of its steps.

    Args:
        store: the cache.
        stream: full name.
        clip_ids: the clips; those that lack the stream are left out.
    """
    having = sorted({*clip_ids} & {*store.clip_ids(stream)})
    chosen = having[:: max(1, len(having) // RATE_CLIPS)]
    rates = list[float]()
    for clip_id in chosen:
        with contextlib.suppress(MalformedError):  # such clips are left out, or refused, where all are read
            if gap_s := usual_gap_s(store.read(clip_id, stream).times_s):
                rates.append(1 / gap_s)
    return min(1000.0, max(0.01, round(float(np.median(rates)), 2))) if rates else None


def load_corpus(
    store: Store,
    streams: Sequence[Stream],
    clips: Sequence[str | CachedClip],
    *,
    grid_hz: float,
    truths: Mapping[str, Truth] | None = None,
    keep: bool = True,
    normaliser: Normaliser | None = None,
) -> Corpus:
    """Reads clips whole, checked, and puts streams and labels on one grid.

    A clip's grid spans all frames of the recording, or these streams where no frames are known, so that every choice of
    streams is scored on the same labels. A stream that a clip lacks altogether is an error: silence and missing
    faces are masked tracks, not absent ones.

    Args:
        store: the cache.
        streams: the M inputs.
        clips: in this order; those that `read_clips` returned, or ids.
        grid_hz: steps per second.
        truths: labels by clip_id.
        keep: map the features from the memory-mapped cache, where they are added if need be; then they need no
            memory, and from the second time on only records are read. False reads the clips into memory and leaves
            nothing behind.
        normaliser: of these streams, as `normaliser_of` gives it, to be shared by several calls; None = a new one.

    Raises:
        InputError: if a clip lacks a stream, or a stream is not the one that is described. DamagedError: if bytes
            changed.
    """
    if not clips:
        raise InputError(store.url, expected="clips to load", got="none", todo="See `sage-va cache ls`.")
    read = [clip if isinstance(clip, CachedClip) else read_clips(store, [clip])[0] for clip in clips]
    _check_records(store, streams, read)
    names = [stream.name for stream in streams]
    normaliser = normaliser or normaliser_of(store, streams, grid_hz)
    parts = (normaliser(clip, normaliser.load(clip)) for clip in read)
    if keep:
        identities = [_identity(clip, names, normaliser) for clip in read]
        return _corpus(read, streams, open_mapped(store, names, grid_hz, identities, parts), truths or {})
    return _corpus(read, streams, joined(parts), truths or {})


def normaliser_of(store: Store, streams: Sequence[Stream], grid_hz: float) -> Normaliser:
    """Returns the normalisation of streams, which reads further clips of a subject where that decides it."""
    names = [stream.name for stream in streams]

    def subjects() -> dict[str, list[CachedClip]]:
        whole = set.intersection(*({*store.clip_ids(name)} for name in names))
        clips: dict[str, list[CachedClip]] = {}
        for clip in read_clips(store, sorted(whole)):
            if clip.clip.subject_id is not None:
                clips.setdefault(clip.clip.subject_id, []).append(clip)
        return clips

    return Normaliser(
        [stream.normalise for stream in streams], subjects, lambda clip: clip_on_grid(store, names, clip, grid_hz)
    )


def _identity(clip: CachedClip, names: Sequence[str], normaliser: Normaliser) -> dict[str, Any]:
    """Everything that decides what stands on a clip's grid."""
    records = [json_sha256(clip.records[name]) for name in names]
    identity = {"clip_id": clip.clip.clip_id, "records": records, "span_s": span_s(clip.clip)}
    normalised = normaliser.identity(clip)
    return {**identity, "normalised": normalised} if normalised else identity


def _check_records(store: Store, streams: Sequence[Stream], clips: Sequence[CachedClip]) -> None:
    """Refuses a clip that lacks a stream, or has one of another fingerprint, dtype, width or quality."""
    expected = [json_sha256(stream.fingerprint) for stream in streams]
    dtypes: dict[str, str] = {}
    for clip in clips:
        for stream, sha256 in zip(streams, expected, strict=True):
            record = clip.records.get(stream.name) or store.record(clip.clip.clip_id, stream.name)
            place = f"{clip.clip.clip_id} {stream.name}"
            _check_fingerprint(place, json_sha256(record["fingerprint"]), sha256)
            _check_layout(place, stream, record, dtypes.setdefault(stream.name, record["dtype"]))


def _check_fingerprint(place: str, got: str, expected: str) -> None:
    if got != expected:
        todo = "Extract with the encoder that the model was trained on."
        raise InputError(place, expected=f"features with fingerprint {expected[:8]}", got=got[:8], todo=todo)


def _check_layout(place: str, stream: Stream, record: Mapping[str, Any], dtype: str) -> None:
    signals = tuple(name for name, _ in record["columns"][2:])
    layouts = (dtype, stream.dim, stream.quality_names), (record["dtype"], record["shape"][1], signals)
    if layouts[0] != layouts[1]:
        expected, got = (f"{d} values of {n} dimensions, quality {', '.join(q) or 'none'}" for d, n, q in layouts)
        todo = "Extract or import all clips of a stream in the same way."
        raise InputError(place, expected=expected, got=got, todo=todo)


def _corpus(
    clips: Sequence[CachedClip], streams: Sequence[Stream], on_grid: OnGrid, truths: Mapping[str, Truth]
) -> Corpus:
    offsets = np.concatenate([[0], np.cumsum([grid.num_steps for grid in on_grid.grids])])
    va, va_mask = np.zeros((offsets[-1], 2), np.float32), np.zeros(offsets[-1], bool)
    in_order = [truths.get(clip.clip.clip_id) for clip in clips]
    for truth, grid, first, end in zip(in_order, on_grid.grids, offsets[:-1], offsets[1:], strict=True):
        if truth is not None and truth.mask.any():
            labels, va_mask[first:end] = to_grid(truth.times_s, truth.va, truth.mask, grid)
            va[first:end] = np.nan_to_num(labels, copy=False)
    values, quality = (
        [_tensor(on_grid.arrays[f"{what}-{m}"]) for m in range(len(streams))] for what in ("values", "quality")
    )
    return Corpus(
        clips=[clip.clip for clip in clips],
        streams=list(streams),
        grids=on_grid.grids,
        offsets=offsets,
        values=values,
        quality=quality,
        mask=_tensor(on_grid.arrays["mask"]),
        va=_tensor(va),
        va_mask=_tensor(va_mask),
        truths=in_order,
    )


def _tensor(array: NDArray[Any]) -> Tensor:
    """Returns the same memory as a tensor."""
    if array.dtype.name == "bfloat16":  # torch does not know numpy's
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
