"""What `sage-va cache info` and `ls` tell: first as plain values, then as text."""

from __future__ import annotations

from typing import Any

from .base import Store
from .entry import expected_bytes


def info(store: Store) -> dict[str, Any]:
    """Streams with their clips, frames, bytes, aliases and fingerprints; hours, terms and content hash of a cache."""
    streams = {name: _describe_stream(store, name) for name in store.streams()}
    clip_ids = store.clip_ids()
    hours = sum(store.clip(clip_id).duration_s or 0 for clip_id in clip_ids) / 3600
    found = {"url": store.url, **store.root(), "clips": len(clip_ids), "hours": hours, "streams": streams}
    return {**found, "aliases": store.aliases(), "content_sha256": store.content_sha256()}


def _describe_stream(store: Store, name: str) -> dict[str, Any]:
    records = [store.record(clip_id, name) for clip_id in store.clip_ids(name)]
    return {
        "clips": len(records),
        "frames": sum(record["shape"][0] for record in records),
        "valid": sum(record["num_valid"] for record in records),
        "dim": records[0]["shape"][1],
        "dtype": records[0]["dtype"],
        "bytes": sum(expected_bytes(record) for record in records),
        "aliases": [alias for alias, stream in store.aliases().items() if stream == name],
        "fingerprint": records[0]["fingerprint"],
    }


def list_clips(store: Store) -> dict[str, Any]:
    """Each clip with its subject, length and streams."""
    rows = []
    for clip_id in store.clip_ids():
        clip = store.clip(clip_id)
        streams = {name: store.record(clip_id, name)["shape"][0] for name in store.streams(clip_id)}
        rows.append(
            {"clip_id": clip_id, "subject_id": clip.subject_id, "duration_s": clip.duration_s, "streams": streams}
        )
    return {"url": store.url, "clips": rows}
