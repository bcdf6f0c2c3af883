"""Scores of groups of clips: by gender, age, language, subject, or any other column of a table about them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.clip import Clip
from ...data.errors import InputError, did_you_mean
from ..result import Result
from .metrics import NAMES, ClipMoments, Interval, bootstrap, num_labels, pooled_ccc

SUBJECT, AGE = "subject", "age"
KEYS = ("clip_id", "subject_id")
IDS = " or ".join(KEYS)
MIN_CLIPS = 5  # below this many, resampling clips says little about others


@dataclass(frozen=True)
class GroupScore(Result):
    """The raw score of a group of clips.

    group: None for the clips whose group is not known. num_clips: clips with labels that count. interval: NaN for
    fewer than `MIN_CLIPS` clips.
    """

    group: str | None
    num_clips: int
    num_labels: int
    ccc: dict[str, float]
    interval: dict[str, Interval]

    @property
    def too_few(self) -> bool:
        """True if there are too few clips for an interval."""
        return self.num_clips < MIN_CLIPS


@dataclass(frozen=True)
class GroupReport(Result):
    """The scores of all groups; by: the column that divides the clips."""

    by: str
    groups: list[GroupScore]


@dataclass(frozen=True)
class Grouping:
    """A division of clips into groups.

    Args:
        by: the column.
        values: clip_id or subject_id -> its value; None = the subjects of the cache.
        place: of the table.
    """

    by: str
    values: Mapping[str, str] | None = None
    place: str = ""

    @classmethod
    def of(cls, by: str, table: Path | None = None) -> Grouping:
        """Reads a table: CSV or JSONL, as a manifest is, with the column and `clip_id` or `subject_id`.

        Args:
            by: name of the column. "subject" needs no table.
            table: the file.

        Raises:
            InputError: if there is no table, or no such column in it.
        """
        if table is None and by != SUBJECT:
            todo = "Pass the manifest, or a CSV with clip_id (or subject_id) and that column."
            raise InputError("groups", expected=f"a table with the column {by}", got="none", todo=todo)
        return cls(by) if table is None else cls(by, _read(table, by), str(table))

    def group(self, clip: Clip) -> str | None:
        """Returns the group of a clip; None if it is not known. An age is a span of ten years."""
        if self.values is None:
            return clip.subject_id
        names = (clip.clip_id, clip.clip_id.partition("#")[0], clip.subject_id or "")
        value = next((self.values[name] for name in names if self.values.get(name)), None)
        return _ten_years(value) if value and self.by == AGE else value

    def score(self, clips: Sequence[Clip], sums: Sequence[ClipMoments]) -> GroupReport:
        """Returns the score of each group, in order of their names, clips without one last.

        Args:
            clips: those that are scored.
            sums: their moments, raw.

        Raises:
            InputError: if the group of no clip is known.
        """
        groups = {clip.clip_id: self.group(clip) for clip in clips}
        members: dict[str | None, list[ClipMoments]] = {}
        for clip in sums:
            if clip.all[0, 0] > 0:
                members.setdefault(groups[clip.clip_id], []).append(clip)
        if set(members) <= {None}:
            todo = "Look at its ids." if self.place else "Name subjects in the manifest, or pass a table by --groups."
            raise InputError(self.place or self.by, f"the {self.by} of no scored clip is known", todo=todo)
        order = sorted(members, key=lambda group: (group is None, group or ""))
        return GroupReport(self.by, [_score(group, members[group]) for group in order])


def _score(group: str | None, clips: Sequence[ClipMoments]) -> GroupScore:
    sums = [clip.all for clip in clips]
    interval = {name: Interval(math.nan, math.nan) for name in NAMES}
    if len(clips) >= MIN_CLIPS:
        interval = bootstrap(sums)
    return GroupScore(group, len(clips), num_labels(clips), pooled_ccc(sums), interval)


def _ten_years(age: str) -> str:
    try:
        first = math.floor(float(age) / 10) * 10
    except (ValueError, OverflowError):
        return age
    return f"{first} to {first + 9}"


def _read(path: Path, by: str) -> dict[str, str]:
    """Returns the values of a column by the first id of each row, clip or subject; empty values are left out."""
    values: dict[str, str] = {}
    for line, row in _rows(path):
        place = f"{path}:{line}"
        _check_columns(place, row, by)
        key, value = next((text for name in KEYS if (text := _cell(row, name))), None), _cell(row, by)
        if key is None:
            raise InputError(place, expected=f"a {IDS}", got="empty cells", todo="Correct the table.")
        if value and values.setdefault(key, value) != value:
            got, todo = f"{values[key]} and {value}", "Correct the table."
            raise InputError(place, expected=f"one {by} for {key}", got=got, todo=todo)
    return values


def _check_columns(place: str, row: Mapping[str, Any], by: str) -> None:
    if by in row and any(name in row for name in KEYS):
        return
    todo = f"Add {IDS}." if by in row else did_you_mean(by, [str(name) for name in row], "Correct it.")
    got = ", ".join(map(str, row)) or "none"
    raise InputError(place, expected=f"columns {by} and {IDS}", got=got, todo=todo)


def _cell(row: Mapping[str, Any], name: str) -> str:
    return "" if row.get(name) is None else str(row[name]).strip()


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".jsonl":
            rows = [(number, json.loads(line)) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        else:
            reader = csv.DictReader(io.StringIO(text, newline=""))
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        todo = "Pass a manifest, or another CSV with a header."
        raise InputError(path, expected="a table, as CSV or JSONL", got=str(error).splitlines()[0], todo=todo) from None
    if not rows or not all(isinstance(row, dict) for _, row in rows):
        todo = "Pass a manifest, or another CSV with a header."
        raise InputError(path, expected="rows", got="none" if not rows else "other values", todo=todo)
    return rows
