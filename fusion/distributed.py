"""The processes that train one model together, as `accelerate launch` starts them; usually there is just one."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..data.errors import InputError


def join(device: str) -> str:
    """Takes part in a training of several processes, if this one was started for that; returns its own device.

    Raises:
        InputError: if it was, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return device
    try:
        from accelerate import PartialState
    except ImportError:
        todo = 'Install it: pip install "sage-va[distributed]".'
        raise InputError("accelerate launch", expected="the package accelerate", got="none", todo=todo) from None
    state = PartialState(cpu=device == "cpu")
    return str(state.device)


def num_processes() -> int:
    """How many train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """Which of them this is."""
    return dist.get_rank() if num_processes() > 1 else 0


def is_main() -> bool:
    """Whether this is the one that writes."""
    return process_index() == 0


def gathered(mine: Any) -> list[Any]:
    """What each process has, in their order; all wait for each other."""
    if num_processes() == 1:
        return [mine]
    found: list[Any] = [None] * num_processes()
    dist.all_gather_object(found, mine)
    return found


def pooled(sums: Tensor) -> Tensor:
    """The sum of a tensor over the processes, so that a loss of sums is the loss of the whole batch."""
    return sums if num_processes() == 1 else _Pooled.apply(sums)  # pyright: ignore[reportReturnType]


class _Pooled(torch.autograd.Function):
    """Sum over processes. Each computes the same loss; averaging gradients afterwards divides by their number."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor) -> Tensor:
        found = sums.clone()
        dist.all_reduce(found)
        return found

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        return grad[0] * num_processes()
