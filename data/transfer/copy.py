"""`cache copy`: push, pull and convert are one verb. Only what the destination lacks is read, proven and written."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ..clip import choose_clips
from ..errors import DamagedError, InputError
from ..hashing import json_sha256, unsealed
from ..store.base import Store, open_store
from ..store.entry import Entry
from ..store.fingerprint import clip_key, stream_alias
from ..store.pack_store import ROOT, PackStore
from ..store.remote import READ_ONLY, OutageError, Remote
from ..store.root import check_terms, new_root
from .dataset_card import card
from .push_packs import Push

SINGLE_FILES = {".zip": "pack_store", ".h5": "hdf5_store", ".hdf5": "hdf5_store"}
Pair = tuple[str, str]  # clip_id, stream


@dataclass(frozen=True)
class Copied:
    """The outcome of `copy`.

    Args:
        copied: entries that the destination lacked and has now.
        skipped: entries that it had.
        bytes: of the arrays that were copied.
        objects: files or objects that were written; 0 where the destination's own layout decides.
        failures: (clip_id, stream, reason) of what could not be copied; "" for a whole pack of the source.
        content_sha256: of the destination now; None where a record there is damaged.
    """

    copied: int = 0
    skipped: int = 0
    bytes: int = 0
    objects: int = 0
    failures: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    content_sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns all fields as plain values."""
        return asdict(self)


def copy(
    source: Store | str,
    destination: str,
    *,
    clips: Sequence[str] = (),
    streams: Sequence[str] = (),
    jobs: int = 4,
    permission: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Copied:
    """Copies the entries that a destination lacks, each proven by its checksums.

    Nothing at the destination is ever overwritten. An interrupted copy resumes when it is called again: folders grow by
    the entry, packs by the pack. A single file is made anew with the old entries, and renamed.

    Args:
        source: a cache of any layout, or its address.
        destination: `x.zarr`, `x.h5` (one file, unless it is a folder), `x.zarr.zip`, `x.packs`, `icechunk://…`,
            `s3://…`, `gs://…`, `hf://…`. A new one inherits the source's terms.
        clips: ids or patterns (`talks/*`); none = all.
        streams: names, aliases or modalities; none = all.
        jobs: entries read in parallel; no more than these, and those that are being written (32 MB, or one), are held
            in memory.
        permission: True where a restricted cache may leave this machine.
        progress: called with the clip_id of each entry that was read.

    Raises:
        InputError: if source or destination cannot be used or reached, have different terms, or lack permission.
    """
    source = open_store(source) if isinstance(source, str) else source
    destination = str(destination).removeprefix("file://").rstrip("/")
    _check_permission(source, destination, permission)
    job = _Job(source, destination, _choose(source, clips, streams), jobs, progress)
    suffix = Path(destination).suffix.lower()
    if destination.startswith("icechunk://"):
        job.into_store()
    elif "://" in destination or suffix == ".packs":
        job.into_packs()
    elif suffix in SINGLE_FILES and not Path(destination).is_dir():
        job.into_file(SINGLE_FILES[suffix])
    else:
        job.into_store()
    with contextlib.suppress(DamagedError):
        return replace(job.result(), content_sha256=open_store(destination).content_sha256())
    return job.result()


class _Job:
    """One copy: the wanted entries, how they are read, and the counts of what was done."""

    def __init__(
        self,
        source: Store,
        destination: str,
        chosen: list[Pair],
        jobs: int,
        progress: Callable[[str], None] | None,
    ) -> None:
        self.source, self.destination, self.chosen, self.jobs = source, destination, chosen, jobs
        self.progress = progress or (lambda clip_id: None)
        self.num_copied = self.num_skipped = self.num_bytes = self.num_objects = 0
        self.failures: list[tuple[str, str, str]] = []
        self.terms = {name: source.root()[name] for name in ("licence", "restricted")}
        self.new_root = unsealed(new_root(**self.terms)) or {}
        self.aliases = self._aliases()
        if isinstance(source, PackStore):
            self.failures += [("", "", f"{name}: {what}") for name, what in sorted(source.broken.items())]

    def result(self) -> Copied:
        """Returns the counts so far."""
        return Copied(self.num_copied, self.num_skipped, self.num_bytes, self.num_objects, self.failures)

    def into_store(self) -> None:
        """Into a Zarr folder, a folder of HDF5 files or Icechunk: durable entry by entry."""
        target = open_store(self.destination, "a", **self.terms)
        missing = self._missing(target)
        for alias, stream in self.aliases.items():
            target.point(stream, alias, only_new=True)
        for entry in target.add(self._proven(missing)):
            self._count(target.entry(entry.clip_id, entry.stream))  # as it lies there now
        target.finish()

    def into_file(self, module: str) -> None:
        """Into one file: a new one with the old entries and the missing ones takes its place."""
        path = Path(self.destination)
        old = open_store(path) if path.exists() else None
        missing = self._missing(old)
        if old is not None and not missing:
            return
        added = set(missing)
        kept = [pair for pair in _pairs(old) if pair not in added] if old is not None else []

        def entries() -> Iterator[Entry]:
            if old is not None:
                yield from (old.entry(*pair) for pair in kept)
            yield from self._proven(missing)

        root = old.root() if old is not None else self.new_root
        aliases = {**self.aliases, **(old.aliases() if old is not None else {})}
        path.parent.mkdir(parents=True, exist_ok=True)
        for entry in import_module(f"..store.{module}", __package__).write_single(path, root, aliases, entries()):
            if (entry.clip_id, entry.stream) in added:
                self._count(entry)
        for what in open_store(path)._layout_problems():  # the file's seal proves what was written
            raise DamagedError(path, expected="the bytes that were written", got=what, todo="Copy again.")
        self.num_objects = 1

    def into_packs(self) -> None:
        """Into packs: an interrupted push resumes with the next pack."""
        place = Remote(self.destination)
        old = _open_packs(place)
        place.ready_to_write(new=old is None)
        missing = self._missing(old)
        push = Push(place, old.root() if old is not None else self.new_root, self.aliases)
        for entries, nbytes in push.add(self._proven(missing), new=old is None):
            self.num_copied += entries
            self.num_bytes += nbytes
        if place.scheme == "hf":
            push.write_card(card(open_store(self.destination), self.destination))
        self.num_objects = push.objects

    def _check_terms(self, target: Store) -> None:
        """Both have the same terms, "not stated" being one of them."""
        check_terms(target.url, target.root(), **self.terms)
        check_terms(self.source.url, self.terms, target.root()["licence"], target.root()["restricted"])

    def _missing(self, target: Store | None) -> list[Pair]:
        """Returns the entries to copy; counts those that are there already, and notes those that cannot be copied."""
        if target is not None:
            self._check_terms(target)
        missing: list[Pair] = []
        for pair in self.chosen:
            try:
                record = self.source.record(*pair)
            except InputError as error:
                self._fail(pair, error)
                continue
            known = unsealed(target._load_record(pair[1], clip_key(pair[0]))) if target is not None else None
            if known is None:
                missing.append(pair)
            elif json_sha256(known) == json_sha256(record):
                self.num_skipped += 1
            else:
                same = known["source_sha256"] == record["source_sha256"]
                reason = f"{self.destination} has other values" if same else "made from another medium than the one"
                self.failures.append((*pair, f"{reason} there under this name; it stays as it is"))
        return missing

    def _proven(self, pairs: Sequence[Pair]) -> Iterator[Entry]:
        """The entries, read in parallel, in order, at most `jobs` ahead. A damaged one is noted."""
        left, held = iter(pairs), deque[tuple[Pair, Future[Entry]]]()
        with ThreadPoolExecutor(self.jobs, "sage-va-copy") as pool:
            try:
                while True:
                    while len(held) < self.jobs and (pair := next(left, None)) is not None:
                        held.append((pair, pool.submit(self.source.entry, *pair)))
                    if not held:
                        return
                    pair, future = held.popleft()
                    try:
                        yield future.result()
                    except InputError as error:
                        self._fail(pair, error)
                    del future
                    self.progress(pair[0])
            finally:
                pool.shutdown(cancel_futures=True)

    def _fail(self, pair: Pair, error: InputError) -> None:
        if isinstance(error, OutageError):
            raise error
        self.failures.append((*pair, error.about(" ".join(pair))))

    def _count(self, entry: Entry) -> None:
        self.num_copied += 1
        self.num_bytes += entry.nbytes

    def _aliases(self) -> dict[str, str]:
        """The aliases of the chosen streams; a stream without any gets the one in its name, if that is free."""
        streams = sorted({stream for _, stream in self.chosen})
        aliases = {alias: stream for alias, stream in self.source.aliases().items() if stream in streams}
        for stream in streams:
            aliases.setdefault(stream_alias(stream), stream)
        return aliases


def _check_permission(source: Store, destination: str, permission: bool) -> None:
    scheme = destination.partition("://")[0] if "://" in destination else ""
    if scheme in READ_ONLY:
        todo = "Copy to a .packs folder, and put that behind the server by other means."
        raise InputError(destination, expected="a destination that can be written", got=f"{scheme}://", todo=todo)
    local = "://" not in destination.removeprefix("icechunk://")
    terms = source.root()
    if terms["restricted"] and not local and not permission:
        raise InputError(
            destination,
            expected=f"a place on this machine for {source.url}, which is restricted",
            got="one that is elsewhere",
            todo=f"If its licence ({terms['licence'] or 'not stated'}) allows that, pass --i-have-permission.",
        )


def _pairs(store: Store) -> list[Pair]:
    return [(clip_id, stream) for stream in store.streams() for clip_id in store.clip_ids(stream)]


def _choose(source: Store, clips: Sequence[str], streams: Sequence[str]) -> list[Pair]:
    """The entries that are meant, stream by stream."""
    names = {source.resolve(name) for name in streams}
    chosen = [pair for pair in _pairs(source) if not names or pair[1] in names]
    wanted = choose_clips((clip_id for clip_id, _ in chosen), clips, f"See `sage-va cache ls {source.url}`.")
    return [pair for pair in chosen if pair[0] in wanted]


def _open_packs(place: Remote) -> Store | None:
    """The cache at a place, None where there is none yet."""
    try:
        place.read(ROOT)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return open_store(place.url)
