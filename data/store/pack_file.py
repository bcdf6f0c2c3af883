"""One pack: an uncompressed ZIP that is a whole Zarr v3 hierarchy, each entry in one piece, sealed at its end."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from array import array
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..atomic import json_file
from ..hashing import sealed, unsealed
from .base import is_outage
from .entry import Entry
from .fingerprint import check_key, check_stream, clip_key
from .remote import PART_BYTES, Remote
from .staging import SIDE
from .zarr_layout import ENTRY_FILES, META, encode, group_attrs, group_file, record_of

RECORDS, PACK_ALIASES = f"{SIDE}/records.jsonl", f"{SIDE}/aliases.json"
TAIL_BYTES = 256 << 10  # fetched first: in most packs all of the directory and the records
SEAL_BYTES = 64  # a pack's ZIP comment: SHA-256 (hex) of all the bytes before it

_ENTRY_FILES = set(ENTRY_FILES)
_NUM_FILES = len(ENTRY_FILES)


class Pack:
    """The directory and index of one pack, fetched by a read or two near its end.

    Raises:
        Exception: any, if it is no sound pack; OutageError, if it cannot be reached.
    """

    def __init__(self, place: Remote, name: str, size: int) -> None:
        self.place, self.name, self.size = place, name, size
        self.entries: dict[tuple[str, str], tuple[int, tuple[str, ...]]] = {}  # place of its first file, all names
        with zipfile.ZipFile(_Tail(place, name, size)) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            self._locate(infos, archive.start_dir)
            self.attrs = _read(archive, META, group_attrs)
            self.aliases = (unsealed(_read(archive, PACK_ALIASES, json_attrs)) or {}).get("aliases", {})
            lines = _read(archive, RECORDS, lambda content: {"lines": content.splitlines()}).get("lines", [])
        self.lines = dict(zip(self.entries, lines, strict=False))

    def _locate(self, infos: list[zipfile.ZipInfo], end: int) -> None:
        """Notes where each entry lies. Here names from elsewhere come in: they are checked, and never used as paths.

        A pack of 100,000 clips has a million files: of each, no more than two numbers are kept.
        """
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED:  # a small file could grow beyond the memory
                raise ValueError(f"{info.filename} is compressed")
        self.starts = array("Q", [*(info.header_offset for info in infos), end])
        self.sizes = array("Q", [info.file_size for info in infos])
        names, place, streams, order = [info.filename for info in infos], 0, set[str](), ENTRY_FILES
        while place < len(names):
            path = names[place].split("/", 3)
            if len(path) < 4:  # attributes of a group
                place += 1
                continue
            stream, key = f"{path[0]}/{path[1]}", check_key(path[2])
            if stream not in streams:
                streams.add(check_stream(stream))
            files, inside = names[place : place + _NUM_FILES], f"{stream}/{key}/"
            if files != [inside + name for name in order]:  # else in the order of the entry before it
                order = tuple(name[len(inside) :] for name in files if name.startswith(inside))
            if len(order) != _NUM_FILES or set(order) != _ENTRY_FILES or (stream, key) in self.entries:
                raise ValueError(f"{stream}/{key} is not one whole entry")
            self.entries[stream, key] = place, order
            place += _NUM_FILES

    def record(self, stream: str, key: str) -> dict[str, Any]:
        """The sealed record of an entry: from the pack's index where that is sound, else from the entry itself."""
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            record = json.loads(self.lines[stream, key])
            if unsealed(record) and (record["stream"], clip_key(record["clip"]["clip_id"])) == (stream, key):
                return record
        return record_of(self.files(stream, key)[META])

    def files(self, stream: str, key: str) -> dict[str, bytes]:
        """The files of an entry by name, fetched by one read."""
        place, order = self.entries[stream, key]
        first, *ends = self.starts[place : place + _NUM_FILES + 1]
        content = self.place.read(self.name, first, ends[-1])
        spans = zip(order, [first, *ends[:-1]], ends, self.sizes[place : place + _NUM_FILES], strict=True)
        return {name: _content(content[start - first : end - first], size) for name, start, end, size in spans}

    def problem(self) -> str | None:
        """Returns the damage of the pack's bytes, if there is any: the seal at its end and its name prove them."""
        whole, last = hashlib.sha256(), b""
        for chunk in self.place.chunks(self.name, self.size):
            held = last + chunk
            whole.update(held[:-SEAL_BYTES])
            last = held[-SEAL_BYTES:]
        sealed_well = whole.hexdigest().encode() == last
        whole.update(last)
        named_well = not self.name or whole.hexdigest().startswith(Path(self.name).stem)
        return None if sealed_well and named_well else "is not what was written"


class PackWriter:
    """Makes one pack, deterministically: the same entries in the same order give the same bytes.

    Args:
        path: a new file.
        root: unsealed attributes of the cache.
        aliases: of a pack that is a cache by itself.
    """

    def __init__(self, path: Path, root: Mapping[str, Any], aliases: Mapping[str, str] | None = None) -> None:
        self.path, self.aliases, self.records, self.groups = path, aliases, io.BytesIO(), set[str]()
        self.archive = zipfile.ZipFile(path, "w")
        self._put(META, group_file(sealed(root)))

    def _put(self, name: str, content: bytes) -> None:
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, 0o644 << 16
        self.archive.writestr(info, content)

    @property
    def nbytes(self) -> int:
        """Bytes so far, without the directory at the end."""
        return self.archive.start_dir

    def add(self, entry: Entry) -> None:
        """Adds an entry, its files side by side."""
        for group in (entry.stream.split("/")[0], entry.stream):
            if group not in self.groups:
                self._put(f"{group}/{META}", group_file({}))
                self.groups.add(group)
        files = encode(entry)
        for name in sorted(files, reverse=True):
            self._put(f"{entry.stream}/{clip_key(entry.clip_id)}/{name}", files[name])
        self.records.write(json.dumps(sealed(entry.record), ensure_ascii=False).encode() + b"\n")

    def close(self) -> str:
        """Ends and seals the pack; returns the SHA-256 (hex) of its bytes."""
        if self.aliases is not None:
            self._put(PACK_ALIASES, json_file(sealed({"aliases": dict(sorted(self.aliases.items()))})))
        self._put(RECORDS, self.records.getvalue())
        self.archive.comment = b"0" * SEAL_BYTES
        self.archive.close()
        whole, left = hashlib.sha256(), self.path.stat().st_size - SEAL_BYTES
        with self.path.open("r+b") as file:
            while left:
                left -= len(chunk := file.read(min(PART_BYTES, left)))
                whole.update(chunk)
            seal = whole.hexdigest().encode()
            file.seek(-SEAL_BYTES, os.SEEK_END)
            file.write(seal)
        whole.update(seal)
        return whole.hexdigest()


class _Tail(io.RawIOBase):
    """A file of which the end is at hand, and the rest is fetched when it is asked for."""

    def __init__(self, place: Remote, name: str, size: int) -> None:
        self.fetch: Callable[[int, int], bytes] = lambda start, end: place.read(name, start, end)
        self.size, self.at, self.start = size, 0, max(0, size - TAIL_BYTES)
        self.tail = self.fetch(self.start, size) if size else b""

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        if self.at < 0:
            raise OSError("before the start of the file")
        return self.at

    def read(self, size: int | None = -1) -> bytes:
        start, end = self.at, self.size if size is None or size < 0 else min(self.at + size, self.size)
        self.at = max(start, end)
        if start >= end:
            return b""
        return self.tail[start - self.start : end - self.start] if start >= self.start else self.fetch(start, end)


def _read(archive: zipfile.ZipFile, name: str, parse: Callable[[bytes], dict[str, Any]]) -> dict[str, Any]:
    """Parses a member outside of entries: {} where there is none, something unsealed where it is damaged."""
    if name not in archive.namelist():
        return {}
    try:
        return parse(archive.read(name))
    except Exception as error:  # damage may fail in any way; it is found by the seal, and no entry is lost by it
        if is_outage(error):
            raise
        return {"unreadable": repr(error)}


def _content(member: bytes, size: int) -> bytes:
    """Returns the content of a ZIP member, given with its header."""
    start = 30 + int.from_bytes(member[26:28], "little") + int.from_bytes(member[28:30], "little")
    if member[:4] != b"PK\x03\x04" or len(member) != start + size:
        raise ValueError("not a stored member of a ZIP")
    return member[start:]


def json_attrs(content: bytes) -> dict[str, Any]:
    """A JSON object that is written as we write it; something unsealed where it is not."""
    with suppress(ValueError):
        attrs = json.loads(content)
        if isinstance(attrs, dict) and json_file(attrs) == content:
            return attrs
    return {"unreadable": 1}
