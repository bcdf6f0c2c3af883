"""The Zarr tree of a cache in one session of an Icechunk repository."""

from __future__ import annotations

from typing import Any

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from ..hashing import sealed, unsealed
from .entry import Entry
from .fingerprint import clip_key
from .icechunk_repo import calm
from .zarr_layout import ENTRY_FILES, META, encode, group_attrs, group_file, record_of

from icechunk import Session  # isort: skip

ALIASES = f"aliases/{META}"


class Tree:
    """The files of a Zarr tree in one session: those of a snapshot, and those that the session itself writes."""

    def __init__(self, session: Session) -> None:
        self.session, self._store = session, session.store
        self._listed: dict[str, list[str]] = {}

    def read(self, path: str) -> bytes:
        """The content of a file; raises FileNotFoundError where there is none, IcechunkError where it is damaged."""
        with calm():
            content = sync(self._store.get(path, default_buffer_prototype()))
        if content is None:
            raise FileNotFoundError(path)
        return content.to_bytes()

    def exists(self, path: str) -> bool:
        """True where there is such a file."""
        return sync(self._store.exists(path))

    def names(self, folder: str) -> list[str]:
        """Sorted names of what is in a folder but its own `zarr.json`; listed once."""

        async def listed() -> list[str]:
            return [name async for name in self._store.list_dir(folder)]

        if folder not in self._listed:
            self._listed[folder] = sorted(set(sync(listed())) - {META})
        return self._listed[folder]

    def write(self, path: str, content: bytes) -> None:
        """Makes or replaces a file."""
        sync(self._store.set(path, default_buffer_prototype().buffer.from_bytes(content)))

    def delete(self, folder: str) -> None:
        """Removes a folder with all in it."""
        sync(self._store.delete_dir(folder))

    def record(self, place: str) -> dict[str, Any]:
        """The sealed record of an entry; {} where there is none, anything unsealed where it is damaged."""
        try:
            return record_of(self.read(f"{place}/{META}"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            return {"unreadable": repr(error)}

    def aliases(self) -> dict[str, str] | None:
        """Full stream name by alias, or None where they are not what was written."""
        try:
            return unsealed(group_attrs(self.read(ALIASES)))
        except FileNotFoundError:
            return {}
        except ValueError:
            return None

    def point(self, alias: str, stream: str) -> None:
        """Makes an alias, or points it elsewhere."""
        self.write(ALIASES, group_file(sealed({**(self.aliases() or {}), alias: stream})))

    def put(self, entry: Entry) -> None:
        """Writes an entry in place of what is there, with the groups above it."""
        for folder in (entry.stream.split("/")[0], entry.stream):
            if not self.exists(f"{folder}/{META}"):
                self.write(f"{folder}/{META}", group_file({}))
        place = f"{entry.stream}/{clip_key(entry.clip_id)}"
        self.delete(place)
        files = encode(entry)
        for name in ENTRY_FILES:
            self.write(f"{place}/{name}", files[name])
