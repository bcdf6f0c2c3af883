"""A place behind an address, local or not: read with patience, written whole, every failure one line."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ..atomic import make_folder, names, publish, write_new
from ..errors import InputError, first_line
from .address import check_no_credentials
from .staging import STAGING

PAUSES_S = (0.3, 1.0, 3.0)  # between tries after a connection was cut
PART_BYTES = 16 << 20  # of a multipart upload; also what is read at once
OURS = {"cache.json", "aliases.json", "index.json", "packs"}
DATASET = re.compile(r"hf://datasets/[^/]+/[^/]+")
READ_ONLY = ("http", "https")
WRITABLE = ("s3", "gs", "hf")  # an object appears there whole or not at all
CUT = frozenset(
    {  # of aiohttp, botocore, httpx, requests and urllib3: the names of what all their network errors are
        "ClientConnectionError",
        "ClientPayloadError",
        "HTTPClientError",
        "ConnectionError",
        "IncompleteReadError",
        "TransportError",
        "ProtocolError",
        "Timeout",
        "FSTimeoutError",
        "ResponseParserError",
    }
)
REFUSED = {401, 403}
BUSY = (errno.EIO, errno.EBUSY, errno.EPIPE, getattr(errno, "EREMOTEIO", errno.EIO))  # the last: S3's InternalError
Answer = TypeVar("Answer")


class OutageError(InputError, ConnectionError):
    """A place that did not answer, or gave no access; proves nothing about the bytes there."""


class Remote:
    """Files by name below an address. Safe to use from several threads, not across a fork.

    Args:
        url: `s3://…`, `gs://…`, `hf://…`, `http(s)://…` or a local path.

    Raises:
        InputError: if the address is of no known kind, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        check_no_credentials(url)
        self.url = url.rstrip("/")
        self.scheme = url.partition("://")[0] if "://" in url else ""
        self.fs, self.base = _filesystem(self.url)
        self.local = not self.scheme
        self.can_list = self.scheme not in READ_ONLY

    def _path(self, name: str) -> str:
        return f"{self.base}/{name}" if name else self.base

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """A file's bytes, all or a range.

        Raises:
            FileNotFoundError: if there is none. OutageError: if the place does not answer.
        """

        def once() -> bytes:
            content = self.fs.cat_file(self._path(name), start=start, end=end)
            if end is not None and len(content) != end - start:
                if len(content) > end - start:
                    raise self._outage(name, "a server that answers range requests", "all of the file at once")
                raise (EOFError if self.local else ConnectionError)(f"{len(content)} of {end - start} bytes")
            return content

        return self._patiently(name, once)

    def chunks(self, name: str, size: int) -> Iterator[bytes]:
        """A file of that size, piece by piece."""
        for start in range(0, size, PART_BYTES):
            yield self.read(name, start, min(start + PART_BYTES, size))

    def info(self, name: str) -> dict[str, Any]:
        """Returns the place's metadata of a file now: `size`, and its checksums if it keeps any; raises like `read`."""

        def once() -> dict[str, Any]:
            self.fs.invalidate_cache()
            return self.fs.info(self._path(name))

        return self._patiently(name, once)

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each file in a folder, by name, as it is now; {} where there is no folder."""

        def once() -> list[dict[str, Any]]:
            self.fs.invalidate_cache()
            return self.fs.ls(self._path(folder), detail=True)

        with suppress(FileNotFoundError):
            rows = self._patiently(folder, once)
            return {row["name"].rsplit("/", 1)[-1]: row["size"] for row in rows if row["type"] == "file"}
        return {}

    def write(self, name: str, content: bytes) -> None:
        """Makes or replaces a small file in one step."""
        if self.local:
            staged = self.staged(name)
            write_new(staged, content)
            return self.put(name, staged)
        return self._writing(name, lambda: self.fs.pipe_file(self._path(name), content))

    def staged(self, name: str) -> Path:
        """A new path from which `put` can rename a local file to its name."""
        return self.staging / f"{name.replace('/', '-')}-{uuid.uuid4().hex}"

    @property
    def staging(self) -> Path:
        """Where files are made before they get their names, in a local folder."""
        return Path(self.base) / STAGING

    def put(self, name: str, path: Path) -> None:
        """Puts a local file to a name, whole or not at all; a local place takes the file itself."""
        if self.local:
            place = Path(self._path(name))
            make_folder(place.parent)
            return publish(path, place)
        more = {"chunksize": PART_BYTES} if self.scheme == "s3" else {}
        return self._writing(name, lambda: self.fs.put_file(str(path), self._path(name), **more))

    def proves(self, name: str, sha256: str, path: Path | None) -> bool:
        """True where an object has this SHA-256: by a checksum that the place itself keeps, else by reading it again.

        Args:
            path: the file that was put there, None where the place took the file itself.

        Raises:
            FileNotFoundError: if there is no such object.
        """
        info = self.info(name)
        if path is not None and info["size"] != path.stat().st_size:
            return False
        stated = {str(info.get("ETag", "")).strip('"'), info.get("md5Hash"), getattr(info.get("lfs"), "sha256", None)}
        if path is not None and stated & {sha256, *_md5s(path)}:
            return True
        digest = hashlib.sha256()
        for chunk in self.chunks(name, info["size"]):
            digest.update(chunk)
        return digest.hexdigest() == sha256

    def ready_to_write(self, *, new: bool) -> None:
        """Refuses a place that cannot be written, or where something else lies although it should be new.

        Raises:
            InputError: if it is one.
        """
        strange = sorted(set(names(Path(self.base))) - OURS) if self.local and new else []
        if strange:
            got, todo = f"a folder with {strange[0]}", "Choose another path."
            raise InputError(self.url, expected="a cache or an empty place", got=got, todo=todo)
        if not self.local and (self.scheme not in WRITABLE or self.url.endswith(".zip")):
            todo = "Copy to a local .packs folder or .zarr.zip file, and upload that by other means."
            got = "a single file" if self.scheme in WRITABLE else f"{self.scheme}://"
            expected = "a local path or a prefix behind s3://, gs:// or hf://"
            raise InputError(self.url, expected=expected, got=got, todo=todo)
        if self.scheme == "hf" and not DATASET.match(self.url):
            todo = "Name a dataset repository."
            raise InputError(self.url, expected="hf://datasets/USER/NAME[/PATH]", got="another address", todo=todo)

    def _writing(self, name: str, once: Callable[[], None]) -> None:
        try:
            self._patiently(name, once)
        except FileNotFoundError as error:
            expected = "a bucket or dataset repository that exists"
            raise self._outage(name, expected, "none", "Make it first, with the access rights you want.") from error

    def _patiently(self, name: str, once: Callable[[], Answer]) -> Answer:
        """Calls again after a cut connection, a few times; every other failure becomes one line."""
        for pause_s in (*PAUSES_S, None):
            try:
                return once()
            except (OutageError, FileNotFoundError):
                raise
            except Exception as error:
                if self.local:
                    raise
                if not is_cut(error):
                    raise self._refusal(name, error) from error
                if pause_s is None:
                    raise self._outage(name, "an answer", _first_line(error)) from error
                time.sleep(pause_s)
        raise AssertionError("unreachable")

    def _refusal(self, name: str, error: Exception) -> OutageError:
        refused = isinstance(error, PermissionError) or _status(error) in REFUSED
        if refused or "credentials" in f"{type(error).__name__} {error}".lower():
            todo = f"Check the credentials for {self.scheme}:// and what they allow."
            return self._outage(name, "access", _first_line(error), todo)
        return self._outage(name, "an answer", _first_line(error), "Check the address.")

    def _outage(self, name: str, expected: str, got: str, todo: str = "") -> OutageError:
        place = f"{self.url}/{name}".rstrip("/")
        todo = todo or "Check the connection and do the same again: what has arrived stays."
        return OutageError(place, expected=expected, got=got, todo=todo)


def is_cut(error: Exception) -> bool:
    """True where the network failed, so that a retry may help."""
    if isinstance(error, ConnectionError | TimeoutError) or CUT & {kind.__name__ for kind in type(error).__mro__}:
        return True
    busy = isinstance(error, OSError) and error.errno in BUSY
    status = _status(error)
    return busy or status == 429 or status >= 500


def _status(error: Exception) -> int:
    """HTTP status of an error, 0 where it has none."""
    answer = getattr(error, "response", None)
    statuses = [getattr(error, "status", 0), getattr(error, "code", 0), getattr(answer, "status_code", 0)]
    return next((int(status) for status in statuses if str(status).isdigit() and int(status)), 0)


def _first_line(error: Exception) -> str:
    return first_line(error).rstrip(".: ")


def _md5s(path: Path) -> set[str]:
    """The checksums that S3 (put at once, or in our parts) and Google keep of a file."""
    whole, parts = hashlib.md5(usedforsecurity=False), list[bytes]()
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            whole.update(part)
            parts.append(hashlib.md5(part, usedforsecurity=False).digest())
    joined = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    return {whole.hexdigest(), base64.b64encode(whole.digest()).decode(), f"{joined}-{len(parts)}"}


def _s3_options() -> dict[str, Any]:
    """The patience is ours: three layers that each try five times keep a user waiting for a minute."""
    from fsspec.config import conf

    theirs = conf.get("s3", {}).get("config_kwargs", {})
    return {"config_kwargs": {"retries": {"max_attempts": 0}, **theirs}}


def _filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of an address, and the path in it."""
    try:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        if "://" not in url:
            return LocalFileSystem(), os.path.abspath(url)
        return fsspec.core.url_to_fs(url, **(_s3_options() if url.startswith("s3://") else {}))
    except ImportError as error:
        todo = 'Install it with: pip install "sage-va[share]".'
        got = f"none ({_first_line(error)})"
        raise InputError(url, expected="the packages that reach it", got=got, todo=todo) from error
    except ValueError as error:
        todo = "Use s3://, gs://, hf://, https:// or a local path."
        raise InputError(url, expected="a known kind of address", got=_first_line(error), todo=todo) from error
