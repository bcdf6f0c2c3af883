"""Work that gives no sign of life is given up once; what rests or beats is left alone."""

import threading

import pytest

from sage_va.extract.decode import watchdog
from sage_va.extract.decode.watchdog import GivenUpError, Watchdog


class Work:
    pass


def test_only_what_is_silent_is_given_up_and_once(monkeypatch):
    silent, lively, resting = Work(), Work(), Work()
    given_up, over, now_s = [], threading.Event(), [0.0]
    monkeypatch.setattr(watchdog, "monotonic", lambda: now_s[0])
    with Watchdog(lambda work: (given_up.append(work), over.set()), stall_s=0.3) as dog:
        for work in (silent, lively, resting):
            dog.beat(work)
        dog.rest(resting)
        for _ in range(5):
            now_s[0] += 0.2
            dog.beat(lively)
        assert over.wait(300)
        for sign in (dog.beat, dog.rest):
            with pytest.raises(GivenUpError):
                sign(silent)
        dog.beat(resting)
    assert given_up == [silent]


def test_it_ends_with_its_block():
    with Watchdog(lambda work: None, stall_s=60) as dog:
        dog.beat(Work())
    assert not dog._thread.is_alive()
