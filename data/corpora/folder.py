"""Own recordings with annotations in any of the formats of the field, in one folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..errors import InputError
from ..manifest import Source
from .base import ListedClip, ListedCorpus, PublishedCorpus, attempt
from .disk import Disk, one_recording, only_one
from .readers import (
    TARGETS,
    Rated,
    fused,
    is_audformat,
    labelled,
    read_audformat,
    read_both,
    read_eaf,
    read_frames,
    read_targets,
)
from .tables import header_of


class Folder(PublishedCorpus):
    """Recordings of your own; every annotation belongs to the recording of its name.

    - `NAME.eaf`: ELAN, tiers `valence` and `arousal`, or one per annotator such as `valence@A1`;
    - `NAME.csv`, `NAME.arff`: times, `valence`, `arousal`; or, in folders `valence` and `arousal`, times and one column
      per annotator;
    - a `.csv` with `file,start,end,valence,arousal`, as audformat writes it, for any number of recordings;
    - `NAME.txt`: as Aff-Wild2, row k for frame k.
    """

    title = "own recordings"
    licence = None
    restricted = False
    subjects = "not known: add a column subject_id to the manifest if one person is in several recordings"

    def read(self, disk: Disk) -> ListedCorpus:
        media = {**_by_name(disk, disk.audios), **_by_name(disk, disk.videos)}
        alike: dict[str, list[str]] = {}
        for clip_id in media:
            alike.setdefault(PurePosixPath(clip_id).name, []).append(clip_id)
        annotations: dict[str, list[_Annotation]] = {}
        for name, own in self._annotations(disk).items():
            annotations.setdefault(_owner(name, media, alike), []).extend(own)
        if not annotations:
            expected = "annotations (.eaf, .csv, .arff, .txt)"
            raise InputError(disk.root, expected=expected, got="none", todo="Give the folder that holds them.")
        clips = [_clip(clip_id, media, own) for clip_id, own in sorted(annotations.items())]
        silent = sorted(set(media) - set(annotations))
        notes = [f"{len(silent)} recordings without annotation, left out: {', '.join(silent[:3])}"] if silent else []
        return ListedCorpus(clips, notes=notes)

    def _annotations(self, disk: Disk) -> dict[str, list[_Annotation]]:
        """Returns the name of a clip -> its annotations; several are a fault of the clip."""
        annotations: dict[str, list[_Annotation]] = {}
        targets: dict[str, dict[str, list[Path]]] = {}
        for path in disk.texts:
            if path.parent.name.lower() in TARGETS:
                targets.setdefault(path.stem, {}).setdefault(path.parent.name.lower(), []).append(path)
            elif is_audformat(path):
                for file, traces in read_audformat(path).items():
                    one = _Annotation(f"{path}, {file}", partial(fused, path, traces, self.gold))
                    annotations.setdefault(str(PurePosixPath(file).with_suffix("")), []).append(one)
            elif _is_annotation(path):
                one = _Annotation(str(path), partial(_read_one, path, self.gold))
                annotations.setdefault(_name(disk, path), []).append(one)
        for name, paths in targets.items():
            place = str(next(iter(paths.values()))[0])
            annotations.setdefault(name, []).append(_Annotation(place, partial(_read_two, name, paths, self.gold)))
        return annotations


class _Annotation(NamedTuple):
    """Where the ratings of a clip are, and what reads them."""

    place: str
    read: Callable[[], Rated]


def _name(disk: Disk, path: Path) -> str:
    return path.relative_to(disk.root).with_suffix("").as_posix()


def _by_name(disk: Disk, paths: Sequence[Path]) -> dict[str, list[Path]]:
    names: dict[str, list[Path]] = {}
    for path in paths:
        names.setdefault(_name(disk, path), []).append(path)
    return names


def _read_two(name: str, paths: Mapping[str, Sequence[Path]], gold: str) -> Rated:
    files = {target: only_one(own, f"files of {target}", name) for target, own in paths.items()}
    return read_targets(name, files, gold)


def _read_one(path: Path, gold: str) -> Rated:
    if path.suffix.lower() == ".txt":
        return read_frames(path), {}
    return fused(path, read_eaf(path) if path.suffix.lower() == ".eaf" else read_both(path), gold)


def _clip(clip_id: str, media: Mapping[str, list[Path]], annotations: Sequence[_Annotation]) -> ListedClip:
    problems: list[str] = []
    path = attempt(problems, clip_id, lambda: one_recording(media, clip_id))

    def read() -> Rated:
        only_one([one.place for one in annotations], "annotations", clip_id)
        return annotations[0].read()

    return labelled(Source(clip_id, path=path), None, problems, read)


def _is_annotation(path: Path) -> bool:
    """True for an ELAN file, and for a table with a column of valence: a folder may hold notes and other tables too."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".txt"):
        return "valence" in {name.lower() for name in header_of(path)}
    return True


def _owner(name: str, media: Mapping[str, list[Path]], alike: Mapping[str, list[str]]) -> str:
    """Returns the clip of an annotation: the recording of that path, else the only one of that name."""
    clip_ids = alike.get(PurePosixPath(name).name, [])
    return name if name in media or len(clip_ids) != 1 else clip_ids[0]
