"""The memory-mapped cache: clips on a grid, end to end in flat files of the user's cache folder, mapped into memory.

An entry is a folder named after everything that decides its content: streams, rate of the grid, and of each clip the
records and the span of its frames. So an entry never goes stale; a changed cache gets another entry.

    building/NAME.HOST-UUID   a builder writes here, one at a time per lock
      → NAME                  one rename, after fsync: complete or absent
      → building/…/old        removed: one rename, then deletion; who has it mapped keeps it

`meta.json` has the SHA-256 of each file; an entry with another is rebuilt. When they are compared: checked_files.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import shutil
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..atomic import HOST, WEEK_S, disk_time_s, folders, json_file, locked, move_new, sync_folders, write_new
from ..errors import InputError
from ..hashing import json_sha256, sealed, unsealed
from ..store.base import Store
from ..timebase import Grid
from ..user_cache import user_cache
from .checked_files import are_whole, remember_checked
from .to_grid import OnGrid

VERSION = 3  # of the layout of files and of the rules by which tracks are put on a grid
META = "meta.json"
BUILDING = "building"
UNUSED_S = 30 * 24 * 3600
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)  # named since Python 3.12


@dataclass(frozen=True)
class MappedCorpus:
    """An entry of the memory-mapped cache.

    Args:
        path: its folder.
        num_bytes: size on disk.
        used_s: time of the last opening, seconds since 1970.
        meta: `{"store", "streams", "grid_hz", "clips", "arrays"}`, each clip `{"clip_id", "records", "first_step",
            "num_steps"}`; None where the entry is damaged, and will be rebuilt when it is needed.
    """

    path: Path
    num_bytes: int
    used_s: float
    meta: Mapping[str, Any] | None

    @property
    def store(self) -> str | None:
        """The feature cache that it was built from."""
        return self.meta["store"] if self.meta else None


def mapped_folder() -> Path:
    """Returns the folder of this user's memory-mapped cache."""
    return user_cache() / "training"


def open_mapped(
    store: Store, streams: Sequence[str], grid_hz: float, clips: Sequence[Mapping[str, Any]], parts: Iterable[OnGrid]
) -> OnGrid:
    """Maps clips into memory; writing to the arrays changes no file.

    The entry is built where it is absent or damaged. Other processes that need it wait; where a disk has no locks, they
    build it too, and the first rename decides.

    Args:
        store: the source of the clips.
        streams: full names.
        grid_hz: steps per second.
        clips: identities: of each clip `clip_id`, `records` (SHA-256 of the record of each stream) and `span_s` of its
            frame clock.
        parts: the clips, in order; consumed only where the entry is built.

    Raises:
        InputError: if the entry cannot be written. Any error of `parts`.
    """
    source = {"version": VERSION, "streams": list(streams), "grid_hz": float(grid_hz), "clips": list(clips)}
    place = mapped_folder() / json_sha256(source)
    on_grid = _open(place)
    if on_grid is None:
        with _writing():
            for part in ("locks", BUILDING):
                (place.parent / part).mkdir(parents=True, exist_ok=True)
            clear_leftovers()
        with locked(_lock(place.name), fcntl.LOCK_EX):
            on_grid = _open(place) or _build(place, {"store": address_of(store), **source}, parts)
    return on_grid


def address_of(store: Store) -> str:
    """Returns a store's url, absolute."""
    return store.url if "://" in store.url else str(Path(store.url).resolve())


def _lock(name: str) -> Path:
    """The lock of an entry; it is never removed, so entries share one of at most 256."""
    return mapped_folder() / "locks" / name[:2]


def _build(place: Path, source: Mapping[str, Any], parts: Iterable[OnGrid]) -> OnGrid:
    with _temporary(place) as temporary:
        grids, layouts, checksums = _write_arrays(temporary, parts)
        steps = [{"first_step": grid.first_step, "num_steps": grid.num_steps} for grid in grids]
        clips = [{**clip, **grid} for clip, grid in zip(source["clips"], steps, strict=True)]
        with _writing():
            write_new(
                temporary / META, json_file(sealed({**source, "clips": clips, "arrays": layouts, "sha256": checksums}))
            )
            sync_folders(temporary)
            if _open(place) is None:
                _set_aside(place)
            move_new(temporary, place)
        remember_checked(place, layouts)
    on_grid = _open(place)
    assert on_grid is not None, "an entry that was just built"
    return on_grid


def _write_arrays(folder: Path, parts: Iterable[OnGrid]) -> tuple[list[Grid], dict[str, Any], dict[str, str]]:
    """Writes clip by clip; returns the grids, and by name dtype and shape, and SHA-256 (hex) of each array."""
    grids: list[Grid] = []
    first: dict[str, NDArray[Any]] = {}
    with contextlib.ExitStack() as opened:
        files: dict[str, BinaryIO] = {}
        digests = defaultdict[str, Any](hashlib.sha256)
        for part in parts:
            with _writing():
                for name, array in part.arrays.items():
                    if name not in files:
                        files[name] = opened.enter_context((folder / name).open("wb", buffering=0))
                        first[name] = array[:0].copy()
                    assert (array.dtype, array.shape[1:]) == (first[name].dtype, first[name].shape[1:]), name
                    _append(files[name], digests[name], array)
            grids += part.grids
        with _writing():
            for file in files.values():
                os.fsync(file.fileno())
    num_steps = sum(grid.num_steps for grid in grids)
    layouts = {name: [array.dtype.name, [num_steps, *array.shape[1:]]] for name, array in first.items()}
    return grids, layouts, {name: digest.hexdigest() for name, digest in digests.items()}


def _append(file: BinaryIO, digest: Any, array: NDArray[Any]) -> None:
    rest = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    digest.update(rest)
    while len(rest):
        rest = rest[file.write(rest) :]


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Turns an error of the disk into one line."""
    try:
        yield
    except OSError as error:
        raise InputError(
            mapped_folder(),
            expected="a folder with room for the memory-mapped cache",
            got=error.strerror or repr(error),
            todo="Free some space there, or let SAGE_VA_CACHE name another folder.",
        ) from error


@contextlib.contextmanager
def _temporary(place: Path) -> Iterator[Path]:
    """A new folder beside the entries; removed in the end, unless it was renamed."""
    temporary = place.parent / BUILDING / f"{place.name}.{HOST}-{uuid.uuid4().hex}"
    with _writing():
        temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _set_aside(place: Path) -> None:
    """Removes an entry in one step; a process that has it mapped keeps it."""
    with _temporary(place) as temporary, contextlib.suppress(FileNotFoundError):
        place.rename(temporary / "old")


def clear_leftovers() -> None:
    """Removes folders of killed builders. Other hosts may not see our locks, so theirs stay a week."""
    for name in folders(mapped_folder() / BUILDING):
        place = mapped_folder() / BUILDING / name
        with locked(_lock(name), fcntl.LOCK_EX | fcntl.LOCK_NB) as alone, contextlib.suppress(FileNotFoundError):
            if alone and (f".{HOST}-" in name or disk_time_s(_lock(name)) - place.stat().st_mtime > WEEK_S):
                shutil.rmtree(place, ignore_errors=True)


def _open(place: Path) -> OnGrid | None:
    """Opens an entry and marks it as used now; None where it is absent or damaged."""
    meta = _meta(place)
    if meta is None:
        return None
    if not are_whole(place, meta["sha256"]):
        return None
    grids = [Grid(meta["grid_hz"], clip["first_step"], clip["num_steps"]) for clip in meta["clips"]]
    try:
        arrays = {name: _mapped(place / name, dtype, shape) for name, (dtype, shape) in meta["arrays"].items()}
        with contextlib.suppress(OSError):  # of another user
            os.utime(place / META)
    except FileNotFoundError:  # removed meanwhile
        return None
    return OnGrid(grids, arrays)


def _meta(place: Path) -> dict[str, Any] | None:
    """The metadata of an entry; None unless they, and the size of each file, are as written."""
    try:
        meta = unsealed(json.loads((place / META).read_bytes()))
        sound = (
            meta is not None
            and meta["version"] == VERSION
            and all(
                (place / name).stat().st_size == np.prod(shape, dtype=np.int64) * np.dtype(dtype).itemsize
                for name, (dtype, shape) in meta["arrays"].items()
            )
        )
    except (OSError, ValueError, AttributeError, KeyError):
        return None
    return meta if sound else None


def _mapped(path: Path, dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    """Maps a file as an array: pages are read when they are needed, and copied when they are written to.

    No memory is reserved for such copies, so that a file may be larger than the machine's memory.
    """
    if 0 in shape:  # nothing that could be mapped
        return np.empty(tuple(shape), dtype)
    with path.open("rb") as file:
        kinds = mmap.MAP_PRIVATE | _NO_RESERVE
        pages = mmap.mmap(file.fileno(), 0, flags=kinds, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return np.frombuffer(pages, dtype).reshape(shape)


def mapped_corpora() -> list[MappedCorpus]:
    """Returns all entries, the one used last at the end."""
    entries = (_describe(mapped_folder() / name) for name in folders(mapped_folder()) if len(name) == 64)
    return sorted((entry for entry in entries if entry), key=lambda entry: entry.used_s)


def _describe(place: Path) -> MappedCorpus | None:
    try:
        files = {file.name: file.stat() for file in os.scandir(place)}
        used_s = (files.get(META) or place.stat()).st_mtime
    except FileNotFoundError:  # removed meanwhile
        return None
    return MappedCorpus(place, sum(file.st_size for file in files.values()), used_s, _meta(place))


def stale_mapped(store: Store | None, max_age_s: float = UNUSED_S) -> list[MappedCorpus]:
    """Returns entries unopened for `max_age_s`, damaged, or built from records that `store` no longer has."""
    old_s = time.time() - max_age_s
    return [
        entry
        for entry in mapped_corpora()
        if entry.used_s < old_s or entry.meta is None or (store and _outdated(entry, store))
    ]


def _outdated(entry: MappedCorpus, store: Store) -> bool:
    assert entry.meta is not None
    if entry.store != address_of(store):
        return False
    return any(
        _record_sha256(store, clip["clip_id"], stream) != known
        for clip in entry.meta["clips"]
        for stream, known in zip(entry.meta["streams"], clip["records"], strict=True)
    )


def _record_sha256(store: Store, clip_id: str, stream: str) -> str | None:
    try:
        return json_sha256(store.record(clip_id, stream))
    except InputError:  # gone, or damaged
        return None


def remove(chosen: Iterable[MappedCorpus]) -> list[MappedCorpus]:
    """Removes entries, except those being rebuilt at this moment, and folders of killed builders.

    Returns:
        The removed entries.
    """
    removed = []
    for entry in chosen:
        with locked(_lock(entry.path.name), fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
            if alone:
                _set_aside(entry.path)
                removed.append(entry)
    clear_leftovers()
    return removed
