"""Work spread over processes of one thread each, or done in this one in the same way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch

from ...data.errors import InputError
from ...data.machine import num_cores

Item = TypeVar("Item")
Value = TypeVar("Value")


def num_jobs(device: str) -> int:
    """Returns the default number of processes: one per core, or one where the device is no CPU."""
    if device != "cpu":
        return 1
    return num_cores()


def in_this_process(do: Callable[[Item], Value], items: Sequence[Item]) -> Generator[tuple[Item, Value], None, None]:
    """Yields each item with the result of `do`, on one thread as in a worker: more threads change the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for item in items:
            yield item, do(item)
    finally:
        torch.set_num_threads(before)


def in_processes(
    do: Callable[[Item], Value], items: Sequence[Item], jobs: int
) -> Generator[tuple[Item, Value], None, None]:
    """Yields each item with the result of `do` in one of `jobs` processes, as they end.

    Raises:
        InputError: if a process dies.
    """
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(jobs, len(items)) or 1, multiprocessing.get_context("spawn"), _begin)
    try:
        doing = {pool.submit(do, item): item for item in items}
        for future in as_completed(doing):
            yield doing[future], future.result()
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        if not isinstance(error, BrokenProcessPool):
            raise
        todo = "Lower --jobs if memory ran out, and run it again: finished work is kept."
        raise InputError(f"--jobs {jobs}", "one of the processes died", todo=todo) from None
    pool.shutdown()


def _begin() -> None:
    """Makes a worker ignore Ctrl-C, end with its parent, and use one core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
