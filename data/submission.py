"""Submissions for Aff-Wild2's test set: the sample file is read, a submission is written, and checked line by line.

The sample lists every row and their order. Row `NAME/00001.jpg,0.25,-0.5` holds valence and arousal of frame 1, counted
from 1, of the person whose crops are in the folder NAME, whether that frame has a crop or not.

Some bytes are kept for each row of the sample, and none of a submission's text: both may have millions of rows.
"""

from __future__ import annotations

import codecs
import itertools
import math
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .atomic import replacing
from .errors import InputError

HEADER = "image_location,valence,arousal"
TARGETS = ("valence", "arousal")
EXAMPLES = 10  # faults of one class that are spelled out; all are counted
_CROP = re.compile(r"(\d{5,})\.(?:jpe?g|png)", re.IGNORECASE)


@dataclass(frozen=True)
class Sample:
    """The rows of a sample file, in their order.

    Args:
        path: the file.
        names: folders of crops, one for each person of the test set, in order of appearance.
        clips: (R,) position of each row's folder in `names`.
        frames: (R,) number of each row's frame, from 1.
        numbers: name of a crop -> its number, `{"00001.jpg": 1, …}`.
    """

    path: Path
    names: list[str]
    clips: NDArray[np.int32]
    frames: NDArray[np.int32]
    numbers: Mapping[str, int] = field(repr=False)

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.frames)

    def last_frames(self) -> dict[str, int]:
        """Returns the largest number of a frame for each name."""
        last = np.zeros(len(self.names), np.int32)
        np.maximum.at(last, self.clips, self.frames)
        return dict(zip(self.names, last.tolist(), strict=True))

    def row_tables(self) -> dict[str, NDArray[np.int32]]:
        """Returns, for each name, the row of each number of a frame; -1 for a number that the sample does not list."""
        tables = {name: np.full(last + 1, -1, np.int32) for name, last in self.last_frames().items()}
        for clip, name in enumerate(self.names):
            rows = np.flatnonzero(self.clips == clip)
            tables[name][self.frames[rows]] = rows
        return tables

    def location(self, row: int) -> str:
        """Returns `NAME/00001.jpg` of a row."""
        suffix = next(iter(self.numbers)).partition(".")[2]
        return f"{self.names[self.clips[row]]}/{self.frames[row]:05d}.{suffix}"


def read_sample(path: Path) -> Sample:
    """Reads a sample file; the values in it do not matter, nor do blank lines at its end.

    Raises:
        InputError: naming the first line that is no row of a sample, repeats another, or names another kind of file.
    """
    names, numbers = dict[str, int](), dict[str, int]()
    clips, frames, suffix = array("i"), array("i"), ""
    for line, text in _rows_of_sample(path):
        name, _, crop = text.partition(",")[0].rpartition("/")
        if crop not in numbers:
            numbers[crop] = _frame_number(crop)
        if not name or not numbers[crop]:
            raise _no_sample(path, line, text)
        suffix = suffix or crop.lstrip("0123456789")
        if not crop.endswith(suffix):
            raise _no_sample(path, line, crop, f"a name that ends in {suffix}, as that of line 2")
        clips.append(names.setdefault(name, len(names)))
        frames.append(numbers[crop])
    if not names:
        raise _no_sample(path, 2, "")
    sample = Sample(path, list(names), np.array(clips, np.int32), np.array(frames, np.int32), numbers)
    _check_repeated(sample)
    return sample


def _check_repeated(sample: Sample) -> None:
    keys = sample.clips.astype(np.int64) << 32 | sample.frames
    _, first = np.unique(keys, return_index=True)
    if len(first) < len(keys):
        row = int(np.setdiff1d(np.arange(len(keys)), first)[0])
        raise _no_sample(sample.path, row + 2, f"{sample.location(row)} again")


def _frame_number(crop: str) -> int:
    """Returns the number of the frame of `00001.jpg`; 0 for what is no name of a crop."""
    match = _CROP.fullmatch(crop)
    return int(match[1]) if match and match[1] == f"{int(match[1]):05d}" else 0


def _rows_of_sample(path: Path) -> Iterator[tuple[int, str]]:
    """Yields line numbers and rows; blank lines at the end are left out."""
    blank = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = next(file, "").strip()
            if header.split(",")[0] != HEADER.split(",")[0]:
                raise _no_sample(path, 1, header)
            for line, text in enumerate(map(str.strip, file), 2):
                if not text:
                    blank = blank or line
                elif blank:
                    raise _no_sample(path, blank, "")
                else:
                    yield line, text
    except UnicodeDecodeError:
        raise _no_sample(path, 1, "bytes that are not UTF-8") from None


def _no_sample(path: Path, line: int, got: str, expected: str = "a row NAME/00001.jpg,… as none before") -> InputError:
    expected = expected if line > 1 else f"the header {HEADER}"
    todo = "Take the sample file of the challenge as it came."
    return InputError(f"{path}:{line}", expected=expected, got=repr(got[:60]), todo=todo)


def write_submission(path: Path, sample: Sample, values: Mapping[str, NDArray[np.floating[Any]]]) -> None:
    """Writes a submission, whole or not at all: every row of the sample, in its order, with line ends of one LF.

    Args:
        path: the file.
        sample: its rows.
        values: name -> (F, 2) valence and arousal; row k - 1 is that of frame k. F is at least the largest number.
    """
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"{HEADER}\n")
        rows = zip(range(sample.num_rows), sample.clips.tolist(), sample.frames.tolist(), strict=True)
        for row, clip, frame in rows:
            valence, arousal = values[sample.names[clip]][frame - 1]
            file.write(f"{sample.location(row)},{valence:.5f},{arousal:.5f}\n")


@dataclass(frozen=True)
class Fault:
    """A fault of a submission.

    Args:
        kind: encoding, line ends, header, columns, number, NaN, range, extra, duplicate, order or missing.
        line: at which it stands, from 1; of a missing row, the line of the sample.
        text: in words.
    """

    kind: str
    line: int
    text: str


@dataclass
class SubmissionReport:
    """The result of a check.

    Args:
        path, sample: the two files.
        num_expected: rows of the sample.
        num_rows: rows of the submission, without its header.
        counts: class of fault -> how many there are, those not spelled out included.
        faults: the first of each class.
    """

    path: str
    sample: str
    num_expected: int
    num_rows: int = 0
    counts: dict[str, int] = field(default_factory=dict[str, int])
    faults: list[Fault] = field(default_factory=list[Fault])

    @property
    def right(self) -> bool:
        """True if there is no fault."""
        return not self.counts

    def add(self, kind: str, line: int, text: str) -> None:
        """Notes a fault."""
        before = self.counts.get(kind, 0)
        self.counts[kind] = before + 1
        if before < EXAMPLES:
            self.faults.append(Fault(kind, line, text))

    def to_json(self) -> dict[str, Any]:
        """Returns plain values; `right` among them."""
        return {"right": self.right, **vars(self), "faults": [vars(fault) for fault in self.faults]}


def check_submission(path: Path, sample: Sample) -> SubmissionReport:
    """Compares a submission with the sample: each row present once, in order, with two numbers from -1 to 1.

    Faults of the text (encoding, line ends) are reported, and what it means is checked nevertheless.
    """
    report = SubmissionReport(str(path), str(sample.path), sample.num_rows)
    places = _Places(sample, report)
    for line, text in _lines(path, report):
        if line == 1 and not _is_row(text, sample):
            if text != HEADER:
                report.add("header", 1, f"expected {HEADER!r}, got {text[:60]!r}")
            continue
        if line == 1:
            report.add("header", 1, f"there is none: the first line is a row; expected {HEADER!r}")
        report.num_rows += 1
        cells = text.split(",")
        if len(cells) != 3:
            got = f"{len(cells)} columns: {text[:60]!r}" if text else "an empty line"
            report.add("columns", line, f"expected 3 columns, got {got}")
        if cells[0]:
            places.check(line, cells[0])
        for name, cell in zip(TARGETS, cells[1:], strict=False):
            _check_number(line, name, cell, report)
    places.check_missing()
    report.faults.sort(key=lambda fault: (fault.kind == "missing", fault.line))
    return report


def _is_row(text: str, sample: Sample) -> bool:
    """True for a first line that is a row, so that the header is lacking."""
    return text.partition(",")[0].rpartition("/")[2] in sample.numbers


def _check_number(line: int, name: str, cell: str, report: SubmissionReport) -> None:
    try:
        value = float(cell)
        if "_" in cell:  # a number to Python alone
            raise ValueError
    except ValueError:
        report.add("number", line, f"{name} is {cell[:40]!r}, not a number")
        return
    if math.isnan(value):
        report.add("NaN", line, f"{name} is {cell.strip()}")
    elif not -1 <= value <= 1:
        report.add("range", line, f"{name} is {cell.strip()[:40]}, outside [-1, 1]")


class _Places:
    """The rows of the sample, each with the line of the submission that holds it.

    Args:
        sample: the rows.
        report: gets the faults.
    """

    def __init__(self, sample: Sample, report: SubmissionReport) -> None:
        self._sample, self._report = sample, report
        self._tables = {name: table.tolist() for name, table in sample.row_tables().items()}
        self._lines = np.zeros(sample.num_rows, np.int64)
        self._last = -1

    def check(self, line: int, location: str) -> None:
        """Notes where a row stands; reports one that the sample lacks, or that comes twice or too late."""
        name, _, crop = location.rpartition("/")
        table, number = self._tables.get(name, ()), self._sample.numbers.get(crop, 0)
        row = table[number] if 0 < number < len(table) else -1
        if row < 0:
            self._report.add("extra", line, f"{location[:80]} is not in the sample")
        elif self._lines[row]:
            self._report.add("duplicate", line, f"{location} stands in line {self._lines[row]} already")
        else:
            if row < self._last:
                behind = self._sample.location(self._last)
                self._report.add("order", line, f"{location} comes after {behind}, in the sample before it")
            self._lines[row], self._last = line, row

    def check_missing(self) -> None:
        """Reports the rows without a line; those that follow each other as one."""
        missing = np.flatnonzero(self._lines == 0)
        if not len(missing):
            return
        breaks = np.flatnonzero(np.diff(missing) > 1)
        ends = zip(missing[[0, *(breaks + 1)]].tolist(), missing[[*breaks, -1]].tolist(), strict=True)
        for first, last in itertools.islice(ends, EXAMPLES):
            place, num = self._sample.location(first), last - first + 1
            text = (
                f"{place} is missing"
                if num == 1
                else f"{num} rows are missing, {place} to {self._sample.location(last)}"
            )
            self._report.add("missing", first + 2, f"{text} (line {first + 2} of the sample)")
        self._report.counts["missing"] = len(missing)


def _lines(path: Path, report: SubmissionReport) -> Iterator[tuple[int, str]]:
    """Yields line numbers and lines without their ends; reports faults of the text."""
    with path.open("rb") as file:
        start = file.read(3)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            report.add("encoding", 1, "the file is UTF-16; expected UTF-8 without a byte order mark")
            text = (start + file.read()).decode("utf-16", errors="replace")
            yield from enumerate(text.splitlines(), 1)
            return
        if start == codecs.BOM_UTF8:
            report.add("encoding", 1, "a byte order mark (BOM) stands before the header")
        else:
            file.seek(0)
        number = 0
        for raw in file:
            for content in _pieces(raw, number + 1, report):
                number += 1
                yield number, _decoded(content, number, report)
        if not number:
            report.add("header", 1, f"the file is empty; expected {HEADER!r}")


def _pieces(raw: bytes, line: int, report: SubmissionReport) -> list[bytes]:
    """Returns the lines in what lies between two LF: one, or several where CR alone ends lines."""
    if not raw.endswith(b"\n"):
        report.add("line ends", line, "the last line has no line end")
    content = raw.removesuffix(b"\n")
    if b"\r" not in content:
        return [content]
    kind = "CRLF" if content.endswith(b"\r") and raw.endswith(b"\n") else "CR"
    report.add("line ends", line, f"the line ends in {kind}; expected LF alone")
    return content.removesuffix(b"\r").split(b"\r")


def _decoded(content: bytes, line: int, report: SubmissionReport) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        report.add("encoding", line, f"byte {error.start + 1} of the line is not UTF-8")
        return content.decode(errors="replace")
