"""Submissions: what is written is what the sample lists, and every class of fault is named with its line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from sage_va.cli import main
from sage_va.data import InputError
from sage_va.data.submission import EXAMPLES, HEADER, check_submission, read_sample, write_submission

ROWS = [*(f"1-30-640x360/{k:05d}.jpg" for k in range(1, 5)), *(f"video5_left/{k:05d}.jpg" for k in (1, 2, 3, 9))]
RIGHT = [HEADER, *(f"{row},0.25,-0.5" for row in ROWS)]


def text_of(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "sample.txt"
    path.write_text(text_of([HEADER, *(f"{row},0.0,0.0" for row in ROWS)]))
    return path


def replaced(line: int, text: str) -> list[str]:
    """The right submission with another line, counted from 1."""
    return [*RIGHT[: line - 1], text, *RIGHT[line:]]


CASES = {
    "missing": (
        text_of([*RIGHT[:3], *RIGHT[5:]]),
        4,
        "2 rows are missing, 1-30-640x360/00003.jpg to 1-30-640x360/00004",
    ),
    "missing at the end": (text_of(RIGHT[:-1]), 9, "video5_left/00009.jpg is missing (line 9 of the sample)"),
    "extra": (text_of([*RIGHT, "video5_left/00004.jpg,0,0"]), 10, "video5_left/00004.jpg is not in the sample"),
    "extra clip": (text_of([*RIGHT, "video6/00001.jpg,0,0"]), 10, "video6/00001.jpg is not in the sample"),
    "duplicate": (text_of([*RIGHT, RIGHT[2]]), 10, "1-30-640x360/00002.jpg stands in line 3 already"),
    "order": (text_of([*RIGHT[:2], RIGHT[3], RIGHT[2], *RIGHT[4:]]), 4, "00002.jpg comes after 1-30-640x360/00003.jpg"),
    "NaN": (text_of(replaced(4, f"{ROWS[2]},nan,0")), 4, "valence is nan"),
    "range": (text_of(replaced(5, f"{ROWS[3]},0,-5")), 5, "arousal is -5, outside [-1, 1]"),
    "range infinite": (text_of(replaced(5, f"{ROWS[3]},inf,0")), 5, "valence is inf, outside [-1, 1]"),
    "header": (text_of(["image,valence,arousal", *RIGHT[1:]]), 1, "expected 'image_location,valence,arousal', got"),
    "header lacking": (text_of(RIGHT[1:]), 1, "there is none: the first line is a row"),
    "header of an empty file": ("", 1, "the file is empty"),
    "line ends CRLF": (text_of(RIGHT).replace("\n", "\r\n"), 1, "the line ends in CRLF; expected LF alone"),
    "line ends CR": (text_of(RIGHT).replace("\n", "\r"), 1, "the line ends in CR; expected LF alone"),
    "line ends lacking": (text_of(RIGHT)[:-1], 9, "the last line has no line end"),
    "encoding BOM": ("\ufeff" + text_of(RIGHT), 1, "a byte order mark (BOM) stands before the header"),
    "encoding UTF-16": (text_of(RIGHT).encode("utf-16"), 1, "the file is UTF-16"),
    "encoding of a byte": (
        text_of(RIGHT).encode() + b"vid\xe9o/00001.jpg,0,0\n",
        10,
        "byte 4 of the line is not UTF-8",
    ),
    "columns": (text_of(replaced(2, f"{ROWS[0]},0.5")), 2, "expected 3 columns, got 2 columns"),
    "columns too many": (text_of(replaced(2, f"{ROWS[0]},0.5,0,1")), 2, "expected 3 columns, got 4 columns"),
    "columns of an empty line": (text_of([*RIGHT, ""]), 10, "expected 3 columns, got an empty line"),
    "number": (text_of(replaced(3, f"{ROWS[1]},happy,0")), 3, "valence is 'happy', not a number"),
    "number lacking": (text_of(replaced(3, f"{ROWS[1]},0,")), 3, "arousal is '', not a number"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fault_is_named_with_its_line(case: str, sample: Path, tmp_path: Path) -> None:
    content, line, text = CASES[case]
    path = tmp_path / "submission.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    report = check_submission(path, read_sample(sample))
    kind = next(kind for kind in ("line ends", case.split()[0]) if case.startswith(kind))
    assert not report.right
    assert any((fault.kind, fault.line) == (kind, line) and text in fault.text for fault in report.faults), report


def test_a_fault_of_the_text_hides_no_other(sample: Path, tmp_path: Path) -> None:
    path = tmp_path / "submission.txt"
    path.write_bytes(("\ufeff" + text_of(replaced(4, f"{ROWS[2]},nan,2")).replace("\n", "\r\n")).encode())
    report = check_submission(path, read_sample(sample))
    assert report.counts == {"encoding": 1, "line ends": 9, "NaN": 1, "range": 1}
    for change in ("\r", "\r\n"):  # lines are still recognised
        path.write_bytes(text_of(RIGHT).replace("\n", change).encode())
        assert set(check_submission(path, read_sample(sample)).counts) == {"line ends"}


def test_many_faults_are_counted_and_some_spelled_out(tmp_path: Path) -> None:
    sample, path = tmp_path / "sample.txt", tmp_path / "submission.txt"
    rows = [f"video/{k:05d}.jpg" for k in range(1, 41)]
    sample.write_text(text_of([HEADER, *(f"{row},0,0" for row in rows)]))
    path.write_text(text_of([HEADER, *(f"{row},nan,0" for row in rows[::2])]))
    report = check_submission(path, read_sample(sample))
    assert report.counts == {"NaN": 20, "missing": 20}
    assert [sum(fault.kind == kind for fault in report.faults) for kind in report.counts] == [EXAMPLES, EXAMPLES]


def test_what_is_written_is_right_and_in_the_order_of_the_sample(sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    values = {"1-30-640x360": np.linspace(-1, 1, 8).reshape(4, 2), "video5_left": np.arange(18).reshape(9, 2) / 18}
    write_submission(out, read_sample(sample), values)
    report = check_submission(out, read_sample(sample))
    assert (report.right, report.num_rows, report.faults) == (True, 8, [])
    lines = out.read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ROWS
    assert lines[-1] == f"{ROWS[-1]},{16 / 18:.5f},{17 / 18:.5f}"  # frame 9 is row 8


def test_a_sample_with_windows_line_ends_is_read(sample: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_bytes(b"\xef\xbb\xbf" + sample.read_bytes().replace(b"\n", b"\r\n"))
    assert read_sample(other).last_frames() == {"1-30-640x360": 4, "video5_left": 9}


def test_blank_lines_at_the_end_of_a_sample_do_not_count(sample: Path, tmp_path: Path) -> None:
    rows = read_sample(sample).num_rows
    sample.write_text(f"{sample.read_text()}\n  \n\n")
    assert read_sample(sample).num_rows == rows
    path = tmp_path / "submission.txt"
    path.write_text(text_of(RIGHT))
    assert run("submission", "check", path, "--sample", sample).exit_code == 0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a,b,c"], r"sample.txt:1: expected the header image_location,valence,arousal, got 'a,b,c'"),
        ([HEADER], r"sample.txt:2: expected a row NAME/00001.jpg,… as none before, got ''"),
        ([HEADER, f"{ROWS[0]},0,0", "00002.jpg,0,0"], r"sample.txt:3: expected a row .* got '00002.jpg,0,0'"),
        ([HEADER, "video/1.jpg,0,0"], r"sample.txt:2: .*got 'video/1.jpg,0,0'"),
        ([HEADER, "video/00000.jpg,0,0"], r"sample.txt:2: .*Take the sample file of the challenge as it came"),
        ([HEADER, f"{ROWS[0]},0,0", "", f"{ROWS[1]},0,0"], r"sample.txt:3: expected a row .* got ''"),
        ([HEADER, "", ""], r"sample.txt:2: expected a row .* got ''"),
        (
            [HEADER, f"{ROWS[0]},0,0", f"{ROWS[1]},0,0", "video5/00001.png,0,0"],
            r"sample.txt:4: expected a name that ends in .jpg, as that of line 2, got '00001.png'. Take the sample",
        ),
        ([HEADER, *RIGHT[1:3], RIGHT[1]], r"sample.txt:4: .*got '1-30-640x360/00001.jpg again'"),
    ],
)
def test_a_file_that_is_no_sample_is_refused(lines: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "sample.txt").write_text(text_of(lines))
    with pytest.raises(InputError, match=message):
        read_sample(tmp_path / "sample.txt")


def test_a_binary_sample_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sample.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="bytes that are not UTF-8"):
        read_sample(tmp_path / "sample.txt")


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_line_says_what_is_wrong_and_fails(sample: Path, tmp_path: Path) -> None:
    path = tmp_path / "submission.txt"
    path.write_text(text_of(RIGHT))
    right = run("submission", "check", path, "--sample", sample)
    assert (right.exit_code, right.stdout) == (0, f"{path}: right, 8 rows\n")
    path.write_text(text_of([*replaced(4, f"{ROWS[2]},nan,2")[:-2], RIGHT[-1]]))
    wrong = run("submission", "check", path, "--sample", sample)
    assert wrong.exit_code == 1
    assert wrong.stdout.splitlines() == [
        f"{path}: 3 faults, 7 rows, 8 in the sample",
        "NaN: 1",
        "  line 4: valence is nan",
        "range: 1",
        "  line 4: arousal is 2, outside [-1, 1]",
        "missing: 1",
        "  video5_left/00003.jpg is missing (line 8 of the sample)",
    ]
    assert '"right": false' in run("submission", "check", path, "--sample", sample, "--json").stdout
