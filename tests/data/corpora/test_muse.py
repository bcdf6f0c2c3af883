"""MuSe: milliseconds become seconds, `devel` validates, a test clip needs no labels; every fault is named."""

from pathlib import Path

import numpy as np
import pytest

from sage_va.data import Grid, InputError, to_grid
from sage_va.data.corpora.muse import MuSe
from sage_va.data.corpora.prepare import Preparation, prepare
from sage_va.data.labels import read_label_file
from sage_va.tests.corpora import write, write_muse


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_muse(tmp_path / "corpus")


def report_of(root: Path) -> Preparation:
    return prepare(MuSe(), root, root / "out", write=False)


def test_parts_media_and_labels(root: Path) -> None:
    report = prepare(MuSe(), root, root / "out")
    assert {clip.clip_id: clip.part for clip in report.clips} == {"1": "train", "2": "train", "10": "val", "11": "test"}
    assert (report.num_problems, report.num_sources) == (0, 4)
    labels = read_label_file(root / "out/labels/Validation_Set/10.csv")
    assert labels.times_s.tolist() == [0, 0.25, 0.5, 0.75, 1, 1.25, 4, 4.25, 4.5, 4.75]
    assert np.allclose(labels.va[:, 0], labels.times_s / 10)
    assert np.allclose(labels.va[:, 1], -labels.times_s / 10)
    assert "raw/video/10.mp4" in (root / "out/manifest.csv").read_text()


def test_timestamps_are_milliseconds_also_without_segments(root: Path) -> None:
    for target in ("valence", "arousal"):
        write(root / f"label_segments/{target}/1.csv", "timestamp,value\n0,0.1\n500,0.2\n")
    prepare(MuSe(), root, root / "out")
    assert read_label_file(root / "out/labels/Train_Set/1.csv").times_s.tolist() == [0, 0.5]


def test_nothing_is_invented_between_segments(root: Path) -> None:
    prepare(MuSe(), root, root / "out")
    labels = read_label_file(root / "out/labels/Train_Set/1.csv")
    _, known = to_grid(labels.times_s, labels.va, labels.mask, Grid(4, 0, 20))
    assert np.flatnonzero(~known).tolist() == list(range(6, 16))


HEAD = "timestamp,value,segment_id\n"
FAULTS = [
    ("label_segments/valence/1.csv", None, "1.csv: no valence. Both targets are needed"),
    ("label_segments/valence/1.csv", f"{HEAD}0,0.1,1\n", "1.csv: valence and arousal have different times. Bring"),
    ("label_segments/valence/1.csv", f"{HEAD}0,0.1,1\n0,0.1,1\n", "1.csv:3: no later time in column timestamp. Sort"),
    ("label_segments/valence/1.csv", f"{HEAD}x,0.1,1\n", "1.csv:2: expected a number in column timestamp, got 'x'"),
    ("label_segments/valence/1.csv", f"{HEAD},0.1,1\n", "1.csv:2: no time in column timestamp. Sort the rows"),
    ("label_segments/valence/1.csv", f"{HEAD}0,0.1\n", "1.csv:2: 2 cells for 3 columns. Correct the row"),
    ("raw/video/1.mp4", "another", "two recordings: "),
]


@pytest.mark.parametrize(("place", "text", "message"), FAULTS)
def test_a_fault_of_a_clip_is_its_problem_alone(root: Path, place: str, text: str | None, message: str) -> None:
    if text == "another":
        write(root / "more/video/1.mp4")
    elif text is None:
        (root / place).unlink()
    else:
        write(root / place, text)
    report = report_of(root)
    problems = {clip.clip_id: clip.problems for clip in report.clips if clip.problems}
    assert problems.keys() == {"1"}
    assert message in problems["1"][0]


def test_clips_without_media_keep_their_labels(root: Path) -> None:
    """A release of features alone: labels and split are written, and there is no manifest."""
    for path in [*root.rglob("*.mp4"), *root.rglob("*.wav")]:
        path.unlink()
    report = prepare(MuSe(), root, root / "out")
    assert [clip.problems for clip in report.clips] == [["no recording. Unpack it below the folder"]] * 4
    assert sorted(path.name for path in (root / "out").iterdir()) == [
        "labels",
        "prepared.json",
        "split.csv",
        "test.txt",
    ]


def test_values_of_another_range_are_not_silently_lost(root: Path) -> None:
    for target in ("valence", "arousal"):
        write(root / f"label_segments/{target}/1.csv", f"{HEAD}0,1.5,1\n250,0.5,1\n")
        write(root / f"label_segments/{target}/2.csv", f"{HEAD}0,15,1\n250,5,1\n")
    clips = {clip.clip_id: clip for clip in report_of(root).clips}
    assert clips["1"].notes == {"label rows outside [-1, 1], not counted": "1 of 2"}
    assert "no instant with valence and arousal in [-1, 1]. Rescale them" in clips["2"].problems[0]


def test_a_clip_that_the_partition_lacks(root: Path) -> None:
    write(root / "metadata/partition.csv", "Id,Proposal\n1,train\n10,devel\n")
    problems = {clip.clip_id: clip.problems for clip in report_of(root).clips if clip.problems}
    assert problems == {"2": ["not in partition.csv"]}


WHOLE = [
    (
        lambda root: (root / "metadata/partition.csv").unlink(),
        r"expected one partition\.csv, got 0\. Give the folder of",
    ),
    (lambda root: write(root / "b/partition.csv"), r"expected one partition\.csv, got 2"),
    (
        lambda root: write(root / "metadata/partition.csv", "id,part\n"),
        r"partition\.csv:1: expected columns Id, Proposal",
    ),
    (
        lambda root: write(root / "metadata/partition.csv", "Id,Proposal\n1,dev\n"),
        r"partition\.csv:2: expected train, devel or test, got 'dev'\. Correct the row",
    ),
    (
        lambda root: [path.unlink() for path in (root / "label_segments/valence").iterdir()],
        r"no folder valence of \.csv files with timestamp,value\. Unpack the labels",
    ),
    (
        lambda root: write(root / "old/valence/1.csv", HEAD),
        r"two releases of the labels: .*label_segments/valence and .*old/valence\. Give a folder",
    ),
]


@pytest.mark.parametrize(("break_it", "message"), WHOLE)
def test_other_folders_are_refused(root: Path, break_it, message: str) -> None:
    break_it(root)
    with pytest.raises(InputError, match=message):
        report_of(root)
