"""Where this user's derived files lie: training forms and media hashes, all of which can be thrown away."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """`$SAGE_VA_CACHE`, else `sage-va` in `$XDG_CACHE_HOME`, else in `~/.cache`."""
    if own := os.environ.get("SAGE_VA_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sage-va"
