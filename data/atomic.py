"""Files and folders that are there whole or not at all, whatever stops the writer: a kill, a full disk, a power cut.

Every file of ours is replaced in the same four steps:

    .part-NAME  --write-->  .part-NAME  --fsync-->  .part-NAME  --rename-->  NAME  --fsync of the folder-->  done
    (locked)                    |
                                any error: .part-NAME is removed, NAME stays as it was

A killed writer leaves at most one `.part-NAME` per file; the next writer of that file overwrites it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import IO

from .errors import InputError

HOST = re.sub(r"\W", "_", platform.node())
WEEK_S = 7 * 24 * 3600  # after which leftovers of other hosts may go: their locks may not reach us
MAX_NAME_BYTES = 255  # of a file, on all usual disks
WHOLE_SYNC = {"ext4", "xfs", "btrfs", "f2fs", "tmpfs"}
SYNCS_AT_ONCE = 16
PART = ".part-"  # a prefix: libraries choose the format by the suffix


def write_bytes(path: Path, content: bytes) -> None:
    """Makes or replaces a file."""
    with replacing(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Makes or replaces a file in UTF-8; line ends stay as they are."""
    write_bytes(path, text.encode())


@contextlib.contextmanager
def replacing(path: Path, *, wait: bool = True) -> Iterator[Path]:
    """Yields an empty file in the same folder to write to; it replaces `path` where the block ends without an error.

    Two writers of one file take turns. On a file system without locks, nothing keeps them apart.

    Args:
        path: of the file; missing folders above it are made.
        wait: for a writer that is at work; else refuse.

    Raises:
        InputError: if another writer is at work and `wait` is False.
    """
    make_folder(path.parent)
    part = part_of(path)
    with _owned(part, path, wait) as descriptor:
        try:
            with naming(path):
                os.ftruncate(descriptor, 0)
                yield part
                publish(part, path)
        except BaseException:
            if _is_at(descriptor, part):  # else it was renamed, and what is there now is another writer's
                part.unlink()
            raise


def part_of(path: Path) -> Path:
    """Returns where a file is written before it gets its name."""
    name = path.name
    if len(os.fsencode(name)) > MAX_NAME_BYTES - len(PART):
        name = f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}{path.suffix[:32]}"
    return path.with_name(f"{PART}{name}")


def contained(root: Path, *parts: str) -> Path:
    """Returns a place below a folder, from names that may come from elsewhere: an archive, a cache, a manifest.

    It judges names alone, and follows no symbolic link: nothing of ours ever makes a link from a name, and a folder
    that its owner has linked to another disk stays usable.

    Raises:
        InputError: if the names lead out of the folder, or mean something else elsewhere: absolute ones, empty ones,
            `.` and `..`, backslashes, control characters.
    """
    name = "/".join(parts)
    bad = any(part in ("", ".", "..") for part in name.split("/")) or re.search(r"[\x00-\x1f\x7f\\]", name)
    if bad or not parts:
        todo = "Take the data from a place that you trust, or rename the clip."
        raise InputError(repr(name), f"this name leads out of {root}", todo=todo)
    return root / name


def publish(part: Path, path: Path) -> None:
    """Renames a file or link to where it belongs, in place of what is there, once the disk has its bytes."""
    if not part.is_symlink():
        sync(part)
    os.replace(part, path)
    sync(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds a file's name to an error that has none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_new(path: Path, content: bytes) -> None:
    """Writes a file, synced to disk, with the folders above it; for places that no reader looks at yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_unsynced(path: Path, content: bytes) -> None:
    """Writes a file, with the folders above it, inside a block of `synced_below`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), path.open("wb") as file:
        file.write(content)


@contextlib.contextmanager
def synced_below(folder: Path) -> Iterator[None]:
    """Ends when the disk has all that was written below a folder inside the block: contents and names.

    One call for the whole file system takes the place of one for each file and folder, where Linux proves as much by
    it; it also waits for what other programs have written. Elsewhere, each file and folder is synced, several at once.
    """
    descriptor = os.open(folder, os.O_RDONLY)  # before the first write: it reports the failures from then on
    try:
        yield
        if can_sync_file_system(os.fstat(descriptor).st_dev):
            with naming(folder):
                sync_file_system(descriptor)
        else:
            with ThreadPoolExecutor(SYNCS_AT_ONCE, "sage-va-sync") as pool:
                list(pool.map(sync, _all_below(folder)))
    finally:
        os.close(descriptor)


def _all_below(folder: Path) -> Iterator[Path]:
    for parent, _, files in os.walk(folder):
        yield from (Path(parent, name) for name in files)
        yield Path(parent)


@cache
def can_sync_file_system(device: int) -> bool:
    """True where `sync_file_system` proves for all files of a device what fsync proves for one.

    Linux does so since 5.8 (before, it forgot failures) for the file systems of local disks. Those of networks and
    of FUSE may not hand the call on to the server.
    """
    if platform.system() != "Linux" or tuple(map(int, platform.release().split(".")[:2])) < (5, 8):
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = (line.split(" - ") for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines())
    return any(mount.split()[2] == number and kind.split()[0] in WHOLE_SYNC for mount, kind in mounts)


def sync_file_system(descriptor: int) -> None:
    """Returns when the disk has everything that was written to the file system of an open file (Linux).

    Raises:
        OSError: if something could not be written since the file was opened.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def move_new(source: Path, place: Path) -> None:
    """Renames to where nothing is, with a durable name; does nothing where another writer was first."""
    rename_new(source, place)
    sync(place.parent)


def rename_new(source: Path, place: Path) -> None:
    """Does what `move_new` does; the caller syncs the folder."""
    if place.exists() and (source.is_file() or place.is_file()):
        return
    try:
        source.rename(place)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it, with durable names."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(place: Path) -> None:
    """Returns when the disk has a file's bytes, or the names in a folder."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        with naming(place):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folders(place: Path) -> None:
    """Returns when the disk has the names in a folder and in all folders below it; does nothing for a file."""
    for parent, _, _ in os.walk(place, topdown=False):
        sync(Path(parent))


@contextlib.contextmanager
def locked(path: Path, kind: int) -> Iterator[bool]:
    """Holds an advisory lock (`fcntl.LOCK_…`) on a file, made where missing; yields False where it is not to be had."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, kind)
            owned = True
        except BlockingIOError:
            owned = False
        except OSError as error:
            _warn_of_no_locks(path, error)
            owned = False
        yield owned
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Holds a lock on a file, made where missing; yields False where another process holds it.

    On a file system without locks it always yields True.
    """
    with path.open("a") as file:
        yield try_lock(file, fcntl.LOCK_EX)


def try_lock(file: IO[str], kind: int) -> bool:
    """Returns True if the lock (`fcntl.LOCK_…`) is to be had; on a file system without locks it always is."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        _warn_of_no_locks(Path(file.name), error)
    return True


def _warn_of_no_locks(path: Path, error: OSError) -> None:
    problem = f"{path.parent}: this file system has no locks ({error.strerror})"
    warnings.warn(f"{problem}: let no two commands write to the same cache, run or comparison at once", stacklevel=3)


def disk_time_s(path: Path) -> float:
    """Returns the time now by the clock of the disk that a file lies on, to compare with the times of other files.

    A shared disk's clock and this machine's may differ, and this machine's may be wrong.
    """
    try:
        os.utime(path)
        return path.stat().st_mtime
    except OSError:  # not ours to write
        return time.time()


def names(place: Path) -> list[str]:
    """Returns the sorted names in a folder, none hidden; [] where there is no folder."""
    try:
        with os.scandir(place) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def folders(place: Path) -> list[str]:
    """Returns the sorted names of the folders in a folder, none hidden."""
    try:
        with os.scandir(place) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def json_file(value: object) -> bytes:
    """Returns a JSON document as all files of a cache have it."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


@contextlib.contextmanager
def _owned(part: Path, path: Path, wait: bool) -> Iterator[int]:
    """Makes or takes over a file that is ours alone while inside; yields its descriptor.

    The writer before us may have renamed it while we waited; then the lock is on a file of another name, and we begin
    again.
    """
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, path, wait)
            if not _is_at(descriptor, part):
                continue
            return (yield descriptor)
        finally:
            os.close(descriptor)


def _lock(descriptor: int, path: Path, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        todo = "Wait until it has finished."
        raise InputError(path, "another writer is making this file", todo=todo) from None
    except OSError:  # a file system without locks
        pass


def _is_at(descriptor: int, part: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), part.stat())
    return False
