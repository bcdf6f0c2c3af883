"""The cache as a Zarr v3 folder: `clips/<clip_key>/<modality>/<stream>/{values,times_s,mask,quality}`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr

from .errors import InputError
from .fingerprint import ARRAYS, SCHEMA_VERSION
from .store import Arrays, Mode, Store

CHUNK_FRAMES = 512
STAGING = ".staging"
JOURNAL = "journal.jsonl"


class ZarrStore(Store):
    """A local Zarr v3 folder. A stream is written under `.staging/`, synced to disk, and renamed into place."""

    def __init__(self, path: Path, mode: Mode = "r", licence: str | None = None) -> None:
        self.path, self.url = path, str(path)
        if not (path / "zarr.json").exists():
            if mode == "r":
                todo = "Check the path, or make it with `sage-va extract --out`."
                raise InputError(path, expected="a feature cache", got="no such folder or not one", todo=todo)
            self._create(licence)
        found = self.root().get("schema_version")
        if found != SCHEMA_VERSION:
            todo = "Use the version of sage-va that wrote it, or extract again."
            raise InputError(path, expected=f"cache schema {SCHEMA_VERSION}", got=f"schema {found}", todo=todo)

    def _create(self, licence: str | None) -> None:
        if self.path.exists() and any(entry.name != "zarr.json" for entry in self.path.iterdir()):
            raise InputError(
                self.path,
                expected="a cache or an empty place",
                got="a folder of other files",
                todo="Choose another path.",
            )
        attrs = {"schema_version": SCHEMA_VERSION, "created_by": f"sage-va {version('sage-va')}", "licence": licence}
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "clips").mkdir(exist_ok=True)
        _write_group(self.path / "clips", {})
        _write_group(self.path, attrs)

    def root(self) -> dict[str, Any]:
        return _attrs(self.path)

    def _keys(self) -> list[str]:
        return _folders(self.path / "clips")

    def _names(self, key: str) -> list[str]:
        clip = self.path / "clips" / key
        return [f"{modality}/{name}" for modality in _folders(clip) for name in _folders(clip / modality)]

    def _load_clip(self, key: str) -> dict[str, Any]:
        return _attrs(self.path / "clips" / key)

    def _save_clip(self, key: str, attrs: Mapping[str, Any]) -> None:
        place = self.path / "clips" / key
        if not place.exists():
            place.mkdir(exist_ok=True)
            _sync(place.parent)
        _write_group(place, attrs)

    def _load_record(self, key: str, stream: str) -> dict[str, Any]:
        return _attrs(self.path / "clips" / key / stream)

    def _load_arrays(self, key: str, stream: str) -> Arrays:
        group = zarr.open_group(self.path / "clips" / key / stream, mode="r")
        return {name: np.asarray(cast(zarr.Array[Any], group[name])[...]) for name in ARRAYS}

    def _save_stream(self, key: str, stream: str, arrays: Arrays, record: Mapping[str, Any], overwrite: bool) -> None:
        place = self.path / "clips" / key / stream
        staged = self.path / STAGING / uuid.uuid4().hex
        staged.mkdir(parents=True)
        try:
            for name, array in arrays.items():
                _write_array(staged / name, array)
            _write_group(staged, record)
            _sync_tree(staged)
            self._publish(staged, place, overwrite)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
            _remove_if_empty(self.path / STAGING)

    def _publish(self, staged: Path, place: Path, overwrite: bool) -> None:
        if not place.parent.exists():
            place.parent.mkdir(exist_ok=True)
            _write_group(place.parent, {})
            _sync(place.parent.parent)
        if overwrite and place.exists():
            retired = staged.with_name(f"{staged.name}-retired")
            place.rename(retired)
            shutil.rmtree(retired)
        try:
            staged.rename(place)
        except OSError:
            if not place.exists():
                raise
        _sync(place.parent)

    def _leftovers(self) -> list[str]:
        return [f"{STAGING}/{name}" for name in _folders(self.path / STAGING, hidden=True)]

    def _log(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **entry}, ensure_ascii=False)
        descriptor = os.open(self.path / JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)


def _write_array(place: Path, array: np.ndarray[Any, Any]) -> None:
    """One array as chunks of 512 frames, packed into one shard file; a chunk that is lost reads as NaN, never as 0."""
    frames, rest = min(len(array), CHUNK_FRAMES), tuple(max(1, size) for size in array.shape[1:])
    shards = (-(-len(array) // frames) * frames, *rest) if len(array) > frames else None
    fill = np.nan if array.dtype.kind == "f" else False
    written = zarr.create_array(
        store=place,
        shape=array.shape,
        dtype=array.dtype,
        chunks=(frames, *rest),
        shards=shards,
        compressors=None,
        filters=None,
        fill_value=fill,
        config={"write_empty_chunks": True},
    )
    if array.size:
        written[...] = array


def _write_group(place: Path, attrs: Mapping[str, Any]) -> None:
    """A group's `zarr.json`, replaced atomically and synced."""
    temporary = place / f".zarr.json.{uuid.uuid4().hex}"
    body = {"attributes": dict(attrs), "zarr_format": 3, "node_type": "group"}
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(body, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(place / "zarr.json")
    _sync(place)


def _attrs(place: Path) -> dict[str, Any]:
    """A group's attributes; {} where there is no group, or one whose text is damaged."""
    try:
        found = json.loads((place / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _folders(place: Path, *, hidden: bool = False) -> list[str]:
    if not place.is_dir():
        return []
    with os.scandir(place) as entries:
        return sorted(e.name for e in entries if e.is_dir() and (hidden or not e.name.startswith(".")))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            with open(os.path.join(parent, name), "rb") as file:
                os.fsync(file.fileno())
        _sync(Path(parent))


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
