"""Aff-Wild2 as the organisers of ABAW release it: recordings in batches, cropped and aligned faces, annotations."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..labels import Labels
from ..manifest import Source
from .base import ListedClip, ListedCorpus, PublishedCorpus, attempt
from .disk import Disk, by_stem, one_recording, only_one, recordings
from .readers import beyond_note, read_frames
from .tables import first_line, read_text

PARTS = {"train_set": "train", "training_set": "train", "validation_set": "val"}
SAMPLE_HEADER = "image_location,valence,arousal"
HEADER = "valence,arousal"
_SIDE = re.compile(r"(?<=.)_(left|right)$")
_VA = re.compile(r"valence.arousal|(?:^|[^a-z])va(?:[^a-z]|$)", re.IGNORECASE)
_NAME = re.compile(r"[\w.-]+")
_OTHER_SIDE = {"left": "right", "right": "left"}


class AffWild2(PublishedCorpus):
    """Aff-Wild2 (Kollias and Zafeiriou, arXiv 1811.07770), its valence-arousal challenge.

    Names are those of the annotations and of the test list. `NAME_left` and `NAME_right` are two persons of the
    recording NAME; in odd pairs one of the two is plain `NAME`. `NAME-1` and `NAME_1` are recordings of their own.
    """

    title = "Aff-Wild2 (Kollias and Zafeiriou, arXiv 1811.07770)"
    licence = "Aff-Wild2 EULA: non-commercial research, not to be passed on"
    subjects = "not published; the persons of one recording are kept together"

    def read(self, disk: Disk) -> ListedCorpus:
        label_files = _label_files(disk)
        test = _TestSet.of(disk)
        files = _Files.of(disk)
        names = dict.fromkeys(sorted({*label_files, *test.names}))
        clips = [_clip(name, names, label_files.get(name, []), name in test.names, files) for name in names]
        parts = {clip.part for clip in clips}
        lacking = [f"no annotations of {name}" for name in ("train", "val") if name not in parts]
        return ListedCorpus(clips, lacking, [*test.notes, *_unused(files, list(names))], test.sample)


@dataclass(frozen=True)
class _Files:
    """The recordings of each name, and the crop folders of each name."""

    recordings: Mapping[str, list[Path]]
    crops: Mapping[str, list[Path]]
    numbers: Mapping[Path, NDArray[np.int64]]

    @classmethod
    def of(cls, disk: Disk) -> _Files:
        folders: dict[str, list[Path]] = {}
        for folder in disk.crops:
            folders.setdefault(folder.name, []).append(folder)
        return cls(recordings(disk), folders, disk.crops)

    def recording_of(self, name: str) -> Path:
        """The recording of that very name, else of the name without its side."""
        whole = _SIDE.sub("", name)
        return one_recording(self.recordings, name if name in self.recordings else whole)

    def crops_of(self, name: str) -> Path | None:
        """The crop folder of a name; None where the corpus has none at all.

        Releases that have unaligned crops too have the aligned ones below a folder named so.
        """
        folders = self.crops.get(name, [])
        aligned = [folder for folder in folders if any("aligned" in part.lower() for part in folder.parts[:-1])]
        chosen = aligned if len(folders) > 1 and aligned else folders
        if self.crops and not chosen:
            raise InputError(name, "no crops", todo="Unpack them below the folder.")
        return only_one(chosen, "crop folders", name) if chosen else None


def _label_files(disk: Disk) -> dict[str, list[Path]]:
    """Returns name -> its annotations; folders of other challenges, which have the same names, begin otherwise."""
    folders: dict[Path, list[Path]] = {}
    for path in disk.texts:
        if path.parent.name.lower() in PARTS and path.suffix.lower() == ".txt":
            folders.setdefault(path.parent, []).append(path)
    chosen = {
        folder: paths
        for folder, paths in folders.items()
        if any(first_line(path).replace(" ", "") == HEADER for path in paths)
    }
    roots = list(dict.fromkeys(folder.parent for folder in chosen))
    if len(roots) > 1:
        todo = "Give a folder that holds one of them, or move the other one away."
        raise InputError(disk.root, f"two releases of the annotations: {roots[0]} and {roots[1]}", todo=todo)
    if not roots:
        expected = f"folders Train_Set and Validation_Set of .txt files that begin with {HEADER}"
        todo = "Unpack the annotations of the VA challenge below this folder."
        raise InputError(disk.root, expected=expected, got="none", todo=todo)
    return by_stem([path for paths in chosen.values() for path in paths])


@dataclass(frozen=True)
class _TestSet:
    """The names of the test set, the sample of a submission, and notes about files that are no list."""

    names: list[str]
    sample: Path | None
    notes: list[str]

    @classmethod
    def of(cls, disk: Disk) -> _TestSet:
        """The names of the sample or, where it has none, one per line in files whose names say VA and test."""
        texts = [path for path in disk.texts if path.suffix.lower() == ".txt" and path.parent.name.lower() not in PARTS]
        samples = [path for path in texts if first_line(path).replace(" ", "") == SAMPLE_HEADER]
        sample = samples[0] if samples else None
        names, notes = _names_of_sample(sample) if sample else [], list[str]()
        if not names:
            others = [path for path in texts if path not in samples]
            lists = [path for path in others if "test" in path.stem.lower() and _VA.search(path.stem)]
            names = [name for path in lists for name in _names_of_list(path, notes)]
        if not names:
            notes.append("no list of the test set: no .txt file names VA and test")
        return cls(names, sample, notes)


def _names_of_list(path: Path, notes: list[str]) -> list[str]:
    """Returns the names, one per line; [] and a note for another text, such as a readme."""
    lines = _lines(path)
    for number, line in lines:
        if not _NAME.fullmatch(line):
            notes.append(f"{path}:{number} is no name of a clip ({line[:60]!r}): not taken as list of the test set")
            return []
    return [line for _, line in lines]


def _names_of_sample(path: Path) -> list[str]:
    names: dict[str, None] = {}
    for number, line in _lines(path)[1:]:
        name = line.rpartition("/")[0]
        if not name:
            expected, todo = "NAME/00001.jpg,…", "Get the sample again."
            raise InputError(f"{path}:{number}", expected=expected, got=repr(line[:60]), todo=todo)
        names[name] = None
    return list(names)


def _lines(path: Path) -> list[tuple[int, str]]:
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path).splitlines(), 1)]
    return [(number, line) for number, line in lines if line]


def _clip(name: str, names: Collection[str], label_files: Sequence[Path], is_test: bool, files: _Files) -> ListedClip:
    problems: list[str] = []
    recording = attempt(problems, name, lambda: files.recording_of(name))
    crops = attempt(problems, name, lambda: files.crops_of(name))
    labels, part = _labels(label_files, is_test, problems)
    numbers = files.numbers[crops] if crops else None
    notes = beyond_note(labels) if labels else {}
    if numbers is not None:
        notes |= _crop_notes(numbers, labels, problems)
    person = None if recording is None else _person(name, recording.stem, names)
    source = Source(name, path=recording, crops=crops, person=person)
    return ListedClip(source, labels, part, numbers, problems=tuple(problems), notes=notes)


def _labels(paths: Sequence[Path], is_test: bool, problems: list[str]) -> tuple[Labels | None, str | None]:
    """Returns labels and part of a clip; appends what is wrong."""
    if not paths:
        return None, "test"
    if len(paths) > 1 or is_test:
        others = [path.parent.name for path in paths] + ["the test list"] * is_test
        problems.append(f"in two parts of the official split: {' and '.join(others)}; its labels are left out")
        return None, None
    return attempt(problems, "", lambda: read_frames(paths[0])), PARTS[paths[0].parent.name.lower()]


def _crop_notes(numbers: NDArray[np.int64], labels: Labels | None, problems: list[str]) -> dict[str, str]:
    if numbers[0] == 0:
        problems.append("crops are numbered from 0; crop n must show frame n - 1")
    beyond = 0 if labels is None else int((numbers > len(labels.va)).sum())
    return {"crops beyond the last label row": f"{beyond}, up to number {numbers[-1]}"} if beyond else {}


def _person(name: str, recording: str, names: Collection[str]) -> str | None:
    """Returns the side of the person in the recording; of an odd pair, the one without a side is the other person."""
    if name != recording:
        side = _SIDE.search(name)
        return side[1] if side else None
    sides = [side for side in _OTHER_SIDE if f"{name}_{side}" in names]
    return _OTHER_SIDE[sides[0]] if len(sides) == 1 else None


def _unused(files: _Files, names: Sequence[str]) -> list[str]:
    """Returns notes about what no annotation and no test list names."""
    used = set(names) | {_SIDE.sub("", name) for name in names}
    kinds = {"recordings": files.recordings, "crop folders": files.crops}
    unused = {kind: sorted(set(by_name) - used) for kind, by_name in kinds.items()}
    return [
        f"{len(rest)} {kind} that no annotation and no test list names, left out: "
        f"{', '.join(rest[:3])}{' …' * (len(rest) > 3)}"
        for kind, rest in unused.items()
        if rest
    ]
