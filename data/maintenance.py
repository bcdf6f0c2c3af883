"""Maintenance of a cache: verify, repair, and the removal of what is no longer used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from .errors import DamagedError
from .hashing import unsealed
from .store.base import Problem, Store, in_subset, open_store
from .store.entry import expected_bytes
from .store.fingerprint import stream_alias
from .store.record_checks import record_problem
from .windows.memmap_cache import MappedCorpus, address_of, mapped_corpora, stale_mapped
from .windows.memmap_cache import remove as remove_mapped

Tick = Callable[[str], None]


@dataclass(frozen=True)
class Verified:
    """The outcome of `verify`.

    Args:
        url: of the cache.
        streams_checked: number of entries.
        problems: all damage.
        leftovers: places that interrupted writers left; harmless.
    """

    url: str
    streams_checked: int
    problems: list[Problem]
    leftovers: list[str]

    def to_json(self) -> dict[str, Any]:
        """Returns all fields as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Repaired:
    """The outcome of `repair`.

    Args:
        url: of the cache.
        done: what else was restored or removed, a line each.
        requeued: damaged entries that were removed, so that the next extraction makes them again.
    """

    url: str
    done: list[str]
    requeued: list[Problem]

    def to_json(self) -> dict[str, Any]:
        """Returns all fields as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class StreamSize:
    """A stream, and how much of the disk it takes."""

    stream: str
    clips: int
    bytes: int


@dataclass(frozen=True)
class FolderSize:
    """A folder, and how much of the disk it takes."""

    path: str
    bytes: int


@dataclass(frozen=True)
class Garbage:
    """The outcome of `collect_garbage`.

    Args:
        url: of the cache.
        dry_run: True where nothing was removed.
        streams: replaced by a newer one under their alias.
        leftovers: places that interrupted writers left.
        forms: memory-mapped caches of an older state.
        done: what else was removed or restored, a line each.
    """

    url: str
    dry_run: bool
    streams: list[StreamSize]
    leftovers: list[str]
    forms: list[FolderSize]
    done: list[str]

    def to_json(self) -> dict[str, Any]:
        """Returns all fields as plain values."""
        return asdict(self)


def verify(store: Store, progress: Tick | None = None, *, subset: str | None = None, jobs: int = 4) -> Verified:
    """Compares every byte with its checksum.

    Args:
        store: the cache.
        progress: called with the clip_id of each entry, from this thread.
        subset: a fixed part of the entries, such as `1/7` or `5%`.
        jobs: entries checked in parallel.
    """
    problems, checked = list[Problem](), 0
    for clip_id, stream, problem in store.verify(in_subset(subset) if subset else None, jobs):
        checked += bool(stream)
        if problem is not None:
            problems.append(problem)
        if progress:
            progress(clip_id)
    return Verified(store.url, checked, problems, store.leftovers())


def repair(url: str, progress: Tick | None = None, *, jobs: int = 4) -> Repaired:
    """Restores what can be derived, and removes damaged entries, so that the next extraction makes just those.

    Args:
        url: of the cache.
        progress: called with the clip_id of each entry, from this thread.
        jobs: entries checked in parallel.

    Raises:
        InputError: if caches of this layout cannot be written, or the cache's own attributes are lost beyond repair.
    """
    done = [restored] if (restored := _restore_root(url)) else []
    open_store(url)  # a cache that is not there is refused, not made
    store = open_store(url, "a")
    done += store.sweep() + _restore_aliases(store)
    requeued, beyond = list[Problem](), list[str]()
    for clip_id, stream, problem in store.verify(jobs=jobs):
        if problem is not None and stream:
            store.discard(clip_id, stream)
            requeued.append(problem)
        elif problem is not None:
            beyond.append(problem.what)
        if progress:
            progress(clip_id)
    store.finish()
    if beyond:
        raise DamagedError(url, f"this cannot be repaired: {'; '.join(beyond)}", todo="Copy the cache anew.")
    return Repaired(url, done, requeued)


def _restore_aliases(store: Store) -> list[str]:
    """Points lost aliases to their streams, where only one stream can have been meant."""
    aliases, streams = store.aliases(), store.streams()
    lost = [s for s in streams if s not in aliases.values() and stream_alias(s) not in aliases]
    only = [s for s in lost if [stream_alias(other) for other in streams].count(stream_alias(s)) == 1]
    for stream in only:
        store.point(stream)
    return [f"pointed {stream_alias(stream)} to {stream}" for stream in only]


def _restore_root(url: str) -> str | None:
    path = Path(url.removeprefix("file://"))
    if not path.is_dir() or path.suffix not in (".zarr", ".h5", ".hdf5"):
        return None
    module = import_module(".store.zarr_store" if path.suffix == ".zarr" else ".store.hdf5_store", __package__)
    return module.restore(path)


def collect_garbage(url: str, *, dry_run: bool = False) -> Garbage:
    """Removes replaced streams, leftovers of killed writers, and memory-mapped caches that nothing uses any more.

    Args:
        url: of the cache.
        dry_run: remove nothing.
    """
    store = open_store(url)  # a cache that is not there is refused, not made
    leftovers = store.leftovers()
    store = store if dry_run else open_store(url, "a")
    streams = [_size_of(store, stream) for stream in _replaced_streams(store)]
    useless = _useless_mapped(store, {row.stream for row in streams})
    sizes = [FolderSize(str(form.path), form.num_bytes) for form in useless]
    done = [] if dry_run else _remove(store, streams, useless)
    return Garbage(url, dry_run, streams, leftovers, sizes, done)


def _replaced_streams(store: Store) -> list[str]:
    """Streams whose alias points to another one. A stream whose own alias is lost has no successor, and stays."""
    aliases = store.aliases()
    return [s for s in store.streams() if s not in aliases.values() and stream_alias(s) in aliases]


def _remove(store: Store, streams: list[StreamSize], useless: list[MappedCorpus]) -> list[str]:
    for row in streams:
        for clip_id in store.clip_ids(row.stream):
            store.discard(clip_id, row.stream)
    done = store.sweep()
    remove_mapped(useless)
    store.finish()
    return done


def _useless_mapped(store: Store, doomed: set[str]) -> list[MappedCorpus]:
    """Returns memory-mapped caches that are stale already, or will be without these streams."""
    here = [entry for entry in mapped_corpora() if entry.meta and entry.store == address_of(store)]
    losing = [entry for entry in here if entry.meta and doomed & set(entry.meta["streams"])]
    return list({entry.path: entry for entry in [*stale_mapped(store), *losing]}.values())


def _size_of(store: Store, stream: str) -> StreamSize:
    records = [unsealed(store._attrs_of(stream, key)) for key in store._keys(stream)]
    sound = [record for record in records if record and record_problem(record) is None]
    return StreamSize(stream, len(records), sum(map(expected_bytes, sound)))
