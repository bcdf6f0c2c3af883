"""Sizes and times that a container holds beside those that FFmpeg reports: by them, damage shows."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_TAIL_BYTES = 4 << 20  # of a program stream: its last pack lies there
_BLOCK_PACKETS = 20_000
_MAX_BOXES = 10_000
_TS_SIZES = (188, 192, 204)  # of a packet: plain, with a time code, with check bytes
_MARKER = b"\x47"  # at the start of each packet
_UNKNOWN_RIFF = (0, 0xFFFFFFFF)
_PACK, _END = b"\x00\x00\x01\xba", b"\x00\x00\x01\xb9"


def missing_bytes(path: Path, format_name: str) -> int:
    """Returns how many bytes a file lacks by the sizes in its own container; 0 = none, or it declares no sizes.

    Args:
        path: of the file.
        format_name: FFmpeg's name of the format.
    """
    readers: dict[str, Callable[[BinaryIO, int], int]] = {
        "mp4": _mp4_end,
        "avi": _riff_end,
        "matroska": _matroska_end,
        "mpegts": _transport_end,
        "mpeg": _program_end,
    }
    reader = next((readers[name] for name in format_name.split(",") if name in readers), None)
    if reader is None:
        return 0
    size = path.stat().st_size
    with path.open("rb") as file:
        return max(0, reader(file, size) - size)


def unmarked_packets(path: Path) -> tuple[int, int]:
    """Returns how many whole packets of a transport stream do not begin as one, and how many there are."""
    num_unmarked = num_packets = 0
    with path.open("rb") as file:
        length, first = _packets(file)
        file.seek(0)
        while length and (block := file.read(_BLOCK_PACKETS * length)):
            markers = block[first : len(block) // length * length : length]
            num_packets += len(markers)
            num_unmarked += len(markers) - markers.count(_MARKER)
    return num_unmarked, num_packets


def movie_s(path: Path) -> float | None:
    """Returns the length of the whole movie in seconds, as an mp4 declares it beside those of its tracks.

    FFmpeg reports the longest track instead. None: not declared, or not at the start of the movie's header.
    """
    with path.open("rb") as file:
        for name, place, _ in _boxes(file, path.stat().st_size):
            if name == b"moov":
                file.seek(place)
                return _mvhd_s(file.read(40))
    return None


def avi_rate(path: Path) -> float | None:
    """Returns frames per second by the main header of an AVI; FFmpeg reports that of the stream's header."""
    with path.open("rb") as file:
        head = file.read(36)
    period_us = int.from_bytes(head[32:36], "little") if head[24:28] == b"avih" else 0
    return 1e6 / period_us if period_us else None


def _boxes(file: BinaryIO, size: int) -> list[tuple[bytes, int, int]]:
    """Returns name, start of the content and end of the boxes at the top of an mp4; the last may exceed the file."""
    boxes, place = list[tuple[bytes, int, int]](), 0
    while place + 8 <= size and len(boxes) < _MAX_BOXES:
        file.seek(place)
        length, name = struct.unpack(">I4s", file.read(8))
        start = place + 8
        if length == 1:
            length, start = int.from_bytes(file.read(8), "big"), place + 16
        end = size if length == 0 else place + length
        if end < start:
            break
        boxes.append((name, start, end))
        place = end
    return boxes


def _mvhd_s(head: bytes) -> float | None:
    if head[4:8] != b"mvhd":
        return None
    scale, length = struct.unpack(">IQ", head[28:40]) if head[8] else struct.unpack(">II", head[20:28])
    unknown = 2**64 - 1 if head[8] else 2**32 - 1
    return length / scale if scale and length not in (0, unknown) else None


def _mp4_end(file: BinaryIO, size: int) -> int:
    boxes = _boxes(file, size)
    return boxes[-1][2] if boxes and boxes[-1][0].isalnum() else 0


def _riff_end(file: BinaryIO, size: int) -> int:
    place = 0
    while place + 8 <= size:
        file.seek(place)
        name, length = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF" or length in _UNKNOWN_RIFF:
            return 0
        place += 8 + length + length % 2
    return place - 1  # the last byte may be padding, which some leave out


def _matroska_end(file: BinaryIO, size: int) -> int:
    """Returns the end of the segment, which holds everything behind the header."""
    place = 0
    for name in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):
        file.seek(place)
        head = file.read(12)
        num = 9 - head[4].bit_length() if len(head) == 12 else 0
        if head[:4] != name or not 1 <= num <= 8:
            return 0
        length = int.from_bytes(head[4 : 4 + num], "big") & (1 << 7 * num) - 1
        if length == (1 << 7 * num) - 1:  # written without knowing it
            return 0
        place += 4 + num + length
    return place


def _transport_end(file: BinaryIO, size: int) -> int:
    """Returns the end of the last packet."""
    length, _ = _packets(file)
    return -(-size // length) * length if length else 0


def _packets(file: BinaryIO) -> tuple[int, int]:
    """Returns length and first marker of the packets of a transport stream, in bytes; (0, 0) where they are none."""
    file.seek(0)
    head = file.read(3 * max(_TS_SIZES) + 4)
    for length in _TS_SIZES:
        first = 4 if length == 192 else 0
        if all(head[first + n * length : first + n * length + 1] == _MARKER for n in range(3)):
            return length, first
    return 0, 0


def _program_end(file: BinaryIO, size: int) -> int:
    """Returns the end of the last packet of the last pack."""
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read()
    place, first = tail.rfind(_PACK), size - len(tail)
    if place < 0:
        return 0
    is_mpeg2 = len(tail) > place + 13 and tail[place + 4] >> 6 == 1
    place += 14 + (tail[place + 13] & 7) if is_mpeg2 else 12
    while place + 6 <= len(tail) and tail[place : place + 3] == b"\x00\x00\x01" and tail[place : place + 4] != _END:
        place += 6 + int.from_bytes(tail[place + 4 : place + 6], "big")
    return first + place
