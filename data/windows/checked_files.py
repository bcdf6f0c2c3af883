"""Files that were compared with their checksums, remembered by their stamps so that not every start hashes gigabytes.

A stamp is a file's inode, size and times of change. Whatever program writes to a file changes its stamp; it is then
hashed again. Bytes that a disk alters by itself change no stamp, so all files are hashed again after a week.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..atomic import WEEK_S, json_file, write_bytes
from ..hashing import file_sha256, sealed, unsealed
from ..machine import num_cores

CHECKED = "checked.json"


def are_whole(folder: Path, checksums: Mapping[str, str]) -> bool:
    """Returns True if each file is what was written; hashes those whose stamp is unknown, with all cores.

    Args:
        folder: of the files.
        checksums: SHA-256 (hex) of each file by its name.
    """
    known, now = _remembered(folder), _stamps(folder, checksums)
    doubtful = [name for name in checksums if now[name] is None or known.get(name) != now[name]]
    if not doubtful:
        return True
    try:
        with ThreadPoolExecutor(num_cores()) as pool:
            hashed = list(pool.map(file_sha256, [folder / name for name in doubtful]))
    except OSError:
        return False
    if hashed != [checksums[name] for name in doubtful]:
        return False
    remember_checked(folder, checksums)
    return True


def remember_checked(folder: Path, names: Iterable[str]) -> None:
    """Notes that files are as they were written; a folder that cannot be written only costs time later."""
    note = sealed({"checked_s": time.time(), "stamps": _stamps(folder, names)})
    with contextlib.suppress(OSError):
        write_bytes(folder / CHECKED, json_file(note))


def _stamps(folder: Path, names: Iterable[str]) -> dict[str, list[int] | None]:
    return {name: _stamp(folder / name) for name in names}


def _stamp(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _remembered(folder: Path) -> dict[str, Any]:
    try:
        note = unsealed(json.loads((folder / CHECKED).read_bytes()))
    except (OSError, ValueError, AttributeError):
        return {}
    fresh = note is not None and 0 <= time.time() - note["checked_s"] < WEEK_S
    return note["stamps"] if note is not None and fresh else {}
