"""Workers as processes: signals that reach the whole group do not end them, from their first moment on."""

import os
import pickle
import signal
import time

import pytest

from sage_va.extract.engine.local_engine import LocalEngine
from sage_va.extract.engine.messages import Event


def first_event(engine: LocalEngine) -> Event:
    end_s = time.monotonic() + 100
    while time.monotonic() < end_s:
        for _, event in engine.events(1.0):
            return event
    raise AssertionError("no event")


@pytest.mark.parametrize("delay_s", [0.0, 0.2])
def test_a_signal_does_not_end_a_worker_that_begins(capfd: pytest.CaptureFixture[str], delay_s: float) -> None:
    engine = LocalEngine(["cpu"])
    try:
        engine.start(0, b"no job")
        time.sleep(delay_s)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(engine._processes[0].pid, number)
        assert isinstance(first_event(engine), pickle.UnpicklingError)  # it has read its job
    finally:
        engine.close()
    assert capfd.readouterr().err == ""
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
