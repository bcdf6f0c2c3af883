"""Repair of frame timestamps: missing, repeated and unordered ones, each repair counted.

Containers deliver frames in presentation order, but not always with presentation timestamps that increase: AVI with
B-frames gives decoding timestamps, some muxers repeat a timestamp or leave it out. The repair keeps the order of the
frames and never invents time where the container's own timestamps increase.

A frame is *held* until no later timestamp can belong before it. While timestamps increase by about the usual gap, at
most one frame is held, for the length of one call, and passes untouched. The states of the repair:

                     pts increases, no room before it
                    +-------------------------------+
                    |                               v
    push(pts) --> PASSING  --- release at once ---> out, pts untouched
                    |
                    |  pts missing, repeated, earlier than one before,
                    |  or later than the usual gap allows (room for another)
                    v
                  HOLDING  --- room is filled, or HELD_FRAMES are held, or finish() ---> out, repaired
                    |   ^
                    +---+  push(pts)

On release, the known timestamps of the held frames are sorted and dealt out in the frames' order. A frame without one
of its own stands evenly between its neighbours, or one usual gap after the last frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

HELD_FRAMES = 16  # no codec shows a frame further than this from its place in the stream
_USUAL = 1.5  # a step of more usual gaps than this may leave room for a later timestamp

TimedFrame: TypeAlias = tuple[int, int, Any]  # pts and duration in ticks, frame


@dataclass
class TimestampRepair:
    """Takes frames in presentation order, returns them in that order with strictly increasing timestamps.

    See the text of this module for the protocol.

    Args:
        usual_gap: ticks from frame to frame by the container's rate; 0 = unknown.
        repaired: number of timestamps that were "missing", "repeated" or "unordered" (earlier than the frame before).
    """

    usual_gap: int = 0
    repaired: dict[str, int] = field(default_factory=lambda: {"missing": 0, "repeated": 0, "unordered": 0})
    _held: list[tuple[int | None, int, Any]] = field(default_factory=list[tuple[int | None, int, Any]])
    _last_out: int | None = None
    _last_in: int | None = None

    @property
    def last(self) -> int | None:
        """The latest timestamp taken, in ticks; None = none yet."""
        return self._last_in

    def push(self, pts: int | None, duration: int, frame: Any) -> Iterable[TimedFrame]:
        """Takes the next frame; returns those whose times are settled."""
        if pts is not None and not self._held and self._follows(pts, duration):
            self._last_in = self._last_out = pts
            return ((pts, duration, frame),)
        return self._held_or_repaired(pts, duration, frame)

    def _held_or_repaired(self, pts: int | None, duration: int, frame: Any) -> Iterator[TimedFrame]:
        self._count(pts)
        self._last_in = pts if pts is not None else self._last_in
        self._held.append((None if self._is_stale(pts) else pts, duration, frame))
        while num_settled := self._num_settled():
            yield from self._release(num_settled)

    def finish(self) -> Iterator[TimedFrame]:
        """Yields the frames that are still held."""
        yield from self._release(len(self._held))

    def _follows(self, pts: int, duration: int) -> bool:
        """True if a timestamp is later than all released, with no room for another between."""
        return self._last_out is None or (pts > self._last_out and self._room(pts, duration) <= 0)

    def _room(self, pts: int, duration: int) -> int:
        """Returns how many frames the usual gap allows between the last one released and a timestamp."""
        gap = max(self.usual_gap, duration, 1)
        return 0 if self._last_out is None else math.ceil((pts - self._last_out) / gap - (_USUAL - 1)) - 1

    def _is_stale(self, pts: int | None) -> bool:
        """True for a timestamp that its frame cannot keep: missing, already used, or earlier than a frame released."""
        if pts is None or (self._last_out is not None and pts <= self._last_out):
            return True
        return pts in [held for held, *_ in self._held]

    def _release(self, num_frames: int) -> Iterator[TimedFrame]:
        known = iter(sorted(pts for pts, *_ in self._held if pts is not None))
        self._held = [(None if pts is None else next(known), ticks, frame) for pts, ticks, frame in self._held]
        times = self._filled([pts for pts, *_ in self._held])
        released, self._held = self._held[:num_frames], self._held[num_frames:]
        for time, (_, duration, frame) in zip(times, released, strict=False):
            self._last_out = time
            yield time, duration, frame

    def _count(self, pts: int | None) -> None:
        if pts is None:
            self.repaired["missing"] += 1
        elif pts == self._last_out or any(pts == held for held, *_ in self._held):
            self.repaired["repeated"] += 1
        elif self._last_in is not None and pts < self._last_in:
            self.repaired["unordered"] += 1

    def _num_settled(self) -> int:
        """Returns how many frames may go: those up to the first known timestamp, once they fill the room before it."""
        known = [pts for pts, *_ in self._held if pts is not None]
        if known:
            num_before = next(place for place, (pts, *_) in enumerate(self._held) if pts is not None)
            if self._room(min(known), self._held[0][1]) <= num_before:
                return num_before + 1
        return int(len(self._held) >= HELD_FRAMES)

    def _filled(self, timestamps: list[int | None]) -> list[int]:
        """Returns strictly increasing ticks: the known timestamps, and for the others places between them."""
        times: list[int] = []
        for place, pts in enumerate(timestamps):
            before = times[-1] if times else self._last_out
            time = self._between(before, timestamps[place:]) if pts is None else pts
            times.append(time if before is None else max(time, before + 1))
        return times

    def _between(self, before: int | None, following: list[int | None]) -> int:
        ahead = next((count for count, pts in enumerate(following) if pts is not None), None)
        after = None if ahead is None else following[ahead]
        gap = max(self.usual_gap, 1)
        if ahead is None or after is None:
            return 0 if before is None else before + gap
        return after - gap * ahead if before is None else before + (after - before) // (ahead + 1)
