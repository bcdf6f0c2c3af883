"""All that lies below a folder; a folder that cannot be read is named, so that what it holds does not go unnoticed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path


def walk(folder: Path, *, follow_links: bool = False) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields each folder with the names of folders and of files in it, as `os.walk`; nothing where there is no folder.

    A folder that cannot be read, for want of rights or as its disk fails, is a warning.
    """
    return os.walk(folder, followlinks=follow_links, onerror=_warn)


def _warn(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        text = f"{error.filename}: this folder cannot be read ({error.strerror}), and what is in it is left out"
        warnings.warn(text, stacklevel=2)
