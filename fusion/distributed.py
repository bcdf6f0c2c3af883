"""Processes that train one model together, as `accelerate launch` starts them; usually there is one."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..data.errors import InputError


def join(device: str) -> str:
    """Joins the other processes if this one was started as one of several; returns the device of this process.

    Raises:
        InputError: if there are several, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return device
    try:
        from accelerate import PartialState
    except ImportError:
        todo = 'Install it: pip install "sage-va[distributed]".'
        raise InputError("accelerate launch", expected="the package accelerate", got="none", todo=todo) from None
    state = PartialState(cpu=device == "cpu")
    atexit.register(_leave)
    return str(state.device)


def _leave() -> None:
    """Ends the exchange between the processes: its threads would abort a process that exits while they run."""
    if dist.is_initialized():
        dist.destroy_process_group()


def num_processes() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """Rank of this process, from 0."""
    return dist.get_rank() if num_processes() > 1 else 0


def is_main() -> bool:
    """True on rank 0, the only process that writes files."""
    return process_index() == 0


def gathered(mine: Any) -> list[Any]:
    """Returns the values of all processes by rank; every process waits for all others."""
    if num_processes() == 1:
        return [mine]
    values: list[Any] = [None] * num_processes()
    dist.all_gather_object(values, mine)
    return values


def pooled(sums: Sequence[Tensor]) -> list[Tensor]:
    """Returns the sum of each tensor over all processes, so that a loss of sums is the loss of the whole batch.

    All tensors travel together, in one exchange, as float64. They lie on one device.
    """
    if num_processes() == 1:
        return list(sums)
    together: Any = _Pooled.apply(torch.cat([each.flatten().double() for each in sums]))
    parts = together.split([each.numel() for each in sums])
    return [part.view_as(each).to(each.dtype) for part, each in zip(parts, sums, strict=True)]


class _Pooled(torch.autograd.Function):
    """Sum over processes. Each computes the same loss; DDP then divides gradients by their number."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor) -> Tensor:
        total = sums.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        return grad[0] * num_processes()
