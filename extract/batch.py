"""Frames and windows of many clips, packed into device batches of one fixed shape."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]
T = TypeVar("T")


class ClosedError(Exception):
    """The queue has been closed: stop putting."""


class BytesQueue(Generic[T]):
    """A queue between threads, bounded by the bytes that it holds; one item always fits.

    Args:
        max_bytes: above this, `put` waits.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._held_bytes = max_bytes, 0
        self._items: deque[tuple[T, int]] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T, num_bytes: int = 0) -> float:
        """Adds an item, when there is room; returns the seconds that it waited.

        Raises:
            ClosedError: if the queue is closed, also while waiting.
        """
        start = perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(num_bytes))
            if self._closed:
                raise ClosedError
            self._items.append((item, num_bytes))
            self._held_bytes += num_bytes
            self._changed.notify_all()
        return perf_counter() - start

    def get(self) -> T:
        """The next item, when there is one."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items))
            item, num_bytes = self._items.popleft()
            self._held_bytes -= num_bytes
            self._changed.notify_all()
            return item

    def check_open(self) -> None:
        """For those who work long between two puts.

        Raises:
            ClosedError: if the queue is closed.
        """
        if self._closed:
            raise ClosedError

    def _has_room(self, num_bytes: int) -> bool:
        return not self._items or self._held_bytes + num_bytes <= self._max_bytes

    def close(self) -> None:
        """Makes every `put`, waiting or to come, raise ClosedError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@dataclass
class Packer(Generic[T]):
    """Collects items of equal shape from many owners, and encodes them in batches of one size.

    The last batch is filled up with repeats, so that the encoder sees one shape only: on one machine an item's result
    is then the same bits at every place and in every company (tested), hence also after a kill and resume.

    Args:
        batch_size: items per batch.
        encode: (B, …) -> (B, …) float32.
    """

    batch_size: int
    encode: Callable[[NDArray[Any]], Values]
    _rows: list[tuple[T, NDArray[Any]]] = field(default_factory=list[tuple[T, NDArray[Any]]])

    def push(self, owner: T, items: NDArray[Any]) -> Iterator[tuple[T, Values]]:
        """Takes (N, …) items of one owner; yields (owner, result) for each item of the batches that are now full."""
        for item in items:
            self._rows.append((owner, item))
            if len(self._rows) == self.batch_size:
                yield from self.flush()

    def flush(self) -> Iterator[tuple[T, Values]]:
        """Encodes what waits, however little it is."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        filled = [item for _, item in rows] + [rows[-1][1]] * (self.batch_size - len(rows))
        results = self.encode(np.stack(filled))
        for (owner, _), result in zip(rows, results, strict=False):
            yield owner, result
