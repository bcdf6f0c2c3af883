"""Own recordings with annotations in any of the formats of the field, in one folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from ..errors import InputError
from ..manifest import Source
from .base import ListedClip, ListedCorpus, PublishedCorpus
from .disk import Disk
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
        media = {path.relative_to(disk.root).with_suffix("").as_posix(): path for path in [*disk.audios, *disk.videos]}
        readers = self._readers(disk)
        if not readers:
            expected = "annotations (.eaf, .csv, .arff, .txt)"
            raise InputError(disk.root, expected=expected, got="none", todo="Give the folder that holds them.")
        owners = {name: _owner(name, media) for name in readers}
        clips = [_clip(clip_id, media, readers[name]) for name, clip_id in sorted(owners.items())]
        silent = sorted(set(media) - set(owners.values()))
        notes = [f"{len(silent)} recordings without annotation, left out: {', '.join(silent[:3])}"] if silent else []
        return ListedCorpus(clips, notes=notes)

    def _readers(self, disk: Disk) -> dict[str, list[Callable[[], Rated]]]:
        """Returns the name of a clip -> what reads its annotations; several are a fault of the clip."""
        readers: dict[str, list[Callable[[], Rated]]] = {}
        targets: dict[str, dict[str, Path]] = {}
        for path in disk.texts:
            name = path.relative_to(disk.root).with_suffix("").as_posix()
            if path.parent.name.lower() in TARGETS:
                targets.setdefault(path.stem, {})[path.parent.name.lower()] = path
            elif is_audformat(path):
                for file, traces in read_audformat(path).items():
                    clip = str(PurePosixPath(file).with_suffix(""))
                    readers.setdefault(clip, []).append(partial(fused, path, traces, self.gold))
            elif _is_annotation(path):
                readers.setdefault(name, []).append(partial(_read_one, path, self.gold))
        for name, paths in targets.items():
            readers.setdefault(name, []).append(partial(read_targets, name, paths, self.gold))
        return readers


def _read_one(path: Path, gold: str) -> Rated:
    if path.suffix.lower() == ".txt":
        return read_frames(path), {}
    return fused(path, read_eaf(path) if path.suffix.lower() == ".eaf" else read_both(path), gold)


def _clip(clip_id: str, media: Mapping[str, Path], readers: Sequence[Callable[[], Rated]]) -> ListedClip:
    path = media.get(clip_id)
    problems = [] if path else ["no recording"]
    if len(readers) > 1:
        problems.append(f"{len(readers)} annotations of this name, none of them taken")
        return ListedClip(Source(clip_id, path=path), problems=tuple(problems))
    return labelled(Source(clip_id, path=path), None, problems, readers[0])


def _is_annotation(path: Path) -> bool:
    """True for an ELAN file, and for a table with a column of valence: a folder may hold notes and other tables too."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".txt"):
        return "valence" in {name.lower() for name in header_of(path)}
    return True


def _owner(name: str, media: Mapping[str, Path]) -> str:
    """Returns the clip of an annotation: the recording of that path, else the only one of that name."""
    alike = [clip_id for clip_id in media if PurePosixPath(clip_id).name == PurePosixPath(name).name]
    return name if name in media or len(alike) != 1 else alike[0]
