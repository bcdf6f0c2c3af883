"""Identity of media: SHA-256 of files, remembered by path, size, time of change and inode."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..data.errors import InputError
from ..data.hashing import file_sha256, json_sha256
from ..data.journal import append_line, read_lines
from ..data.manifest import Source, crop_numbers
from ..data.user_cache import user_cache

_SETTLED_S = 2.0  # a file that changed later than that before it was hashed may change again within its clock's tick


class MediaHashes:
    """Hashes files and folders of images; returns the remembered hash while they are unchanged.

    Args:
        path: the journal of known hashes; None = in the user's cache directory.
        rehash: read every file again, whatever is known.
    """

    def __init__(self, path: Path | None = None, *, rehash: bool = False) -> None:
        self._path = path or user_cache() / "media-hashes.jsonl"
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        with contextlib.suppress(OSError):  # the journal only saves time
            lines = () if rehash else read_lines(self._path)
            self._known = {line["key"]: line["sha256"] for line in lines if "key" in line}

    def of_file(self, path: Path) -> str:
        """Returns the SHA-256 (hex) of a file's bytes.

        Raises:
            OSError: if the file cannot be read.
        """
        return self._remember({"": path}, lambda: file_sha256(path))

    def of_images(self, images: Mapping[int, Path]) -> str:
        """Returns the SHA-256 (hex) of names and bytes of numbered images.

        Raises:
            OSError: if one of them cannot be read.
        """
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
            with self._lock, contextlib.suppress(OSError):  # the journal only saves time
                self._known[key] = sha256
                self._path.parent.mkdir(parents=True, exist_ok=True)
                append_line(self._path, {"key": key, "sha256": sha256})
        return sha256


@dataclass(frozen=True)
class Medium:
    """Identity of the bytes behind a clip.

    Args:
        source_sha256: SHA-256 (hex) of everything that is read for the clip, and of the cut.
        num_bytes: size of the recording, or of all crops where there is none.
        sha256: SHA-256 (hex) of the recording, or of all crops where there is none.
    """

    source_sha256: str
    num_bytes: int
    sha256: str

    @classmethod
    def of(cls, source: Source, hashes: MediaHashes) -> Medium:
        """Hashes the media of a clip.

        Raises:
            InputError: if the recording or the folder of crops does not exist.
            OSError: if it cannot be read.
        """
        _check_exists(source)
        path, crops = source.path, source.crops
        images = crop_numbers(crops) if crops else {}
        crops_sha256 = hashes.of_images(images)
        if path is None:
            num_bytes, sha256 = sum(image.stat().st_size for image in images.values()), crops_sha256
        else:
            num_bytes, sha256 = path.stat().st_size, hashes.of_file(path)
        return cls(_source_sha256(source, sha256, crops_sha256 if crops else None), num_bytes, sha256)


def _check_exists(source: Source) -> None:
    path, crops = source.path, source.crops
    if path is not None and not path.is_file():
        raise InputError(source.clip_id, expected="a file", got=f"none at {path}", todo="Correct the path.")
    if crops is not None and not crops.is_dir():
        got = f"none at {crops}"
        raise InputError(source.clip_id, expected="a folder of crops", got=got, todo="Correct the path.")


def _source_sha256(source: Source, medium_sha256: str, crops_sha256: str | None) -> str:
    """Returns the medium's own hash where the whole recording is read and nothing else, else one of all parts."""
    parts = {
        "medium": medium_sha256,
        "crops": crops_sha256,
        "start_s": source.start_s,
        "end_s": source.end_s,
        "fps": source.fps,
    }
    if source.person not in (None, "largest"):  # the default person does not change the cut
        parts["person"] = source.person
    whole = source.path is not None and all(value is None for key, value in parts.items() if key != "medium")
    return medium_sha256 if whole else json_sha256(parts)
