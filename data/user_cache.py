"""The folder of derived files of this user: memory-mapped caches, faces and media hashes. All can be deleted."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InputError


def user_cache() -> Path:
    """Returns `$SAGE_VA_CACHE`, else `sage-va` in `$XDG_CACHE_HOME`, else in `~/.cache`.

    Raises:
        InputError: if this user has no home.
    """
    own = os.environ.get("SAGE_VA_CACHE")
    folder = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "sage-va"
    try:
        return folder.expanduser()
    except RuntimeError:  # no HOME, and no entry in passwd, as in some containers
        todo = "Set SAGE_VA_CACHE to a folder that this user may write."
        raise InputError("cache of derived files", "this user has no home folder", todo=todo) from None
