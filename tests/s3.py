"""A real S3 server on loopback, a web server that knows ranges, and a proxy that cuts their connections."""

import contextlib
import importlib.util
import io
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

BUCKET = "team"
MISSING = [name for name in ("moto", "s3fs") if importlib.util.find_spec(name) is None]
needs_s3 = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def s3_server(fault: Callable[[dict[str, Any]], str | None] = lambda environ: None) -> Iterator[int]:
    """Runs the server; gives its port.

    Args:
        fault: returns the status that a request is refused with, such as `503 Slow Down`; None = it is answered.
    """
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    application = _whole_uploads(DomainDispatcherApplication(create_backend_app), fault)
    server = make_server("127.0.0.1", 0, application, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()


def _whole_uploads(application: Any, fault: Callable[[dict[str, Any]], str | None]) -> Any:
    """Refuses an upload that was cut, as S3 does; moto would keep the half of it."""

    def checked(environ: dict[str, Any], start_response: Any) -> Any:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        if len(body) < length:
            start_response("400 Bad Request", [("Content-Length", "0")])
            return []
        if status := fault(environ):
            code = status.split(" ", 1)[1].replace(" ", "")
            text = f"<Error><Code>{code}</Code><Message>try again</Message></Error>".encode()
            text = b"" if environ["REQUEST_METHOD"] == "HEAD" else text
            start_response(status, [("Content-Length", str(len(text))), ("Content-Type", "application/xml")])
            return [text]
        if length:
            environ["wsgi.input"] = io.BytesIO(body)
        return application(environ, start_response)

    return checked


def use_s3(patch: pytest.MonkeyPatch, port: int) -> None:
    """Points every S3 client made from now on to a port on loopback."""
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
        patch.setenv(name, value)
    forget_clients()


def forget_clients() -> None:
    """Fsspec keeps its filesystems: without this, a new endpoint would be ignored."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def empty_bucket(port: int) -> None:
    """Makes the bucket, with nothing in it."""
    import boto3

    key, secret, region = CREDENTIALS.values()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name=region,
    )
    with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=BUCKET)
    for row in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=row["Key"])


class Proxy:
    """Passes bytes between clients and a port; `budget()`: after how many a new connection is cut, None = never."""

    def __init__(self, port: int, budget: Callable[[], int | None]) -> None:
        self.target, self.budget, self.cuts = port, budget, 0
        self.ends: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def cut_all(self) -> None:
        """Cuts the connections that are open."""
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                self.ends += [client, server]
                left = [self.budget()]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(*pair, left), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, left: list[int | None]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if left[0] is not None:
                    data, left[0] = data[: left[0]], left[0] - len(data)
                sink.sendall(data)
                if left[0] is not None and left[0] <= 0:
                    self.cuts += 1
                    for end in (source, sink):  # a reset, not an orderly end
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class _Ranges(SimpleHTTPRequestHandler):
    """Files of a folder; answers `Range: bytes=a-b` with that part."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content, wanted = path.read_bytes(), self.headers.get("Range")
        if wanted and self.server.ranges:  # type: ignore[attr-defined]
            start, end = wanted.removeprefix("bytes=").split("-")
            part = content[int(start) : int(end) + 1 if end else None]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}")
        else:
            part = content
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextlib.contextmanager
def web_server(folder: Path, ranges: bool = True) -> Iterator[int]:
    """Serves a folder; gives the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: _Ranges(*args, directory=str(folder)))
    server.ranges = ranges  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
