"""Threads of torch and OpenCV, and the memory that they copy from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def use_one_thread() -> None:
    """Makes torch compute each operation on one thread: in the calling thread, and in those that begin later."""
    import torch

    torch.set_num_threads(1)


def prepare_encoder_thread(devices: Iterable[torch.device] = ()) -> None:
    """Prepares a thread that encodes: one thread per operation, and a CUDA stream of its own.

    On streams of their own, the copy of one thread's batch runs beside the other's computation.
    """
    import torch

    use_one_thread()
    for device in devices:
        if device.type == "cuda":
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.default_stream(device))  # where the weights were copied and cast
            torch.cuda.set_stream(stream)


def pinned(num_bytes: int) -> NDArray[np.uint8]:
    """Allocates page-locked memory, from which a copy to a GPU does not wait."""
    import torch

    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True).numpy()


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
