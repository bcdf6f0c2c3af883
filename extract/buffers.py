"""Memory of chunks and batches in pages of its own, used again and again."""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pages(num_bytes: int) -> mmap.mmap:
    """Allocates memory pages, which return to the system as soon as they are dropped.

    On the common heap, longer-lived objects settle between such large blocks, so that the heap grows with a clip.
    """
    try:
        return mmap.mmap(-1, num_bytes)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        raise MemoryError(f"{num_bytes:,} bytes") from None


def mapped(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Allocates an array in `pages` of its own, for values that stay as long as their clip is at work."""
    count = math.prod(shape)
    return np.frombuffer(pages(max(1, count * dtype.itemsize)), dtype, count).reshape(shape)


class Buffers:
    """Lends arrays in whole pages; memory is lent again once nothing refers to its array, or to a view of it, any more.

    The system clears a fresh page when it is first touched, which takes longer than to copy an image into it. Arrays
    need not be handed back: a clip that fails, or an encoder that keeps its input, cannot spoil the memory of others.
    Used by several threads. Contents of a lent array are undefined.

    Args:
        allocate: returns a writable buffer of so many bytes.
    """

    def __init__(self, allocate: Callable[[int], Any] = pages) -> None:
        self._allocate = allocate
        self._free: defaultdict[int, list[Any]] = defaultdict(list)  # by size in bytes

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Lends an array; its last reference returns the memory."""
        count = math.prod(shape)
        num_bytes = max(1, count * dtype.itemsize)
        free = self._free[num_bytes]
        try:
            memory = free.pop()
        except IndexError:
            memory = self._allocate(num_bytes)
        lease = (ctypes.c_ubyte * num_bytes).from_buffer(memory)  # NumPy's arrays and views keep this object alive
        weakref.finalize(lease, free.append, memory).atexit = False
        return np.frombuffer(memoryview(lease), dtype, count).reshape(shape)
