"""Features in CSV files with a header line, as MuSe, OpenFace and openSMILE write them, or `sage-va cache export`."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..text_file import read_utf8

QUALITY = re.compile(r"quality:(.+) \[(.*)\]")
NOT_FEATURES = ("segment_id", "frame", "face_id", "mask", "")  # "": the index that pandas writes
_WITH_UNIT = re.compile(r"(?:frame_?)?time(?:stamp)?s?_(s|ms)", re.IGNORECASE)
_WITHOUT_UNIT = re.compile(r"(?:frame_?)?time(?:stamp)?s?", re.IGNORECASE)
_PER_SECOND = {"s": 1, "ms": 1000}


@dataclass(frozen=True)
class Rules:
    """Options for reading files.

    Args:
        key: which array of a file, where it holds several.
        time_column: `NAME:s` or `NAME:ms`, the column or array of times and its unit.
        columns: patterns of the CSV columns to take; () = all numeric ones that are not known to be something else.
    """

    key: str | None = None
    time_column: str | None = None
    columns: Sequence[str] = ()

    def __post_init__(self) -> None:
        name, _, unit = ("time:s" if self.time_column is None else self.time_column).rpartition(":")
        if not name or unit not in _PER_SECOND:
            todo = "For example timestamp:ms."
            raise InputError("time_column", expected="NAME:s or NAME:ms", got=repr(self.time_column), todo=todo)

    def is_time(self, name: str) -> bool:
        """True for the name of a column or array of times."""
        chosen = (self.time_column or "").rpartition(":")[0]
        return bool(_WITH_UNIT.fullmatch(name) or _WITHOUT_UNIT.fullmatch(name) or (chosen and name == chosen))

    def find_time(self, place: object, names: Sequence[str]) -> tuple[str, int] | None:
        """Returns the name of the times, and how many of their units make a second; None where there are none.

        Raises:
            InputError: if the unit is not given, the chosen name is missing, or several names could be meant.
        """
        if self.time_column:
            name, _, unit = self.time_column.rpartition(":")
            if name in names:
                return name, _PER_SECOND[unit]
            todo = "Correct --time-column."
            raise InputError(place, expected=f"times named {name!r}", got=_listed(names), todo=todo)
        sure = [(name, _PER_SECOND[m[1].lower()]) for name in names if (m := _WITH_UNIT.fullmatch(name))]
        unsure = [name for name in names if _WITHOUT_UNIT.fullmatch(name)]
        if len(sure) > 1 or (unsure and not sure):
            name = sure[0][0] if sure else unsure[0]
            got = _listed([n for n, _ in sure]) if sure else f"{name!r}, in seconds or milliseconds"
            todo = f"Give --time-column {name}:s or --time-column {name}:ms."
            raise InputError(place, expected="times whose unit is known", got=got, todo=todo)
        return sure[0] if sure else None


@dataclass(frozen=True)
class Features:
    """The content of one clip's file, before it is checked.

    Args:
        values: (T, D) as in the file.
        times_s: (T,) float64, or None where the file has no times.
        mask: (T,) bool, False where the file marks a row as not valid; None where it marks none.
        quality: name -> unit and (T,) values.
        names: of the columns, where they have names.
        rows_are_frames: True where the rows are all the frames of a recording, by their numbers.
        sha256: hash of all this, or of the file.
    """

    values: NDArray[Any]
    times_s: NDArray[np.float64] | None
    mask: NDArray[np.bool_] | None
    quality: dict[str, tuple[str, NDArray[np.float64]]]
    names: tuple[str, ...] | None
    rows_are_frames: bool
    sha256: str


def read_csv(path: Path, rules: Rules, sha256: str) -> Features:
    """The features in a CSV file; an empty cell is a missing value.

    OpenFace's `success` masks rows and its `confidence` becomes a quality signal.

    Raises:
        InputError: naming the line at fault, or the option that is needed.
    """
    table = _Table.read(path)
    time = rules.find_time(path, table.names)
    openface = ("success", "confidence") if "success" in table.names else ()
    names = table.chosen(rules, (*NOT_FEATURES, *openface))
    values = np.column_stack([table.numbers(name) for name in names])
    quality = {m[1]: (m[2], table.numbers(name)) for name in table.names if (m := QUALITY.fullmatch(name))}
    if openface and "confidence" in table.names:
        quality["confidence"] = ("1", table.numbers("confidence"))
    masks = [table.flags(name) for name in ("mask", *openface[:1]) if name in table.names]
    mask = np.logical_and.reduce(masks) if masks else None
    times_s = checked_times(path, table.numbers(time[0]) / time[1], first_line=2) if time else None
    return Features(values, times_s, mask, quality, tuple(names), table.has_all_frames(), sha256)


def checked_times(path: Path, times_s: NDArray[np.float64], first_line: int) -> NDArray[np.float64]:
    """The times, if they are finite and increase.

    Raises:
        InputError: naming the first line, or row, that breaks this.
    """
    with np.errstate(invalid="ignore"):
        wrong = ~np.isfinite(times_s) | np.r_[False, np.diff(times_s) <= 0]
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        got = f"{times_s[row]:.15g} s" + (f" after {times_s[row - 1]:.15g} s" if row else "")
        todo = "Sort the rows; keep one person per file."
        raise InputError(f"{path}:{row + first_line}", expected="times that increase", got=got, todo=todo)
    return times_s


@dataclass(frozen=True)
class _Table:
    """The cells of a CSV file by column."""

    path: Path
    cells: dict[str, tuple[str, ...]]

    @classmethod
    def read(cls, path: Path) -> _Table:
        text = read_utf8(path)
        header = text.partition("\n")[0]
        mark = ";" if header.count(";") > header.count(",") else ","  # openSMILE separates by semicolons
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
        try:
            rows = list(reader)
        except csv.Error as error:
            place, todo = f"{path}:{reader.line_num}", "Correct the row."
            raise InputError(place, f"no row of CSV: {error}", todo=todo) from error
        while rows and not rows[-1]:
            rows.pop()
        names = [name.strip() for name in rows.pop(0)] if rows else []
        if len(set(names)) != len(names) or not any(names) or all(map(_is_number, names)):
            todo = "Begin the file with the names of its columns."
            raise InputError(f"{path}:1", expected="a header of different names", got=_listed(names), todo=todo)
        for line, row in enumerate(rows, 2):
            if len(row) != len(names):
                todo = "Correct or remove the row."
                raise InputError(f"{path}:{line}", expected=f"{len(names)} cells", got=f"{len(row)}", todo=todo)
        if not rows:
            raise InputError(path, expected="rows of features", got="a header alone", todo="Remove the file.")
        return cls(path, dict(zip(names, zip(*rows, strict=True), strict=True)))

    @property
    def names(self) -> list[str]:
        return list(self.cells)

    def chosen(self, rules: Rules, reserved: Sequence[str]) -> list[str]:
        """Names of the feature columns, in the order of the file."""
        free = [n for n in self.names if n not in reserved and not rules.is_time(n) and not QUALITY.fullmatch(n)]
        if rules.columns:
            names = [n for n in free if any(fnmatchcase(n, pattern) for pattern in rules.columns)]
        else:
            names = [n for n in free if not self._is_text(n)]
        if not names:
            expected = f"columns like {_listed(rules.columns)}" if rules.columns else "numeric columns"
            todo = "Choose the features with --column."
            raise InputError(self.path, expected=expected, got=_listed(free), todo=todo)
        return names

    def numbers(self, name: str) -> NDArray[np.float64]:
        """(T,) float64, NaN where a cell is empty."""
        with suppress(ValueError):  # no cell is empty: twice as fast
            return np.array(list(map(float, self.cells[name])))
        try:
            return np.array([float(cell) if cell.strip() else math.nan for cell in self.cells[name]])
        except ValueError:
            wrong = next(k for k, cell in enumerate(self.cells[name]) if cell.strip() and not _is_number(cell))
            got = f"{self.cells[name][wrong][:60]!r} in column {name!r}"
            todo = "Correct it, or leave the column out with --column."
            raise InputError(f"{self.path}:{wrong + 2}", expected="a number", got=got, todo=todo) from None

    def flags(self, name: str) -> NDArray[np.bool_]:
        """(T,) True where a cell is 1; an empty cell is no.

        Raises:
            InputError: if a cell is neither 0 nor 1.
        """
        numbers = np.nan_to_num(self.numbers(name))
        wrong = np.flatnonzero((numbers != 0) & (numbers != 1))
        if len(wrong):
            got, todo = f"{self.cells[name][wrong[0]]!r} in column {name!r}", "Rename the column if it is a feature."
            raise InputError(f"{self.path}:{wrong[0] + 2}", expected="0 or 1", got=got, todo=todo)
        return numbers == 1

    def has_all_frames(self) -> bool:
        """True where a column `frame` counts the rows from 0 or 1."""
        if "frame" not in self.cells or self._is_text("frame"):
            return False
        frames = self.numbers("frame")
        return bool(frames[0] in (0, 1) and (np.diff(frames) == 1).all())

    def _is_text(self, name: str) -> bool:
        """True for a column of words alone; numbers with a word among them are a mistake, not text."""
        filled = (cell for cell in self.cells[name] if cell.strip())
        return not any(map(_is_number, filled)) and any(map(str.strip, self.cells[name]))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _listed(names: Sequence[str]) -> str:
    """Some names, for a message."""
    return ", ".join(names[:8]) + (f", … ({len(names)})" if len(names) > 8 else "") if any(names) else "none"
