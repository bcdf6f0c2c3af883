"""Threads of torch and OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def use_one_thread() -> None:
    """Makes torch compute each operation on one thread: in the calling thread, and in those that begin later."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def one_thread_per_operation() -> Iterator[None]:
    """Makes torch and OpenCV compute each operation on one thread inside the `with` block.

    The pipeline encodes as many batches at once as there are cores. So all cores are busy without threads that wait for
    each other, and features do not depend on the number of cores.
    """
    import cv2
    import torch

    num_threads = torch.get_num_threads(), cv2.getNumThreads()
    use_one_thread()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads[0])
        cv2.setNumThreads(num_threads[1])
