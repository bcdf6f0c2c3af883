"""Start of a cut: packets before its key frame are read, but not decoded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av

KEYED = ("matroska", "mp4")  # containers whose key frames and timestamps can be relied on
HELD_BYTES = 64 << 20


class KeyFrameSkip:
    """Holds video packets back until the last key frame at or before an instant is known; then passes everything.

    The file is read in order, not sought in, so that audio and clock are those of the whole recording, to the bit.
    Where key frames cannot be relied on, or a group of pictures is larger than `HELD_BYTES`, nothing more is skipped.

    Args:
        start_s: the instant, in seconds; None = skip nothing.
        format_name: FFmpeg's name of the container's format.
        time_base: of the packets, seconds per tick.

    Attributes:
        key_s: time of the key frame at which decoding began, in seconds; None = it began with the recording.
    """

    def __init__(self, start_s: float | None, format_name: str, time_base: Fraction) -> None:
        self._start_s = -math.inf if start_s is None else start_s
        self._time_base = time_base
        self._open = start_s is None or not any(name in format_name for name in KEYED)
        self._held: list[av.Packet] = []
        self._held_bytes = 0
        self.key_s: float | None = None

    def push(self, packet: av.Packet) -> Iterable[av.Packet]:
        """Takes the next video packet; returns the packets that are to be decoded now."""
        return (packet,) if self._open else self._opening(packet)

    def _opening(self, packet: av.Packet) -> Iterator[av.Packet]:
        time_s = math.inf if packet.pts is None else float(packet.pts * self._time_base)
        if packet.is_keyframe and self._held and time_s <= self._start_s:
            self._held, self._held_bytes, self.key_s = [], 0, time_s
        self._held.append(packet)
        self._held_bytes += packet.size
        if packet.dts is None or packet.dts * self._time_base >= self._start_s or self._held_bytes > HELD_BYTES:
            self._open = True
            yield from self._held
            self._held = []

    def leads(self, pts: int | None) -> bool:
        """True if a frame is shown before the key frame, so that frames it depends on may have been skipped."""
        return self.key_s is not None and (pts is None or float(pts * self._time_base) < self.key_s)
