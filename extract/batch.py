"""Images and windows of many clips, packed into device batches of one fixed shape."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from .buffers import Buffers

Values = NDArray[np.floating[Any]]
T = TypeVar("T")


class ClosedError(Exception):
    """The queue is closed: producers stop."""


class BytesQueue(Generic[T]):
    """A queue between threads, bounded by the bytes of its items; a single item always fits.

    Args:
        max_bytes: above this, `put` waits.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._held_bytes = max_bytes, 0
        self._items: deque[tuple[T, int]] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T, num_bytes: int = 0) -> float:
        """Adds an item when there is room; returns the seconds waited.

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
        """Waits for the next item and returns it."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items))
            item, num_bytes = self._items.popleft()
            self._held_bytes -= num_bytes
            self._changed.notify_all()
            return item

    def check_open(self) -> None:
        """Checks that the queue is open, for producers that work long between two puts.

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

    The last batch is filled up with repeats, so that the encoder gets one shape only: on one machine an item's result
    is then the same bits at every place and in every batch (tested), hence also after a kill and resume.

    Items are kept as the arrays that they came in. A thread of `pool` copies them into a batch, slice by slice, and
    drops them before it encodes.

    Args:
        batch_size: items per batch.
        encode: (B, …) -> (B, …) float32; called by the threads of `pool`.
        pool: threads that pack and encode, or None for the caller's own. Results come in the order of the items either
            way.
        num_at_once: batches under way at a time; one more than there are threads keeps these busy.
        buffers: lends the memory of the batches.
    """

    batch_size: int
    encode: Callable[[NDArray[Any]], Values]
    pool: Executor | None = None
    num_at_once: int = 1
    buffers: Buffers = field(default_factory=Buffers)
    _parts: list[tuple[T, NDArray[Any]]] = field(default_factory=list[tuple[T, NDArray[Any]]])  # of the next batch
    _num_items: int = 0
    _under_way: deque[tuple[list[tuple[T, int]], Future[Values]]] = field(
        default_factory=deque[tuple[list[tuple[T, int]], "Future[Values]"]]
    )

    def push(self, owner: T, items: NDArray[Any]) -> Iterator[tuple[T, Values]]:
        """Takes (N, …) items of one owner; yields (owner, (n, …) results) for the items that are done, in order."""
        while len(items):
            part = items[: self.batch_size - self._num_items]
            self._parts.append((owner, part))
            self._num_items += len(part)
            items = items[len(part) :]
            if self._num_items == self.batch_size:
                yield from self._start()

    def push_alone(self, owner: T, item: NDArray[Any]) -> Iterator[tuple[T, Values]]:
        """Takes an item with a shape of its own, as a batch of one; yields what is done."""
        yield from self._submit([(owner, 1)], lambda: item[None])

    def flush(self) -> Iterator[tuple[T, Values]]:
        """Encodes the items that wait, however few, and yields all that is not yet done."""
        yield from self._start()
        yield from self._done(most=0)

    def _start(self) -> Iterator[tuple[T, Values]]:
        if not self._parts:
            return
        owners = [(owner, len(part)) for owner, part in self._parts]
        parts = [part for _, part in self._parts]
        self._parts, self._num_items = [], 0
        yield from self._submit(owners, lambda: self._packed(parts))

    def _packed(self, parts: list[NDArray[Any]]) -> NDArray[Any]:
        """Returns the batch; empties the list, so that the memory of the parts can be used again."""
        first = parts[0]
        batch, num_items = self.buffers.take((self.batch_size, *first.shape[1:]), first.dtype), 0
        for part in parts:
            batch[num_items : num_items + len(part)] = part
            num_items += len(part)
        batch[num_items:] = parts[-1][-1]
        parts.clear()
        return batch

    def _submit(self, owners: list[tuple[T, int]], pack: Callable[[], NDArray[Any]]) -> Iterator[tuple[T, Values]]:
        if self.pool is None:
            yield from _dealt(owners, self.encode(pack()))
            return
        self._under_way.append((owners, self.pool.submit(lambda: self.encode(pack()))))
        yield from self._done(most=self.num_at_once)

    def _done(self, most: int) -> Iterator[tuple[T, Values]]:
        """Yields results from the front, waiting for them while more than `most` batches are under way."""
        while self._under_way and (len(self._under_way) > most or self._under_way[0][1].done()):
            owners, results = self._under_way.popleft()
            yield from _dealt(owners, results.result())


def _dealt(owners: list[tuple[T, int]], results: Values) -> Iterator[tuple[T, Values]]:
    first = 0
    for owner, num in owners:
        yield owner, results[first : first + num]
        first += num
