"""RECOLA and SEWA: ARFF and `;`-CSV, the split in the names, several annotators become one; every fault is named."""

from pathlib import Path

import numpy as np
import pytest

from sage_va.data import InputError
from sage_va.data.corpora.avec import Recola, Sewa
from sage_va.data.corpora.prepare import prepare
from sage_va.data.labels import read_label_file
from sage_va.data.manifest import find_sources
from sage_va.tests.corpora import write, write_recola, write_sewa


def test_recola_in_arff(tmp_path: Path) -> None:
    root = write_recola(tmp_path / "corpus")
    report = prepare(Recola(), root, tmp_path / "out")
    assert {clip.clip_id: clip.part for clip in report.clips} == {"train_1": "train", "dev_1": "val", "test_1": "test"}
    assert (report.num_problems, report.agreement) == (0, {})
    labels = read_label_file(tmp_path / "out/labels/Validation_Set/dev_1.csv")
    assert np.allclose(labels.times_s, np.arange(100) * 0.04)
    assert np.allclose(labels.va, labels.times_s[:, None] / 8, atol=1e-4)
    sources = find_sources([str(tmp_path / "out/manifest.csv")])
    assert {source.subject_id for source in sources} == {"train_1", "dev_1", "test_1"}
    assert all(source.path.suffix == ".mp4" for source in sources)


def test_the_sound_of_silent_videos_is_a_manifest_of_its_own(tmp_path: Path) -> None:
    root = write_recola(tmp_path / "corpus")
    write(root / "more/dev_1.wav")
    (root / "recordings_audio/test_1.wav").unlink()
    report = prepare(Recola(), root, tmp_path / "out", header_of=lambda path: (100, False))
    (source,) = find_sources([str(tmp_path / "out/audio.csv")])
    assert (source.clip_id, source.path.name, source.subject_id) == ("train_1", "train_1.wav", "train_1")
    assert report.num_audio == 1
    notes = {clip.clip_id: clip.notes for clip in report.clips if clip.notes}
    assert notes == {
        "dev_1": {"no sound": "2 audio files of this name, none taken"},
        "test_1": {"no sound": "its video has none"},
    }
    prepare(Recola(), root, tmp_path / "with sound", header_of=lambda path: (100, True))
    assert not (tmp_path / "with sound/audio.csv").exists()


def test_recola_of_six_annotators(tmp_path: Path) -> None:
    root = write_recola(tmp_path / "corpus", individual=True)
    report = prepare(Recola("ewe"), root, tmp_path / "out")
    agreement = report.agreement["arousal"]
    assert (agreement.num_annotators, report.gold) == (6, "ewe")
    assert 0.9 < agreement.ccc < 1
    assert 0.99 < agreement.alpha <= 1
    labels = read_label_file(tmp_path / "out/labels/Train_Set/train_1.csv")
    assert np.allclose(labels.va[:, 0], 0.625 * labels.times_s / 4, atol=1e-3)  # all have correlation 1


def test_the_gold_standard_goes_before_individual_ratings(tmp_path: Path) -> None:
    root = write_recola(write_recola(tmp_path / "corpus"), individual=True)
    report = prepare(Recola(), root, tmp_path / "out")
    assert report.agreement == {}
    labels = read_label_file(tmp_path / "out/labels/Train_Set/train_1.csv")
    assert np.allclose(labels.va, labels.times_s[:, None] / 8, atol=1e-4)


@pytest.mark.parametrize("individual", [False, True])
def test_two_releases_of_one_rating_are_a_problem_of_the_clip(tmp_path: Path, individual: bool) -> None:
    root = write_recola(tmp_path / "corpus", individual=individual)
    (rating,) = root.glob("ratings_*/valence/dev_1.*")
    other = write(root / "z/valence" / rating.name, rating.read_text())
    report = prepare(Recola(), root, tmp_path / "out", write=False)
    problems = {clip.clip_id: clip.problems for clip in report.clips if clip.problems}
    assert problems == {"dev_1": [f"two files of valence: {rating} and {other}. Keep one"]}


def test_recola_without_parts_in_its_names(tmp_path: Path) -> None:
    root = write_recola(tmp_path / "corpus")
    for path in list(root.rglob("train_1.*")):
        path.rename(path.with_stem("P16"))
    for path in list(root.rglob("*_1.*")):
        path.unlink()
    report = prepare(Recola(), root, tmp_path / "out")
    assert [(clip.clip_id, clip.part) for clip in report.clips] == [("P16", None)]
    assert report.notes == ["no official split in these names"]
    assert (tmp_path / "out/labels/P16.csv").exists()
    assert not (tmp_path / "out/split.csv").exists()


GOLD = "ratings_gold_standard/arousal/dev_1.arff"
ARFF_FAULTS = [
    ("@relation x\n@attribute frameTime numeric\n", "dev_1.arff: an ARFF file without @data. Get the file again"),
    ("@data\n1,2\n", "dev_1.arff:2: 2 cells for 0 columns"),
    ("@attribute value numeric\n@data\n1\n", "dev_1.arff:1: expected a column time_s, time_ms, time, timestamp or"),
    ("@attribute 'frameTime' numeric\n@data\n1\n", "dev_1.arff:1: no column of values. Add the column"),
    (
        "@attribute frameTime numeric\n@attribute x numeric\n@data\n0,?\n0.04,0.5\n",
        "dev_1.arff: valence and arousal have different times",
    ),
]


@pytest.mark.parametrize(("text", "message"), ARFF_FAULTS)
def test_a_fault_of_a_clip_is_its_problem_alone(tmp_path: Path, text: str, message: str) -> None:
    root = write_recola(tmp_path / "corpus")
    write(root / GOLD, text)
    report = prepare(Recola(), root, tmp_path / "out", write=False)
    problems = {clip.clip_id: clip.problems for clip in report.clips if clip.problems}
    assert problems.keys() == {"dev_1"}
    assert message in problems["dev_1"][0]


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    root = write_recola(tmp_path / "corpus")
    (root / GOLD).write_bytes("@relation é\n".encode("latin-1"))
    report = prepare(Recola(), root, tmp_path / "out", write=False)
    assert "dev_1.arff: not UTF-8 text (" in next(clip.problems[0] for clip in report.clips if clip.problems)


def test_sewa(tmp_path: Path) -> None:
    root = write_sewa(tmp_path / "corpus")
    report = prepare(Sewa(), root, tmp_path / "out")
    parts = {clip.clip_id: clip.part for clip in report.clips}
    assert parts == {"Train_DE_01": "train", "Devel_HU_03": "val", "Test_CN_01": "test"}
    assert report.num_problems == 0
    labels = read_label_file(tmp_path / "out/labels/Train_Set/Train_DE_01.csv")
    assert np.allclose(labels.va, np.stack([-labels.times_s / 10, labels.times_s / 10], 1))
    languages = {source.clip_id: source.language for source in find_sources([str(tmp_path / "out/manifest.csv")])}
    assert languages == {"Train_DE_01": "DE", "Devel_HU_03": "HU", "Test_CN_01": "CN"}


def test_two_label_files_of_one_clip(tmp_path: Path) -> None:
    root = write_sewa(tmp_path / "corpus")
    write(root / "old/Train_DE_01.csv", "name;time;arousal;valence\n")
    report = prepare(Sewa(), root, tmp_path / "out", write=False)
    problems = {clip.clip_id: clip.problems for clip in report.clips if clip.problems}
    assert problems.keys() == {"Train_DE_01"}
    assert problems["Train_DE_01"][0].startswith("two label files: ")


@pytest.mark.parametrize(
    ("corpus", "message"),
    [(Recola, "no folders arousal and valence of "), (Sewa, "no .csv files with columns arousal;valence")],
)
def test_other_folders_are_refused(tmp_path: Path, corpus, message: str) -> None:
    write(tmp_path / "readme.txt")
    with pytest.raises(InputError, match=message):
        prepare(corpus(), tmp_path, tmp_path / "out")
