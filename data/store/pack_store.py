"""The cache as packs, the layout for sharing: few large objects, each a whole Zarr v3 hierarchy in a ZIP.

`x.zarr.zip` is one pack. A folder `x.packs`, or a prefix behind an address, holds `packs/<16 hex of its sha256>.zip`,
and sealed `cache.json` (root attributes), `aliases.json` and `index.json` (the packs, where none can be listed).
"""

from __future__ import annotations

import gc
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from ..atomic import folders, replacing
from ..errors import DamagedError, InputError, first_line
from ..hashing import unsealed
from .base import Mode, Store, is_outage
from .entry import Entry
from .pack_file import Pack, PackWriter, json_attrs
from .remote import Remote
from .root import check_terms
from .staging import SIDE
from .zarr_layout import META, decode, layout_problem, record_of

FOLDER = "packs"
ROOT, ALIASES, INDEX = "cache.json", "aliases.json", "index.json"
PACK_NAME = re.compile(r"[0-9a-f]{16}\.zip")
OPENED_AT_ONCE = 8


class PackStore(Store):
    """Packs, read only: one in a file, or a set of them in a folder or behind an address."""

    def __init__(self, url: str, mode: Mode, licence: str | None, restricted: bool | None) -> None:
        if mode == "a":
            todo = "Extract to a .zarr folder; `sage-va cache copy` adds it to the packs."
            raise InputError(url, expected="a cache that can be added to", got="packs, made for sharing", todo=todo)
        self.place, self.mode = Remote(url), mode
        self.url = self.place.url
        self.single = self.url.lower().endswith(".zip")
        self.broken: dict[str, str] = {}
        self._last = threading.local()
        self._open()
        check_terms(self.url, self.root(), licence, restricted)

    def _open(self) -> None:
        """Reads where everything lies, once; packs that come later are seen by who opens the cache again."""
        try:
            self._root = {} if self.single else json_attrs(self.place.read(ROOT))
            sizes = self._sizes()
        except (FileNotFoundError, NotADirectoryError) as error:
            todo = "Check the address, or make it with `sage-va cache copy`."
            raise InputError(self.url, expected="a feature cache", got="none there", todo=todo) from error
        with _garbage_collector_paused(), ThreadPoolExecutor(OPENED_AT_ONCE, "sage-va-open") as pool:
            self.packs = [pack for pack in pool.map(self._open_pack, sorted(sizes.items())) if pack]
        self._where: dict[str, dict[str, Pack]] = {}
        for pack in self.packs:
            for stream, key in pack.entries:
                self._where.setdefault(stream, {}).setdefault(key, pack)

    def _sizes(self) -> dict[str, int]:
        """Bytes of each pack by name, as they are now."""
        if self.single:
            return {"": self.place.info("")["size"]}
        sizes = self.place.sizes(FOLDER) if self.place.can_list else self._listed()
        return {f"{FOLDER}/{name}": size for name, size in sizes.items() if PACK_NAME.fullmatch(name)}

    def _listed(self) -> dict[str, int]:
        """Bytes of each pack by name, as the index has them."""
        index = unsealed(json_attrs(self.place.read(INDEX))) or {}
        try:
            return {str(row["name"]): int(row["bytes"]) for row in index["packs"]}
        except (KeyError, TypeError, ValueError) as error:
            todo = "Let its owner copy to it once more, which writes it anew."
            raise DamagedError(f"{self.url}/{INDEX}", expected="the list of packs", got="another", todo=todo) from error

    def _open_pack(self, named: tuple[str, int]) -> Pack | None:
        try:
            return Pack(self.place, *named)
        except Exception as error:  # a damaged directory may fail in any way
            if is_outage(error):
                raise
            what = first_line(error)
            if self.single:
                todo = "Copy it again from where it came."
                raise DamagedError(self.url, expected="a pack that can be read", got=what, todo=todo) from error
            self.broken[named[0]] = what
            return None

    def _load_root(self) -> dict[str, Any]:
        return self.packs[0].attrs if self.single else self._root

    def _load_aliases(self) -> dict[str, str]:
        if self.single:
            return self.packs[0].aliases
        with suppress(FileNotFoundError):
            return (unsealed(json_attrs(self.place.read(ALIASES))) or {}).get("aliases", {})
        return {}

    def _streams(self) -> list[str]:
        return sorted(self._where)

    def _keys(self, stream: str) -> list[str]:
        return sorted(self._where.get(stream, ()))

    def _exists(self, stream: str, key: str) -> bool:
        return key in self._where.get(stream, ())

    def _load_record(self, stream: str, key: str) -> dict[str, Any]:
        if not self._exists(stream, key):
            return {}
        try:
            return self._where[stream][key].record(stream, key)
        except Exception as error:  # damage may fail in any way
            if is_outage(error):
                raise
            return {"unreadable": repr(error)}

    def _load_entry(self, stream: str, key: str, record: dict[str, Any]) -> Entry:
        files = self._files(stream, key)
        if unsealed(record_of(files[META])) != record:
            raise ValueError("its own record is another than the pack's index has")
        return decode(files.__getitem__, record)

    def _entry_layout_problem(self, stream: str, key: str) -> str | None:
        files = self._files(stream, key)
        return layout_problem(files, files.__getitem__)

    def _files(self, stream: str, key: str) -> dict[str, bytes]:
        """An entry's files; a thread that asks twice in a row is not sent twice."""
        if getattr(self._last, "place", None) != (stream, key):
            self._last.files = self._where[stream][key].files(stream, key)
            self._last.place = stream, key
        return self._last.files

    def _layout_problems(self) -> Iterator[str]:
        there = {name.removeprefix(f"{FOLDER}/") for name in (*self.broken, *(pack.name for pack in self.packs))}
        for name in () if self.single else (ALIASES, INDEX):
            with suppress(FileNotFoundError):
                attrs = unsealed(json_attrs(self.place.read(name)))
                if attrs is None:
                    yield f"{name} is not what was written"
                for row in (attrs or {}).get("packs", ()):
                    if row["name"] not in there:
                        yield f"{FOLDER}/{row['name']} is missing: copy its clips again"
        for name, what in sorted(self.broken.items()):
            yield f"{name} cannot be read, {what}: delete it and copy its clips again"
        terms = [self.root()[name] for name in ("licence", "restricted")]
        for pack in self.packs:
            name = pack.name or self.place.base.rsplit("/", 1)[-1]
            if what := pack.problem():
                yield f"{name} {what}"
            elif [pack.attrs.get(name) for name in ("licence", "restricted")] != terms:
                yield f"{name} was made under other terms than those in {ROOT}"

    def leftovers(self) -> list[str]:
        staging = self.place.staging
        return [f"{SIDE}/staging/{name}" for name in folders(staging)] if self.place.local else []

    def _save_alias(self, alias: str, stream: str) -> NoReturn:
        raise AssertionError("packs are never changed")

    def _save_entry(self, key: str, entry: Entry, overwrite: bool) -> NoReturn:
        raise AssertionError("packs are never changed")

    def _discard(self, stream: str, key: str) -> NoReturn:
        raise AssertionError("packs are never changed")

    def _log(self, *events: Mapping[str, Any]) -> NoReturn:
        raise AssertionError("packs are never changed")


@contextmanager
def _garbage_collector_paused() -> Iterator[None]:
    """Pauses the search for cycles, which takes half of the time where a directory's million objects hold none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def write_single(
    path: Path, root: Mapping[str, Any], aliases: Mapping[str, str], entries: Iterable[Entry]
) -> Iterator[Entry]:
    """Makes `x.zarr.zip`, or replaces it: all of it, under a name of its own, then renamed when the last entry is in.

    Yields each entry as it is written; they are safe only at the end.

    Raises:
        InputError: if another writer of the file is at work.
    """
    with replacing(path, wait=False) as part:
        pack = PackWriter(part, root, aliases)
        for entry in entries:
            pack.add(entry)
            yield entry
        pack.close()


def open_cache(url: str, mode: Mode, licence: str | None, restricted: bool | None) -> PackStore:
    """Opens a pack or packs, to read."""
    return PackStore(url, mode, licence, restricted)
