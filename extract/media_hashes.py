"""The SHA-256 of media, computed once: remembered by place, size, time of change and inode."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ..data.hashing import file_sha256, json_sha256
from ..data.journal import append_line, read_lines
from ..data.user_cache import user_cache

_SETTLED_S = 2.0  # a file that changed later than that before it was hashed may change again within its clock's tick


class MediaHashes:
    """Hashes files and folders of images, or remembers what it found when they were as they are now.

    Args:
        path: the journal of what is known; None = in the user's cache directory.
        rehash: read every file again, whatever is known.
    """

    def __init__(self, path: Path | None = None, *, rehash: bool = False) -> None:
        self._path = path or user_cache() / "media-hashes.jsonl"
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        with contextlib.suppress(OSError):  # it is only a memory
            lines = () if rehash else read_lines(self._path)
            self._known = {line["key"]: line["sha256"] for line in lines if "key" in line}

    def of_file(self, path: Path) -> str:
        """SHA-256 (hex) of a file's bytes."""
        return self._remember({"": path}, lambda: file_sha256(path))

    def of_images(self, images: Mapping[int, Path]) -> str:
        """SHA-256 (hex) of names and bytes of numbered images."""
        named = {image.name: image for image in images.values()}
        return self._remember(named, lambda: json_sha256([[name, file_sha256(path)] for name, path in named.items()]))

    def _remember(self, files: Mapping[str, Path], compute: Callable[[], str]) -> str:
        stats = [(name, str(path.resolve()), path.stat()) for name, path in files.items()]
        key = json_sha256([[name, place, s.st_size, s.st_mtime_ns, s.st_ino] for name, place, s in stats])
        if key in self._known:
            return self._known[key]
        newest, started = max((s.st_mtime for *_, s in stats), default=0.0), time.time()
        sha256 = compute()
        if started - newest > _SETTLED_S:
            with self._lock, contextlib.suppress(OSError):  # it is only a memory
                self._known[key] = sha256
                self._path.parent.mkdir(parents=True, exist_ok=True)
                append_line(self._path, {"key": key, "sha256": sha256})
        return sha256
