"""Machine code of numba's functions, which one process at a time compiles into a folder of our own.

numba keeps the machine code of a function in two files, by default beside the function's source. Where two processes
compile at once, one file can come from each (numba issue 10128); from then on every process that calls the function
ends in a segmentation fault. The workers of an extraction that share an installation do just that. So the first process
compiles under a lock, into a folder for this processor and these versions, and then leaves a mark that the folder is
whole; with the mark, processes only read. A folder without the mark is begun anew, since half of a pair is as bad.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llvmlite import binding
from numba import __version__ as numba_version
from numba.core import config

from ...data.atomic import locked
from ...data.errors import InputError
from ...data.user_cache import user_cache

MARK = "complete"


@contextlib.contextmanager
def compiled_by_one_process(package: str) -> Iterator[bool]:
    """Lets numba keep the code of a package's functions where no other process can spoil it.

    Import inside the block all modules that are needed, since numba chooses the folder at a function's definition.

    Yields:
        True if nothing is compiled yet: then also call each function once inside the block.
    """
    settings: Any = config
    before = settings.CACHE_DIR
    try:
        with contextlib.ExitStack() as lock:
            folder, is_new = _folder(package, lock)
            settings.CACHE_DIR = str(folder)
            yield is_new
            if is_new:
                (folder / MARK).touch()
    finally:
        settings.CACHE_DIR = before


def _folder(package: str, lock: contextlib.ExitStack) -> tuple[Path, bool]:
    """Returns the folder for this machine, and whether it is empty; then it is ours until `lock` is closed."""
    try:
        base = Path(os.environ.get("NUMBA_CACHE_DIR") or user_cache() / "numba")
        folder = base / f"sage-va-{_key(package)}"
        if (folder / MARK).exists():
            return folder, False
        base.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():  # of a file system without locks: the code is compiled for this process alone
            warnings.simplefilter("ignore")
            owned = lock.enter_context(locked(folder.with_suffix(".lock"), fcntl.LOCK_EX))
        if owned and (folder / MARK).exists():  # another process has compiled while we waited
            return folder, False
        if owned:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            return folder, True
    except (OSError, InputError):  # a read-only home, or none
        pass
    return Path(lock.enter_context(tempfile.TemporaryDirectory(prefix="sage-va-numba-"))), True


def _key(package: str) -> str:
    """Names all that machine code depends on: processor, versions, and the package's files."""
    spec = importlib.util.find_spec(package)
    origin = Path(spec.origin) if spec and spec.origin else Path(package)
    changed_ns = origin.stat().st_mtime_ns if origin.exists() else 0
    machine = (binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten(), numba_version)
    return hashlib.sha256(repr((machine, str(origin), changed_ns)).encode()).hexdigest()[:16]
