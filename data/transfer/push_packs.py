"""Adding to packs: each is made in a local file, sent whole under the name of its hash, and proven to have arrived.

An object store has no rename and no locks, so the protocol has neither. One push:

    cache.json (a new place) -> aliases.json -> index.json -> pack -> pack -> ... -> index.json
                                                               |
        entries -> local file -> close: seal, SHA-256 -> packs/<16 hex>.zip -> proven? -> safe
                                                               |                  no -> InputError, nothing is listed
                                          sent by an earlier push, and proven: not sent again

A kill between two steps leaves whole packs, and perhaps an index that lacks some: a reader that can list the folder
sees them, and the next push corrects the index. Packs of several writers never collide, since their names are hashes
of their bytes. The two lists can: each writer reads what it wrote, and writes again until the list holds all (`TRIES`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..atomic import json_file, locked
from ..errors import InputError
from ..hashing import sealed, unsealed
from ..store.entry import Entry
from ..store.pack_file import PackWriter
from ..store.pack_store import ALIASES, FOLDER, INDEX, ROOT
from ..store.remote import Remote
from ..user_cache import user_cache
from .dataset_card import CARD, MARK

PACK_BYTES = 1 << 30
TRIES = 5  # at lists that another writer replaces at the same moment


class Push:
    """A writer of packs. Several may work at one place at once: packs never collide, and lists are settled.

    Args:
        root: unsealed attributes of the cache.
        aliases: to be added to those that are there.
    """

    def __init__(self, place: Remote, root: Mapping[str, Any], aliases: Mapping[str, str]) -> None:
        self.place, self.root, self.aliases = place, root, aliases
        self.packs: dict[str, int] = {}
        self.objects = 0

    def add(self, entries: Iterable[Entry], *, new: bool) -> Iterator[tuple[int, int]]:
        """Yields the number of entries, and the bytes of their arrays, of each pack when it is safe.

        Raises:
            InputError: if the place does not answer, refuses, or holds something else under a pack's name.
        """
        with _scratch(self.place) as folder:
            if new:
                self._write(ROOT, sealed(self.root))
            self._write_aliases()
            self._write_index()
            pack, sizes = None, list[int]()
            for entry in entries:
                pack = pack or PackWriter(folder / f"{uuid.uuid4().hex}.zip", self.root)
                pack.add(entry)
                sizes.append(entry.nbytes)
                if pack.nbytes >= PACK_BYTES:
                    self._send(pack)
                    yield len(sizes), sum(sizes)
                    pack, sizes = None, []
            if pack:
                self._send(pack)
                yield len(sizes), sum(sizes)
            self._write_index()

    def _send(self, pack: PackWriter) -> None:
        sha256 = pack.close()
        name = f"{FOLDER}/{sha256[:16]}.zip"
        there = Path(name).name in self.packs and self.place.proves(name, sha256, pack.path)  # sent before
        if not there:  # an object under this name with other bytes is replaced
            self.place.put(name, pack.path)
            self.objects += 1
        if not (there or self.place.proves(name, sha256, pack.path if pack.path.exists() else None)):
            todo = "Delete that object and do the same again."
            where = f"{self.place.url}/{name}"
            raise InputError(where, expected="the pack of that name", got="other bytes", todo=todo)
        pack.path.unlink(missing_ok=True)

    def _write(self, name: str, attrs: Mapping[str, Any]) -> None:
        self.place.write(name, json_file(attrs))
        self.objects += 1

    def _write_aliases(self) -> None:
        """Adds our aliases; again, if another writer took them away at the same moment."""
        for _ in range(TRIES):
            known = self._read(ALIASES).get("aliases", {})
            if self.aliases.keys() <= known.keys():
                return
            self._write(ALIASES, sealed({"aliases": dict(sorted({**self.aliases, **known}.items()))}))

    def _write_index(self) -> None:
        """Lists the packs for those who cannot; again, until the list is true while others push too."""
        listed = self._read(INDEX).get("packs")
        for _ in range(TRIES):
            self.packs = self.place.sizes(FOLDER)
            rows = [{"name": name, "bytes": size} for name, size in sorted(self.packs.items())]
            if listed == rows:
                return
            self._write(INDEX, sealed({"packs": rows}))
            listed = rows

    def _read(self, name: str) -> dict[str, Any]:
        """The attributes in a small file; {} where it is missing or damaged, so that it is written anew."""
        try:
            content = self.place.read(name)
        except FileNotFoundError:
            return {}
        with contextlib.suppress(ValueError, AttributeError):
            return unsealed(json.loads(content)) or {}
        return {}

    def write_card(self, text: str) -> None:
        """Writes the page of a dataset repository; a page that its owner wrote stays."""
        repository = Remote("/".join(self.place.url.split("/")[:5]))
        with contextlib.suppress(FileNotFoundError):
            page = repository.read(CARD).decode(errors="replace")
            if MARK not in page or page == text:
                return
        repository.write(CARD, text.encode())
        self.objects += 1


@contextlib.contextmanager
def _scratch(place: Remote) -> Iterator[Path]:
    """A folder for packs in the making, which no other writer tidies; clears what killed writers left."""
    folder = place.staging if place.local else user_cache() / "push"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
        for left in folder.iterdir() if alone else ():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name != "lock":
                left.unlink()
    with locked(folder / "lock", fcntl.LOCK_SH):
        own = folder / uuid.uuid4().hex
        own.mkdir()
        try:
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)
