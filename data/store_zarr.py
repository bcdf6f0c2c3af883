"""The cache as a Zarr v3 folder: `clips/<clip_key>/<modality>/<stream>/{values,times_s,mask,quality}`."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr

from .errors import DamagedError, InputError
from .fingerprint import ARRAYS, SCHEMA_VERSION, sealed, unsealed
from .store import Arrays, Mode, Store

CHUNK_FRAMES = 512
STAGING = ".staging"
JOURNAL = "journal.jsonl"
HOST = re.sub(r"\W", "_", platform.node())


class ZarrStore(Store):
    """A local Zarr v3 folder.

    Every folder of it is written under `.staging/`, synced to disk, and renamed into its place, so that each is there
    whole or not at all.
    """

    def __init__(self, path: Path, mode: Mode = "r", licence: str | None = None) -> None:
        self.path, self.url, self.mode = path, str(path), mode
        if not (path / "zarr.json").exists():
            if mode == "r":
                todo = "Check the path, or make it with `sage-va extract --out`."
                raise InputError(path, expected="a feature cache", got="no such folder or not one", todo=todo)
            self._create(licence)
        self._check(licence)
        if mode == "a":
            self._tidy()

    def _create(self, licence: str | None) -> None:
        empty = not self.path.exists() or self.path.is_dir()
        if not empty or (self.path.exists() and set(os.listdir(self.path)) - {"clips", STAGING, "zarr.json"}):
            raise InputError(
                self.path,
                expected="a cache or an empty place",
                got="a folder of other files" if empty else "a file",
                todo="Choose another path.",
            )
        attrs = {"schema_version": SCHEMA_VERSION, "created_by": f"sage-va {version('sage-va')}", "licence": licence}
        self.path.mkdir(parents=True, exist_ok=True)
        _sync(self.path.parent)
        self._put_group(self.path / "clips", {})
        self._put_group(self.path, sealed(attrs))

    def _check(self, licence: str | None) -> None:
        attrs = _attrs(self.path)
        if not attrs.keys() & {"attrs_sha256", "schema_version", "unreadable"}:
            todo = "Check the path."
            raise InputError(self.path, expected="a feature cache", got="a Zarr folder of another kind", todo=todo)
        root = unsealed(attrs)
        if root is None:
            todo = "Take zarr.json from a copy of the cache; the clips in it are not concerned."
            raise DamagedError(self.path, expected="the attributes that were written", got="others", todo=todo)
        if root["schema_version"] != SCHEMA_VERSION:
            todo = "Use the version of sage-va that wrote it, or extract again."
            got = f"schema {root['schema_version']}"
            raise InputError(self.path, expected=f"cache schema {SCHEMA_VERSION}", got=got, todo=todo)
        if licence is not None and licence != root["licence"]:
            todo = "Leave the licence out, or choose another cache."
            expected = f"the licence that the cache was made with, {root['licence']!r}"
            raise InputError(self.path, expected=expected, got=repr(licence), todo=todo)

    def root(self) -> dict[str, Any]:
        return unsealed(_attrs(self.path)) or {}

    def _keys(self) -> list[str]:
        return _folders(self.path / "clips")

    def _names(self, key: str) -> list[str]:
        clip = self.path / "clips" / key
        return [f"{modality}/{name}" for modality in _folders(clip) for name in _folders(clip / modality)]

    def _load_clip(self, key: str) -> dict[str, Any]:
        return _attrs(self.path / "clips" / key)

    def _save_clip(self, key: str, attrs: Mapping[str, Any]) -> None:
        self._put_group(self.path / "clips" / key, attrs)

    def _load_record(self, key: str, stream: str) -> dict[str, Any]:
        return _attrs(self.path / "clips" / key / stream)

    def _load_arrays(self, key: str, stream: str) -> Arrays:
        group = zarr.open_group(self.path / "clips" / key / stream, mode="r")
        return {name: np.asarray(cast(zarr.Array[Any], group[name])[...]) for name in ARRAYS}

    def _save_stream(self, key: str, stream: str, arrays: Arrays, record: Mapping[str, Any], overwrite: bool) -> None:
        place = self.path / "clips" / key / stream
        if not _is_plain_group(place.parent):
            self._put_group(place.parent, {})
        with self._temporary() as temporary:
            staged = temporary / "new"
            for name, array in arrays.items():
                _write_array(staged / name, array)
            _write_group(staged, record)
            _sync_tree(staged)
            if place.exists() and (overwrite or unsealed(_attrs(place)) is None):
                old = temporary / "old" / place.relative_to(self.path)
                old.parent.mkdir(parents=True)
                with contextlib.suppress(FileNotFoundError):
                    place.rename(old)
            _move(staged, place)

    def _put_group(self, place: Path, attrs: Mapping[str, Any]) -> None:
        """Makes a group, or replaces its attributes, in one step."""
        with self._temporary() as temporary:
            staged = temporary / "new"
            _write_group(staged, attrs)
            if place.is_dir():
                (staged / "zarr.json").rename(place / "zarr.json")
                _sync(place)
            else:
                _sync(staged)
                _move(staged, place)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A folder to write in, on the cache's own disk. While any writer has one, nobody tidies."""
        assert self.mode == "a", "a cache that was opened to read"
        (self.path / STAGING).mkdir(exist_ok=True)
        with _locked(self.path / STAGING / "lock", fcntl.LOCK_SH):
            temporary = self.path / STAGING / f"{HOST}-{uuid.uuid4().hex}"
            temporary.mkdir()
            try:
                yield temporary
            finally:
                self._drop(temporary)

    def _tidy(self) -> None:
        """Clears what killed writers of this host left; other hosts may not see our locks, so theirs stay."""
        if not self.leftovers():
            return
        with _locked(self.path / STAGING / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
            mine = [place for place in self.leftovers() if Path(place).name.startswith(f"{HOST}-")]
            for place in mine if alone else []:
                self._drop(self.path / place)

    def _drop(self, temporary: Path) -> None:
        """Removes a writer's folder; an entry that was moved there, and has no successor yet, goes back first."""
        for old in (temporary / "old").glob("clips/*/*/*"):
            _move(old, self.path / old.relative_to(temporary / "old"))
        shutil.rmtree(temporary, ignore_errors=True)

    def _damaged_places(self) -> list[str]:
        clips = self.path / "clips"
        groups = [clips, *(clips / key / modality for key in self._keys() for modality in _folders(clips / key))]
        return [f"{group.relative_to(self.path)}/zarr.json" for group in groups if not _is_plain_group(group)]

    def leftovers(self) -> list[str]:
        return [f"{STAGING}/{name}" for name in _folders(self.path / STAGING)]

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
    """A new group's `zarr.json`, synced."""
    place.mkdir(exist_ok=True)
    body = {"attributes": dict(attrs), "zarr_format": 3, "node_type": "group"}
    with (place / "zarr.json").open("w", encoding="utf-8") as file:
        json.dump(body, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


def _attrs(place: Path) -> dict[str, Any]:
    """A group's attributes; {} where there is no group, `{"unreadable": reason}` where its text is damaged."""
    try:
        body = json.loads((place / "zarr.json").read_text(encoding="utf-8"))
        if body["zarr_format"] == 3 and body["node_type"] == "group" and isinstance(body["attributes"], dict):
            return body["attributes"]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {"unreadable": repr(error)}
    return {"unreadable": "not a Zarr v3 group"}


def _is_plain_group(place: Path) -> bool:
    return (place / "zarr.json").exists() and not _attrs(place)


def _folders(place: Path) -> list[str]:
    if not place.is_dir():
        return []
    with os.scandir(place) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _move(source: Path, place: Path) -> None:
    """Renames a folder to where none is; if another writer was there first, all stays as it is."""
    try:
        source.rename(place)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    _sync(place.parent)


@contextlib.contextmanager
def _locked(path: Path, kind: int) -> Iterator[bool]:
    """Holds an advisory lock on a file while inside; yields False where it cannot be had."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, kind)
            got = True
        except OSError:
            got = False
        yield got
    finally:
        os.close(descriptor)


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
