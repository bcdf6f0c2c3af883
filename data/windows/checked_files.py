"""Files that were compared with their checksums, remembered by their stamps so that not every start hashes gigabytes.

A stamp is a file's inode, size and times of change. Whatever program writes to a file changes its stamp; it is then
hashed again. Bytes that a disk alters by itself change no stamp, so each file is hashed again after a week.
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
Stamp = list[int]


def are_whole(folder: Path, checksums: Mapping[str, str]) -> bool:
    """Returns True if each file is what was written; hashes those whose stamp is unknown, with all cores.

    Args:
        folder: of the files.
        checksums: SHA-256 (hex) of each file by its name.
    """
    known, now = _remembered(folder), {name: _stamp(folder / name) for name in checksums}
    doubtful = [name for name in checksums if not _is_fresh(known.get(name), now[name])]
    if not doubtful:
        return True
    try:
        with ThreadPoolExecutor(num_cores()) as pool:
            hashed = list(pool.map(file_sha256, [folder / name for name in doubtful]))
    except OSError:
        return False
    if hashed != [checksums[name] for name in doubtful]:
        return False
    kept = {name: known[name] for name in checksums if name not in doubtful}
    _remember(folder, {**kept, **_now({name: now[name] for name in doubtful})})  # the stamps from before the hashing
    return True


def remember_checked(folder: Path, names: Iterable[str]) -> None:
    """Notes that files are as they were written; a folder that cannot be written only costs time later."""
    _remember(folder, _now({name: _stamp(folder / name) for name in names}))


def _now(stamps: Mapping[str, Stamp | None]) -> dict[str, Any]:
    return {name: {"stamp": stamp, "checked_s": time.time()} for name, stamp in stamps.items() if stamp is not None}


def _remember(folder: Path, files: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):
        write_bytes(folder / CHECKED, json_file(sealed({"files": dict(files)})))


def _is_fresh(known: Mapping[str, Any] | None, now: Stamp | None) -> bool:
    """True if a file has the stamp with which it was compared, less than a week ago."""
    if known is None or now is None or known["stamp"] != now:
        return False
    return 0 <= time.time() - known["checked_s"] < WEEK_S


def _stamp(path: Path) -> Stamp | None:
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
    return note["files"] if note is not None and "files" in note else {}
