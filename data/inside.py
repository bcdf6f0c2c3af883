"""Files that really lie in a folder, wherever links lead."""

from __future__ import annotations

from pathlib import Path

from .errors import InputError


def resolve_inside(root: Path, place: Path) -> Path:
    """Returns the file that a path leads to, all links followed, if that lies in a folder.

    Args:
        root: the folder; it may itself be a link.
        place: a path that exists.

    Raises:
        InputError: if it does not exist, or lies elsewhere.
    """
    try:
        real, folder = place.resolve(strict=True), root.resolve(strict=True)
    except (OSError, RuntimeError):
        raise InputError(place, "there is no such file", todo="Correct the path.") from None
    if not real.is_relative_to(folder):
        todo = "Give --media the folder that holds the file itself."
        raise InputError(place, f"it lies outside of {root}", todo=todo)
    return real
