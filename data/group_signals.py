"""Signals that reach every process of a group, such as Ctrl-C and those of a batch system."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable, Iterator
from multiprocessing import resource_tracker

GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Holds signals back in this thread, and in a process that begins in the block until it lets them through.

    A worker takes seconds to import what it needs. A signal at that time would end it, Ctrl-C with a traceback. The
    worker begins with `ignore_signals`.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        resource_tracker.ensure_running()  # Python's own helper of processes; it lets some of the signals through
        signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals(numbers: Iterable[signal.Signals]) -> None:
    """Ignores signals that are for the parent of a worker, and ends what `signals_held_back` began there."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)
