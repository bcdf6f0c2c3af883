"""Tables of annotations as text: CSV with `,` or `;`, and ARFF."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

_ATTRIBUTE = re.compile(r"""@attribute\s+(?:'([^']*)'|"([^"]*)"|(\S+))""", re.IGNORECASE)
_MAX_HEADER = 1 << 20  # characters


@dataclass(frozen=True)
class Table:
    """A file of named columns: rows of cells, and the line of each row."""

    path: Path
    names: list[str]
    rows: list[list[str]]
    lines: list[int]

    def texts(self, name: str) -> list[str]:
        """Returns the cells of a column."""
        column = self.names.index(name)
        return [row[column] for row in self.rows]

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Returns a column of numbers; NaN where a cell is empty, `?` or `NaN`.

        Raises:
            InputError: naming the line at fault.
        """
        return np.array(
            [self._number(cell, line, name) for cell, line in zip(self.texts(name), self.lines, strict=True)]
        )

    def times_s(self, name: str, per_second: float = 1.0) -> NDArray[np.float64]:
        """Returns a column of times in seconds.

        Raises:
            InputError: if one is missing, or they do not increase.
        """
        times = self.numbers(name) / per_second
        for wrong, problem in (
            (~np.isfinite(times), "no time"),
            (np.diff(times, prepend=-np.inf) <= 0, "no later time"),
        ):
            if wrong.any():
                place = f"{self.path}:{self.lines[int(wrong.argmax())]}"
                raise InputError(place, f"{problem} in column {name}", todo="Sort the rows and name each time once.")
        return times

    def _number(self, cell: str, line: int, name: str) -> float:
        if cell.lower() in ("", "?", "nan"):
            return math.nan
        try:
            return float(cell)
        except ValueError:
            got = repr(cell[:60])
            place = f"{self.path}:{line}"
            raise InputError(place, expected=f"a number in column {name}", got=got, todo="Correct the cell.") from None


def read_table(path: Path) -> Table:
    """Reads a CSV file with a header line, or an ARFF file.

    Cells of a CSV are divided by `;` where the header has one, else by `,`; spaces and quotes around them are left out.

    Raises:
        InputError: if the file is not UTF-8, or a row is no CSV or has another number of cells than the header.
    """
    text = read_text(path)
    return _arff(path, text) if path.suffix.lower() == ".arff" else _csv(path, text)


def read_text(path: Path) -> str:
    """Reads a file of text.

    Raises:
        InputError: if it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(path, f"not UTF-8 text ({error.reason})", todo="Save it as UTF-8.") from error


def first_line(path: Path) -> str:
    """Returns the first line of a file, without spaces around it; of an endless one, its beginning."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline(_MAX_HEADER).strip()


def header_of(path: Path) -> list[str]:
    """Returns the column names of a CSV file; reads its first line. [] where that is no row of CSV."""
    line = first_line(path)
    try:
        return _split(line, ";" if ";" in line else ",")
    except csv.Error:
        return []


def _csv(path: Path, text: str) -> Table:
    lines = text.splitlines()
    delimiter = ";" if lines and ";" in lines[0] else ","
    names = _cells(path, 1, lines[0], delimiter) if lines else []
    return _table(path, names, enumerate(lines[1:], 2), delimiter)


def _arff(path: Path, text: str) -> Table:
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    starts = [index for index, (_, line) in enumerate(lines) if line.lower() == "@data"]
    if not starts:
        raise InputError(path, "an ARFF file without @data", todo="Get the file again.")
    head = [match for _, line in lines[: starts[0]] if (match := _ATTRIBUTE.match(line))]
    names = [next(group for group in match.groups() if group is not None) for match in head]
    body = ((number, line) for number, line in lines[starts[0] + 1 :] if not line.startswith("%"))
    return _table(path, names, body, ",")


def _table(path: Path, names: list[str], body: Iterable[tuple[int, str]], delimiter: str) -> Table:
    table = Table(path, names, [], [])
    for number, line in body:
        if not line.strip():
            continue
        cells = _cells(path, number, line, delimiter)
        if len(cells) != len(names):
            got = f"{len(cells)} cells for {len(names)} columns"
            raise InputError(f"{path}:{number}", got, todo="Correct the row.")
        table.rows.append(cells)
        table.lines.append(number)
    return table


def _cells(path: Path, number: int, line: str, delimiter: str) -> list[str]:
    try:
        return _split(line, delimiter)
    except csv.Error as error:
        raise InputError(f"{path}:{number}", f"no row of CSV: {error}", todo="Correct the row.") from error


def _split(line: str, delimiter: str) -> list[str]:
    cells = next(csv.reader(io.StringIO(line), delimiter=delimiter), [])
    return [cell.strip().strip("'\"").strip() for cell in cells]
