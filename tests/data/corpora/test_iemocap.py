"""IEMOCAP: a rating holds throughout its turn, on a scale from -1 to 1; a session stays in one part."""

from pathlib import Path

import numpy as np
import pytest

from sage_va.data import Clip, InputError
from sage_va.data.corpora.iemocap import Iemocap
from sage_va.data.corpora.prepare import prepare
from sage_va.data.labels import LabelFolder, read_label_file
from sage_va.data.manifest import find_sources
from sage_va.data.windows.splits import group_clips
from sage_va.tests.corpora import write, write_iemocap


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_iemocap(tmp_path / "corpus")


def test_speakers_turns_and_scale(root: Path, tmp_path: Path) -> None:
    report = prepare(Iemocap(), root, tmp_path / "out")
    assert report.num_problems == 0
    labels = read_label_file(tmp_path / "out/labels/Ses01F_impro01_F.csv")
    first, second = labels.times_s < 4, labels.times_s > 4
    assert np.allclose(labels.times_s[first], 1.05 + np.arange(20) / 10)  # the turn from 1 to 3 s
    assert np.allclose(labels.va[first], [0.75, -0.5])  # 4.5 and 2 of 1 to 5
    assert np.allclose(labels.times_s[second], 5.05 + np.arange(10) / 10)
    assert np.allclose(labels.va[second], 0)
    assert read_label_file(tmp_path / "out/labels/Ses01F_impro01_M.csv").times_s[0] == pytest.approx(2.55)


def test_clips_meet_their_labels_and_speakers(root: Path, tmp_path: Path) -> None:
    prepare(Iemocap(), root, tmp_path / "out")
    sources = find_sources([str(tmp_path / "out/manifest.csv")])
    assert [(source.clip_id, source.subject_id, source.gender) for source in sources[:2]] == [
        ("Ses01F_impro01#F", "Ses01F", "female"),
        ("Ses01F_impro01#M", "Ses01M", "male"),
    ]
    joined = LabelFolder(tmp_path / "out/labels").join([source.clip_id for source in sources])
    assert (joined.unlabelled, joined.unused) == ([], [])
    groups = group_clips([Clip(source.clip_id, source.subject_id) for source in sources])
    assert list(groups.values()) == ["Ses01F", "Ses01F", "Ses02F", "Ses02F"]


def test_faults(root: Path, tmp_path: Path) -> None:
    session = root / "IEMOCAP_full_release/Session2/dialog"
    write(session / "EmoEvaluation/Ses02F_impro01.txt", "[1.0 - 2.0]\tSes02F_impro01_F000\tneu\t[3.0, 3.0, 3.0]\n")
    (session / "avi/DivX/Ses02F_impro01.avi").unlink()
    (session / "wav/Ses02F_impro01.wav").unlink()
    clips = {clip.clip_id: clip for clip in prepare(Iemocap(), root, tmp_path / "out", write=False).clips}
    lacking = "no recording. Unpack it below the folder"
    assert clips["Ses02F_impro01#F"].problems == [lacking]
    assert clips["Ses02F_impro01#M"].problems[0] == lacking
    assert "Ses02F_impro01.txt: no rated turn of speaker M. Get the file" in clips["Ses02F_impro01#M"].problems[1]
    assert clips["Ses01F_impro01#F"].problems == []


@pytest.mark.parametrize(
    ("span", "message", "clips"),
    [
        ("[6..2 - 8.2]", "txt:6: expected a number, got '6..2'. Correct the row", {"Ses02F_impro01#F"}),
        ("[6,2 - 8.2]", "txt:6: no rated turn: '[6,2 - 8.2]", {"Ses02F_impro01#F", "Ses02F_impro01#M"}),
    ],
)
def test_a_turn_that_cannot_be_read(root: Path, tmp_path: Path, span: str, message: str, clips: set[str]) -> None:
    path = root / "IEMOCAP_full_release/Session2/dialog/EmoEvaluation/Ses02F_impro01.txt"
    lines = path.read_text().splitlines()
    write(path, "\n".join([*lines[:5], f"{span}\tSes02F_impro01_F002\tneu\t[3.0, 3.0, 3.0]", *lines[5:]]))
    report = prepare(Iemocap(), root, tmp_path / "out", write=False)
    problems = {clip.clip_id: clip.problems for clip in report.clips if clip.problems}
    assert problems.keys() == clips
    assert all(message in one for (one,) in problems.values())


def test_other_folders_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "readme.txt")
    with pytest.raises(InputError, match=r"no folder dialog/EmoEvaluation of \.txt files\. Give the folder that holds"):
        prepare(Iemocap(), tmp_path, tmp_path / "out")
