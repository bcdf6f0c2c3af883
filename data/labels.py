"""Valence-arousal traces in the formats people have: found by name, parsed when needed, put on the clip's clock.

Two formats: Aff-Wild2's `.txt`, whose row k belongs to frame k of the recording, and `.csv` with a `time_s` column.
A `LabelFolder` lists the files of a folder and joins them to clips by name alone; a file is parsed once, when its
labels are first needed.
"""

from __future__ import annotations

import csv
import functools
import io
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from .clip import Clip
from .errors import InputError
from .file_tree import walk
from .text_file import read_utf8

NOT_ANNOTATED = -5
OFFICIAL_PARTS = {"Train_Set": "train", "Validation_Set": "val", "Test_Set": "test"}  # folders, as Aff-Wild2 names them


@dataclass(frozen=True)
class Truth:
    """Gold standard of one clip: times_s (S,) float64, va (S, 2) float32 valence and arousal, mask (S,) bool."""

    times_s: NDArray[np.float64]
    va: NDArray[np.float32]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Labels:
    """The content of one annotation file.

    Args:
        path: the file.
        va: (S, 2) float32 valence and arousal as written; NaN where a cell is empty.
        times_s: (S,) float64 seconds on the clip's clock, or None where row k belongs to frame k of the clip.
    """

    path: Path
    va: NDArray[np.float32]
    times_s: NDArray[np.float64] | None

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(S,) True where both values are finite and in [-1, 1]; -5 means not annotated."""
        return np.asarray((np.abs(self.va) <= 1).all(axis=1))

    def timed(self, clip: Clip) -> Truth:
        """Returns the labels with times: their own, or those of the clip's frames.

        Raises:
            InputError: if rows are frames and the clip's frame times are not known.
        """
        if self.times_s is not None:
            return Truth(self.times_s, self.va, self.mask)
        if clip.clock is None:
            raise InputError(
                clip.clip_id,
                expected="a recording whose frame times are known, since row k of its labels is frame k",
                got="features without a frame clock",
                todo="Extract from the video, or give labels with a time_s column.",
            )
        times = clip.clock.times_s[: len(self.va)]
        if len(self.va) > len(times) + 1:
            warnings.warn(
                f"{self.path}: {len(self.va)} rows for {len(times)} frames; the surplus is left out.", stacklevel=2
            )
        return Truth(times, self.va[: len(times)], self.mask[: len(times)])


@dataclass(frozen=True)
class LabelFile:
    """One annotation file, not yet parsed."""

    path: Path

    @property
    def official_part(self) -> str | None:
        """`train`, `val` or `test` for a file in Train_Set, Validation_Set or Test_Set, else None."""
        return next((OFFICIAL_PARTS[name] for name in self.path.absolute().parts if name in OFFICIAL_PARTS), None)

    @functools.cached_property
    def labels(self) -> Labels:
        """The content, parsed at the first access.

        Raises:
            InputError: if the file is malformed.
        """
        return read_label_file(self.path)


@dataclass(frozen=True)
class JoinedLabels:
    """Label files and clips brought together by name.

    Args:
        files: clip_id -> its label file.
        unlabelled: clips without a file.
        unused: files without a clip.
    """

    files: Mapping[str, LabelFile]
    unlabelled: list[str]
    unused: list[Path]

    @property
    def official_parts(self) -> dict[str, str]:
        """clip_id -> `train`, `val` or `test`, for clips whose labels lie in folders named as Aff-Wild2's."""
        return {clip_id: file.official_part for clip_id, file in self.files.items() if file.official_part}

    def truths(self, clips: Iterable[Clip]) -> dict[str, Truth]:
        """Returns clip_id -> gold standard of those clips that have labels.

        Raises:
            InputError: if a file is malformed, or its rows are frames and the clip has no frame clock.
        """
        return {
            clip.clip_id: self.files[clip.clip_id].labels.timed(clip) for clip in clips if clip.clip_id in self.files
        }


class LabelFolder:
    """The label files below a folder.

    Raises:
        InputError: if there are none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        below = (Path(parent, name) for parent, _, names in walk(path) for name in names if not name.startswith("."))
        paths = sorted(path for path in below if path.suffix in (".txt", ".csv"))
        if not paths:
            todo = "Give .csv files with time_s, valence, arousal or Aff-Wild2's .txt; `sage-va prepare` makes them."
            raise InputError(path, expected="a folder of label files", got="none", todo=todo)
        self.files = [LabelFile(path) for path in paths]

    @classmethod
    def of(cls, labels: Path | LabelFolder) -> LabelFolder:
        """Returns the folder itself where it is open already, so that its files are parsed only once."""
        return labels if isinstance(labels, LabelFolder) else cls(labels)

    def join(self, clip_ids: Sequence[str], others: Iterable[str] = ()) -> JoinedLabels:
        """Finds the label file of each clip; see `join_labels`."""
        return join_labels(self.files, clip_ids, others)


def read_label_file(path: Path) -> Labels:
    """One label file; see `read_labels`.

    Raises:
        InputError: naming the line at fault, or that no row is annotated.
    """
    rows = csv.reader(io.StringIO(read_utf8(path), newline=""))
    try:
        header = [cell.strip() for cell in next(rows, [])]
        columns = _columns(path, header)
        cells = np.array(list(_numbers(path, rows, columns)), np.float64).reshape(-1, len(columns))
    except csv.Error as error:
        raise InputError(f"{path}:{rows.line_num}", f"no row of CSV: {error}", todo="Correct the row.") from error
    va = cells[:, -2:].astype(np.float32)
    times = cells[:, 0] if "time_s" in header else None
    if times is not None and (np.diff(times) <= 0).any():
        row = int(np.flatnonzero(np.diff(times) <= 0)[0]) + 3
        raise InputError(
            f"{path}:{row}", expected="times that increase", got="one that does not", todo="Sort the rows."
        )
    labels = Labels(path, va, times)
    if not labels.mask.any():
        got = f"{len(va)} rows, none of them annotated in that range"
        raise InputError(
            path, expected="valence and arousal in [-1, 1]", got=got, todo="Rescale them, or remove the file."
        )
    beyond = int(((np.abs(va) > 1) & (va != NOT_ANNOTATED)).any(axis=1).sum())
    if beyond:
        warnings.warn(f"{path}: {beyond} of {len(va)} rows lie outside [-1, 1] and are left out.", stacklevel=2)
    return labels


def _columns(path: Path, header: list[str]) -> list[int]:
    wanted = ["valence", "arousal"] if path.suffix == ".txt" else ["time_s", "valence", "arousal"]
    if any(header.count(name) != 1 for name in wanted):
        todo = "Add the header line; times are seconds on the recording's own clock."
        raise InputError(
            f"{path}:1", expected=f"columns {', '.join(wanted)}", got=", ".join(header) or "no header", todo=todo
        )
    return [header.index(name) for name in wanted]


def _numbers(path: Path, rows: Iterable[list[str]], columns: list[int]) -> Iterator[list[float]]:
    blank = 0
    for line, row in enumerate(rows, 2):
        if not any(cell.strip() for cell in row):
            blank = blank or line
            continue
        if blank and len(columns) == 2:
            todo = "Write -5,-5 where a frame is not annotated: row k belongs to frame k."
            raise InputError(f"{path}:{blank}", expected="numbers", got="an empty line among rows", todo=todo)
        try:
            numbers = [float(row[c]) if row[c].strip() else math.nan for c in columns]
            if len(columns) == 3 and not math.isfinite(numbers[0]):
                raise ValueError
        except (ValueError, IndexError):
            got = repr(",".join(row)[:60])
            raise InputError(f"{path}:{line}", expected="numbers", got=got, todo="Correct or remove the row.") from None
        yield numbers


def join_labels(files: Sequence[LabelFile], clip_ids: Sequence[str], others: Iterable[str] = ()) -> JoinedLabels:
    """Finds the label file of each clip by name.

    The labels of `a/video.mp4` are `a/video.txt` or, where there is none, a `video.txt` elsewhere that no other clip
    can claim; those of `video.mp4#left` are `video_left.txt`, as in Aff-Wild2.

    Args:
        files: that are there.
        clip_ids: the clips.
        others: further clips of the cache, which claim the files in folders like theirs.

    Raises:
        InputError: if two label files claim one clip, or two clips one label file of another folder.
    """
    by_name = _ByName(files)
    nested = {clip_id: by_name.find(clip_id, nested=True) for clip_id in {*clip_ids, *others}}
    claimed = {file.path for candidates in nested.values() for file in candidates}
    free = _ByName([file for file in files if file.path not in claimed])
    joined: dict[str, LabelFile] = {}
    owners: dict[Path, str] = {}
    for clip_id in clip_ids:
        candidates = nested[clip_id] or free.find(clip_id, nested=False)
        if len(candidates) > 1:
            got = " and ".join(str(file.path) for file in candidates[:2])
            raise InputError(clip_id, expected="one label file", got=got, todo="Keep one, or mirror the media folders.")
        for file in candidates:
            joined[clip_id] = file
            if not nested[clip_id] and owners.setdefault(file.path, clip_id) != clip_id:
                got = f"{owners[file.path]} and {clip_id}"
                todo = "Lay the label files out in the same folders as the media."
                raise InputError(file.path, expected="one clip of that name", got=got, todo=todo)
    used = {file.path for file in joined.values()}
    unlabelled = [clip_id for clip_id in clip_ids if clip_id not in joined]
    return JoinedLabels(joined, unlabelled, [file.path for file in files if file.path not in used])


def label_names(clip_id: str) -> list[str]:
    """Returns the names that the label file of a clip may have, less its suffix, the likeliest first."""
    name, _, person = clip_id.partition("#")
    suffix = f"_{person}" if person else ""
    return [f"{name}{suffix}", f"{PurePosixPath(name).with_suffix('')}{suffix}"]


class _ByName:
    """Label files by the last parts of their paths, without suffix."""

    def __init__(self, files: Sequence[LabelFile]) -> None:
        self._files = files
        self._by_parts: dict[int, dict[str, list[LabelFile]]] = {}  # by the number of parts

    def find(self, clip_id: str, *, nested: bool) -> list[LabelFile]:
        """The files of the first possible name that has any; nested: in folders named like those of the clip."""
        for name in label_names(clip_id):
            if files := self._ending_in(name if nested else PurePosixPath(name).name):
                return files
        return []

    def _ending_in(self, name: str) -> list[LabelFile]:
        """The files whose paths end in some parts; a folder may hold one of the same name for each clip."""
        num = name.count("/") + 1
        if num not in self._by_parts:
            ends = self._by_parts[num] = dict[str, list[LabelFile]]()
            for file in self._files:
                ends.setdefault("/".join(f"/{file.path.with_suffix('')}".split("/")[-num:]), []).append(file)
        return self._by_parts[num].get(name, [])
