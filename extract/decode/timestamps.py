"""Times of decoded frames as the container gives them, put right with a count where they cannot be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

HELD_FRAMES = 16  # no codec shows a frame further than this from its place in the stream
_USUAL = 1.5  # a step of more usual gaps than this may be a place that a later timestamp belongs to

Timed: TypeAlias = tuple[int, int, Any]  # pts and duration in ticks, frame


@dataclass
class Mender:
    """Takes frames in the order of showing, gives them back in that order with strictly increasing timestamps.

    Timestamps that increase pass untouched. Where they do not, the frames keep their order and the timestamps are
    sorted; a frame whose timestamp is missing, or that of another frame, stands evenly between its neighbours, or one
    usual gap after the last. Up to `HELD_FRAMES` frames wait while it is not clear whether that is needed.

    Args:
        usual_gap: ticks from frame to frame by the container's rate; 0 = unknown.
        repaired: how many timestamps were "missing", "repeated" or "unordered" (earlier than the frame before).
    """

    usual_gap: int = 0
    repaired: dict[str, int] = field(default_factory=lambda: {"missing": 0, "repeated": 0, "unordered": 0})
    _held: list[tuple[int | None, int, Any]] = field(default_factory=list[tuple[int | None, int, Any]])
    _last: int | None = None  # given back
    _seen: int | None = None  # taken

    @property
    def last(self) -> int | None:
        """The latest timestamp taken; None = none yet."""
        return self._seen

    def push(self, pts: int | None, duration: int, frame: Any) -> Iterator[Timed]:
        """Takes the next frame; yields those whose times are settled."""
        self._count(pts)
        self._seen = pts if pts is not None else self._seen
        stale = (
            pts is None or (self._last is not None and pts <= self._last) or pts in [held for held, *_ in self._held]
        )
        self._held.append((None if stale else pts, duration, frame))
        while num_settled := self._num_settled():
            yield from self._release(num_settled)

    def finish(self) -> Iterator[Timed]:
        """The frames that still wait."""
        yield from self._release(len(self._held))

    def _release(self, num_frames: int) -> Iterator[Timed]:
        known = iter(sorted(pts for pts, *_ in self._held if pts is not None))
        self._held = [(None if pts is None else next(known), ticks, frame) for pts, ticks, frame in self._held]
        times = self._filled([pts for pts, *_ in self._held])
        released, self._held = self._held[:num_frames], self._held[num_frames:]
        for time, (_, duration, frame) in zip(times, released, strict=False):
            self._last = time
            yield time, duration, frame

    def _count(self, pts: int | None) -> None:
        if pts is None:
            self.repaired["missing"] += 1
        elif pts == self._last or any(pts == held for held, *_ in self._held):
            self.repaired["repeated"] += 1
        elif self._seen is not None and pts < self._seen:
            self.repaired["unordered"] += 1

    def _num_settled(self) -> int:
        """How many frames may go: up to the first timestamp before which no more room is than there are frames."""
        known = [pts for pts, *_ in self._held if pts is not None]
        if known:
            num_before = next(place for place, (pts, *_) in enumerate(self._held) if pts is not None)
            gap = max(self.usual_gap, self._held[0][1], 1)
            room = 0 if self._last is None else math.ceil((min(known) - self._last) / gap - (_USUAL - 1)) - 1
            if room <= num_before:
                return num_before + 1
        return int(len(self._held) >= HELD_FRAMES)

    def _filled(self, given: list[int | None]) -> list[int]:
        """Strictly increasing ticks: the given ones, and those that lack set between them."""
        times: list[int] = []
        for place, pts in enumerate(given):
            before = times[-1] if times else self._last
            time = self._between(before, given[place:]) if pts is None else pts
            times.append(time if before is None else max(time, before + 1))
        return times

    def _between(self, before: int | None, following: list[int | None]) -> int:
        ahead = next((count for count, pts in enumerate(following) if pts is not None), None)
        after = None if ahead is None else following[ahead]
        gap = max(self.usual_gap, 1)
        if ahead is None or after is None:
            return 0 if before is None else before + gap
        return after - gap * ahead if before is None else before + (after - before) // (ahead + 1)
