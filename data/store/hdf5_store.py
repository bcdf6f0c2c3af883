"""The cache as HDF5: while extracting, a folder with one file per clip and stream; for sharing, one single file."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import h5py

from ..atomic import json_file, replacing
from ..errors import DamagedError, InputError, first_line
from ..hashing import unsealed
from .base import Mode, Store, is_outage
from .entry import Entry
from .fingerprint import clip_key, is_modality
from .folder_store import Files, FolderStore, restore_root
from .hdf5_layout import (
    LIBVER,
    SEAL_BYTES,
    PatientFile,
    entry_of,
    group_at,
    inside,
    is_sealed,
    json_of,
    put_entry,
    put_json,
    put_seal,
    sealed_bytes,
)
from .root import check_terms

INDEX = "index.h5"


class Hdf5Folder(FolderStore):
    """A folder with one HDF5 file per entry. No handle stays open, so that none can cross a fork.

    `index.h5` shows all entries as one tree of external links. It is for people with h5py alone; nothing here reads it.
    """

    ROOT = "cache.json"
    SUFFIX = ".h5"
    EXTRA = frozenset({INDEX})

    def finish(self) -> None:
        """Brings the index up to date."""
        self._put_index()

    def sweep(self) -> list[str]:
        done = super().sweep()
        return [*done, f"made {INDEX} anew"] if self._put_index() else done

    def _put_index(self) -> bool:
        """Writes the index; returns True where it had changed."""
        content = sealed_bytes("index", self._link_all)
        with contextlib.suppress(FileNotFoundError):
            if (self.path / INDEX).read_bytes() == content:
                return False
        self._put_file(self.path / INDEX, content)
        return True

    def _link_all(self, index: h5py.File) -> None:
        for stream in self._streams():
            group = group_at(index, stream)
            for key in self._keys(stream):
                group[key] = h5py.ExternalLink(f"{stream}/{key}{self.SUFFIX}", "/")

    def _layout_problems(self) -> Iterator[str]:
        yield from super()._layout_problems()
        if (self.path / INDEX).exists() and not is_sealed(self.path / INDEX, "index"):
            yield f"{INDEX} is not what was written"

    def _root_file(self, attrs: Mapping[str, Any]) -> bytes:
        return json_file(attrs)

    def _root_attrs(self, content: bytes) -> dict[str, Any]:
        attrs = json.loads(content)
        if not isinstance(attrs, dict):
            raise ValueError("not a JSON object")
        return attrs

    def _group_files(self) -> Files:
        return {}

    def _keys(self, stream: str) -> list[str]:
        return [key for key in self._places(stream) if os.path.isfile(self._place(stream, key))]

    def _exists(self, stream: str, key: str) -> bool:
        return self._place(stream, key).is_file()

    def _encode(self, entry: Entry) -> Files:
        return {"": sealed_bytes("entry", lambda file: put_entry(file, entry))}

    def _read_record(self, place: Path) -> dict[str, Any]:
        try:
            with _opened(place) as file:
                return json_of(file, "record")
        except RuntimeError as error:  # one of the ways in which HDF5 finds damage
            raise ValueError(str(error)) from error

    def _read_entry(self, place: Path, record: dict[str, Any]) -> Entry:
        with _opened(place) as file:
            return entry_of(file, record)

    def _place_problem(self, place: Path) -> str | None:
        return None if is_sealed(place, "entry") else "expected the file that was written, got another"


class Hdf5File(Store):
    """One HDF5 file with a whole cache, to read; `write_single` makes it."""

    def __init__(self, path: Path, mode: Mode, licence: str | None, restricted: bool | None) -> None:
        self.path, self.url, self.mode = path, str(path), mode
        self._files: dict[int, h5py.File] = {}
        self._locks: dict[int, threading.Lock] = {}
        if mode == "a":
            self._refuse()
        check_terms(self.url, self.root(), licence, restricted)

    def __reduce__(self) -> tuple[object, ...]:
        return Hdf5File, (self.path, self.mode, None, None)

    def _refuse(self) -> NoReturn:
        todo = "Copy it to a folder with `sage-va cache copy`, and add to that."
        got = "a single HDF5 file, which is for sharing"
        raise InputError(self.url, expected="a cache that can be added to", got=got, todo=todo)

    def _file(self) -> h5py.File:
        """The open file: one handle for each process, as none may cross a fork."""
        pid = os.getpid()
        with self._locks.setdefault(pid, threading.Lock()):
            if pid not in self._files:
                self._files.clear()
                self._files[pid] = self._open()
            return self._files[pid]

    def _open(self) -> h5py.File:
        try:
            return _opened(self.path)
        except (OSError, RuntimeError, ValueError) as error:
            if is_outage(error) or isinstance(error, FileNotFoundError):
                raise
            with self.path.open("rb") as file:
                if file.read(8) == b"sage-va ":
                    raise self._damaged(error) from error
            got = "a file that is not HDF5"
            raise InputError(self.url, expected="a feature cache", got=got, todo="Check the path.") from error

    def _damaged(self, error: Exception) -> DamagedError:
        got = first_line(error)
        todo = "Take it again from where it came from."
        return DamagedError(self.url, expected="the HDF5 file that was written", got=got, todo=todo)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        """The open file; what goes wrong in it means damage."""
        file = self._file()
        try:
            yield file
        except Exception as error:  # reading may fail in any way on damaged bytes
            if is_outage(error):
                raise
            raise self._damaged(error) from error

    def _load_root(self) -> dict[str, Any]:
        with self._reading() as file:
            return json_of(file, "cache") if "cache" in file.attrs else {}

    def _load_aliases(self) -> dict[str, str]:
        with self._reading() as file:
            aliases = unsealed(json_of(file, "aliases"))
            if aliases is None:
                raise ValueError("aliases that were changed")
            return aliases

    def _streams(self) -> list[str]:
        with self._reading() as file:
            kinds = [kind for kind in sorted(file) if is_modality(kind)]
            streams = [f"{kind}/{name}" for kind in kinds for name in sorted(inside(file, kind))]
            return [stream for stream in streams if inside(file, stream)]

    def _keys(self, stream: str) -> list[str]:
        with self._reading() as file:
            return sorted(file[stream]) if stream in file else []

    def _exists(self, stream: str, key: str) -> bool:
        with self._reading() as file:
            return f"{stream}/{key}" in file

    def _load_record(self, stream: str, key: str) -> dict[str, Any]:
        if not self._exists(stream, key):
            return {}
        try:
            with self._reading() as file:
                return json_of(inside(file, f"{stream}/{key}"), "record")
        except DamagedError as error:
            return {"unreadable": error.got}

    def _load_entry(self, stream: str, key: str, record: dict[str, Any]) -> Entry:
        return entry_of(inside(self._file(), f"{stream}/{key}"), record)

    def _layout_problems(self) -> Iterator[str]:
        if not is_sealed(self.path, "cache"):
            yield "the file is not what was written"

    def _entry_layout_problem(self, stream: str, key: str) -> str | None:
        return None  # the seal of the file covers all entries

    def _save_alias(self, alias: str, stream: str) -> None:
        self._refuse()

    def _save_entry(self, key: str, entry: Entry, overwrite: bool) -> None:
        self._refuse()

    def _discard(self, stream: str, key: str) -> None:
        self._refuse()

    def _log(self, *events: Mapping[str, Any]) -> None:
        self._refuse()


def write_single(
    path: Path, root: Mapping[str, Any], aliases: Mapping[str, str], entries: Iterable[Entry]
) -> Iterator[Entry]:
    """Writes a whole cache as one file, and yields each entry as it is written.

    The file is there, in place of an older one, when the last entry has been taken; whatever happens before leaves
    `path` as it was.

    Args:
        root: as `Store.root` returns it.
        aliases: full stream name by alias.
        entries: each at most once.

    Raises:
        InputError: if `path` is a folder, or another writer makes the same file.
    """
    if path.is_dir():
        raise InputError(path, expected="a place for one file", got="a folder", todo="Choose another path.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, wait=False) as temporary:
        with PatientFile(temporary, "w+") as disk:
            with h5py.File(disk, "w", libver=LIBVER, userblock_size=SEAL_BYTES) as file:
                for entry in entries:
                    put_entry(group_at(file, f"{entry.stream}/{clip_key(entry.clip_id)}"), entry)
                    disk.check()
                    yield entry
                put_json(file, "cache", root)
                put_json(file, "aliases", aliases)
            disk.check()
        put_seal(temporary, "cache")


def _opened(path: Path) -> h5py.File:
    """A file to read; without HDF5's locks, as our files never change in place."""
    return h5py.File(path, "r", locking=False)


def open_cache(url: str, mode: Mode, licence: str | None, restricted: bool | None) -> Store:
    """Opens a single file to read, or a folder of HDF5 files."""
    kind = Hdf5File if Path(url).is_file() else Hdf5Folder
    return kind(Path(url), mode, licence, restricted)


def restore(path: Path) -> str | None:
    """Writes a folder's damaged or lost root again; returns what was done."""
    return restore_root(Hdf5Folder, path)
