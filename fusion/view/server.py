"""The server of `sage-va view`: it answers this machine alone, and only who has the address that it printed.

A request passes these checks in order, or ends with a status and a short text:

    socket      bound to 127.0.0.1: no other machine reaches it
    user        another user of this machine, who may have read the address in the browser's command line (Linux)
    Host        127.0.0.1 or localhost: a foreign name that was made to point here (DNS rebinding) is refused
    fetch site  a page of another site may neither embed nor fetch anything
    token       the first part of the path, 128 random bits of this start: other users of this machine do not have it
    route       a number of a clip and a word: no path ever comes from a request
    Origin      for writing: the page's own; with a bound on the size, and JSON alone
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ...data.errors import InputError, first_line
from .peers import user_of
from .ranges import ByteRange, byte_range

ADDRESS = "127.0.0.1"
HOSTS = frozenset({"127.0.0.1", "localhost"})
SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
ROOT = 0  # also what relays connections of this machine, as those of containers
MOST_BYTES = 4_000_000  # of a request to write
BLOCK_BYTES = 1 << 18
DRAIN_S = 2.0  # for what a refused request still sends
_HOST = re.compile(r"([a-z0-9.-]+)(?::\d{1,5})?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    """An answer: a body, or a file of which parts may be asked for.

    Args:
        body: text in UTF-8 or bytes; JSON where it is neither.
        kind: media type.
        file: its place, instead of a body.
        headers: further ones.
    """

    body: Any = b""
    kind: str = "application/json"
    file: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def content(self) -> bytes:
        """Returns the body as bytes."""
        if isinstance(self.body, bytes):
            return self.body
        text = self.body if isinstance(self.body, str) else json.dumps(self.body, ensure_ascii=False, allow_nan=False)
        return text.encode()


Route = Callable[[str, Any], Reply | None]  # (what follows the token, JSON of a request to write or None) -> answer


class ViewServer(ThreadingHTTPServer):
    """Serves the routes of a page on the loopback address.

    Args:
        port: to listen on; 0 = a free one.

    Attributes:
        route: returns the answer to a request; None where there is nothing of that name. Set it before it serves.

    Raises:
        InputError: if the port is taken or not allowed.
    """

    daemon_threads = True
    request_queue_size = 128  # a browser opens several connections at once
    route: Route

    def __init__(self, port: int) -> None:
        self.token = secrets.token_urlsafe(16)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            todo = "Choose another --port, or leave it out for a free one."
            raise InputError(f"--port {port}", f"it cannot be used ({error.strerror})", todo=todo) from None

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.server_address[1]}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints a mistake of ours; not that a browser has closed its connection, as it does when a video is moved."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _RefusedError(Exception):
    """A request that gets a status and a short text."""

    def __init__(self, status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers or {}


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "sage-va", ""
    timeout = 60  # seconds for which the other end may be silent, or take nothing
    _begun = False  # the head of an answer is sent: nothing else may follow but its body
    _refused = False  # the request may hold a body that was not read

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def finish(self) -> None:
        """Takes what is left of a refused request: to close with bytes unread would take the answer back."""
        super().finish()
        if self._refused and self.command == "POST":
            with contextlib.suppress(OSError):
                self.connection.settimeout(DRAIN_S)
                self.connection.shutdown(socket.SHUT_WR)
                left = MOST_BYTES
                while left > 0 and (taken := len(self.connection.recv(BLOCK_BYTES))):
                    left -= taken

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Logs nothing: paths hold the token."""

    def _answer(self) -> None:
        self._begun = False
        try:
            self._check_source()
            place = self._place()
            reply = self.server.route(place, self._sent() if self.command == "POST" else None)
            if reply is None:
                raise _RefusedError(HTTPStatus.NOT_FOUND, "There is nothing of that name.")
            self._send(reply)
        except _RefusedError as error:
            self._send_text(error.status, error.text, error.headers)
        except InputError as error:
            self._send_text(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except (
            ConnectionError,
            TimeoutError,
        ):  # also a video that has been paused for long: the rest is asked for anew
            self.close_connection = True
        except OSError as error:
            text = f"It cannot be read or written: {error.strerror or type(error).__name__}."
            self._send_text(HTTPStatus.INTERNAL_SERVER_ERROR, text)
        except Exception as error:
            self._send_text(HTTPStatus.INTERNAL_SERVER_ERROR, first_line(error))
            raise

    def _check_source(self) -> None:
        if user_of(self.client_address, self.connection.getsockname()) not in (None, ROOT, os.geteuid()):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "Only the user who started sage-va view may open it.")
        host = _HOST.fullmatch(self.headers.get("Host", ""))
        if host is None or host[1].lower() not in HOSTS or len(self.headers.get_all("Host", [])) != 1:
            raise _RefusedError(HTTPStatus.FORBIDDEN, "This server answers to 127.0.0.1 and localhost alone.")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "Other sites may not use this server.")

    def _place(self) -> str:
        """Returns the path behind the token."""
        path = self.path.partition("?")[0]
        token, _, place = path.removeprefix("/").partition("/")
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "Open the whole address that sage-va view has printed.")
        return place

    def _sent(self) -> Any:
        """Returns the JSON of a request to write."""
        if self.headers.get("Origin") != f"http://{self.headers['Host']}":
            raise _RefusedError(HTTPStatus.FORBIDDEN, "Only the page itself may write.")
        if self.headers.get_content_type() != "application/json":
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "JSON is expected.")
        size = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,9}", size, re.ASCII) or int(size) > MOST_BYTES:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"At most {MOST_BYTES} bytes are taken.")
        try:
            return json.loads(self.rfile.read(int(size)))
        except (ValueError, RecursionError):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "JSON is expected.") from None

    def _send(self, reply: Reply) -> None:
        if reply.file is not None:
            self._send_file(reply.file, reply)
            return
        content = reply.content()
        self._begin(HTTPStatus.OK, reply.kind, len(content), reply.headers)
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_file(self, path: Path, reply: Reply) -> None:
        with path.open("rb") as file:
            size = path.stat().st_size
            try:
                part = byte_range(self.headers.get("Range"), size)
            except InputError as error:
                headers = {"Content-Range": f"bytes */{size}"}
                raise _RefusedError(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, str(error), headers) from None
            whole = part or ByteRange(0, size - 1, size)
            ranged = {"Accept-Ranges": "bytes", **({"Content-Range": part.header} if part else {})}
            status = HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK
            self._begin(status, reply.kind, whole.length, {**ranged, **reply.headers})
            if self.command != "HEAD":
                file.seek(whole.first)
                self._copy(file, whole.length)

    def _copy(self, file: Any, length: int) -> None:
        while length > 0 and (block := file.read(min(length, BLOCK_BYTES))):
            self.wfile.write(block)
            length -= len(block)
        if length:  # the file has become shorter: the browser must not wait for the rest
            self.close_connection = True

    def _send_text(self, status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> None:
        self.close_connection = self._refused = True  # what the request still holds is not read
        if self._begun:
            return
        content = text.encode()
        self._begin(status, "text/plain; charset=utf-8", len(content), {**(headers or {}), "Connection": "close"})
        if self.command != "HEAD":
            self.wfile.write(content)

    def _begin(self, status: HTTPStatus, kind: str, length: int, headers: Mapping[str, str]) -> None:
        self._begun = True
        self.send_response(status)
        named = {"Content-Type": kind, "Content-Length": str(length), **SECURITY, **headers}
        for name, value in named.items():
            self.send_header(name, value)
        self.end_headers()
