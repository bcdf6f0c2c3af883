"""Address, versions and errors of an Icechunk repository."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import DamagedError, InputError

try:
    import icechunk
except ImportError as missing:
    raise InputError(
        "icechunk://", expected="the package icechunk", got="none", todo='Run `pip install "sage-va[icechunk]"`.'
    ) from missing
from icechunk import IcechunkError, Repository

if "ICECHUNK_LOG" not in os.environ:  # it warns of concurrent commits to local folders, which we serialise
    icechunk.set_logs_filter("warn,icechunk::storage::object_store=error")

MAIN = "main"
_OUTAGE = re.compile(
    r"dispatch failure|error sending request|tim(e|ed)[ -]?out"
    r"|os error (5|13|24|28|30|122)\)"  # EIO, EACCES, EMFILE, ENOSPC, EROFS, EDQUOT
    r"|(service|Generic (S3|GCS)) error(?!.*(NoSuchKey|InvalidRange|not found))",
    re.DOTALL,
)


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """Turns a panic of Icechunk, as some damaged files cause it, into one of its errors."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # which has no address in Python
            raise
        raise IcechunkError(str(error)) from error


@contextlib.contextmanager
def asked(url: str) -> Iterator[None]:
    """Turns errors of Icechunk into one line about the cache.

    Raises:
        InputError: if the storage does not answer or has no space. DamagedError: if the repository is damaged.
    """
    try:
        with calm():
            yield
    except IcechunkError as error:
        if is_outage(error):
            todo = "Look at address, network, credentials, rights and space."
            raise InputError(url, expected="storage that answers", got=line_of(error), todo=todo) from error
        todo = "Open an earlier snapshot or a tag with @NAME, or copy the cache here again."
        raise DamagedError(url, expected="a whole repository", got=line_of(error), todo=todo) from error


def is_outage(error: Exception) -> bool:
    """True where the storage failed Icechunk, which proves nothing about the bytes there."""
    return _OUTAGE.search(str(error)) is not None


def line_of(error: Exception) -> str:
    """Returns the innermost cause of an error that has many lines."""
    cause = str(error).rstrip().splitlines()[-1].lstrip(" |`->x")
    message = re.search(r'message: "([^"]*)"', cause)
    return message[1] if message else cause


def split(url: str) -> tuple[str, str | None]:
    """Splits an address into its place and the name of a version."""
    place = url.removeprefix("icechunk://").rstrip("/")
    before, at, name = place.rpartition("@")
    return (before, name) if at and name and "/" not in name else (place, None)


def storage_of(url: str, place: str) -> icechunk.Storage:
    """Returns access to a place; credentials and `AWS_ENDPOINT_URL` come from the environment."""
    parts = urlsplit(place)
    prefix = parts.path.strip("/")
    if place and "://" not in place:
        return icechunk.local_filesystem_storage(str(Path(place).absolute()))
    if parts.scheme not in ("s3", "gs") or not parts.netloc or not prefix:
        todo = "Write icechunk:///folder, icechunk://s3://bucket/prefix or icechunk://gs://bucket/prefix."
        raise InputError(url, expected="a folder, or a bucket and a prefix", got=repr(place), todo=todo)
    if parts.scheme == "gs":
        return icechunk.gcs_storage(bucket=parts.netloc, prefix=prefix, from_env=True)
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    return icechunk.s3_storage(
        bucket=parts.netloc,
        prefix=prefix,
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        endpoint_url=endpoint,
        allow_http=(endpoint or "").startswith("http://"),
        force_path_style=endpoint is not None,
        from_env=True,
    )


def create(url: str, folder: Path | None, storage: icechunk.Storage) -> None:
    """Makes a repository; another writer may make it at the same time.

    Raises:
        InputError: if the place is not empty.
    """
    try:
        if folder is None:
            Repository.create(storage)
        else:
            create_folder(folder)
    except (IcechunkError, OSError) as error:
        taken = "clean prefixes" in str(error) or getattr(error, "errno", 0) in (
            errno.ENOTEMPTY,
            errno.EEXIST,
            errno.ENOTDIR,
        )
        if not taken:
            raise
        if (folder and not folder.is_dir()) or not Repository.exists(storage):
            todo = "Choose another place."
            raise InputError(url, expected="a cache or an empty place", got="other files", todo=todo) from error


def create_folder(folder: Path) -> None:
    """Makes a repository under another name and renames it: a kill in the middle would leave a broken one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    try:
        aside.mkdir()  # where that is refused, Icechunk would panic
        Repository.create(icechunk.local_filesystem_storage(str(aside)))
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def version_of(url: str, repository: Repository, name: str | None) -> dict[str, str]:
    """Returns the version of a name: a branch, a tag or a snapshot.

    Raises:
        InputError: if there is none.
    """
    branches = repository.list_branches()
    if name is None or name in branches:
        return {"branch": name or MAIN}
    for kind, known in (("tag", repository.lookup_tag), ("snapshot_id", repository.lookup_snapshot)):
        try:
            known(name)
        except IcechunkError as error:
            if not re.search("not found|invalid", str(error)):
                raise
        else:
            return {kind: name}
    todo = f"There are: {', '.join(sorted(repository.list_tags() | branches))}."
    raise InputError(url, expected="a tag, a branch or a snapshot", got=repr(name), todo=todo)
