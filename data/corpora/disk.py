"""The files below a folder, sorted by kind in one pass; no file is opened and nothing depends on names of folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..file_tree import walk
from ..manifest import AUDIO_SUFFIXES, VIDEO_SUFFIXES, is_crop_name

PREPARED = "prepared.json"  # marks a folder that `prepare` wrote: it is no part of a corpus
TEXT_SUFFIXES = frozenset({".arff", ".csv", ".eaf", ".txt"})
Place = TypeVar("Place", Path, str)


@dataclass(frozen=True)
class Disk:
    """The files of a corpus.

    root: the folder. videos, audios, texts: sorted. crops: folder of numbered images -> their sorted numbers.
    """

    root: Path
    videos: list[Path] = field(default_factory=list[Path])
    audios: list[Path] = field(default_factory=list[Path])
    texts: list[Path] = field(default_factory=list[Path])
    crops: dict[Path, NDArray[np.int64]] = field(default_factory=dict[Path, NDArray[np.int64]])

    @classmethod
    def scan(cls, root: Path) -> Disk:
        """Lists all that lies below a folder; hidden names and folders that `prepare` wrote are left out.

        Raises:
            InputError: if there is no such folder.
        """
        if not root.is_dir():
            raise InputError(root, "there is no such folder", todo="Give the folder that holds the corpus.")
        disk = cls(root)
        visited: set[str] = set()
        for parent, folders, files in walk(root, follow_links=True):
            real = os.path.realpath(parent)
            if real in visited or PREPARED in files:
                folders.clear()
                continue
            visited.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            disk._add(Path(parent), files)
        return disk

    def _add(self, folder: Path, names: Sequence[str]) -> None:
        numbers = [int(name.partition(".")[0]) for name in names if is_crop_name(name)]
        if numbers:
            self.crops[folder] = np.unique(np.array(numbers, np.int64))
        kinds = ((VIDEO_SUFFIXES, self.videos), (AUDIO_SUFFIXES, self.audios), (TEXT_SUFFIXES, self.texts))
        for name in sorted(names) if len(numbers) < len(names) else ():
            suffix = os.path.splitext(name)[1].lower()
            for suffixes, paths in kinds:
                if suffix in suffixes and not name.startswith("."):
                    paths.append(folder / name)


def by_stem(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Returns the files of each name without folder and suffix."""
    stems: dict[str, list[Path]] = {}
    for path in paths:
        stems.setdefault(path.stem, []).append(path)
    return stems


def recordings(disk: Disk) -> dict[str, list[Path]]:
    """Returns the recordings of each name: its videos or, where there is none, its audio files."""
    return {**by_stem(disk.audios), **by_stem(disk.videos)}


def one_recording(files: Mapping[str, list[Path]], name: str) -> Path:
    """Returns the recording of a name.

    Raises:
        InputError: if there is none, or there are several.
    """
    paths = files.get(name, [])
    if not paths:
        raise InputError(name, "no recording", todo="Unpack it below the folder.")
    return only_one(paths, "recordings", name)


def only_one(places: Sequence[Place], what: str, name: str) -> Place:
    """Returns the only one of several files of a clip.

    Args:
        places: one or more.
        what: they are, in the plural.
        name: the clip.

    Raises:
        InputError: if there are several, naming the first two.
    """
    if len(places) > 1:
        raise InputError(name, f"two {what}: {places[0]} and {places[1]}", todo="Keep one.")
    return places[0]
