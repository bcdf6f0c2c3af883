"""A worker: a process with encoders and a store of its own, which extracts the clips that it is handed."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ...data.errors import InputError
from ...data.machine import num_cores
from ...data.manifest import Source
from .progress import Outcome, Progress, Summary

if TYPE_CHECKING:  # they load torch, which must not happen before a worker has set its surroundings
    from ..identity import ExtractOptions

_GOODBYE_S = 10.0


@dataclass(frozen=True)
class Recipe:
    """How each worker makes its encoders.

    Args:
        arguments: keyword arguments of the factory, which is given the worker's `device` besides.
        factory: `module:function`, which returns (visual encoder or None, audio encoder or None).
    """

    arguments: Mapping[str, Any]
    factory: str = "sage_va.extract.identity:encoders_from"

    def make(self, device: str) -> tuple[Any, Any]:
        return EntryPoint("encoders", self.factory, "sage_va").load()(**self.arguments, device=device)


@dataclass(frozen=True)
class Job:
    """What all workers of a run share.

    Args:
        folder: what relative paths begin at.
    """

    url: str
    folder: Path
    recipe: Recipe
    options: ExtractOptions


@dataclass(frozen=True)
class Ready:
    """A worker has its encoders, which make these streams."""

    streams: tuple[str, ...]


@dataclass(frozen=True)
class Ask:
    """A worker in session has no clip left to start."""


@dataclass(frozen=True)
class Died:
    """A worker is no more; `how` follows "the worker died"."""

    how: str


@dataclass(frozen=True)
class Handed:
    """Clips for a worker. `begin`: they open a session; `last`: and none will follow in it."""

    sources: tuple[Source, ...]
    begin: bool = False
    last: bool = False


@dataclass(frozen=True)
class Halt:
    """Start no further clip."""


Event: TypeAlias = Ready | Ask | Outcome | Progress | Summary | Exception | Died  # a Summary ends a session
Order: TypeAlias = Handed | Halt


class Engine(Protocol):
    """Starts workers and talks to them, by number."""

    num_workers: int
    cores_each: int | None  # that a worker keeps busy; None = those that its process may use

    def start(self, worker: int, job: bytes) -> None:
        """Starts a worker, or another one in the place of one that died, from a pickled Job."""
        ...

    def send(self, worker: int, order: Order) -> None:
        """Says something to a worker; to a dead one, in vain."""
        ...

    def events(self, timeout_s: float) -> Iterator[tuple[int, Event]]:
        """What workers have said, or that they died; waits for it for a while."""
        ...

    def close(self) -> None:
        """Ends all workers at once, whatever they do."""
        ...


class Inbox:
    """What a worker is handed: a backlog for its decoder threads, filled from outside, one session after another."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._clips: deque[Source] = deque()
        self._begun = self._more = self._asked = self._halted = False
        self._changed = threading.Condition()

    def put(self, order: Order) -> None:
        """Takes an order in; a session that begins after the halt is an empty one."""
        with self._changed:
            if isinstance(order, Halt):
                self._halted = True
                self._clips.clear()
            else:
                self._clips.extend(() if self._halted else order.sources)
                self._begun |= order.begin
                self._more, self._asked = not order.last, False
            self._changed.notify_all()

    def wait(self) -> None:
        """Waits for the next session."""
        with self._changed:
            self._changed.wait_for(lambda: self._begun)
            self._begun = False

    def take(self) -> Source | None:
        """The next clip of the session, asking for it where there is none; None = there is no more."""
        with self._changed:
            while not self._clips:
                if self._halted or not self._more:
                    return None
                if not self._asked:
                    self._asked = True
                    self._tell(Ask())
                self._changed.wait()
            return self._clips.popleft()

    def next(self, sources: Sequence[Source]) -> None:
        """Clips that were found in another come before all others."""
        with self._changed:
            self._clips.extendleft(() if self._halted else reversed(sources))
            self._changed.notify_all()

    def stop(self) -> None:
        """Ends the session."""
        with self._changed:
            self._more = False
            self._clips.clear()
            self._changed.notify_all()


def serve(job: bytes, device: str, inbox: Inbox, tell: Callable[[Event], None]) -> None:
    """The life of a worker: makes its encoders, then extracts session after session until its process is ended."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait spinning would slow the other workers
    try:
        work: Job = pickle.loads(job)
        _enter(work.folder)
        _extract(work, device, inbox, tell)
    except Exception as error:  # the scheduler raises it
        tell(_portable(error))


def _enter(folder: Path) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        todo = "Start from a folder that all machines share."
        got = f"{error.strerror} on {os.uname().nodename}"
        raise InputError(folder, expected="the folder of the run", got=got, todo=todo) from error


def _extract(work: Job, device: str, inbox: Inbox, tell: Callable[[Event], None]) -> None:
    from ...data.store.base import open_store
    from ..identity import stream_of
    from .pipeline import extract_part

    open_store(work.url)  # to add to a cache would make a new one where this machine does not see it
    store = open_store(work.url, "a")
    visual, audio = work.recipe.make(device)
    streams = [stream_of(encoder, work.options) for encoder in (visual, audio) if encoder is not None]
    tell(Ready(tuple(sorted(streams))))
    while True:
        inbox.wait()
        tell(extract_part(inbox, store, visual=visual, audio=audio, options=work.options, progress=tell, closed=tell))


def _portable(error: Exception) -> Exception:
    error.add_note(f"in a worker:\n{''.join(traceback.format_exception(error))}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # many libraries' exceptions cannot be made from their own arguments
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class LocalEngine:
    """Processes of this machine, one for each of `devices`; each with its share of the cores.

    One with a GPU is kept to it. One without starts no more threads than its share, and runs wherever there is room.
    """

    def __init__(self, devices: Sequence[str]) -> None:

        self._devices, self.num_workers = list(devices), len(devices)
        self.cores_each = max(1, num_cores() // len(devices)) if "cpu" in devices else None
        self._processes: dict[int, Any] = {}
        self._pipes: dict[int, Connection] = {}

    def start(self, worker: int, job: bytes) -> None:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        device = self._devices[worker]
        cores = () if device == "cpu" else _share(worker, self.num_workers)
        process = context.Process(target=_live, args=(job, device, cores, theirs), name=f"sage-va-worker-{worker}")
        process.start()
        theirs.close()
        self._processes[worker], self._pipes[worker] = process, ours

    def send(self, worker: int, order: Order) -> None:
        try:
            self._pipes[worker].send(order)
        except (KeyError, OSError):  # it died, which `events` will say
            return

    def events(self, timeout_s: float) -> Iterator[tuple[int, Event]]:
        numbers = {pipe: worker for worker, pipe in self._pipes.items()}
        for pipe in connection.wait(list(numbers), timeout_s):
            worker = numbers[pipe]  # pyright: ignore[reportArgumentType]
            try:
                yield worker, self._pipes[worker].recv()
            except (EOFError, OSError):
                yield worker, Died(self._bury(worker))

    def _bury(self, worker: int) -> str:
        self._pipes.pop(worker).close()
        process = self._processes.pop(worker)
        process.join(_GOODBYE_S)
        code = process.exitcode
        if code is None or code >= 0:
            process.kill()
            return f"with exit code {code}"
        return f"with signal {-code} ({signal.Signals(-code).name})"

    def close(self) -> None:
        for pipe in self._pipes.values():
            pipe.close()  # a worker that hears no more of us ends
        for process in self._processes.values():
            process.join(_GOODBYE_S)
            process.kill()
            process.join()
        self._pipes.clear()
        self._processes.clear()


def _share(worker: int, num_workers: int) -> tuple[int, ...]:
    if not hasattr(os, "sched_getaffinity"):
        return ()
    cores = sorted(os.sched_getaffinity(0))
    first, last = (len(cores) * k // num_workers for k in (worker, worker + 1))
    return tuple(cores[first:last]) or (cores[worker % len(cores)],)


def _live(job: bytes, device: str, cores: Sequence[int], pipe: Connection) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group; the scheduler decides
        signal.signal(number, signal.SIG_IGN)
    if cores:
        os.sched_setaffinity(0, cores)
    lock = threading.Lock()

    def tell(event: Event) -> None:
        try:
            with lock:
                pipe.send(event)
        except OSError:
            os._exit(1)  # nobody is there to work for; the store can bear it

    inbox = Inbox(tell)
    threading.Thread(target=_listen, args=(pipe, inbox), name="sage-va-inbox", daemon=True).start()
    serve(job, device, inbox, tell)


def _listen(pipe: Connection, inbox: Inbox) -> None:
    while True:
        try:
            inbox.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(1)
