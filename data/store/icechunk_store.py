"""The cache as an Icechunk repository: the same Zarr tree with transactions, tags and history, for a team.

Every commit is whole or not there. Icechunk does not sync files to disk: a power cut (not a kill) may cost a repository
in a local folder its last commits, or, at worst, the branch; object storage has no such gap.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..atomic import locked
from ..errors import DamagedError, InputError
from ..hashing import json_sha256, sealed, unsealed
from .base import Mode, Store
from .entry import Entry
from .fingerprint import clip_id_of, clip_key, is_modality, stream_alias
from .icechunk_repo import asked, calm, create, is_outage, line_of, split, storage_of, version_of
from .icechunk_tree import ALIASES, Tree
from .ledger import event_of
from .root import check_terms, new_root
from .zarr_layout import ENTRY_FILES, META, decode, group_attrs, group_file, layout_problem

from icechunk import ConflictDetector, ConflictError, IcechunkError, RebaseFailedError, Repository  # isort: skip

LOCK = ".sage-va.lock"
JOURNAL = f"journal/{META}"
BATCH_BYTES, BATCH_ENTRIES = 256_000_000, 500
KEEP = timedelta(days=7)  # a writer may still be at work on younger objects that nothing refers to
_IN_MESSAGE = ("event", "count", "alias", "clip_id", "stream", "reason", "group")  # of a commit


class IcechunkStore(Store):
    """A cache in an Icechunk repository; each change of it is one commit, and the commits are its journal.

    Reads see the snapshot that was there at opening, and all that this store has committed since. A writer that finds
    that another was faster looks again at what is there now, so nothing is lost and the first writer of an entry wins.

    Args:
        repository: where the tree is; open to all that Icechunk offers.
        version: what is read: `{"branch": name}`, `{"tag": name}` or `{"snapshot_id": id}`; only a branch grows.
        folder: the repository's folder, if it lies in one. Icechunk's commits are not safe there among themselves, so
            they take turns on a lock.
    """

    def __init__(
        self,
        url: str,
        mode: Mode,
        repository: Repository,
        version: dict[str, str],
        folder: Path | None,
        terms: tuple[str | None, bool | None],
    ) -> None:
        self.url, self.mode, self.repository, self.version, self.folder = url, mode, repository, version, folder
        with asked(url):
            self._look()
            # A session takes a lost snapshot for an empty one; this raises where it is lost.
            newest = repository.lookup_snapshot(self._tree.session.snapshot_id)
            if mode == "a" and newest.parent_id is None:
                attrs = group_file(new_root(terms[0], bool(terms[1])))
                self._commit(lambda tree: tree.exists(META) or tree.write(META, attrs), {"event": "create"})
        check_terms(url, self.root(), *terms)

    def _look(self) -> None:
        """Reads from the newest snapshot on."""
        self._tree = Tree(self.repository.readonly_session(**self.version))  # pyright: ignore[reportArgumentType]

    def _commit(self, change: Callable[[Tree], object], about: Mapping[str, Any]) -> None:
        """Applies a change to what is there now, and commits it; changes that change nothing make no commit."""
        assert self.mode == "a", "a cache that was opened to read"
        with asked(self.url), self._alone():
            while not self._committed(change, dict(about)):
                pass  # each turn means that another writer has committed to the same place, so this ends
            self._look()

    def _committed(self, change: Callable[[Tree], object], about: dict[str, Any]) -> bool:
        session = self.repository.writable_session(self.version["branch"])
        change(Tree(session))
        message = " ".join(str(about[key]) for key in _IN_MESSAGE if key in about)
        try:
            if session.has_uncommitted_changes:
                session.commit(message, about, rebase_with=ConflictDetector())
        except (ConflictError, RebaseFailedError):
            return False
        return True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """In a local folder, one writer at a time."""
        with contextlib.ExitStack() as held:
            if self.folder and not held.enter_context(locked(self.folder / LOCK, fcntl.LOCK_EX)):
                todo = "Put the repository on another disk, or on object storage."
                raise InputError(self.url, expected="a disk that can lock files", got="one that cannot", todo=todo)
            yield

    def _read(self, path: str) -> bytes:
        try:
            return self._tree.read(path)
        except IcechunkError as error:
            raise (ConnectionError if is_outage(error) else ValueError)(line_of(error)) from error

    def _load_root(self) -> dict[str, Any]:
        with asked(self.url):
            try:
                return group_attrs(self._tree.read(META))
            except FileNotFoundError:
                return {}
            except ValueError:
                return {"unreadable": 1}

    def _load_aliases(self) -> dict[str, str]:
        with asked(self.url):
            return self._tree.aliases() or {}

    def _save_alias(self, alias: str, stream: str) -> None:
        about = {"event": "point", "alias": alias, "stream": stream}
        self._commit(lambda tree: tree.point(alias, stream), about)

    def _streams(self) -> list[str]:
        with asked(self.url):
            modalities = filter(is_modality, sorted(self._tree.names("")))
            return [f"{modality}/{name}" for modality in modalities for name in self._tree.names(modality)]

    def _keys(self, stream: str) -> list[str]:
        with asked(self.url):
            return self._tree.names(stream)

    def _exists(self, stream: str, key: str) -> bool:
        with asked(self.url):
            return self._tree.exists(f"{stream}/{key}/{META}")

    def _load_record(self, stream: str, key: str) -> dict[str, Any]:
        with asked(self.url):
            return self._tree.record(f"{stream}/{key}")

    def _load_entry(self, stream: str, key: str, record: dict[str, Any]) -> Entry:
        return decode(lambda name: self._read(f"{stream}/{key}/{name}"), record)

    def _save_entry(self, key: str, entry: Entry, overwrite: bool) -> None:
        def change(tree: Tree) -> None:
            if overwrite or unsealed(tree.record(f"{entry.stream}/{key}")) is None:
                tree.put(entry)

        self._commit(change, {**event_of("commit", entry), "replaces": True})

    def add(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        batch: list[Entry] = []
        for entry in entries:
            batch.append(entry)
            if len(batch) == BATCH_ENTRIES or sum(entry.nbytes for entry in batch) >= BATCH_BYTES:
                yield from self._add_batch(batch)
                batch = []
        yield from self._add_batch(batch)

    def _add_batch(self, batch: list[Entry]) -> list[Entry]:
        """Adds entries, and the aliases of new streams, in one commit."""

        def change(tree: Tree) -> None:
            for entry in batch:
                if unsealed(tree.record(f"{entry.stream}/{clip_key(entry.clip_id)}")) is None:
                    tree.put(entry)
                if stream_alias(entry.stream) not in (tree.aliases() or {}):
                    tree.point(stream_alias(entry.stream), entry.stream)

        added = [[entry.clip_id, entry.stream, json_sha256(entry.record)] for entry in batch]
        self._commit(change, {"event": "add", "count": len(batch), "entries": added})
        return batch

    def _discard(self, stream: str, key: str) -> None:
        about = {"event": "discard", "clip_id": clip_id_of(key) or key, "stream": stream}
        if self._exists(stream, key):
            self._commit(lambda tree: tree.delete(f"{stream}/{key}"), about)
        else:  # what is gone already is noted, so that nothing waits for it
            self._note(about)

    def _entry_layout_problem(self, stream: str, key: str) -> str | None:
        return layout_problem(ENTRY_FILES, lambda name: self._read(f"{stream}/{key}/{name}"))

    def _layout_problems(self) -> Iterator[str]:
        with asked(self.url):
            for name in sorted(set(self._tree.names("")) - {"aliases", "journal"}):
                if is_modality(name):
                    continue
                yield f"{name} is not of this cache"
            if self._tree.aliases() is None:
                yield "aliases are not what was written"
            for path in self._wrong_groups():
                yield f"{path} is not what was written"
            yield from self._tag_problems()
            try:
                self.history()
            except DamagedError as error:
                yield f"the history cannot be read: {error.got}"

    def _wrong_groups(self) -> list[str]:
        """Files of groups between root and entries that were changed."""
        streams = self._streams()
        paths = [f"{folder}/{META}" for folder in sorted({*streams, *(name.split("/")[0] for name in streams)})]
        return [path for path in paths if not self._is_group(path)]

    def _is_group(self, path: str) -> bool:
        try:
            return self._read(path) == group_file({})
        except (FileNotFoundError, ValueError):  # what lists it is damaged
            return False

    def _tag_problems(self) -> Iterator[str]:
        for tag in sorted(self.repository.list_tags()):
            try:
                with calm():
                    Tree(self.repository.readonly_session(tag=tag)).read(META)
            except (IcechunkError, FileNotFoundError) as error:
                yield f"tag {tag} cannot be read: {line_of(error)}"

    def _log(self, *events: Mapping[str, Any]) -> None:
        """Commits events that change nothing else: each changes the group `journal`, as no commit may be empty."""
        for event in events:
            if event["event"] not in ("commit", "add", "discarding", "discard"):  # each is, or ends in, a commit
                self._note(event)

    def _note(self, event: Mapping[str, Any]) -> None:
        attrs = group_file(sealed({"time": datetime.now(UTC).isoformat(), **event}))
        self._commit(lambda tree: tree.write(JOURNAL, attrs), event)

    def journal(self) -> Iterator[dict[str, Any]]:
        """The metadata of all commits, oldest first; as slow as `history`."""
        with asked(self.url):
            commits = list(self.repository.ancestry(snapshot_id=self._tree.session.snapshot_id))
        for info in reversed(commits):
            if "event" in info.metadata:
                yield {"time": info.written_at.strftime("%Y-%m-%dT%H:%M:%SZ"), **info.metadata}

    def sweep(self) -> list[str]:
        """Restores groups and aliases, and removes objects that no snapshot has needed for a week."""
        done = []
        for path in filter(self._tree.exists, self._wrong_groups()):
            self._commit(lambda tree, path=path: tree.write(path, group_file({})), {"event": "restore", "group": path})
            done.append(f"restored {path}")
        if self._tree.aliases() is None:
            self._commit(lambda tree: tree.write(ALIASES, group_file(sealed({}))), {"event": "repair aliases"})
            done.append("removed the aliases, which were damaged")
        try:
            with asked(self.url), self._alone():
                swept = self.repository.garbage_collect(datetime.now(UTC) - KEEP)
        except DamagedError:  # somewhere in the history; what is read now is mended all the same
            return done
        kinds = ("chunks", "manifests", "snapshots", "attributes", "transaction_logs")
        count = sum(getattr(swept, f"{kind}_deleted") for kind in kinds)
        return [*done, f"removed {count} objects that no snapshot needs"] if count else done

    def tag(self, name: str) -> str:
        """Gives the snapshot that is read now a name for good; returns the snapshot's id.

        Raises:
            InputError: if the name is taken, or none that can stand in an address.
        """
        assert self.mode == "a", "a cache that was opened to read"
        if not re.fullmatch(r"[\w.+-]+", name):
            got, todo = repr(name), "Choose another name."
            raise InputError(f"tag {name!r}", expected="letters, digits, '.', '_', '+' or '-'", got=got, todo=todo)
        snapshot = self._tree.session.snapshot_id
        with asked(self.url), self._alone():
            if name in self.repository.list_tags() | self.repository.list_branches():
                todo = "Choose another name; tags stay what they are."
                raise InputError(f"tag {name!r}", expected="a new name", got="one that is taken", todo=todo)
            self.repository.create_tag(name, snapshot)
        return snapshot

    def history(self) -> list[tuple[str, datetime, str]]:
        """(snapshot id, time of the commit, message) of what is read and all before it, newest first.

        Icechunk reads one file per commit for this, each as long as the list of all entries then.
        """
        with asked(self.url):
            commits = self.repository.ancestry(snapshot_id=self._tree.session.snapshot_id)
            return [(info.id, info.written_at, info.message) for info in commits]


def open_cache(url: str, mode: Mode, licence: str | None, restricted: bool | None) -> IcechunkStore:
    """Opens `icechunk://PLACE[@NAME]`: PLACE a folder, `s3://bucket/prefix` or `gs://bucket/prefix`; NAME a tag, a
    branch or a snapshot id, else the branch `main`.

    Raises:
        InputError: if there is no such place or name, or it cannot be written to. DamagedError: if it cannot be read.
    """
    place, name = split(url)
    folder = None if "://" in place else Path(place).absolute()
    with asked(url):
        storage = storage_of(url, place)
        if not (folder is None or folder.is_dir()) or not Repository.exists(storage):
            if mode == "r" or name:
                todo = "Check the address, or make one with `sage-va extract --out` or `sage-va cache copy`."
                raise InputError(url, expected="an Icechunk repository", got="none there", todo=todo)
            create(url, folder, storage)
        repository = Repository.open(storage)
        version = version_of(url, repository, name)
    if mode == "a" and "branch" not in version:
        todo = f"A tag or a snapshot is history: leave @{name} out to add."
        raise InputError(url, expected="a branch to add to", got=f"{name!r}, which is none", todo=todo)
    return IcechunkStore(url, mode, repository, version, folder, (licence, restricted))


def icechunk_store(url: str, mode: Mode) -> IcechunkStore:
    """Opens a cache that keeps its history.

    Raises:
        InputError: if it is of another layout.
    """
    if not url.startswith("icechunk://"):
        todo = "Copy it there with `sage-va cache copy`."
        raise InputError(url, expected="an Icechunk cache (icechunk://…)", got="one without history", todo=todo)
    return open_cache(url, mode, None, None)
