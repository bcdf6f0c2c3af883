"""Work that gives no sign of life is given up once; what rests or beats is left alone."""

import threading
import time

import pytest

from sage_va.extract.decode.watchdog import GivenUpError, Watchdog


class Work:
    pass


def test_only_what_is_silent_is_given_up_and_once():
    silent, lively, resting = Work(), Work(), Work()
    given_up, over = [], threading.Event()
    with Watchdog(lambda work: (given_up.append(work), over.set()), stall_s=0.3) as dog:
        for work in (silent, lively, resting):
            dog.beat(work)
        dog.rest(resting)
        start = time.monotonic()
        while time.monotonic() - start < 1.0:
            dog.beat(lively)
            time.sleep(0.01)
        assert over.is_set()
        assert given_up == [silent]
        for sign in (dog.beat, dog.rest):
            with pytest.raises(GivenUpError):
                sign(silent)
        dog.beat(resting)


def test_it_ends_with_its_block():
    with Watchdog(lambda work: None, stall_s=60) as dog:
        dog.beat(Work())
    assert not dog._thread.is_alive()
