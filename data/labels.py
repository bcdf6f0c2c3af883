"""Valence-arousal traces in the formats people have, joined to clips and given their times."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from .clip import Clip
from .errors import InputError

NOT_ANNOTATED = -5
PARTS = {"Train_Set": "train", "Validation_Set": "val"}


@dataclass(frozen=True)
class Labels:
    """One annotation file.

    Args:
        path: where it was read.
        va: (S, 2) float32 valence and arousal as written; NaN where a cell is empty.
        times_s: (S,) float64 seconds on the clip's clock, or None where row k belongs to frame k of the clip.
        part: "train" or "val" where the file lies in Aff-Wild2's Train_Set or Validation_Set, else None.
    """

    path: Path
    va: NDArray[np.float32]
    times_s: NDArray[np.float64] | None
    part: str | None

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(S,) True where both values are finite and in [-1, 1]; -5 means not annotated."""
        return np.asarray((np.abs(self.va) <= 1).all(axis=1))

    def timed(self, clip: Clip) -> Truth:
        """The labels with times: their own, or those of the clip's frames.

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
class Truth:
    """Gold standard of one clip: times_s (S,) float64, va (S, 2) float32 valence and arousal, mask (S,) bool."""

    times_s: NDArray[np.float64]
    va: NDArray[np.float32]
    mask: NDArray[np.bool_]


def read_labels(folder: Path) -> list[Labels]:
    """All label files below a folder: Aff-Wild2 `.txt` (row k = frame k) and `.csv` with a `time_s` column.

    Raises:
        InputError: if the folder has none, or a file is malformed.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix in (".txt", ".csv") and not p.name.startswith("."))
    if not paths:
        todo = "Give the folder of Aff-Wild2 .txt files or of .csv files with time_s, valence, arousal."
        raise InputError(folder, expected="a folder of label files", got="none", todo=todo)
    return [read_label_file(path) for path in paths]


def read_label_file(path: Path) -> Labels:
    """One label file; see `read_labels`.

    Raises:
        InputError: naming the line at fault, or that no row is annotated.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = [cell.strip() for cell in next(rows, [])]
        columns = _columns(path, header)
        found = np.array(list(_numbers(path, rows, columns)), np.float64).reshape(-1, len(columns))
    va = found[:, -2:].astype(np.float32)
    times = found[:, 0] if "time_s" in header else None
    if times is not None and (np.diff(times) <= 0).any():
        row = int(np.flatnonzero(np.diff(times) <= 0)[0]) + 3
        raise InputError(
            f"{path}:{row}", expected="times that increase", got="one that does not", todo="Sort the rows."
        )
    part = next((PARTS[folder] for folder in path.absolute().parts if folder in PARTS), None)
    labels = Labels(path, va, times, part)
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


def join_labels(labels: list[Labels], clip_ids: list[str]) -> tuple[dict[str, Labels], list[str], list[Path]]:
    """Which label file belongs to which clip.

    `a/video.mp4` is met by `a/video.txt` or, where there is none, by a `video.txt` elsewhere that no other clip can
    claim; `video.mp4#left` by `video_left.txt`, as in Aff-Wild2.

    Returns:
        clip_id -> labels; clips without labels; label files without a clip.

    Raises:
        InputError: if two label files claim one clip, or two clips one label file of another folder.
    """
    exact = {clip_id: _named(labels, label_names(clip_id), nested=True) for clip_id in clip_ids}
    claimed = {label.path for found in exact.values() for label in found}
    free = [label for label in labels if label.path not in claimed]
    joined: dict[str, Labels] = {}
    by_name: dict[Path, str] = {}
    for clip_id in clip_ids:
        found = exact[clip_id] or _named(free, label_names(clip_id), nested=False)
        if len(found) > 1:
            got = " and ".join(str(label.path) for label in found[:2])
            raise InputError(clip_id, expected="one label file", got=got, todo="Keep one, or mirror the media folders.")
        for label in found:
            joined[clip_id] = label
            if not exact[clip_id] and by_name.setdefault(label.path, clip_id) != clip_id:
                got = f"{by_name[label.path]} and {clip_id}"
                todo = "Lay the label files out in the same folders as the media."
                raise InputError(label.path, expected="one clip of that name", got=got, todo=todo)
    used = {label.path for label in joined.values()}
    missing = [clip_id for clip_id in clip_ids if clip_id not in joined]
    return joined, missing, [label.path for label in labels if label.path not in used]


def label_names(clip_id: str) -> list[str]:
    """What the label file of a clip may be called, less its suffix: as the clip with or without its own suffix."""
    name, _, person = clip_id.partition("#")
    suffix = f"_{person}" if person else ""
    return [f"{name}{suffix}", f"{PurePosixPath(name).with_suffix('')}{suffix}"]


def _named(labels: list[Labels], names: list[str], *, nested: bool) -> list[Labels]:
    """The labels of the first name that has any; nested: with the folders of the clip, else in any folder."""
    wanted = [f"/{name}" if nested else f"/{PurePosixPath(name).name}" for name in names]
    found = ([label for label in labels if f"/{label.path.with_suffix('')}".endswith(name)] for name in wanted)
    return next(filter(None, found), [])
