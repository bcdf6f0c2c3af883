"""A cache in a local folder: its files are made in the staging, synced to disk, and renamed to their places."""

from __future__ import annotations

import contextlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

from ..atomic import (
    contained,
    folders,
    json_file,
    make_folder,
    move_new,
    names,
    publish,
    rename_new,
    sync,
    sync_folders,
    synced_below,
    write_new,
    write_unsynced,
)
from ..clip import MODALITIES
from ..errors import DamagedError, InputError
from ..hashing import sealed, unsealed
from ..journal import append_lines, damaged_lines, read_lines, remove_damaged_lines
from .base import Mode, Store, is_outage
from .entry import Entry
from .fingerprint import clip_key, is_modality
from .ledger import event_of
from .root import check_root, check_terms, new_root
from .staging import SIDE, Staging

JOURNAL = f"{SIDE}/journal.jsonl"
ALIASES = f"{SIDE}/aliases"

Files = Mapping[str, bytes]  # contents by path below a place; "" where the place itself is the file


class FolderStore(Store):
    """The common part of Zarr folders and folders of HDF5 files: places, aliases, journal and staging.

    An entry is `<stream>/<clip_key><SUFFIX>`; subclasses define its files. See `staging.py` for how it is committed.
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
            self._staging.try_lock()
            self._staging.tidy()

    @abstractmethod
    def _root_file(self, attrs: Mapping[str, Any]) -> bytes:
        """Returns the content of the root file."""

    @abstractmethod
    def _root_attrs(self, content: bytes) -> dict[str, Any]:
        """Returns the attributes in a root file; raises ValueError where the content is none."""

    @abstractmethod
    def _group_files(self) -> Files:
        """Returns the constant files that stand in every folder between root and entries."""

    @abstractmethod
    def _encode(self, entry: Entry) -> Files:
        """Returns the files of an entry."""

    @abstractmethod
    def _read_record(self, place: Path) -> dict[str, Any]:
        """Returns the sealed record at a place; raises OSError or ValueError where it cannot be read."""

    @abstractmethod
    def _read_entry(self, place: Path, record: dict[str, Any]) -> Entry:
        """Returns the entry at a place."""

    @abstractmethod
    def _place_problem(self, place: Path) -> str | None:
        """Returns the damage of the bytes around arrays and record, if there is any."""

    @property
    def _staging(self) -> Staging:
        """The staging, for a store that may write."""
        assert self.mode == "a", "a cache that was opened to read"
        return Staging(self.path)

    # Root, aliases and journal

    def _create(self, licence: str | None, restricted: bool) -> None:
        ours = {SIDE, self.ROOT, *MODALITIES, *self.EXTRA, *(self._modalities() if (self.path / SIDE).is_dir() else ())}
        if self.path.exists() and (not self.path.is_dir() or {entry.name for entry in self.path.iterdir()} - ours):
            got = "a folder of other files" if self.path.is_dir() else "a file"
            raise InputError(self.path, expected="a cache or an empty place", got=got, todo="Choose another path.")
        has_streams = any(folders(self.path / modality) for modality in self._modalities())
        if has_streams and not (self.path / self.ROOT).exists():
            todo = "Run `sage-va cache repair`; the clips in it are not concerned."
            raise DamagedError(self.path, expected=f"the {self.ROOT} of the cache", got="none", todo=todo)
        self._staging.make()
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
        aliases = (self._read_alias(path) for path in self._alias_files())
        return {alias["alias"]: alias["stream"] for alias in aliases if alias}

    def _alias_files(self) -> list[Path]:
        return [
            self.path / ALIASES / modality / name
            for modality in names(self.path / ALIASES)
            for name in names(self.path / ALIASES / modality)
        ]

    def _read_alias(self, path: Path) -> dict[str, Any] | None:
        """Returns the alias in a file, or None where the file is not what was written."""
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

    def _log(self, *events: Mapping[str, Any]) -> None:
        append_lines(self.path / JOURNAL, events)

    def journal(self) -> Iterator[dict[str, Any]]:
        return read_lines(self.path / JOURNAL)

    # Entries

    def _streams(self) -> list[str]:
        return [f"{modality}/{name}" for modality in self._modalities() for name in folders(self.path / modality)]

    def _modalities(self) -> list[str]:
        return sorted(name for name in folders(self.path) if is_modality(name))

    @final
    def _place(self, stream: str, key: str) -> Path:
        return self.path / stream / f"{key}{self.SUFFIX}"

    def _places(self, stream: str) -> list[str]:
        """Returns the sorted keys of all places, with a record or without."""
        cut, groups = len(self.SUFFIX), self._group_files()
        places = [name for name in names(self.path / stream) if name not in groups and name.endswith(self.SUFFIX)]
        return [name[:-cut] if cut else name for name in places]

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

    def _entry_layout_problem(self, stream: str, key: str) -> str | None:
        return self._place_problem(self._place(stream, key))

    def _save_entry(self, key: str, entry: Entry, overwrite: bool) -> None:
        place, files = self._place_of(entry), self._encode(entry)
        with self._staging.temporary() as temporary:
            self._put_groups(place.parent, temporary)
            staged = temporary / "new"
            for name, content in files.items():
                write_new(staged / name if name else staged, content)
            sync_folders(staged)
            if self._is_replaced(entry, place, overwrite):
                self._log(event_of("replacing", entry))
                self._replace(staged, place, temporary)
            else:
                move_new(staged, place)

    def _save_entries(self, entries: Sequence[Entry], overwrite: bool) -> None:
        if len(entries) == 1:  # what other programs write does not delay it
            self._save_entry(clip_key(entries[0].clip_id), entries[0], overwrite)
            return
        with self._staging.temporary() as temporary:
            for stream in sorted({entry.stream for entry in entries}):
                self._put_groups(self.path / stream, temporary)
            with synced_below(temporary):
                staged = [self._stage(entry, temporary / f"new-{k}") for k, entry in enumerate(entries)]
            replaced = {
                place: entry for entry in entries if self._is_replaced(entry, place := self._place_of(entry), overwrite)
            }
            if replaced:
                self._log(*(event_of("replacing", entry) for entry in replaced.values()))
            for entry, source in zip(entries, staged, strict=True):
                place = self._place_of(entry)
                if place in replaced:
                    self._replace(source, place, temporary)
                else:
                    rename_new(source, place)
            for stream in sorted({entry.stream for entry in entries}):
                sync(self.path / stream)

    def _place_of(self, entry: Entry) -> Path:
        return contained(self.path, entry.stream, f"{clip_key(entry.clip_id)}{self.SUFFIX}")

    def _stage(self, entry: Entry, staged: Path) -> Path:
        for name, content in self._encode(entry).items():
            write_unsynced(staged / name if name else staged, content)
        return staged

    def _is_replaced(self, entry: Entry, place: Path, overwrite: bool) -> bool:
        """True where an entry must give way to a new one: in any case, or since its record is not sound."""
        key = clip_key(entry.clip_id)
        return place.exists() and (overwrite or unsealed(self._load_record(entry.stream, key)) is None)

    def _replace(self, staged: Path, place: Path, temporary: Path) -> None:
        self._staging.set_aside(place, temporary)
        move_new(staged, place)
        self._staging.settle(place, temporary)

    def _discard(self, stream: str, key: str) -> None:
        self._staging.discard(self._place(stream, key))

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
        with self._staging.temporary() as temporary:
            (temporary / "new").write_bytes(content)
            make_folder(place.parent)
            publish(temporary / "new", place)

    # Maintenance

    def leftovers(self) -> list[str]:
        return Staging(self.path).leftovers()

    def sweep(self) -> list[str]:
        done = [f"removed {place}" for place in self._staging.tidy()]
        with self._staging.alone() as alone:
            for stream in self._streams() if alone else []:
                done += self._clear(stream)
            done += self._restore_journal() if alone else []
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
        """Removes places without a record from a stream, and the stream if nothing is left; the caller is alone."""
        unmarked = self._unmarked(stream)
        for key in unmarked:
            self._staging.bury(self._place(stream, key))
        if not self._places(stream) and not self.leftovers():
            self._staging.bury(self.path / stream)
        return [f"removed {stream}/{key}, which has no record" for key in unmarked]

    def _restore_journal(self) -> list[str]:
        """Removes damaged lines from the journal; the caller is alone."""
        numbers = remove_damaged_lines(self.path / JOURNAL)
        return [f"removed damaged lines from {JOURNAL}: {', '.join(map(str, numbers))}"] if numbers else []

    def _unmarked(self, stream: str) -> list[str]:
        """Returns the keys of places without a record, except those that a writer makes or replaces meanwhile."""
        places = self._places(stream)
        marked = set(self._keys(stream))
        return [key for key in places if key not in marked and self._place(stream, key).exists()]

    def _wrong_group_files(self) -> list[Path]:
        """Returns the constant files that are missing or changed."""
        modalities = {stream.split("/")[0] for stream in self._streams()}
        wrong = []
        for folder in sorted([*modalities, *self._streams()]):
            for name, content in self._group_files().items():
                place = self.path / folder / name
                if not place.is_file() or place.read_bytes() != content:
                    wrong.append(place)
        return wrong

    def _layout_problems(self) -> Iterator[str]:
        for place in self._wrong_group_files():
            yield f"{place.relative_to(self.path)} is not what was written"
        for stream in self._streams():
            for key in self._unmarked(stream):
                yield f"{stream}/{key} has no record: no writer of this cache made it"
        for path in self._alias_files():
            if self._read_alias(path) is None:
                yield f"{path.relative_to(self.path)} is not what was written"
        for number in damaged_lines(self.path / JOURNAL):
            yield f"{JOURNAL} line {number} is not what was written"


def restore_root(kind: type[FolderStore], path: Path) -> str | None:
    """Restores a damaged or lost root file from the journal; returns what was done, if anything was.

    Raises:
        InputError: if the journal does not have it either.
    """
    store = object.__new__(kind)
    store.path, store.url, store.mode = path, str(path), "a"
    with contextlib.suppress(DamagedError, FileNotFoundError):
        store.root()
        return None
    created = [line["root"] for line in read_lines(path / JOURNAL) if line.get("event") == "create"]
    if created:  # the last: a writer that logged an earlier one was killed before the root was in place
        check_root(str(path), created[-1])
        store._put_file(path / kind.ROOT, store._root_file(created[-1]))
        return f"restored {kind.ROOT}"
    todo = f"Take {kind.ROOT} from a copy of the cache; the clips in it are not concerned."
    raise InputError(path, expected="the cache's attributes in its journal", got="none there", todo=todo)
