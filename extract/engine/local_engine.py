"""Workers as processes of this machine."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from typing import Any

from ...data.group_signals import GROUP_SIGNALS, ignore_signals, signals_held_back
from ...data.machine import num_cores
from .messages import Died, Event, Order
from .workers import Inbox, serve

_EXIT_WAIT_S = 10.0


class LocalEngine:
    """Processes of this machine, one for each of `devices`, each with its share of the cores.

    A worker with a GPU is pinned to its share. One without starts no more threads than its share, and runs on any core.

    Args:
        devices: device of each worker.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self._devices, self.num_workers = list(devices), len(devices)
        self.cores_each = max(1, num_cores() // len(devices)) if "cpu" in devices else None
        self._processes: dict[int, Any] = {}
        self._pipes: dict[int, Connection] = {}

    def start(self, worker: int, job: bytes) -> None:
        """Starts a worker from a pickled WorkerJob; replaces one that died."""
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        device = self._devices[worker]
        cores = () if device == "cpu" else _share(worker, self.num_workers)
        process = context.Process(target=_run, args=(job, device, cores, theirs), name=f"sage-va-worker-{worker}")
        with signals_held_back():
            process.start()
        theirs.close()
        self._processes[worker], self._pipes[worker] = process, ours

    def send(self, worker: int, order: Order) -> None:
        """Sends an order; ignored if the worker has died."""
        try:
            self._pipes[worker].send(order)
        except (KeyError, OSError):  # it died, which `events` will report
            return

    def events(self, timeout_s: float) -> Iterator[tuple[int, Event]]:
        """Yields (worker, event) that have come, waiting up to `timeout_s` for the first."""
        numbers = {pipe: worker for worker, pipe in self._pipes.items()}
        for pipe in connection.wait(list(numbers), timeout_s):
            worker = numbers[pipe]  # pyright: ignore[reportArgumentType]
            try:
                yield worker, self._pipes[worker].recv()
            except (EOFError, OSError):
                yield worker, Died(self._bury(worker))

    def _bury(self, worker: int) -> str:
        """Removes a dead worker; returns how it died."""
        self._pipes.pop(worker).close()
        process = self._processes.pop(worker)
        process.join(_EXIT_WAIT_S)
        code = process.exitcode
        if code is None or code >= 0:
            process.kill()
            return f"with exit code {code}"
        return f"with signal {-code} ({signal.Signals(-code).name})"

    def close(self) -> None:
        """Ends all workers."""
        for pipe in self._pipes.values():
            pipe.close()  # a worker whose pipe is closed exits
        for process in self._processes.values():
            process.join(_EXIT_WAIT_S)
            process.kill()
            process.join()
        self._pipes.clear()
        self._processes.clear()


def _share(worker: int, num_workers: int) -> tuple[int, ...]:
    """Returns the cores of a worker with a GPU."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    cores = sorted(os.sched_getaffinity(0))
    first, last = (len(cores) * k // num_workers for k in (worker, worker + 1))
    return tuple(cores[first:last]) or (cores[worker % len(cores)],)


def _run(job: bytes, device: str, cores: Sequence[int], pipe: Connection) -> None:
    """Runs in the worker's process."""
    ignore_signals(GROUP_SIGNALS)  # the scheduler decides
    if cores:
        os.sched_setaffinity(0, cores)
    lock = threading.Lock()

    def send(event: Event) -> None:
        try:
            with lock:
                pipe.send(event)
        except OSError:
            os._exit(1)  # the scheduler is gone; the store stays consistent whenever a writer ends

    inbox = Inbox(send)
    threading.Thread(target=_receive, args=(pipe, inbox), name="sage-va-inbox", daemon=True).start()
    serve(job, device, inbox, send)


def _receive(pipe: Connection, inbox: Inbox) -> None:
    while True:
        try:
            inbox.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(1)
