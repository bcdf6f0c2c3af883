"""Contents of a cache, as `sage-va cache info` and `ls` print them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .base import Problem, Store
from .entry import clip_of, expected_bytes


@dataclass(frozen=True)
class StreamInfo:
    """One stream of a cache.

    Args:
        clips, frames, valid: numbers of clips, of their frames, and of those that have a value.
        dim: width of the features, in the first clip; None where all records are damaged.
        dtype: as stored; None likewise.
        bytes: of all arrays.
        aliases: that point to it.
        fingerprint: all that decides its values.
    """

    clips: int
    frames: int
    valid: int
    dim: int | None
    dtype: str | None
    bytes: int
    aliases: list[str]
    fingerprint: Mapping[str, Any]


@dataclass(frozen=True)
class CacheInfo:
    """A cache: its terms, size, streams by full name, damage, and the hash of its content (`Store.content_sha256`).

    Entries with a damaged record are listed and counted nowhere else; the hash is then None.
    """

    url: str
    schema_version: int
    created_by: str
    licence: str | None
    restricted: bool
    clips: int
    hours: float
    streams: Mapping[str, StreamInfo]
    aliases: Mapping[str, str]
    content_sha256: str | None
    damaged: list[Problem]

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
    """All clips of a cache, sorted, and the entries whose record is damaged, which are in no row."""

    url: str
    clips: list[ClipRow]
    damaged: list[Problem]

    def to_json(self) -> dict[str, Any]:
        """Returns all fields as plain values."""
        return asdict(self)


def info(store: Store) -> CacheInfo:
    """Summarises a cache from its records; damaged ones are listed."""
    root, clips = store.root(), _read(store)
    damaged = [problem for _, problems in clips.values() for problem in problems]
    sound = [records for records, _ in clips.values() if records]
    return CacheInfo(
        url=store.url,
        **{name: root[name] for name in ("schema_version", "created_by", "licence", "restricted")},
        clips=len(clips),
        hours=sum(clip_of(list(records.values())).duration_s or 0 for records in sound) / 3600,
        streams={name: _stream_info(store, name, sound) for name in store.streams()},
        aliases=store.aliases(),
        content_sha256=None if damaged else store.content_sha256(),
        damaged=damaged,
    )


def _read(store: Store) -> dict[str, tuple[dict[str, dict[str, Any]], list[Problem]]]:
    return {clip_id: store.sound_records(clip_id) for clip_id in store.clip_ids()}


def _stream_info(store: Store, name: str, clips: list[dict[str, dict[str, Any]]]) -> StreamInfo:
    records = [records[name] for records in clips if name in records]
    first = records[0] if records else None
    return StreamInfo(
        clips=len(records),
        frames=sum(record["shape"][0] for record in records),
        valid=sum(record["num_valid"] for record in records),
        dim=first["shape"][1] if first else None,
        dtype=first["dtype"] if first else None,
        bytes=sum(expected_bytes(record) for record in records),
        aliases=[alias for alias, stream in store.aliases().items() if stream == name],
        fingerprint=first["fingerprint"] if first else {},
    )


def list_clips(store: Store) -> ClipList:
    """Lists each clip with its streams; entries with a damaged record are listed apart."""
    rows, damaged = list[ClipRow](), list[Problem]()
    for clip_id, (records, problems) in _read(store).items():
        damaged += problems
        if records:
            clip, streams = (
                clip_of(list(records.values())),
                {name: record["shape"][0] for name, record in records.items()},
            )
            rows.append(ClipRow(clip_id, clip.subject_id, clip.duration_s, streams))
    return ClipList(store.url, rows, damaged)
