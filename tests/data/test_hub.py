"""A hub that cannot be reached fails at once, and what its local cache holds is still used."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from sage_va.data import InputError
from sage_va.data.hub import answers, offline_if_unreachable, reason_of

NOWHERE = "http://hub.invalid"  # RFC 2606: no such name exists


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine takes its time to connect to itself."""
    monkeypatch.setattr(answers, "__defaults__", (30.0,))


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_accepts_answers_and_others_do_not(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answers(server)
    assert not answers(NOWHERE)
    monkeypatch.setenv("HTTP_PROXY", server)  # then the proxy looks for the name
    assert answers(NOWHERE)
    monkeypatch.setenv("HTTP_PROXY", server.removeprefix("http://"))
    assert answers(NOWHERE)
    monkeypatch.setenv("NO_PROXY", "hub.invalid")
    assert not answers(NOWHERE)


def test_a_name_server_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    released, given_up = threading.Event(), threading.Event()

    def hang(*_: Any) -> None:
        if not released.wait(300):
            given_up.set()
        raise OSError

    monkeypatch.setattr(socket, "create_connection", hang)
    assert not answers("https://hub.invalid", timeout_s=0.1)
    assert not given_up.is_set()
    released.set()


def test_the_client_is_offline_only_meanwhile(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for endpoint, offline in ((server, False), (NOWHERE, True)):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        with offline_if_unreachable():
            assert constants.is_offline_mode() == offline
        assert not constants.is_offline_mode()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with offline_if_unreachable():
        assert constants.is_offline_mode()
    assert constants.is_offline_mode()


def test_threads_share_the_switch_and_the_last_restores_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    inside, leave, states = threading.Event(), threading.Event(), list[bool]()

    def first() -> None:
        with offline_if_unreachable():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(60)
    with offline_if_unreachable():
        leave.set()
        thread.join()
        states.append(constants.is_offline_mode())
    assert [*states, constants.is_offline_mode()] == [True, False]


def test_nothing_is_tried_again_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders, detector and saved models, each within two seconds of its own; before, each took a minute."""
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    from sage_va import SAGE
    from sage_va.extract.encoders.timm_encoder import TimmEncoder
    from sage_va.extract.encoders.transformers_encoder import TransformersEncoder
    from sage_va.extract.faces.detectors import YuNet

    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/nowhere")
    for load, message in (
        (
            lambda: TimmEncoder("resnet18.a1_in1k"),
            "expected weights from the model hub, got no connection to it, and no",
        ),
        (lambda: TransformersEncoder("absent/none"), "expected weights from the model hub, got no connection to it"),
        (YuNet, "expected the weights of the face detector, got no connection to it"),
        (lambda: SAGE.from_pretrained("absent/none"), "expected a saved model, here or on the hub"),
    ):
        with pytest.raises(InputError, match=message):
            load()
    assert not pauses


def test_the_reason_is_one_short_line() -> None:
    assert reason_of(OSError("first\nsecond")) == "first"
    assert reason_of(OSError()) == "OSError"
    assert len(reason_of(OSError("x" * 999))) == 200
    wrapped = OSError("long story")
    wrapped.__cause__ = LocalEntryNotFoundError("none")
    assert reason_of(wrapped) == "no connection to it, and no copy in its local cache"
