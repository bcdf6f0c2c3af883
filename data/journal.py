"""A journal: a file of JSON lines that only grows, and whose damaged lines are recognised.

Each line begins with its own length and ends with its own checksum:

    {"bytes": "00000123", "time": …, …, "attrs_sha256": "…"}

A kill or a full disk cuts a line short: such a *torn* line is shorter than it claims, and is skipped; the next writer
begins a new line behind it. A line of the right length, or of valid JSON, that does not match its checksum was changed
after it was written: it is *damaged*, and `verify` reports it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .atomic import naming, write_bytes
from .hashing import sealed

_LENGTH = re.compile(rb'\{"bytes": "(\d{8})", ')


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Appends one line, as `append_lines` does."""
    append_lines(path, [value])


def append_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Appends lines with the time of now, and returns when the disk has them. Several processes may append at once."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    lines = b"".join(journal_line({"time": now, **value}) + b"\n" for value in values)
    path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        with naming(path):
            _write_whole(descriptor, b"\n" + lines if torn else lines)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_whole(descriptor: int, lines: bytes) -> None:
    """Writes with one call, so that lines of several processes do not mix; less than all was written on a full disk."""
    if os.write(descriptor, lines) < len(lines):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the values of all whole lines; nothing where there is no file."""
    for line in _raw_lines(path):
        value = _value_of(line)
        if value is not None:
            yield value


def damaged_lines(path: Path) -> list[int]:
    """Returns the numbers (from 1) of lines that were changed after they were written."""
    return [number for number, line in enumerate(_raw_lines(path), 1) if _value_of(line) is None and not _is_torn(line)]


def remove_damaged_lines(path: Path) -> list[int]:
    """Removes damaged lines from a journal, whose writers must wait meanwhile; returns their numbers."""
    damaged = damaged_lines(path)
    if damaged:
        kept = [line for number, line in enumerate(_raw_lines(path), 1) if number not in set(damaged)]
        write_bytes(path, b"\n".join(kept))
    return damaged


def journal_line(value: Mapping[str, Any]) -> bytes:
    """Returns a value as it stands in a journal, without the line end."""
    body = json.dumps(sealed(value), ensure_ascii=False, allow_nan=False).encode()
    return b'{"bytes": "%08d", ' % (len(body) + 21) + body[1:]


def _raw_lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[: None if path.stat().st_size else 0] if path.exists() else []


def _value_of(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
        del value["bytes"], value["attrs_sha256"]
        return value if journal_line(value) == line else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_torn(line: bytes) -> bool:
    """True for the beginning of a longer line. A single changed byte never makes one: it keeps the length, or leaves
    whole JSON.
    """
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(line)
        return False
    start = b'{"bytes": "'
    length = _LENGTH.match(line)
    begun = len(line) < 22 and (line.startswith(start) or start.startswith(line))
    return len(line) < int(length[1]) if length else begun
