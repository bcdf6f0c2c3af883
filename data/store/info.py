"""Contents of a cache, as `sage-va cache info` and `ls` print them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .base import Store
from .entry import expected_bytes


@dataclass(frozen=True)
class StreamInfo:
    """One stream of a cache.

    Args:
        clips, frames, valid: numbers of clips, of their frames, and of those that have a value.
        dim: width of the features, in the first clip.
        dtype: as stored.
        bytes: of all arrays.
        aliases: that point to it.
        fingerprint: all that decides its values.
    """

    clips: int
    frames: int
    valid: int
    dim: int
    dtype: str
    bytes: int
    aliases: list[str]
    fingerprint: Mapping[str, Any]


@dataclass(frozen=True)
class CacheInfo:
    """A cache: its terms, size, streams by full name, and the hash of its content; see `Store.content_sha256`."""

    url: str
    schema_version: int
    created_by: str
    licence: str | None
    restricted: bool
    clips: int
    hours: float
    streams: Mapping[str, StreamInfo]
    aliases: Mapping[str, str]
    content_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Returns all fields as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class ClipRow:
    """One clip: its subject and length where they are known, and the frames of each stream."""

    clip_id: str
    subject_id: str | None
    duration_s: float | None
    streams: Mapping[str, int]


@dataclass(frozen=True)
class ClipList:
    """All clips of a cache, sorted."""

    url: str
    clips: list[ClipRow]

    def to_json(self) -> dict[str, Any]:
        """Returns all fields as plain values."""
        return asdict(self)


def info(store: Store) -> CacheInfo:
    """Summarises a cache from its records.

    Raises:
        DamagedError: if a record is not what was written.
    """
    clip_ids = store.clip_ids()
    root = store.root()
    return CacheInfo(
        url=store.url,
        **{name: root[name] for name in ("schema_version", "created_by", "licence", "restricted")},
        clips=len(clip_ids),
        hours=sum(store.clip(clip_id).duration_s or 0 for clip_id in clip_ids) / 3600,
        streams={name: _stream_info(store, name) for name in store.streams()},
        aliases=store.aliases(),
        content_sha256=store.content_sha256(),
    )


def _stream_info(store: Store, name: str) -> StreamInfo:
    records = [store.record(clip_id, name) for clip_id in store.clip_ids(name)]
    return StreamInfo(
        clips=len(records),
        frames=sum(record["shape"][0] for record in records),
        valid=sum(record["num_valid"] for record in records),
        dim=records[0]["shape"][1],
        dtype=records[0]["dtype"],
        bytes=sum(expected_bytes(record) for record in records),
        aliases=[alias for alias, stream in store.aliases().items() if stream == name],
        fingerprint=records[0]["fingerprint"],
    )


def list_clips(store: Store) -> ClipList:
    """Lists each clip with its streams.

    Raises:
        DamagedError: if a record is not what was written.
    """
    rows = []
    for clip_id in store.clip_ids():
        clip = store.clip(clip_id)
        streams = {name: store.record(clip_id, name)["shape"][0] for name in store.streams(clip_id)}
        rows.append(ClipRow(clip_id, clip.subject_id, clip.duration_s, streams))
    return ClipList(store.url, rows)
