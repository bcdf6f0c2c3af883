"""Local files and folders of encoders, remembered by the hash of the weights, so that a model finds its encoder again.

A stream's fingerprint holds no path: the same weights are the same encoder, wherever they lie. Where they lie on this
machine stands in the user's cache folder, which can be deleted; then the path has to be named once more.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from ...data.journal import append_line, read_lines
from ...data.user_cache import user_cache


def note_place(weights_sha256: str, place: str) -> None:
    """Remembers where the weights with a hash lie, if that is a file or folder of this machine."""
    if not Path(place).exists():
        return
    path = str(Path(place).resolve())
    with contextlib.suppress(OSError):  # it only saves typing
        if find_place(weights_sha256) != path:
            _journal().parent.mkdir(parents=True, exist_ok=True)
            append_line(_journal(), {"weights_sha256": weights_sha256, "place": path})


def find_place(weights_sha256: str) -> str | None:
    """Returns the file or folder that was noted last for these weights and is still there; None if there is none."""
    places: list[str] = []
    with contextlib.suppress(OSError):
        places = [line["place"] for line in read_lines(_journal()) if line.get("weights_sha256") == weights_sha256]
    return next((place for place in reversed(places) if Path(place).exists()), None)


def _journal() -> Path:
    return user_cache() / "encoder-places.jsonl"
