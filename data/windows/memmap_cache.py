"""The training form: clips on a grid, end to end in flat files of the user's cache folder, mapped into memory."""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..atomic import HOST, WEEK_S, folders, json_file, locked, move_new, sync_folders, write_new
from ..errors import InputError
from ..hashing import json_sha256, sealed, unsealed
from ..store.base import Store
from ..timebase import Grid
from ..user_cache import user_cache
from .to_grid import Laid

VERSION = 2  # of the files' layout, and of how tracks are put on a grid
META = "meta.json"
BUILDING = "building"
UNUSED_S = 30 * 24 * 3600
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)  # named since Python 3.12


@dataclass(frozen=True)
class Form:
    """A training form on disk.

    Args:
        path: its folder.
        num_bytes: what it takes there.
        used_s: when it was last opened, seconds since 1970.
        meta: `{"store", "streams", "grid_hz", "clips", "arrays"}`, each clip `{"clip_id", "records", "first_step",
            "num_steps"}`; None where the form is damaged, and will be made again by whoever needs it.
    """

    path: Path
    num_bytes: int
    used_s: float
    meta: Mapping[str, Any] | None

    @property
    def store(self) -> str | None:
        """The cache that it was made from."""
        return self.meta["store"] if self.meta else None


def training_folder() -> Path:
    """Where this user's forms lie."""
    return user_cache() / "training"


def open_form(
    store: Store, streams: Sequence[str], grid_hz: float, clips: Sequence[Mapping[str, Any]], parts: Iterable[Laid]
) -> Laid:
    """The training form of these clips, its arrays mapped into memory; writing to them changes no file.

    It is made where there is none, or a damaged one. Whoever else needs it meanwhile waits for it; where a disk has
    no locks, they make it too, and the first rename decides.

    Args:
        store: where the clips come from.
        streams: full names.
        grid_hz: steps per second.
        clips: all that decides the form: of each clip `clip_id`, `records` (SHA-256 of the record of each stream) and
            `span_s` of its frame clock.
        parts: the clips themselves, in order; used only where the form is made.

    Raises:
        InputError: if the form cannot be written. Whatever `parts` raises.
    """
    source = {"version": VERSION, "streams": list(streams), "grid_hz": float(grid_hz), "clips": list(clips)}
    place = training_folder() / json_sha256(source)
    laid = _open(place)
    if laid is None:
        with _writing():
            for part in ("locks", BUILDING):
                (place.parent / part).mkdir(parents=True, exist_ok=True)
            clear_leftovers()
        with locked(_lock(place.name), fcntl.LOCK_EX):
            laid = _open(place) or _make(place, {"store": address_of(store), **source}, parts)
    return laid


def address_of(store: Store) -> str:
    """A store's url, absolute."""
    return store.url if "://" in store.url else str(Path(store.url).resolve())


def _lock(name: str) -> Path:
    """The lock of a form; it is never removed, so several forms share one and there are never more than 256."""
    return training_folder() / "locks" / name[:2]


def _make(place: Path, source: Mapping[str, Any], parts: Iterable[Laid]) -> Laid:
    with _temporary(place) as temporary:
        grids, forms = _write_arrays(temporary, parts)
        steps = [{"first_step": grid.first_step, "num_steps": grid.num_steps} for grid in grids]
        clips = [{**clip, **grid} for clip, grid in zip(source["clips"], steps, strict=True)]
        with _writing():
            write_new(temporary / META, json_file(sealed({**source, "clips": clips, "arrays": forms})))
            sync_folders(temporary)
            if _open(place) is None:
                _set_aside(place)
            move_new(temporary, place)
    laid = _open(place)
    assert laid is not None, "a form that was just made"
    return laid


def _write_arrays(folder: Path, parts: Iterable[Laid]) -> tuple[list[Grid], dict[str, Any]]:
    """Writes clip by clip; returns the grids, and dtype and shape of each array by name."""
    grids: list[Grid] = []
    first: dict[str, NDArray[Any]] = {}
    with contextlib.ExitStack() as opened:
        files: dict[str, BinaryIO] = {}
        for part in parts:
            with _writing():
                for name, array in part.arrays.items():
                    if name not in files:
                        files[name] = opened.enter_context((folder / name).open("wb", buffering=0))
                        first[name] = array[:0].copy()
                    assert (array.dtype, array.shape[1:]) == (first[name].dtype, first[name].shape[1:]), name
                    _append(files[name], array)
            grids += part.grids
        with _writing():
            for file in files.values():
                os.fsync(file.fileno())
    num_steps = sum(grid.num_steps for grid in grids)
    return grids, {name: [array.dtype.name, [num_steps, *array.shape[1:]]] for name, array in first.items()}


def _append(file: BinaryIO, array: NDArray[Any]) -> None:
    rest = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    while len(rest):
        rest = rest[file.write(rest) :]


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Says in our own words that the disk refused."""
    try:
        yield
    except OSError as error:
        raise InputError(
            training_folder(),
            expected="a folder with room for the training form",
            got=error.strerror or repr(error),
            todo="Free some space there, or let SAGE_VA_CACHE name another folder.",
        ) from error


@contextlib.contextmanager
def _temporary(place: Path) -> Iterator[Path]:
    """A new folder beside the forms; gone in the end, unless it was renamed."""
    temporary = place.parent / BUILDING / f"{place.name}.{HOST}-{uuid.uuid4().hex}"
    with _writing():
        temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _set_aside(place: Path) -> None:
    """Removes a form in one step; who has it open keeps it."""
    with _temporary(place) as temporary, contextlib.suppress(FileNotFoundError):
        place.rename(temporary / "old")


def clear_leftovers() -> None:
    """Removes what killed builders left. Other hosts may not see our locks, so theirs stay a week."""
    for name in folders(training_folder() / BUILDING):
        place = training_folder() / BUILDING / name
        with locked(_lock(name), fcntl.LOCK_EX | fcntl.LOCK_NB) as alone, contextlib.suppress(FileNotFoundError):
            if alone and (f".{HOST}-" in name or time.time() - place.stat().st_mtime > WEEK_S):
                shutil.rmtree(place, ignore_errors=True)


def _open(place: Path) -> Laid | None:
    """A form as it lies there, marked as used now; None where there is none, or a damaged one."""
    meta = _meta(place)
    if meta is None:
        return None
    grids = [Grid(meta["grid_hz"], clip["first_step"], clip["num_steps"]) for clip in meta["clips"]]
    try:
        arrays = {name: _mapped(place / name, dtype, shape) for name, (dtype, shape) in meta["arrays"].items()}
        with contextlib.suppress(OSError):  # somebody else's form
            os.utime(place / META)
    except FileNotFoundError:  # removed meanwhile
        return None
    return Laid(grids, arrays)


def _meta(place: Path) -> dict[str, Any] | None:
    """What a form says of itself; None unless that, and the size of each file, is what was written."""
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
    """An array whose bytes are a file's, read as they are needed; a copy is made of pages that are written to.

    No memory is set aside for such copies, so that a file may be larger than the machine's memory.
    """
    if 0 in shape:  # nothing that could be mapped
        return np.empty(tuple(shape), dtype)
    with path.open("rb") as file:
        kinds = mmap.MAP_PRIVATE | _NO_RESERVE
        pages = mmap.mmap(file.fileno(), 0, flags=kinds, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return np.frombuffer(pages, dtype).reshape(shape)


def forms() -> list[Form]:
    """All training forms, the one used last at the end."""
    found = (_describe(training_folder() / name) for name in folders(training_folder()) if len(name) == 64)
    return sorted((form for form in found if form), key=lambda form: form.used_s)


def _describe(place: Path) -> Form | None:
    try:
        files = {file.name: file.stat() for file in os.scandir(place)}
        used_s = (files.get(META) or place.stat()).st_mtime
    except FileNotFoundError:  # removed meanwhile
        return None
    return Form(place, sum(file.st_size for file in files.values()), used_s, _meta(place))


def stale_forms(store: Store | None, max_age_s: float = UNUSED_S) -> list[Form]:
    """Forms that nobody opened for `max_age_s`, that are damaged, or that came from `store` as it no longer is."""
    old_s = time.time() - max_age_s
    return [form for form in forms() if form.used_s < old_s or form.meta is None or (store and _outdated(form, store))]


def _outdated(form: Form, store: Store) -> bool:
    assert form.meta is not None
    if form.store != address_of(store):
        return False
    return any(
        _record_sha256(store, clip["clip_id"], stream) != known
        for clip in form.meta["clips"]
        for stream, known in zip(form.meta["streams"], clip["records"], strict=True)
    )


def _record_sha256(store: Store, clip_id: str, stream: str) -> str | None:
    try:
        return json_sha256(store.record(clip_id, stream))
    except InputError:  # gone, or damaged
        return None


def remove(chosen: Iterable[Form]) -> list[Form]:
    """Removes forms, except those that somebody makes again just now, and what killed builders left.

    Returns:
        The forms that are gone.
    """
    gone = []
    for form in chosen:
        with locked(_lock(form.path.name), fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
            if alone:
                _set_aside(form.path)
                gone.append(form)
    clear_leftovers()
    return gone
