"""A cache in a local folder: every place of it is written aside, synced to disk, and renamed to where it belongs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
import uuid
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, final

from ..atomic import (
    HOST,
    WEEK_S,
    contained,
    folders,
    json_file,
    locked,
    make_folder,
    move_new,
    names,
    publish,
    sync,
    sync_folders,
    write_new,
)
from ..clip import MODALITIES
from ..errors import DamagedError, InputError
from ..hashing import sealed, unsealed
from ..journal import append_line, damaged_lines, read_lines, remove_damaged_lines
from .base import Mode, Store, check_root, check_terms, is_outage, new_root
from .entry import Entry

SIDE = ".sage-va"  # all that is not of the tree itself
STAGING = f"{SIDE}/staging"
JOURNAL = f"{SIDE}/journal.jsonl"
ALIASES = f"{SIDE}/aliases"

Files = Mapping[str, bytes]  # contents by path below a place; "" where the place itself is the file


class FolderStore(Store):
    """What Zarr folders and folders of HDF5 files share: places, staging, locks, aliases and the journal.

    `<stream>/<clip_key><SUFFIX>` is an entry; subclasses say what lies in it. While any writer has a temporary folder
    under `.sage-va/staging/`, it holds a shared lock on `staging/lock`; who gets the lock alone may tidy.
    """

    ROOT: ClassVar[str]
    SUFFIX: ClassVar[str] = ""
    EXTRA: ClassVar[frozenset[str]] = frozenset()  # files at the root that can be derived

    def __init__(self, path: Path, mode: Mode, licence: str | None, restricted: bool | None) -> None:
        self.path, self.url, self.mode = path, str(path), mode
        if not (path / self.ROOT).exists():
            if mode == "r":
                todo = "Check the path, or make it with `sage-va extract --out`."
                raise InputError(path, expected="a feature cache", got="no such folder or not one", todo=todo)
            self._create(licence, bool(restricted))
        check_terms(self.url, self.root(), licence, restricted)
        if mode == "a":
            self._tidy()

    @abstractmethod
    def _root_file(self, attrs: Mapping[str, Any]) -> bytes:
        """The content of the root file."""

    @abstractmethod
    def _root_attrs(self, content: bytes) -> dict[str, Any]:
        """The inverse of `_root_file`; raises ValueError where the content is no such file."""

    @abstractmethod
    def _group_files(self) -> Files:
        """Constant files that stand in every folder between root and entries."""

    @abstractmethod
    def _encode(self, entry: Entry) -> Files:
        """The files of an entry."""

    @abstractmethod
    def _read_record(self, place: Path) -> dict[str, Any]:
        """The sealed record at a place; raises OSError or ValueError where it cannot be read."""

    @abstractmethod
    def _read_entry(self, place: Path, record: dict[str, Any]) -> Entry:
        """The entry at a place."""

    @abstractmethod
    def _place_problem(self, place: Path) -> str | None:
        """What is wrong with the bytes around arrays and record."""

    def _create(self, licence: str | None, restricted: bool) -> None:
        known = {SIDE, self.ROOT, *MODALITIES, *self.EXTRA}
        if self.path.exists() and (not self.path.is_dir() or set(os.listdir(self.path)) - known):
            got = "a folder of other files" if self.path.is_dir() else "a file"
            raise InputError(self.path, expected="a cache or an empty place", got=got, todo="Choose another path.")
        if (
            any(map(folders, (self.path / modality for modality in MODALITIES)))
            and not (self.path / self.ROOT).exists()
        ):
            todo = "Run `sage-va cache repair`; the clips in it are not concerned."
            raise DamagedError(self.path, expected=f"the {self.ROOT} of the cache", got="none", todo=todo)
        make_folder(self.path / STAGING)
        attrs = new_root(licence, restricted)
        self._log({"event": "create", "root": attrs})
        self._put_file(self.path / self.ROOT, self._root_file(attrs))

    def _load_root(self) -> dict[str, Any]:
        try:
            content = (self.path / self.ROOT).read_bytes()
            attrs = self._root_attrs(content)
            return attrs if self._root_file(attrs) == content or "attrs_sha256" not in attrs else {"unreadable": 1}
        except ValueError:
            return {"unreadable": 1}

    def _load_aliases(self) -> dict[str, str]:
        found = (self._read_alias(path) for path in self._alias_files())
        return {alias["alias"]: alias["stream"] for alias in found if alias}

    def _alias_files(self) -> list[Path]:
        return [
            self.path / ALIASES / modality / name
            for modality in names(self.path / ALIASES)
            for name in names(self.path / ALIASES / modality)
        ]

    def _read_alias(self, path: Path) -> dict[str, Any] | None:
        """The alias in a file, or None where the file is not what was written."""
        try:
            content = path.read_bytes()
            alias = {name: json.loads(content)[name] for name in ("alias", "stream")}
            whole = path == self._alias_file(alias["alias"]) and content == json_file(sealed(alias))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return alias if whole else None

    def _alias_file(self, alias: str) -> Path:
        modality, _, name = alias.partition("/")
        return contained(self.path, ALIASES, modality, f"{name}.json")

    def _save_alias(self, alias: str, stream: str) -> None:
        self._put_file(self._alias_file(alias), json_file(sealed({"alias": alias, "stream": stream})))

    def _streams(self) -> list[str]:
        return [f"{modality}/{name}" for modality in sorted(MODALITIES) for name in folders(self.path / modality)]

    @final
    def _place(self, stream: str, key: str) -> Path:
        return self.path / stream / f"{key}{self.SUFFIX}"

    def _places(self, stream: str) -> list[str]:
        """Sorted keys that exist as places, with a record or without."""
        cut, groups = len(self.SUFFIX), self._group_files()
        found = [name for name in names(self.path / stream) if name not in groups and name.endswith(self.SUFFIX)]
        return [name[:-cut] if cut else name for name in found]

    def _load_record(self, stream: str, key: str) -> dict[str, Any]:
        try:
            return self._read_record(self._place(stream, key))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            if is_outage(error):
                raise
            return {"unreadable": repr(error)}

    def _load_entry(self, stream: str, key: str, record: dict[str, Any]) -> Entry:
        return self._read_entry(self._place(stream, key), record)

    def _entry_form_problem(self, stream: str, key: str) -> str | None:
        return self._place_problem(self._place(stream, key))

    def _save_entry(self, key: str, entry: Entry, overwrite: bool) -> None:
        place = contained(self.path, entry.stream, f"{key}{self.SUFFIX}")
        files = self._encode(entry)
        with self._temporary() as temporary:
            self._put_groups(place.parent, temporary)
            staged = temporary / "new"
            for name, content in files.items():
                write_new(staged / name if name else staged, content)
            sync_folders(staged)
            if place.exists() and (overwrite or unsealed(self._load_record(entry.stream, key)) is None):
                self._set_aside(place, temporary)
            move_new(staged, place)
            if (temporary / "old").exists():  # it has its successor, so nobody may put it back
                (temporary / "old").rename(temporary / "replaced")

    def _set_aside(self, place: Path, temporary: Path) -> None:
        old = temporary / "old" / place.relative_to(self.path)
        old.parent.mkdir(parents=True)
        with contextlib.suppress(FileNotFoundError):
            place.rename(old)

    def _discard(self, stream: str, key: str) -> None:
        with self._temporary() as temporary, contextlib.suppress(FileNotFoundError):
            self._forget(self._place(stream, key), temporary)
            self._place(stream, key).rename(temporary / "discarded")
            sync(self.path / stream)

    def _forget(self, place: Path, temporary: Path) -> None:
        """Takes away what was set aside for a place and never removed; else it would come back to an empty one."""
        for number, old in enumerate((self.path / STAGING).glob(f"*/old/{place.relative_to(self.path)}")):
            with contextlib.suppress(FileNotFoundError):
                old.rename(temporary / f"forgotten-{number}")

    def _put_groups(self, folder: Path, temporary: Path) -> None:
        """Makes the folders down to an entry; each appears with its constant files in it."""
        for number, place in enumerate((folder.parent, folder)):
            if place.is_dir():
                continue
            staged = temporary / f"group-{number}"
            for name, content in self._group_files().items():
                write_new(staged / name, content)
            if staged.is_dir():
                sync(staged)
                move_new(staged, place)
            else:
                place.mkdir(exist_ok=True)  # another writer may have been first
                sync(place.parent)

    def _put_file(self, place: Path, content: bytes) -> None:
        """Makes or replaces a file in one step."""
        with self._temporary() as temporary:
            (temporary / "new").write_bytes(content)
            make_folder(place.parent)
            publish(temporary / "new", place)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A folder to write in, on the cache's own disk. While any writer has one, nobody tidies."""
        assert self.mode == "a", "a cache that was opened to read"
        (self.path / STAGING).mkdir(parents=True, exist_ok=True)
        with locked(self.path / STAGING / "lock", fcntl.LOCK_SH):
            temporary = self._aside()
            try:
                yield temporary
            finally:
                self._drop(temporary)

    def _aside(self) -> Path:
        """A new folder that says by its name whose it is."""
        aside = self.path / STAGING / f"{HOST}-{uuid.uuid4().hex}"
        aside.mkdir()
        return aside

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether nobody else writes; while it is True, nobody can begin to."""
        make_folder(self.path / STAGING)
        with locked(self.path / STAGING / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
            yield alone

    def _tidy(self) -> list[str]:
        """Clears what killed writers of this host left; other hosts may not see our locks, so theirs stay a week."""
        if not self.leftovers():
            return []
        with self._alone() as alone:
            ours = [place for place in self.leftovers() if alone and self._is_ours(self.path / place)]
            for place in ours:
                self._drop(self.path / place)
            return ours

    @staticmethod
    def _is_ours(place: Path) -> bool:
        return place.name.startswith(f"{HOST}-") or time.time() - place.stat().st_mtime > WEEK_S

    def _drop(self, temporary: Path) -> None:
        """Removes a writer's folder; an entry that was set aside, and has no successor yet, goes back first."""
        for old in (temporary / "old").glob("*/*/*"):
            move_new(old, self.path / old.relative_to(temporary / "old"))
        shutil.rmtree(temporary, ignore_errors=True)

    def journal(self) -> Iterator[dict[str, Any]]:
        return read_lines(self.path / JOURNAL)

    def leftovers(self) -> list[str]:
        return [f"{STAGING}/{name}" for name in folders(self.path / STAGING)]

    def sweep(self) -> list[str]:
        done = [f"removed {place}" for place in self._tidy()]
        with self._alone() as alone:
            for stream in self._streams() if alone else []:
                done += self._clear(stream)
            done += self.restore_journal() if alone else []
        for place in self._wrong_group_files():
            self._put_file(place, self._group_files()[place.name])
            done.append(f"restored {place.relative_to(self.path)}")
        for path in self._alias_files():
            if self._read_alias(path) is None:
                path.unlink()
                sync(path.parent)
                done.append(f"removed {path.relative_to(self.path)}, which was damaged")
        return done

    def _clear(self, stream: str) -> list[str]:
        """Removes what has no record from a stream, and the stream if nothing is left; nobody else may write."""
        unmarked = self._unmarked(stream)
        for key in unmarked:
            self._bury(self._place(stream, key))
        if not self._places(stream) and not self.leftovers():
            self._bury(self.path / stream)
        return [f"removed {stream}/{key}, which has no record" for key in unmarked]

    def _bury(self, place: Path) -> None:
        """Removes a place in one step."""
        aside = self._aside()
        place.rename(aside / "buried")
        sync(place.parent)
        shutil.rmtree(aside, ignore_errors=True)

    def _unmarked(self, stream: str) -> list[str]:
        """Keys of places without a record; those that a writer makes or replaces meanwhile are none."""
        places = self._places(stream)
        marked = set(self._keys(stream))
        return [key for key in places if key not in marked and self._place(stream, key).exists()]

    def _wrong_group_files(self) -> list[Path]:
        """Constant files that are missing or changed."""
        modalities = {stream.split("/")[0] for stream in self._streams()}
        wrong = []
        for folder in sorted([*modalities, *self._streams()]):
            for name, content in self._group_files().items():
                place = self.path / folder / name
                if not place.is_file() or place.read_bytes() != content:
                    wrong.append(place)
        return wrong

    def _form_problems(self) -> Iterator[str]:
        for place in self._wrong_group_files():
            yield f"{place.relative_to(self.path)} is not what was written"
        for stream in self._streams():
            for key in self._unmarked(stream):
                yield f"{stream}/{key} has no record: it was not made by a writer of this cache"
        for path in self._alias_files():
            if self._read_alias(path) is None:
                yield f"{path.relative_to(self.path)} is not what was written"
        for number in damaged_lines(self.path / JOURNAL):
            yield f"{JOURNAL} line {number} is not what was written"

    def _log(self, entry: Mapping[str, Any]) -> None:
        append_line(self.path / JOURNAL, entry)

    def restore_journal(self) -> list[str]:
        """Takes damaged lines out of the journal; returns what was done."""
        numbers = remove_damaged_lines(self.path / JOURNAL)
        return [f"removed damaged lines from {JOURNAL}: {', '.join(map(str, numbers))}"] if numbers else []


def restore_root(kind: type[FolderStore], path: Path) -> str | None:
    """Writes a damaged or lost root file again from the journal; returns what was done, if anything was.

    Raises:
        InputError: if the journal does not have it either.
    """
    store = object.__new__(kind)
    store.path, store.url, store.mode = path, str(path), "a"
    with contextlib.suppress(DamagedError, FileNotFoundError):
        store.root()
        return None
    created = [line["root"] for line in read_lines(path / JOURNAL) if line.get("event") == "create"]
    if created:  # the last: who logged an earlier one was killed before the root was there
        check_root(str(path), created[-1])
        store._put_file(path / kind.ROOT, store._root_file(created[-1]))
        return f"restored {kind.ROOT}"
    todo = f"Take {kind.ROOT} from a copy of the cache; the clips in it are not concerned."
    raise InputError(path, expected="the cache's attributes in its journal", got="none there", todo=todo)
