"""The folder of derived files of this user: memory-mapped caches, faces and media hashes. All can be deleted."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """`$SAGE_VA_CACHE`, else `sage-va` in `$XDG_CACHE_HOME`, else in `~/.cache`."""
    if own := os.environ.get("SAGE_VA_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sage-va"
