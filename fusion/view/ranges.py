"""Byte ranges of files, as browsers ask for them when a video is moved."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...data.errors import InputError

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


@dataclass(frozen=True)
class ByteRange:
    """The bytes from `first` up to `last`, both included, of a file of `size` bytes."""

    first: int
    last: int
    size: int

    @property
    def length(self) -> int:
        """The number of bytes."""
        return self.last - self.first + 1

    @property
    def header(self) -> str:
        """The value of `Content-Range`."""
        return f"bytes {self.first}-{self.last}/{self.size}"


def byte_range(header: str | None, size: int) -> ByteRange | None:
    """Returns the part of a file that a `Range` header asks for; None for the whole file.

    Several ranges at once, and other units, are answered by the whole file, as RFC 9110 allows.

    Args:
        header: its value; None = there is none.
        size: of the file in bytes.

    Raises:
        InputError: if no byte of the file lies in the range.
    """
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    begin, end = match.groups()
    if not begin:
        first, last = max(0, size - int(end)), size - 1
    else:
        first, last = int(begin), min(int(end), size - 1) if end else size - 1
        if end and int(end) < first:
            return None  # malformed, hence ignored
    if first >= size or (not begin and not int(end)):
        raise InputError("Range", f"the file has {size} bytes", got=header or "", todo="Ask for less.")
    return ByteRange(first, last, size)
