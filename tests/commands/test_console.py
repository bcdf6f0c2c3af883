"""Ctrl-C: the first asks, the second stops; and the handlers of before come back."""

import os
import signal

import pytest

from sage_va.commands.console import interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_asks(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with interruptible() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.is_set()
        assert "Finishing the clips in work" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_the_second_stops() -> None:
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored

    def interrupted_twice() -> None:
        with interruptible():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted_twice()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, inherited)
