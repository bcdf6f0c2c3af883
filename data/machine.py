"""The cores and devices of this machine, as both stages see them."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from .errors import InputError, first_line

if TYPE_CHECKING:
    import torch

EXHAUSTED = (  # what libraries say where memory ran out: torch, C++, the loader of libraries
    "out of memory",
    "DefaultCPUAllocator",
    "an't allocate memory",
    "annot allocate memory",
    "std::bad_alloc",
    "failed to map segment",
    "can't start new thread",
)


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_out_of_memory(error: BaseException) -> bool:
    """True where the memory of the machine or of a device ran out, by any error that a library has for it."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError | ImportError | OSError) and any(text in str(error) for text in EXHAUSTED)


def find_device(name: str = "auto") -> torch.device:
    """Returns the device of an option, with its index where there may be several: `cuda` is `cuda:0`.

    Tensors name their device with its index, and torch holds `cuda` and `cuda:0` to be different; so a device without
    its index must not be compared with that of a tensor.

    Args:
        name: `cpu`, `cuda`, `cuda:1`, …; "auto" is the first CUDA device where there is one, else the CPU.

    Raises:
        InputError: if this machine has no such device.
    """
    import torch  # takes seconds, which `--help` does not have

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        return _cuda_device(device) if device.type == "cuda" else torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        todo = "Use cpu, or auto."
        raise InputError(f"device {name}", f"this machine has none: {first_line(error)[:200]}", todo=todo) from None


def _cuda_device(device: torch.device) -> torch.device:
    """Returns a CUDA device with its index.

    It asks the driver and makes no tensor: that would open a context of hundreds of megabytes on the device, also in a
    process that only starts others.
    """
    import torch

    index = torch.cuda.current_device() if torch.cuda.is_initialized() and device.index is None else device.index or 0
    if index >= torch.cuda.device_count():
        raise RuntimeError(f"torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices")
    return torch.device("cuda", index)
