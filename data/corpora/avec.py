"""RECOLA and SEWA, as their authors and the AVEC challenges release them: ratings in ARFF and in CSV with `;`."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from ..errors import InputError
from ..manifest import Source
from .base import ListedClip, ListedCorpus, PublishedCorpus, attempt
from .disk import Disk, by_stem, one_recording, only_one, recordings
from .gold import Traces
from .readers import TARGETS, Rated, fused, labelled, read_both, read_trace
from .tables import header_of

PARTS = {"train": "train", "dev": "val", "devel": "val", "test": "test"}
_PART = re.compile(r"(train|devel|dev|test)(?=[_\d]|$)", re.IGNORECASE)
_LANGUAGE = re.compile(r"_(DE|HU|CN|EN|FR|GR|SR)(?=_|$)")


class _Avec(PublishedCorpus):
    """Clips named like the rating files: `train_1`, `Devel_DE_03`, `P16`; the split is the beginning of the name."""

    def read(self, disk: Disk) -> ListedCorpus:
        ratings, media = self._ratings(disk), recordings(disk)
        test = [name for name in media if _part(name) == "test"]
        clips = []
        for name in sorted({*ratings, *test}):
            problems: list[str] = []
            path = attempt(problems, name, partial(one_recording, media, name))
            language = _LANGUAGE.search(name)
            source = Source(name, path=path, subject_id=name, language=language[1] if language else None)
            if name in ratings:
                clips.append(labelled(source, _part(name), problems, ratings[name]))
            else:
                clips.append(ListedClip(source, part="test", problems=tuple(problems)))
        whole = [] if any(clip.part for clip in clips) else ["no official split in these names"]
        return ListedCorpus(clips, notes=whole)

    @abstractmethod
    def _ratings(self, disk: Disk) -> dict[str, Callable[[], Rated]]:
        """Returns clip -> what reads its ratings."""


class Recola(_Avec):
    """RECOLA (Ringeval et al., 2013): folders `arousal` and `valence`, one file per recording.

    The gold standard of AVEC (`.arff`, or `.csv` with one column of values) is taken where it is there. Else the
    individual ratings (`time;FM1;FM2;…`) are made into one.
    """

    title = "RECOLA (Ringeval et al., 2013)"
    licence = "RECOLA EULA: non-commercial research, not to be passed on"
    subjects = "one person per recording"

    def _ratings(self, disk: Disk) -> dict[str, Callable[[], Rated]]:
        files: dict[str, dict[str, list[Path]]] = {}
        for path in disk.texts:
            target = path.parent.name.lower()
            if target in TARGETS and path.suffix.lower() in (".arff", ".csv"):
                files.setdefault(path.stem, {}).setdefault(target, []).append(path)
        if not files:
            todo = "Unpack the annotations below this folder."
            raise InputError(disk.root, "no folders arousal and valence of .arff or .csv files", todo=todo)
        return {name: partial(_gold_or_raters, name, paths, self.gold) for name, paths in files.items()}


def _gold_or_raters(name: str, files: Mapping[str, Sequence[Path]], gold: str) -> Rated:
    """Reads the gold standard of each target or, where the release has none, its individual ratings."""
    traces = {target: _gold_first(name, target, paths) for target, paths in files.items()}
    return fused(next(iter(files.values()))[0], traces, gold)


def _gold_first(name: str, target: str, paths: Sequence[Path]) -> Traces:
    releases = {path: read_trace(path) for path in paths}
    gold = [path for path, traces in releases.items() if traces.num_annotators == 1]
    return releases[only_one(gold or paths, f"files of {target}", name)]


class Sewa(_Avec):
    """SEWA (Kossaifi et al., arXiv 1901.02839) as AVEC 2017 to 2019 release it.

    One `;`-CSV per clip with `name;time;arousal;valence;liking`. The language is part of the name, for example DE.
    """

    title = "SEWA (Kossaifi et al., arXiv 1901.02839)"
    licence = "SEWA EULA: non-commercial research, not to be passed on"
    subjects = "one person per recording; pairs that talk to each other are not named"

    def _ratings(self, disk: Disk) -> dict[str, Callable[[], Rated]]:
        wanted = {*TARGETS}
        files = [path for path in disk.texts if path.suffix.lower() == ".csv" and wanted <= _columns(path)]
        if not files:
            raise InputError(
                disk.root, "no .csv files with columns arousal;valence", todo="Unpack the labels below it."
            )
        return {name: partial(_read_one, paths, self.gold) for name, paths in by_stem(files).items()}


def _read_one(paths: Sequence[Path], gold: str) -> Rated:
    path = only_one(paths, "label files", paths[0].stem)
    return fused(path, read_both(path), gold)


def _columns(path: Path) -> set[str]:
    return {name.lower() for name in header_of(path)}


def _part(name: str) -> str | None:
    match = _PART.match(name)
    return PARTS[match[1].lower()] if match else None
