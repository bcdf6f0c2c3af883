"""Trainings as Ray tasks: on this machine or on all of a cluster.

    item --submit--> queued --a core, and a GPU where there are some--> running --> result
                        ^                                                  |
                        +--- the worker or its machine dies (MAX_DEATHS) --+--> the item is lost, with the reason

A task is a training with one thread. What a dead worker has finished on disk is not done again, and it leaves no lock.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from ...data.errors import InputError
from ...data.ray_cluster import connect, death_of, device_on, resources
from ..config import Config
from ..training.trainer import settled
from .workers import Ended, Item, Lost, Value, Work, Workers, in_turn

MAX_DEATHS = 4


class RayWorkers(Workers):
    """Tasks, each with one core, and with one GPU where the cluster has some and `device` is not "cpu".

    Args:
        address: of a cluster; None = the one of this machine, or a new one.
        device: "auto", "cuda" or "cpu".
        jobs: tasks at a time; None = as many as there is room for.

    Raises:
        InputError: if Ray is not installed, or there is no such cluster or device.
    """

    def __init__(self, address: str | None, *, device: str, jobs: int | None) -> None:
        self._ray, self._ours = connect(address)
        nodes = resources(self._ray)
        self.device = device_on(int(sum(node.get("GPU", 0) for node in nodes)), device)
        self._needs = {"num_cpus": 1, "num_gpus": int(self.device == "cuda")}
        self._jobs = jobs
        self._folder = Path.cwd()

    def settled(self, config: Config) -> Config:
        """Returns the configuration with its precision settled for the device of a worker, which it asks."""
        return self._ray.get(self._submit(functools.partial(_settled, self.device), config))

    def spread(self, work: Work[Item, Value]) -> Ended[Item, Value]:
        """Yields each item with its result, as they end; see `Workers.spread`."""
        pending = dict[Future[Any], Any]()

        def submit(item: Item) -> Future[Value]:
            reference = self._submit(work.there, item)
            future = reference.future()
            pending[future] = reference
            return future

        try:
            for item, future in in_turn(submit, work.items, self._jobs or self._room(), work.waits):
                del pending[future]
                yield item, self._result(item, future, work.lost)
        finally:
            for reference in pending.values():
                self._ray.cancel(reference, force=True)

    def close(self) -> None:
        """Leaves the cluster, or ends it if it was started here."""
        if self._ours:
            self._ray.shutdown()

    def _submit(self, do: Callable[[Item], Any], item: Item) -> Any:
        options: dict[str, Any] = {"max_retries": MAX_DEATHS - 1, "retry_exceptions": False, **self._needs}
        return self._ray.remote(_on_one_core).options(**options).remote(self._folder, do, item)

    def _room(self) -> int:
        """Returns how many tasks the cluster can run at a time, at least one."""
        kind = "GPU" if self.device == "cuda" else "CPU"
        return max(1, int(sum(node.get(kind, 0) for node in resources(self._ray))))

    def _result(self, item: Item, future: Future[Any], lost: Lost[Item, Value]) -> Value:
        errors = self._ray.exceptions
        try:
            return future.result()
        except errors.RayTaskError as error:  # of the work itself
            raise error.cause from None
        except errors.RayError as error:
            return lost(item, f"the worker died {MAX_DEATHS} times {death_of(error)}")


def _settled(device: str, config: Config) -> Config:
    return settled(config, torch.device(device))


def _on_one_core(folder: Path, do: Callable[[Item], Value], item: Item) -> Value:
    """Does an item in the folder of the command, on one thread: more threads change the last bits."""
    try:
        os.chdir(folder)
    except OSError as error:
        got, todo = f"{error.strerror}: {folder}", "Share it among all machines."
        raise InputError("a Ray worker", expected="the folder of the command", got=got, todo=todo) from None
    torch.set_num_threads(1)
    return do(item)
