"""Watchdog for decoder threads: a call into FFmpeg that never returns cannot be ended, only given up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Generic, Self, TypeVar

STALL_S = 120.0
T = TypeVar("T")


class GivenUpError(Exception):
    """The work of this thread was given up; the thread ends silently."""


class Watchdog(Generic[T]):
    """Gives up work that shows no sign of life; watches inside its `with` block, in a thread of its own.

    Args:
        give_up: called with the work, once, from the watching thread.
        stall_s: seconds without a sign.
    """

    def __init__(self, give_up: Callable[[T], None], stall_s: float = STALL_S) -> None:
        self._give_up, self._stall_s = give_up, stall_s
        self._beats: dict[int, tuple[T, float]] = {}  # by id: the work, and the time of its last sign
        self._given_up: dict[int, T] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sage-va-watchdog", daemon=True)

    def beat(self, work: T) -> None:
        """Notes a sign of life; from now on the work is watched.

        Raises:
            GivenUpError: if it was given up before.
        """
        with self._lock:
            if id(work) in self._given_up:
                raise GivenUpError
            self._beats[id(work)] = (work, monotonic())

    def rest(self, work: T) -> None:
        """Stops watching until the next beat: the work waits for others, or is done.

        Raises:
            GivenUpError: if it was given up before.
        """
        self.beat(work)
        with self._lock:
            self._beats.pop(id(work), None)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._stall_s / 10):
            for work in self._stalled():
                self._give_up(work)

    def _stalled(self) -> list[T]:
        with self._lock:
            stalled = [work for work, beat_s in self._beats.values() if monotonic() - beat_s > self._stall_s]
            for work in stalled:
                self._given_up[id(work)] = work  # kept, so that its id is not reused
                del self._beats[id(work)]
        return stalled
