"""Workers as Ray actors: on this machine or on all of a cluster."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...data.errors import InputError
from ...data.ray_cluster import connect, death_of, device_on, resources
from .messages import Died, Event, Order
from .workers import Inbox, serve

_THREADS = 4  # of an actor: one returns events, the others take orders


class RayEngine:
    """Actors, each with one GPU, or without where the cluster has none or `device` is "cpu".

    An actor that has to wait for its device starts when it gets it; the others work meanwhile.

    Args:
        address: of a cluster; None = the one of this machine, or a new one.
        device: "auto", "cuda" or "cpu".
        num_workers: None = one for each GPU; without GPUs, one for each machine.

    Raises:
        InputError: if Ray is not installed, there is no such cluster, or it has fewer devices than workers.
    """

    def __init__(self, address: str | None, *, device: str = "auto", num_workers: int | None = None) -> None:
        self._ray, self._ours = connect(address)
        nodes = resources(self._ray)
        num_gpus = int(sum(node.get("GPU", 0) for node in nodes))
        self._device = device_on(num_gpus, device)
        self.num_workers = num_workers or (num_gpus if self._device == "cuda" else len(nodes))
        self.cores_each: int | None = self._cpus_each(nodes)
        self._needs = {"num_gpus": int(self._device == "cuda"), "num_cpus": self.cores_each}
        self._actors: dict[int, Any] = {}
        self._answers: dict[Any, int] = {}  # pending call of each actor for its next events -> worker

    def _cpus_each(self, nodes: Sequence[Mapping[str, float]]) -> int:
        most = int(max(node.get("CPU", 0) for node in nodes))
        for num_cpus in range(most, 0, -1):
            if sum(self._room(node, num_cpus) for node in nodes) >= self.num_workers:
                return num_cpus
        room = sum(self._room(node, 1) for node in nodes)
        todo = "Ask for fewer, or add machines to the cluster."
        raise InputError("num_workers", expected=f"at most {room}", got=str(self.num_workers), todo=todo)

    def _room(self, node: Mapping[str, float], num_cpus: int) -> int:
        room = int(node.get("CPU", 0) // num_cpus)
        return min(room, int(node.get("GPU", 0))) if self._device == "cuda" else room

    def start(self, worker: int, job: bytes) -> None:
        """Starts a worker from a pickled WorkerJob; replaces one that died."""
        remote = self._ray.remote(RayWorker).options(max_concurrency=_THREADS, max_restarts=0, **self._needs)
        self._actors[worker] = actor = remote.remote(job, self._device)
        self._answers[actor.next_events.remote()] = worker

    def send(self, worker: int, order: Order) -> None:
        """Sends an order; ignored if the worker has died."""
        if worker in self._actors:
            self._actors[worker].put.remote(order)

    def events(self, timeout_s: float) -> Iterator[tuple[int, Event]]:
        """Yields (worker, event) that have come, waiting up to `timeout_s` for the first."""
        ready, _ = self._ray.wait(list(self._answers), num_returns=1, timeout=timeout_s)
        for answer in ready:
            worker = self._answers.pop(answer)
            try:
                events = self._ray.get(answer)
            except self._ray.exceptions.RayError as error:
                self._ray.kill(self._actors.pop(worker))
                yield worker, Died(death_of(error))
                continue
            self._answers[self._actors[worker].next_events.remote()] = worker
            yield from ((worker, event) for event in events)

    def close(self) -> None:
        """Ends all workers, and Ray if it was started here."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        self._answers.clear()
        if self._ours:
            self._ray.shutdown()


class RayWorker:
    """The actor: runs `serve` in a thread of its own; takes orders and returns events by calls.

    Args:
        job: a pickled WorkerJob.
        device: of the encoders.
    """

    def __init__(self, job: bytes, device: str) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._inbox = Inbox(self._events.put)
        threading.Thread(target=serve, args=(job, device, self._inbox, self._events.put), daemon=True).start()

    def put(self, order: Order) -> None:
        """Takes an order."""
        self._inbox.put(order)

    def next_events(self) -> list[Event]:
        """Waits for an event; returns all that have come."""
        events = [self._events.get()]
        while not self._events.empty():
            events.append(self._events.get())
        return events
