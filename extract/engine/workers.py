"""A worker: a process with encoders and a store of its own, which extracts the clips that the scheduler sends."""

from __future__ import annotations

import os
import pickle
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from ...data.errors import InputError
from ...data.manifest import Source
from ..heap import keep_freed_memory
from .messages import Event, Halt, NeedClips, Order, Ready, WorkerJob


class Inbox:
    """The backlog of a worker's decoder threads, filled by orders from the scheduler, one session after another.

    Args:
        send: sends an event to the scheduler.
    """

    def __init__(self, send: Callable[[Event], None]) -> None:
        self._send = send
        self._clips: deque[Source] = deque()
        self._begun = self._more = self._asked = self._halted = False
        self._changed = threading.Condition()

    def put(self, order: Order) -> None:
        """Takes an order; a session that begins after the halt is empty."""
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
        """Returns the next clip of the session, asking for more where there is none; None = the session is over."""
        with self._changed:
            while not self._clips:
                if self._halted or not self._more:
                    return None
                if not self._asked:
                    self._asked = True
                    self._send(NeedClips())
                self._changed.wait()
            return self._clips.popleft()

    def put_first(self, sources: Sequence[Source]) -> None:
        """Adds clips that come before all others: the people of a clip."""
        with self._changed:
            self._clips.extendleft(() if self._halted else reversed(sources))
            self._changed.notify_all()

    def stop(self) -> None:
        """Ends the session."""
        with self._changed:
            self._more = False
            self._clips.clear()
            self._changed.notify_all()


def serve(job: bytes, device: str, inbox: Inbox, send: Callable[[Event], None]) -> None:
    """Runs a worker: builds its encoders, then extracts session after session until its process is ended.

    Args:
        job: a pickled WorkerJob.
        device: of the encoders.
        inbox: gets the scheduler's orders.
        send: sends an event to the scheduler; an exception is sent too.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while waiting would slow the other workers
    keep_freed_memory()
    try:
        # Made by the scheduler of this run, and sent over a pipe or Ray's own channel: no input of others.
        shared: WorkerJob = pickle.loads(job)  # nosec B301
        _enter(shared.folder)
        _extract(shared, device, inbox, send)
    except Exception as error:  # the scheduler raises it
        send(_portable(error))


def _enter(folder: Path) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        todo = "Start from a folder that all machines share."
        got = f"{error.strerror} on {os.uname().nodename}"
        raise InputError(folder, expected="the folder of the run", got=got, todo=todo) from error


def _extract(job: WorkerJob, device: str, inbox: Inbox, send: Callable[[Event], None]) -> None:
    from ...data.store.base import open_store
    from ..identity import stream_of
    from .pipeline import extract_part

    open_store(job.url)  # opening for writing would create a new cache where this machine does not see the run's
    store = open_store(job.url, "a")
    visual, audio = job.recipe.make(device)
    streams = [stream_of(encoder, job.options) for encoder in (visual, audio) if encoder is not None]
    send(Ready(tuple(sorted(streams))))
    while True:
        inbox.wait()
        send(extract_part(inbox, store, visual=visual, audio=audio, options=job.options, progress=send, closed=send))


def _portable(error: Exception) -> Exception:
    """Returns an exception that can be pickled, with this process's traceback as a note."""
    error.add_note(f"in a worker:\n{''.join(traceback.format_exception(error))}")
    try:
        # Its own bytes.
        pickle.loads(pickle.dumps(error))  # nosec B301
    except Exception:  # many libraries' exceptions cannot be rebuilt from their own arguments
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
