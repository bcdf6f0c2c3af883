"""Own recordings: ELAN, audformat, ARFF, CSV and frame rows become one shape; every fault is named."""

from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from sage_va.data import InputError
from sage_va.data.corpora import folder
from sage_va.data.corpora.folder import Folder
from sage_va.data.corpora.prepare import PreparedClip, prepare
from sage_va.data.labels import Labels, read_label_file
from sage_va.tests.corpora import eaf, write

BOTH = "time_s,valence,arousal\n0,0,0\n"
EAF = eaf(
    {"valence": [(0, 1000, "0.5"), (1000, 2000, "-0,5")], "Arousal": [(500, 2000, "0.2")], "Notes": [(0, 9, "x")]}
)


def labels_of(folder: Path, name: str, suffix: str = ".csv") -> Labels:
    prepare(Folder(), folder, folder / "out")
    return read_label_file(folder / f"out/labels/{name}{suffix}")


def one(folder: Path) -> PreparedClip:
    (clip,) = prepare(Folder(), folder, folder / "out", write=False).clips
    return clip


def test_elan(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    write(tmp_path / "a.eaf", EAF)
    labels = labels_of(tmp_path, "a")
    assert np.allclose(labels.times_s, 0.05 + np.arange(20) / 10)
    assert labels.mask.tolist() == [False] * 5 + [True] * 15
    assert np.allclose(labels.va[5:10], [0.5, 0.2])
    assert np.allclose(labels.va[10:], [-0.5, 0.2])


def with_media(document: str, *attributes: str) -> str:
    media = "".join(f'<MEDIA_DESCRIPTOR MEDIA_URL="a.mp4" MIME_TYPE="video/mp4" {text}/>' for text in attributes)
    return document.replace("<TIME_ORDER>", f'<HEADER TIME_UNITS="milliseconds">{media}</HEADER><TIME_ORDER>')


@pytest.mark.parametrize("attributes", [['TIME_ORIGIN="1500"'], ['TIME_ORIGIN="1500"'] * 2])
def test_annotations_of_elan_begin_at_the_origin_of_the_recording(tmp_path: Path, attributes: list[str]) -> None:
    write(tmp_path / "a.mp4")
    write(tmp_path / "a.eaf", with_media(EAF, *attributes))
    assert np.allclose(labels_of(tmp_path, "a").times_s, 1.55 + np.arange(20) / 10)


def test_elan_without_an_origin_begins_with_the_recording(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    write(tmp_path / "a.eaf", with_media(EAF, "", 'TIME_ORIGIN="0"'))
    assert np.allclose(labels_of(tmp_path, "a").times_s, 0.05 + np.arange(20) / 10)


def test_elan_of_two_annotators(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    tiers = {"valence@A": [(0, 1000, "0.6")], "valence@B": [(0, 500, "0.2")], "arousal": [(0, 1000, "0")]}
    write(tmp_path / "a.eaf", eaf(tiers))
    assert labels_of(tmp_path, "a").va[:, 0].tolist() == pytest.approx([0.4] * 5 + [0.6] * 5)


ELAN_FAULTS = [
    ("<x", "a.eaf: no ELAN file: unclosed token"),
    (eaf({"joy": [(0, 1, "1")]}), "a.eaf: expected tiers valence and arousal, got joy. Name them so, or valence@ANNO"),
    (eaf({"valence": [(0, 9, "high")]}), "a.eaf tier valence: expected a number, got 'high'. Correct the annotation"),
    (
        eaf({"valence": [(0, 9, "1")]}).replace('TIME_VALUE="9"', ""),
        "tier valence: annotation '1' has no time. Align it",
    ),
    (eaf({"valence": [(9, 9, "1")]}), "a.eaf: a rating from 0.009 s to 0.009 s. Correct its times"),
    (eaf({"valence": [(0, 2000, "1"), (1000, 3000, "0")]}), "a.eaf: two ratings overlap: one ends at 2 s, the next"),
    (
        with_media(EAF, 'TIME_ORIGIN="40"', ""),
        "a.eaf: two recordings with different TIME_ORIGIN, 0 and 40 ms. Keep the one that was annotated",
    ),
    (with_media(EAF, 'TIME_ORIGIN="soon"'), "a.eaf: expected a TIME_ORIGIN in milliseconds, got 'soon'. Correct it"),
    (eaf({"valence": [(0, 9, "1")]}), "a.eaf: no arousal. Both targets are needed"),
    (eaf({"valence": [], "arousal": []}), "a.eaf: no instant with valence and arousal in [-1, 1]"),
]


@pytest.mark.parametrize(("text", "message"), ELAN_FAULTS)
def test_faults_of_elan_files(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "a.mp4")
    write(tmp_path / "a.eaf", text)
    assert message in one(tmp_path).problems[0]


def test_audformat(tmp_path: Path) -> None:
    for name in ("audio/a.wav", "audio/b.wav"):
        write(tmp_path / name)
    rows = ["audio/a.wav,0 days 00:00:01,0 days 00:00:01.5,0.1,0.2", "audio/a.wav,00:00:02,00:00:02.04,0.3,0.4"]
    write(
        tmp_path / "db.train.csv", "\n".join(["file,start,end,valence,arousal", *rows, "audio/b.wav,0,1.5,-0.5,0", ""])
    )
    labels = labels_of(tmp_path, "audio/a")
    assert np.allclose(labels.times_s, [1.05, 1.15, 1.25, 1.35, 1.45, 2.02])
    assert np.allclose(labels.va[-1], [0.3, 0.4])
    assert len(read_label_file(tmp_path / "out/labels/audio/b.csv").va) == 15


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.wav,0,,0.1,0.2", r"t\.csv:2: expected a time, got ''\. Give start and end of each segment"),
        ("a.wav,0,NaT,0.1,0.2", r"t\.csv:2: expected a time, got 'NaT'"),
        (",0,1,0.1,0.2", r"t\.csv:2: expected a file, got ''\. Name the recording of each segment"),
        ("./,0,1,0.1,0.2", r"t\.csv:2: expected a file, got '\./'"),
        ("a.wav,0,1,x,0.2", r"t\.csv:2: expected a number in column valence, got 'x'"),
        ("a.wav,0,1,0,0\na.wav,0.5,2,0,0", r"t\.csv, a\.wav: two ratings overlap"),
    ],
)
def test_faults_of_audformat_tables(tmp_path: Path, row: str, message: str) -> None:
    write(tmp_path / "a.wav")
    write(tmp_path / "t.csv", f"file,start,end,valence,arousal\n{row}\n")
    with pytest.raises(InputError, match=message):
        one(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "time_s,valence,arousal\n0.1,0.2,0.3\n0.2,,0.4\n"),
        ("a.csv", "time_ms;arousal;valence;other\n100;0.3;0.2;x\n200;0.4;;x\n"),
        (
            "a.arff",
            "@attribute time real\n@attribute valence real\n@attribute arousal real\n@data\n0.1,0.2,0.3\n0.2,?,0.4\n",
        ),
    ],
)
def test_tables_of_both_targets(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path / "a.mp4")
    write(tmp_path / "labels" / name, text)
    labels = labels_of(tmp_path, "a")
    assert labels.times_s.tolist() == [0.1, 0.2]
    assert labels.mask.tolist() == [True, False]
    assert np.allclose(labels.va[0], [0.2, 0.3])


def test_a_folder_for_each_target_and_a_column_for_each_annotator(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    write(tmp_path / "valence/a.csv", "time_s,A,B\n0,0.1,0.3\n1,0.2,0.2\n2,0.4,0.6\n")
    write(tmp_path / "arousal/a.csv", "time_s,A\n0,0\n1,0\n2,0\n")
    report = prepare(Folder("mean"), tmp_path, tmp_path / "out")
    assert list(report.agreement) == ["valence"]
    assert np.allclose(read_label_file(tmp_path / "out/labels/a.csv").va[:, 0], [0.2, 0.2, 0.5])


def test_rows_of_frames_stay_rows_of_frames(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    write(tmp_path / "a.txt", "valence,arousal\n0.1,0.2\n-5,-5\n")
    write(tmp_path / "notes.txt", "no annotation\n")
    assert labels_of(tmp_path, "a", ".txt").times_s is None


@pytest.mark.parametrize("name", ["dump.txt", "dump.csv"])
def test_a_file_of_one_endless_line_is_no_annotation(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.mp4")
    write(tmp_path / "a.csv", BOTH)
    write(tmp_path / name, "x" * 131_073)
    assert (one(tmp_path).clip_id, one(tmp_path).problems) == ("a", [])


@pytest.mark.parametrize(
    ("text", "line"), [(f"time_s,valence,arousal,{'x' * 131_073}\n", 1), (f"{'0' * 131_073}\n", 2)]
)
def test_an_endless_cell_is_a_problem_of_the_clip(tmp_path: Path, text: str, line: int) -> None:
    write(tmp_path / "a.mp4")
    for target in ("valence", "arousal"):
        write(tmp_path / target / "a.csv", text if line == 1 else f"time_s,A\n{text}")
    (problem,) = one(tmp_path).problems
    assert problem.endswith(f"a.csv:{line}: no row of CSV: field larger than field limit (131072). Correct the row")


def test_clips_and_recordings_that_do_not_meet(tmp_path: Path) -> None:
    write(tmp_path / "silent.mp4")
    write(tmp_path / "x/a.mp4")
    write(tmp_path / "a.csv", "time_s,valence,arousal\n0,0,0\n")
    write(tmp_path / "b.csv", "time_s,valence,arousal\n0,0,0\n")
    write(tmp_path / "c.csv", "time_s,valence\n0,0\n")
    report = prepare(Folder(), tmp_path, tmp_path / "out")
    problems = {clip.clip_id: clip.problems for clip in report.clips}
    assert problems["x/a"] == []
    assert problems["b"] == ["no recording. Unpack it below the folder"]
    assert "c.csv:1: expected a column arousal, got time_s, valence. Add it" in problems["c"][1]
    assert report.notes == ["1 recordings without annotation, left out: silent"]


SEVERAL = [
    (["a.csv", "a.eaf"], "two annotations: {0}/a.csv and {0}/a.eaf. Keep one"),
    (["a.csv", "old/a.csv"], "two annotations: {0}/a.csv and {0}/old/a.csv. Keep one"),
    (["old/a.csv", "older/a.csv"], "two annotations: {0}/old/a.csv and {0}/older/a.csv. Keep one"),
    (
        ["r1/valence/a.csv", "r2/valence/a.csv", "r1/arousal/a.csv"],
        "two files of valence: {0}/r1/valence/a.csv and {0}/r2/valence/a.csv. Keep one",
    ),
    (["a.csv", "a.avi"], "two recordings: {0}/a.avi and {0}/a.mp4. Keep one"),
]


@pytest.mark.parametrize(("names", "message"), SEVERAL)
def test_several_files_of_one_clip_are_its_problem_alone(tmp_path: Path, names: list[str], message: str) -> None:
    for name in ("a.mp4", "b.mp4"):
        write(tmp_path / name)
    for name in (*names, "b.csv"):
        write(tmp_path / name, {".csv": BOTH, ".eaf": EAF, ".avi": ""}[Path(name).suffix])
    clips = {clip.clip_id: clip for clip in prepare(Folder(), tmp_path, tmp_path / "out", write=False).clips}
    assert clips["a"].problems == [message.format(tmp_path)]
    assert clips["b"].problems == []
    assert clips.keys() == {"a", "b"}


def test_a_recording_twice_in_an_audformat_table_is_its_problem_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    write(tmp_path / "t.csv", "file,start,end,valence,arousal\na.wav,0,1,0,0\na.mp4,0,1,0,0\n")
    assert one(tmp_path).problems == ["two annotations: {0}, a.wav and {0}, a.mp4. Keep one".format(tmp_path / "t.csv")]


def test_the_sound_beside_a_video_is_no_second_recording(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.wav"):
        write(tmp_path / name)
    write(tmp_path / "a.csv", BOTH)
    assert one(tmp_path).problems == []


def test_a_folder_without_annotations_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    with pytest.raises(
        InputError, match=r"expected annotations \(\.eaf, \.csv, \.arff, \.txt\), got none\. Give the folder"
    ):
        one(tmp_path)


def test_annotations_find_their_recordings_without_comparing_all_with_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num, names = 60, list[object]()
    for k in range(num):
        write(tmp_path / f"media/{k}/talk{k}.mp4", "")
        write(tmp_path / f"ratings/talk{k}.csv", "time_s,valence,arousal\n0,0.5,0.5\n1,0,0\n")
    monkeypatch.setattr(folder, "PurePosixPath", lambda name: names.append(name) or PurePosixPath(name))
    report = prepare(Folder(), tmp_path, tmp_path / "out", write=False)
    assert sorted(clip.clip_id for clip in report.clips) == sorted(f"media/{k}/talk{k}" for k in range(num))
    assert len(names) < 10 * num
