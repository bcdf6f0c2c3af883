"""A setting of a library that all threads share, changed for as long as any of them needs it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


class SharedSetting:
    """Counts the threads that need a change; the last to leave restores what was set before the first came."""

    def __init__(self) -> None:
        self._lock, self._num_users = threading.Lock(), 0
        self._restore: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def changed(
        self, read: Callable[[], T], change: Callable[[], None], restore: Callable[[T], None]
    ) -> Iterator[None]:
        """Changes the setting inside the block.

        Args:
            read: returns the setting as it is.
            change: sets it; called by each thread that comes.
            restore: sets it to what `read` returned.
        """
        with self._lock:
            if not self._num_users:
                before = read()
                self._restore = lambda: restore(before)
            self._num_users += 1
            change()
        try:
            yield
        finally:
            with self._lock:
                self._num_users -= 1
                if not self._num_users:
                    self._restore()
