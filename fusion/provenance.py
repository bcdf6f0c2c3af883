"""Provenance of a run: versions of packages, the commit of the user's own code, the identity of each stream."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

from ..data.windows.corpus import Stream

GIT_LIMIT_S = 10.0


def provenance() -> dict[str, Any]:
    """`versions`, and `git` as `git_state` of the working directory."""
    return {"versions": versions(), "git": git_state(Path.cwd())}


@functools.cache
def versions() -> dict[str, str]:
    """Returns the versions of Python, this package and what it depends on."""
    needed = [line for line in requires("sage-va") or [] if "extra ==" not in line]
    names = ["sage-va", *(match[0] for line in needed if (match := re.match(r"[\w.-]+", line)))]
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def described(streams: Sequence[Stream]) -> dict[str, Any]:
    """The whole fingerprint of each stream, and the names of those whose encoder was never trained."""
    return {
        "streams": {stream.name: dict(stream.fingerprint) for stream in streams},
        "random_weights": [stream.name for stream in streams if stream.random_weights],
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """The `commit` that a folder stands on, and whether it is `dirty`: a file that git tracks was changed.

    Returns:
        None outside a repository, before its first commit, or without git; `dirty` is None if git takes too long.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _git(folder: Path, *words: str) -> str | None:
    """Returns the output of a git command, or None if it fails. It takes no locks: the user may be at work there."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    asked: dict[str, Any] = {"cwd": folder, "env": environment, "timeout": GIT_LIMIT_S}
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=True, **asked)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
