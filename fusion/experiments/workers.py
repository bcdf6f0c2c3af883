"""Work spread over workers of one thread each: this process, processes of this machine, or tasks on a Ray cluster.

Whatever the workers are, items are begun in order, each when a worker is free. One that would wait for a running item
lets others pass: see `next_item`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from ...data.errors import InputError
from ...data.group_signals import ignore_signals, signals_held_back
from ...data.machine import num_cores
from ..config import Config
from ..training.trainer import settled

Item = TypeVar("Item")
Value = TypeVar("Value")
Ended = Generator[tuple[Item, Value], None, None]
Waits = Callable[[Any, Collection[Any]], bool]
Lost = Callable[[Item, str], Value]


@dataclass(frozen=True)
class Work(Generic[Item, Value]):
    """Items to be done by workers.

    Args:
        here: does an item in this process.
        there: does the same in a worker; it can be pickled.
        items: in the order in which they are begun.
        waits: True if an item would wait for one of the running items.
        lost: gives the result of an item whose workers died again and again, and the reason.
    """

    here: Callable[[Item], Value]
    there: Callable[[Item], Value]
    items: Sequence[Item]
    waits: Waits
    lost: Lost[Item, Value]


class Workers(ABC):
    """Base class of all workers; `device` is where they compute, as torch names it."""

    device: str

    @abstractmethod
    def settled(self, config: Config) -> Config:
        """Returns the configuration with a precision that suits the device of the workers; see `trainer.settled`."""

    @abstractmethod
    def spread(self, work: Work[Item, Value]) -> Ended[Item, Value]:
        """Yields each item with its result, as they end.

        Raises:
            InputError: if a worker dies, and nothing takes its place.
        """

    def close(self) -> None:  # noqa: B027, most have nothing to release
        """Releases the workers."""


def find_workers(engine: str, *, jobs: int | None, device: str, ray_address: str | None) -> Workers:
    """Returns the workers that options name.

    Args:
        engine: "local" or "ray".
        jobs: how many work at a time; None = one per core of this machine, or one where the device is no CPU; on Ray,
            as many as there is room for.
        device: "cpu", "cuda:0", …; on Ray "auto", "cpu" or "cuda".
        ray_address: of a Ray cluster; None = the one of this machine, or a new one.

    Raises:
        InputError: if Ray is not installed, or there is no such cluster or device.
    """
    if engine == "ray":
        from .ray_workers import RayWorkers

        return RayWorkers(ray_address, device=device, jobs=jobs)
    return LocalWorkers(device, jobs or (num_cores() if device == "cpu" else 1))


class LocalWorkers(Workers):
    """Processes of this machine; a single one is this process itself.

    Args:
        device: of all of them.
        jobs: their number.
    """

    def __init__(self, device: str, jobs: int) -> None:
        self.device, self.jobs = device, jobs

    def settled(self, config: Config) -> Config:
        """Returns the configuration with its precision settled for the device."""
        return settled(config, torch.device(self.device))

    def spread(self, work: Work[Item, Value]) -> Ended[Item, Value]:
        """Yields each item with its result, as they end; see `Workers.spread`."""
        if self.jobs == 1:
            return in_this_process(work.here, work.items, work.waits)
        return in_processes(work.there, work.items, self.jobs, work.waits)


def in_this_process(do: Callable[[Item], Value], items: Sequence[Item], waits: Waits) -> Ended[Item, Value]:
    """Yields each item with the result of `do`, on one thread as in a worker: more threads change the last bits."""
    before, left = torch.get_num_threads(), list(items)
    torch.set_num_threads(1)
    try:
        while left:
            item = next_item(left, (), waits)
            yield item, do(item)
    finally:
        torch.set_num_threads(before)


def in_processes(do: Callable[[Item], Value], items: Sequence[Item], jobs: int, waits: Waits) -> Ended[Item, Value]:
    """Yields each item with the result of `do` in one of `jobs` processes, as they end.

    Raises:
        InputError: if a process dies.
    """
    before = set(multiprocessing.active_children())
    size = min(jobs, len(items)) or 1
    with signals_held_back():  # its locks start Python's helper
        pool = ProcessPoolExecutor(size, multiprocessing.get_context("spawn"), _begin)

    def submit(item: Item) -> Future[Value]:
        with signals_held_back():  # it may start a process
            return pool.submit(do, item)

    try:
        for item, future in in_turn(submit, items, size, waits):
            yield item, future.result()
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        if not isinstance(error, BrokenProcessPool):
            raise
        todo = "Lower --workers if memory ran out, and run it again: finished work is kept."
        raise InputError(f"--workers {jobs}", "one of the processes died", todo=todo) from None
    pool.shutdown()


def in_turn(
    submit: Callable[[Item], Future[Value]], items: Sequence[Item], at_once: int, waits: Waits
) -> Generator[tuple[Item, Future[Value]], None, None]:
    """Submits items, `at_once` at a time, and yields each with its future when that is done."""
    left, running = list(items), dict[Future[Value], Item]()
    while left or running:
        while left and len(running) < at_once:
            item = next_item(left, running.values(), waits)
            running[submit(item)] = item
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future


def next_item(left: list[Item], running: Collection[Item], waits: Waits) -> Item:
    """Removes and returns the first item that would not wait; the first of all if every one would."""
    place = next((place for place, item in enumerate(left) if not waits(item, running)), 0)
    return left.pop(place)


def _begin() -> None:
    """Makes a worker end with its parent alone, and use one core: other signals that reach it are for the parent."""
    ignore_signals((signal.SIGINT, signal.SIGHUP, signal.SIGUSR1))
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
