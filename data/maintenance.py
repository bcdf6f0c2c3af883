"""What keeps a cache whole and small: verify, repair, gc."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from .errors import DamagedError
from .hashing import unsealed
from .store.base import Store, in_subset, open_store
from .store.entry import expected_bytes
from .store.fingerprint import stream_alias
from .windows.memmap_cache import Form, address_of, forms, stale_forms
from .windows.memmap_cache import remove as remove_forms

Tick = Callable[[str], None]


def verify(store: Store, progress: Tick | None = None, *, subset: str | None = None, jobs: int = 4) -> dict[str, Any]:
    """Counts of what was checked, every problem, and what interrupted writers left (harmless).

    Args:
        progress: called with the clip_id of each entry, from this thread.
        subset: a fixed part of the entries, such as `1/7` or `5%`.
        jobs: entries checked at once.
    """
    problems, checked = [], 0
    for clip_id, stream, problem in store.verify(in_subset(subset) if subset else None, jobs):
        checked += bool(stream)
        if problem is not None:
            problems.append({"clip_id": problem.clip_id, "stream": problem.stream, "what": problem.what})
        if progress:
            progress(clip_id)
    return {"url": store.url, "streams_checked": checked, "problems": problems, "leftovers": store.leftovers()}


def repair(url: str, progress: Tick | None = None, *, jobs: int = 4) -> dict[str, Any]:
    """Restores what can be derived, and takes out damaged entries, so that the next extraction makes just those.

    Raises:
        InputError: if the form cannot be written, or the cache's own attributes are lost beyond repair.
    """
    done = [restored] if (restored := _restore_root(url)) else []
    open_store(url)  # what is not there is refused, not made
    store = open_store(url, "a")
    done += store.sweep() + _restore_aliases(store)
    requeued, beyond = [], []
    for clip_id, stream, problem in store.verify(jobs=jobs):
        if problem is not None and stream:
            store.discard(clip_id, stream)
            requeued.append({"clip_id": clip_id, "stream": stream, "what": problem.what})
        elif problem is not None:
            beyond.append(problem.what)
        if progress:
            progress(clip_id)
    store.finish()
    if beyond:
        raise DamagedError(url, expected="a form that can be repaired", got="; ".join(beyond), todo="Copy it anew.")
    return {"url": url, "done": done, "requeued": requeued}


def _restore_aliases(store: Store) -> list[str]:
    """Aliases that were lost, where only one stream can have been meant."""
    aliases, streams = store.aliases(), store.streams()
    lost = [s for s in streams if s not in aliases.values() and stream_alias(s) not in aliases]
    alone = [s for s in lost if [stream_alias(other) for other in streams].count(stream_alias(s)) == 1]
    for stream in alone:
        store.point(stream)
    return [f"pointed {stream_alias(stream)} to {stream}" for stream in alone]


def _restore_root(url: str) -> str | None:
    path = Path(url.removeprefix("file://"))
    if not path.is_dir() or path.suffix not in (".zarr", ".h5", ".hdf5"):
        return None
    module = import_module(".store.zarr_store" if path.suffix == ".zarr" else ".store.hdf5_store", __package__)
    return module.restore(path)


def collect_garbage(url: str, *, dry_run: bool = False) -> dict[str, Any]:
    """Removes streams whose alias means another now, leftovers of killed writers, and training forms of no more use.

    Args:
        dry_run: only tell.

    Returns:
        streams: name, clips and bytes of each; leftovers; forms: training forms with their bytes.
    """
    store = open_store(url)  # what is not there is refused, not made
    leftovers = store.leftovers()
    store = store if dry_run else open_store(url, "a")
    aliases = store.aliases()
    # A stream whose own alias is lost has no successor: nobody said that it may go.
    replaced = [s for s in store.streams() if s not in aliases.values() and stream_alias(s) in aliases]
    streams = [_size_of(store, stream) for stream in replaced]
    useless = _useless_forms(store, {row["stream"] for row in streams})
    rows = [{"path": str(form.path), "bytes": form.num_bytes} for form in useless]
    found = {"url": url, "dry_run": dry_run, "streams": streams, "leftovers": leftovers, "forms": rows, "done": []}
    if not dry_run:
        for row in streams:
            for clip_id in store.clip_ids(row["stream"]):
                store.discard(clip_id, row["stream"])
        found["done"] = store.sweep()
        remove_forms(useless)
        store.finish()
    return found


def _useless_forms(store: Store, doomed: set[str]) -> list[Form]:
    """Training forms that are stale already, or will be without these streams."""
    here = [form for form in forms() if form.meta and form.store == address_of(store)]
    losing = [form for form in here if form.meta and doomed & set(form.meta["streams"])]
    return list({form.path: form for form in [*stale_forms(store), *losing]}.values())


def _size_of(store: Store, stream: str) -> dict[str, Any]:
    records = [unsealed(store._load_record(stream, key)) for key in store._keys(stream)]
    return {"stream": stream, "clips": len(records), "bytes": sum(expected_bytes(r) for r in records if r)}
