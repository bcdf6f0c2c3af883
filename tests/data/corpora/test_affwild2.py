"""Aff-Wild2: recordings, crops and annotations meet by name, whatever the folders above; every fault is named."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_va.data import Clip, InputError
from sage_va.data.corpora.affwild2 import AffWild2
from sage_va.data.corpora.prepare import PreparedClip, prepare
from sage_va.data.labels import LabelFolder
from sage_va.data.manifest import find_sources
from sage_va.data.windows.splits import group_clips, read_split
from sage_va.tests.corpora import AFFWILD2, write, write_affwild2


def header_of(path: Path) -> tuple[int, bool]:
    """Every recording has ten frames, and sound."""
    return 10, True


def report_of(root: Path, **options: bool) -> dict[str, PreparedClip]:
    report = prepare(AffWild2(), root, root / "out", write=False, header_of=header_of, **options)
    return {clip.clip_id: clip for clip in report.clips}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_affwild2(tmp_path / "corpus")


@pytest.mark.parametrize("above", ["", "archives/unpacked"])
def test_names_meet_recordings_crops_and_sides(tmp_path: Path, above: str) -> None:
    root = write_affwild2(tmp_path / "corpus", above=above)
    report = prepare(AffWild2(), root, tmp_path / "out", header_of=header_of)
    assert report.num_problems == 0
    sources = {source.clip_id: source for source in find_sources([str(tmp_path / "out/manifest.csv")])}
    assert sources.keys() == AFFWILD2.keys()
    for name, (_, recording, _) in AFFWILD2.items():
        assert sources[name].path.resolve() == root / above / recording
        assert sources[name].crops.resolve() == root / above / "cropped_aligned" / name
    sides = {name: source.person for name, source in sources.items() if source.person}
    assert sides == {
        "10-60-1280x720": "left",
        "10-60-1280x720_right": "right",
        "video2": "right",
        "video2_left": "left",
        "video49_left": "left",
        "video5_left": "left",
        "video5_right": "right",
    }


def test_the_official_split_and_the_test_list(root: Path, tmp_path: Path) -> None:
    report = prepare(AffWild2(), root, tmp_path / "out", header_of=header_of)
    parts = {"Train_Set": "train", "Validation_Set": "val", "test": "test"}
    wanted = {name: parts[part] for name, (part, *_) in AFFWILD2.items()}
    assert read_split(tmp_path / "out/split.csv") == wanted
    assert {clip.clip_id: clip.part for clip in report.clips} == wanted
    assert (tmp_path / "out/test.txt").read_text().split() == ["video49_left", "video73_1"]
    joined = LabelFolder(tmp_path / "out/labels").join(list(AFFWILD2))
    assert joined.official_parts == {name: part for name, part in wanted.items() if part != "test"}
    assert joined.unused == []
    groups = group_clips([Clip(name) for name in AFFWILD2])
    assert groups["video5_left"] == groups["video5_right"]
    assert groups["10-60-1280x720"] == groups["10-60-1280x720_right"]
    assert groups["28-30-1280x720-1"] != groups["28-30-1280x720-2"]


def test_labels_stay_what_they_are(root: Path, tmp_path: Path) -> None:
    prepare(AffWild2(), root, tmp_path / "out", header_of=header_of)
    written = tmp_path / "out/labels/Validation_Set/video2_left.txt"
    assert written.read_bytes() == (root / "VA_Estimation_Challenge/Validation_Set/video2_left.txt").read_bytes()


def test_terms_of_use(root: Path) -> None:
    report = prepare(AffWild2(), root, root / "out", write=False)
    assert (report.restricted, report.licence.startswith("Aff-Wild2 EULA")) == (True, True)
    assert "not published" in report.subjects


def test_counts_of_a_clip(root: Path) -> None:
    clip = report_of(root)["1-30-1280x720"]
    assert (clip.num_frames, clip.num_label_rows, clip.num_not_annotated) == (10, 11, 1)
    assert (clip.num_crops, clip.num_without_crop, clip.listed) == (9, 1, True)
    assert clip.notes == {"label rows differ from frames, by one row": "11 rows, 10 frames by the header"}


def write_rows(path: Path, num_rows: int) -> Path:
    return write(path, "valence,arousal\n" + "0.1,0.2\n" * num_rows)


TRAIN = "VA_Estimation_Challenge/Train_Set"


def test_odd_counts_are_notes(root: Path) -> None:
    write_rows(root / TRAIN / "video5_left.txt", 7)
    write(root / TRAIN / "video5_right.txt", "valence,arousal\n" + "0.1,0.2\n" * 9 + "3,0\n")
    write(root / "cropped_aligned/video5_right/00012.jpg")
    clips = report_of(root)
    assert clips["video5_left"].notes == {
        "crops beyond the last label row": "3, up to number 10",
        "label rows differ from frames": "7 rows, 10 frames by the header",
    }
    assert clips["video5_right"].notes == {
        "crops beyond the last frame": "up to number 12, 10 frames by the header",
        "crops beyond the last label row": "1, up to number 12",
        "label rows outside [-1, 1], not counted": "1 of 10",
    }


def remove(root: Path, place: str) -> None:
    shutil.rmtree(root / place) if (root / place).is_dir() else (root / place).unlink()


FAULTS = [
    ("video5_left", lambda root: remove(root, "batch1/video5.avi"), "no recording. Unpack it below the folder", False),
    ("video5_left", lambda root: remove(root, "cropped_aligned/video5_left"), "no crops. Unpack them below", False),
    ("video2", lambda root: write(root / "batch1/video2.avi"), "two recordings: ", False),
    ("video2", lambda root: write(root / "crops/video2/00001.jpg"), None, True),  # those in cropped_aligned are taken
    (
        "video2",
        lambda root: write(root / "b/cropped_aligned/video2/00001.jpg"),
        "two crop folders: ",
        False,
    ),
    (
        "video2",
        lambda root: write(root / "cropped_aligned/video2/00000.jpg"),
        "crops are numbered from 0; crop n",
        True,
    ),
    (
        "video2",
        lambda root: write_rows(root / TRAIN / "video2.txt", 3),
        "in two parts of the official split: Train_Set and Validation_Set; its labels are left out",
        True,
    ),
    (
        "video73_1",
        lambda root: write_rows(root / TRAIN / "video73_1.txt", 3),
        "in two parts of the official split: Train_Set and the test list",
        True,
    ),
    (
        "1-30-1280x720",  # the first file of its folder
        lambda root: write(root / TRAIN / "1-30-1280x720.txt", "0.1,0.2\n"),
        "1-30-1280x720.txt:1: expected columns valence, arousal, got 0.1, 0.2. Add the header line",
        True,
    ),
    (
        "video5_left",
        lambda root: write(root / TRAIN / "video5_left.txt", "valence,arousal\n0,x\n"),
        "video5_left.txt:2: expected numbers, got '0,x'. Correct or remove the row",
        True,
    ),
]


@pytest.mark.parametrize(("name", "break_it", "message", "listed"), FAULTS)
def test_a_fault_of_a_clip_is_its_problem_alone(root: Path, name: str, break_it, message: str, listed: bool) -> None:
    break_it(root)
    clips = report_of(root)
    problems = clips[name].problems
    assert [message in problem for problem in problems] == [True] * (message is not None), problems
    assert clips[name].listed == listed
    shared = {name, "video5_right"} if name == "video5_left" else {name, "video2_left"}
    assert not [clip.problems for clip in clips.values() if clip.clip_id not in shared and clip.problems]
    report = prepare(AffWild2(), root, root / "out", header_of=header_of)  # all others are prepared
    assert report.num_sources == sum(clip.listed for clip in clips.values()) >= len(AFFWILD2) - 2


def test_a_recording_that_cannot_be_opened(root: Path) -> None:
    def broken(path: Path) -> tuple[int, bool]:
        raise InputError(path, "no film", todo="Get it again.")

    report = prepare(AffWild2(), root, root / "out", write=False, header_of=broken)
    assert report.clips[0].problems == ["the recording cannot be opened: no film. Get it again"]
    assert report.num_problems == len(AFFWILD2)


def test_recordings_without_any_crops_are_listed(root: Path) -> None:
    remove(root, "cropped_aligned")
    report = prepare(AffWild2(), root, root / "out", header_of=header_of)
    assert (report.has_crops, report.num_sources, report.num_problems) == (False, len(AFFWILD2), 0)
    assert "crops" not in (root / "out/manifest.csv").read_text().splitlines()[0]


def test_what_no_annotation_names_is_noted(root: Path) -> None:
    for name in ("a", "b", "c", "d"):
        write(root / f"batch1/other{name}.mp4")
    write(root / "cropped_aligned/video999/00001.jpg")
    notes = prepare(AffWild2(), root, root / "out", write=False).notes
    assert notes == [
        "4 recordings that no annotation and no test list names, left out: othera, otherb, otherc …",
        "1 crop folders that no annotation and no test list names, left out: video999",
    ]


def test_the_test_set_comes_from_a_list_or_from_the_sample(root: Path) -> None:
    remove(root, "Valence_Arousal_Estimation_Challenge_test_set_release.txt")
    assert report_of(root)["video73_1"].part == "test"
    remove(root, "CVPR_ABAW_VA_test_set_sample.txt")
    report = prepare(AffWild2(), root, root / "out", write=False)
    assert "no list of the test set: no .txt file names VA and test" in report.notes
    assert {clip.part for clip in report.clips} == {"train", "val"}


LIST, SAMPLE = "Valence_Arousal_Estimation_Challenge_test_set_release.txt", "CVPR_ABAW_VA_test_set_sample.txt"


def test_the_names_of_the_sample_decide(root: Path) -> None:
    write(root / LIST, "video73_1\nvideo999\n")
    assert {name for name, clip in report_of(root).items() if clip.part == "test"} == {"video73_1", "video49_left"}
    write(root / SAMPLE, "image_location,valence,arousal\n")  # a template without rows
    assert {name for name, clip in report_of(root).items() if clip.part == "test"} == {"video73_1", "video999"}


def test_a_text_that_is_no_list_of_clips_is_passed_over_with_a_note(root: Path) -> None:
    remove(root, SAMPLE)
    readme = write(root / "VA_test_set_README.txt", "Contents\n\nThese are the names of the test set.\n")
    report = prepare(AffWild2(), root, root / "out", write=False)
    assert {clip.clip_id for clip in report.clips} == set(AFFWILD2)
    note = (
        f"{readme}:3 is no name of a clip ('These are the names of the test set.'): not taken as list of the test set"
    )
    assert report.notes == [note]


def test_a_sample_with_another_row_is_refused(root: Path) -> None:
    write(root / SAMPLE, "image_location,valence,arousal\nvideo73_1/00001.jpg,0,0\n\nvideo73_1,0,0\n")
    with pytest.raises(InputError, match=r"sample\.txt:4: expected NAME/00001\.jpg,…, got 'video73_1,0,0'\. Get the"):
        report_of(root)


def test_a_list_in_another_encoding_is_refused(root: Path) -> None:
    remove(root, SAMPLE)
    (root / LIST).write_bytes("video73_1\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"test_set_release\.txt: not UTF-8 text \(.*\)\. Save it as UTF-8"):
        report_of(root)


def test_a_part_that_is_missing_is_a_problem(root: Path) -> None:
    remove(root, "VA_Estimation_Challenge/Validation_Set")
    report = prepare(AffWild2(), root, root / "out", write=False)
    assert report.problems == ["no annotations of val"]


def test_other_folders_are_refused(root: Path, tmp_path: Path) -> None:
    write_rows(root / "older/VA_Set/Train_Set/video5_left.txt", 3)
    with pytest.raises(
        InputError, match=r"two releases of the annotations: .*VA_Estimation_Challenge and .*VA_Set\. Give"
    ):
        report_of(root)
    with pytest.raises(
        InputError, match=r"expected folders Train_Set and Validation_Set of \.txt files .*, got none\. Un"
    ):
        report_of(write(tmp_path / "empty/readme.txt").parent)
    with pytest.raises(InputError, match=r"nowhere: there is no such folder\. Give the folder that holds the corpus"):
        report_of(tmp_path / "nowhere")


def test_what_is_written_is_no_part_of_the_corpus(root: Path) -> None:
    prepare(AffWild2(), root, root / "prepared", header_of=header_of)
    assert not prepare(AffWild2(), root, root / "again", header_of=header_of).num_problems


def test_a_folder_with_files_is_never_written_to(root: Path, tmp_path: Path) -> None:
    place = write(tmp_path / "out/mine.txt").parent
    with pytest.raises(InputError, match=r"out: there are files already\. Choose another --out, or remove it"):
        prepare(AffWild2(), root, place)
    assert [path.name for path in place.iterdir()] == ["mine.txt"]


def test_a_folder_appears_whole_or_not_at_all(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sage_va.data.corpora import output as module

    def full_disk(*_: object) -> Iterator[None]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "json_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        prepare(AffWild2(), root, tmp_path / "new/out", header_of=header_of)
    assert list((tmp_path / "new").iterdir()) == []


def test_of_two_writers_the_second_is_refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sage_va.data.corpora import output as module

    place, write_json = tmp_path / "new/out", module.json_file

    def overtaken(value: object) -> bytes:
        monkeypatch.setattr(module, "json_file", write_json)
        prepare(AffWild2(), root, place, header_of=header_of)
        return write_json(value)

    monkeypatch.setattr(module, "json_file", overtaken)
    with pytest.raises(InputError, match=r"out: there are files already\. Choose another --out, or remove it"):
        prepare(AffWild2(), root, place, header_of=header_of)
    assert list((tmp_path / "new").iterdir()) == [place]
    assert len(find_sources([str(place / "manifest.csv")])) == len(AFFWILD2)
    assert (place / "prepared.json").exists()


def test_paths_are_relative_to_the_manifest(root: Path, tmp_path: Path) -> None:
    prepare(AffWild2(), root, tmp_path / "a/out", header_of=header_of)
    with (tmp_path / "a/out/manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["path"] == "../../corpus/batch1/1-30-1280x720.mp4"
