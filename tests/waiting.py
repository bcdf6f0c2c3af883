"""Waiting for a state in place of a time, and commands whose trainings wait to be stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MOST_S = 600.0  # only a fault takes so long, however busy the machine

PROGRAM = textwrap.dedent("""
    import os, time
    from pathlib import Path
    from sage_va.cli import main
    from sage_va.commands import stopping
    from sage_va.fusion.experiments import runs

    stopping.GRACE_S = 3600  # work on a busy machine is not given up
    train_one = runs.train_one

    def train(*arguments):
        if ENOUGH:
            Path(f"{__file__}.{os.getpid()}").touch()
            time.sleep(3600)
        train_one(*arguments)

    runs.train_one = train  # a worker runs this file too
    if __name__ == "__main__":
        main(prog_name="sage-va")
""")


def until(condition: Callable[[], object]) -> None:
    """Returns once a condition holds.

    Raises:
        AssertionError: if it still does not after minutes.
    """
    end_s = time.monotonic() + MOST_S
    while not condition():
        assert time.monotonic() < end_s, "it does not come"
        time.sleep(0.02)


@contextlib.contextmanager
def running(*words: object) -> Iterator[subprocess.Popen[str]]:
    """Runs Python in a session of its own, with signals as a terminal gives them; kills what is left of it."""
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_as_in_a_terminal,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _as_in_a_terminal() -> None:
    """Heeds the signals that a job in the background, or one under `nohup`, ignores."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def held(script: Path, enough: str, *words: object) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Runs a command whose trainings wait for its end once enough is done.

    Args:
        script: the file to write it to; each process that waits makes one beside it, see `num_held`.
        enough: an expression in Python, True from then on.
        words: of the command line.
    """
    script.write_text(PROGRAM.replace("ENOUGH", enough), encoding="utf-8")
    return running(script, *words)


def num_held(script: Path) -> int:
    """Returns how many processes of a command of `held` wait."""
    return len(list(script.parent.glob(f"{script.name}.*")))
