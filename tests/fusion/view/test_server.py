"""The server of `sage-va view`: this machine, this address and this page alone, and byte ranges of files."""

import http.client
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sage_va.data import InputError
from sage_va.fusion.view import server as server_module
from sage_va.fusion.view.peers import TABLES, user_of
from sage_va.fusion.view.ranges import byte_range
from sage_va.fusion.view.server import MOST_BYTES, Reply, ViewServer

CONTENT = bytes(range(200))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewServer]:
    """Serves a text at the root, a file at `file`, and what it is sent at `echo`."""
    file = tmp_path_factory.mktemp("served") / "file.bin"
    file.write_bytes(CONTENT)

    def route(place: str, sent: Any) -> Reply | None:
        if place == "fault":
            raise KeyError("ours")
        if sent is not None:
            return Reply({"sent": sent}) if place == "echo" else None
        return {"": Reply("page", "text/plain"), "file": Reply(kind="video/mp4", file=file)}.get(place)

    with ViewServer(0) as opened:
        opened.route = route
        thread = threading.Thread(target=opened.serve_forever, daemon=True)
        thread.start()
        yield opened
        opened.shutdown()
        thread.join(300)


@pytest.fixture
def ask(server: ViewServer) -> Callable[..., tuple[int, dict[str, str], bytes]]:
    """Sends a request; returns status, headers and body."""

    def request(
        place: str,
        headers: dict[str, str] | None = None,
        *,
        method: str = "GET",
        body: bytes | None = None,
        raw: str = "",
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=300)
        connection.request(method, raw or f"/{server.token}/{place}", body, headers or {})
        answer = connection.getresponse()
        answered = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return answered

    return request


def test_only_the_loopback_address_is_listened_to(server: ViewServer) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert len(server.token) >= 22


def test_another_user_who_has_the_address_is_refused(
    ask: Callable[..., Any], server: ViewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user, status in ((None, 200), (0, 200), (os.geteuid(), 200), (os.geteuid() + 1, 403)):
        monkeypatch.setattr(server_module, "user_of", lambda *ends, user=user: user)
        assert ask("")[0] == status


@pytest.mark.skipif(not TABLES[0].exists(), reason="only Linux lists the users of connections")
def test_the_user_of_a_connection_is_known(server: ViewServer) -> None:
    users = [os.geteuid(), *([65534] if os.geteuid() == 0 else [])]
    for user in users:
        with socket_of(user) as client:
            client.connect(server.server_address)
            assert user_of(client.getsockname(), client.getpeername()) == user
    assert user_of(("127.0.0.1", 1), ("127.0.0.1", 2)) is None


def socket_of(user: int) -> socket.socket:
    own = os.geteuid()
    os.seteuid(user)
    try:
        return socket.socket()
    finally:
        os.seteuid(own)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:9", "LOCALHOST:65535"])
def test_the_names_of_this_machine_are_answered(ask: Callable[..., Any], host: str) -> None:
    assert ask("", {"Host": host})[0] == 200  # any port: it may be forwarded


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil", "127.0.0.2", "", "a b"])
def test_a_foreign_name_that_points_here_is_refused(ask: Callable[..., Any], host: str) -> None:
    status, _, body = ask("", {"Host": host})
    assert status == 403
    assert b"page" not in body


@pytest.mark.parametrize("path", ["/", "/wrong/", "/wrong/file", "//", "/%2e%2e/"])
def test_nothing_is_shown_without_the_token(ask: Callable[..., Any], path: str) -> None:
    assert ask("", raw=path)[0] == 403


@pytest.mark.parametrize("place", ["../file", "..%2ffile", "%2e%2e/", "/etc/passwd", "file/", "file%00", "FILE"])
def test_other_places_do_not_exist(ask: Callable[..., Any], place: str) -> None:
    assert ask(place)[0] == 404


def test_a_page_of_another_site_gets_nothing(ask: Callable[..., Any]) -> None:
    assert ask("", {"Sec-Fetch-Site": "same-origin"})[0] == 200
    assert ask("file", {"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert ask("file", {"Sec-Fetch-Site": "same-site"})[0] == 403


def test_answers_may_be_neither_framed_nor_guessed_nor_kept(ask: Callable[..., Any]) -> None:
    for answer in (ask(""), ask("file"), ask("none")):
        assert answer[1]["X-Content-Type-Options"] == "nosniff"
        assert answer[1]["X-Frame-Options"] == "DENY"
        assert answer[1]["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer[1]["Referrer-Policy"] == "no-referrer"
        assert answer[1]["Cache-Control"] == "no-store"


def own(server: ViewServer, **more: str) -> dict[str, str]:
    host = f"127.0.0.1:{server.server_address[1]}"
    headers = {"Host": host, "Origin": f"http://{host}", "Content-Type": "application/json", **more}
    return {name: value for name, value in headers.items() if value}


def test_the_page_itself_may_write(ask: Callable[..., Any], server: ViewServer) -> None:
    status, _, body = ask("echo", own(server), method="POST", body=b'{"a": 1}')
    assert (status, json.loads(body)) == (200, {"sent": {"a": 1}})


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Origin": "http://evil.example"}, b"{}", 403),
        ({"Origin": "null"}, b"{}", 403),
        ({"Origin": ""}, b"{}", 403),
        ({"Content-Type": "text/plain"}, b"{}", 415),
        ({"Content-Type": ""}, b"{}", 415),
        ({}, b"{", 400),
        ({}, b"[" * 100_000, 400),
        ({"Content-Length": str(MOST_BYTES + 1)}, b"{}", 413),
        ({"Content-Length": "-1"}, b"{}", 413),
        ({"Content-Length": "1" * 5000}, b"{}", 413),
    ],
)
def test_others_may_not_write(
    ask: Callable[..., Any], server: ViewServer, headers: dict[str, str], body: bytes, status: int
) -> None:
    assert ask("echo", own(server, **headers), method="POST", body=body)[0] == status


def test_a_refusal_arrives_although_the_body_is_not_read(ask: Callable[..., Any], server: ViewServer) -> None:
    for _ in range(5):
        headers = own(server, Origin="http://evil.example")
        assert ask("echo", headers, method="POST", body=bytes(MOST_BYTES - 1000))[0] == 403


@pytest.mark.parametrize(
    ("header", "part"),
    [("bytes=0-", (0, 200)), ("bytes=10-19", (10, 20)), ("bytes=190-999", (190, 200)), ("bytes=-7", (193, 200))],
)
def test_a_range_of_a_file_is_sent(ask: Callable[..., Any], header: str, part: tuple[int, int]) -> None:
    first, end = part
    status, headers, body = ask("file", {"Range": header})
    assert (status, body) == (206, CONTENT[first:end])
    assert headers["Content-Range"] == f"bytes {first}-{end - 1}/200"
    assert headers["Content-Type"] == "video/mp4"


@pytest.mark.parametrize("header", [None, "bytes=5-1", "bytes=0-1,5-9", "items=0-1", "bytes=-", "bytes=a-b"])
def test_other_ranges_get_the_whole_file(ask: Callable[..., Any], header: str | None) -> None:
    status, headers, body = ask("file", {"Range": header} if header else {})
    assert (status, body, headers["Accept-Ranges"]) == (200, CONTENT, "bytes")


@pytest.mark.parametrize("header", ["bytes=200-", "bytes=500-600", "bytes=-0"])
def test_a_range_behind_the_end_is_refused(ask: Callable[..., Any], header: str) -> None:
    status, headers, _ = ask("file", {"Range": header})
    assert (status, headers["Content-Range"]) == (416, "bytes */200")


def test_a_mistake_of_ours_is_answered_and_printed(
    ask: Callable[..., Any], server: ViewServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, printed = server.handle_error, threading.Event()
    monkeypatch.setattr(server, "handle_error", lambda *words: (handle(*words), printed.set()))
    status, _, body = ask("fault")
    assert (status, body) == (500, b"KeyError: 'ours'")
    assert printed.wait(300)  # by the thread that has answered
    assert "KeyError: 'ours'" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), TimeoutError(), KeyError("ours")])
def test_what_fails_inside_a_body_adds_nothing_to_it(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(handler: Any, file: Any, length: int) -> None:
        handler.wfile.write(file.read(10))
        raise error

    monkeypatch.setattr(server_module._Handler, "_copy", fail)
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask("file")
    assert caught.value.partial == CONTENT[:10]


def test_head_sends_no_body(ask: Callable[..., Any]) -> None:
    status, headers, body = ask("file", method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, "200", b"")


def test_a_range_lies_in_the_file() -> None:
    part = byte_range("bytes=2-5", 4)
    assert part is not None
    assert (part.first, part.last, part.length, part.header) == (2, 3, 2, "bytes 2-3/4")
    with pytest.raises(InputError, match="Range: the file has 0 bytes"):
        byte_range("bytes=0-", 0)


def test_a_port_that_is_taken_is_named(server: ViewServer) -> None:
    with pytest.raises(InputError, match=r"--port \d+: it cannot be used \(Address already in use\)"):
        ViewServer(server.server_address[1])
