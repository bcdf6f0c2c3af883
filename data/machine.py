"""The cores and devices of this machine, as both stages see them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .errors import InputError, first_line

if TYPE_CHECKING:
    import torch


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        todo = "Use cpu, or auto."
        raise InputError(f"device {name}", f"this machine has none: {first_line(error)[:200]}", todo=todo) from None
