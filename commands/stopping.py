"""Signals that end a command in order: Ctrl-C, and those by which a batch system or a lost terminal ends a job.

    SIGINT (Ctrl-C)              the first asks; the second ends at once
    SIGTERM, SIGHUP, SIGUSR1     ask, however often; what is not finished GRACE_S later is given up

The grace is shorter than the 10 s that `docker stop` waits before it kills, and the 30 s of SLURM. Giving up loses no
more than a kill would: entries, states and results are replaced whole. The exit code is 128 plus the number of the
signal, as a shell has it for a process that the signal killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

GRACE_S = 8.0
OF_MACHINES = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Stop(threading.Event):
    """An event that is set once a command shall end; `number` is that of the signal, 0 before."""

    number = 0

    @property
    def code(self) -> int:
        """The exit code of a command that was ended so."""
        return 128 + (self.number or signal.SIGINT)


@contextlib.contextmanager
def interruptible(doing: str = "Finishing the clips in work") -> Iterator[Stop]:
    """Gives an event that the signals set, for work that looks at it and ends in order; see this file's first lines."""
    stop = Stop()

    def ask(number: int, _: object) -> None:
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])
        again = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else f", {GRACE_S:g} s at most"
        _say(f"\n{doing}{again}.\n")
        stop.number = stop.number or number
        stop.set()

    with _watched((signal.SIGINT, *OF_MACHINES), ask, stop) as before:
        yield stop


@contextlib.contextmanager
def ended_by_signals() -> Iterator[Stop]:
    """Ends a block, and the command, as Ctrl-C does, for work whose finished parts are kept: by KeyboardInterrupt."""
    stop = Stop()

    def end(number: int, _: object) -> None:
        if not stop.number:
            stop.number = number
            raise KeyboardInterrupt

    try:
        with _watched(OF_MACHINES, end, stop):
            yield stop
    except (KeyboardInterrupt, Exception) as error:
        if not isinstance(error, KeyboardInterrupt) and not stop.number:  # else: a process that the signal reached too
            raise
        _say("interrupted: run the same command to resume\n")
        sys.exit(stop.code)


@contextlib.contextmanager
def _watched(
    numbers: tuple[signal.Signals, ...], handle: Callable[[int, object], None], stop: Stop
) -> Iterator[dict[signal.Signals, Any]]:
    """Handles signals, and ends the process GRACE_S after the first that a machine sends; yields the old handlers."""
    timer = threading.Timer(GRACE_S, _give_up, [stop])
    timer.daemon = True
    timed = False

    def on_signal(number: int, frame: object) -> None:
        nonlocal timed
        if number != signal.SIGINT and not timed:
            timed = True  # before start, within which the next signal may come
            timer.start()
        handle(number, frame)

    wanted = [number for number in numbers if not (number == signal.SIGHUP and _is_ignored(number))]  # nohup
    before = {number: signal.signal(number, on_signal) for number in wanted}
    try:
        yield before
    finally:
        timer.cancel()
        if timed:
            timer.join()  # a daemon thread that wakes up while Python ends can abort the process
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


def _give_up(stop: Stop) -> None:
    _say(f"not finished after {GRACE_S:g} s: given up. What was saved is whole; run the same command to resume.\n")
    os._exit(stop.code)


def _say(text: str) -> None:
    """Writes to standard error, also from within a print that a signal interrupted, and where the terminal is gone."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
