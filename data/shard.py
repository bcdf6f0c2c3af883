"""Parts of a list of work, as the tasks of a SLURM array take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from .errors import InputError

Item = TypeVar("Item")


def part_of(items: Sequence[Item], shard: str) -> list[Item]:
    """The K-th of N parts (`K/N`, K from 1), always the same for one list, equal within one item.

    Raises:
        InputError: if the text is no such part.
    """
    first, slash, second = shard.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        todo = "In a SLURM array from 1 to 8: --shard $SLURM_ARRAY_TASK_ID/8."
        raise InputError("shard", expected="K/N with K from 1 to N", got=repr(shard), todo=todo)
    return list(items)[int(first) - 1 :: int(second)]
