"""Folders of crops: 00001.jpg shows frame 1, aligned to the template; a frame without the face has no file."""

import threading
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from sage_va.data import InputError
from sage_va.data.crops import CropTemplate
from sage_va.data.labels import label_names
from sage_va.data.manifest import Source, crop_numbers
from sage_va.extract.faces.crop_folder import add_crops, folder_name, write_crop_folder, write_crop_folders
from sage_va.extract.faces.finder import FaceFinder
from sage_va.tests.media import write_media
from sage_va.tests.squares import Squares, drawn

SHOWN = [*range(5), *range(9, 20)]  # frames, from 0


@pytest.fixture
def finder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaceFinder:
    monkeypatch.setenv("SAGE_VA_CACHE", str(tmp_path / "home"))
    return FaceFinder(Squares)


@pytest.fixture
def one(tmp_path: Path) -> Source:
    """A face that is away for four frames."""
    path = write_media(tmp_path / "one.mp4", drawn(lambda k: [(40, 30, 40)] if k in SHOWN else [], 20))
    return Source("one.mp4", path=path)


@pytest.fixture
def two(tmp_path: Path) -> Source:
    path = write_media(tmp_path / "two.mp4", drawn(lambda _: [(20, 30, 32), (100, 40, 24)], 40))
    return Source("two.mp4", path=path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_dir())


def test_numbers_are_those_of_the_frames_and_faces_lie_on_the_template(
    one: Source, finder: FaceFinder, tmp_path: Path
) -> None:
    report = write_crop_folder(one, tmp_path / "crops/one", finder)
    images = crop_numbers(tmp_path / "crops/one")
    assert list(images) == [k + 1 for k in SHOWN]
    assert images[1].name == "00001.jpg"
    assert (report.num_images, report.num_images_with_face) == (20, 16)
    crop = cv2.imread(str(images[1]))
    assert crop.shape == (112, 112, 3)
    assert crop[8:-8, 8:-8].min() > 230  # the square, whose landmarks are those of the template, fills the crop
    assert sorted(path.name for path in (tmp_path / "crops").iterdir()) == ["one"]


def test_a_margin_shows_what_surrounds_the_face(one: Source, finder: FaceFinder, tmp_path: Path) -> None:
    write_crop_folder(one, tmp_path / "wide", finder, CropTemplate(size=64, margin=0.5))
    crop = cv2.imread(str(tmp_path / "wide/00001.jpg"))
    assert crop.shape == (64, 64, 3)
    assert (crop[..., 1] > 200).mean() == pytest.approx(0.25, abs=0.03)


def test_people_have_folders_of_their_own_names(one: Source, two: Source, finder: FaceFinder, tmp_path: Path) -> None:
    sides = write_crop_folders([two], tmp_path / "sides", finder, person="left")
    write_crop_folders([two], tmp_path / "sides", finder, person="right")
    assert names(tmp_path / "sides") == ["two_left", "two_right"]
    assert sides.written["two_left"].num_people == 2
    write_crop_folders([two], tmp_path / "everyone", finder, person="all")
    assert names(tmp_path / "everyone") == ["two_0", "two_1"]
    ticks: list[tuple[int, int]] = []
    both = write_crop_folders(
        [one, two], tmp_path / "both", finder, num_threads=2, tick=lambda *counts: ticks.append(counts)
    )
    assert (names(tmp_path / "both"), both.failures, ticks) == (["one", "two"], [], [(1, 2), (2, 2)])
    again = write_crop_folders([one, two], tmp_path / "both", finder)
    assert (again.written, sorted(again.skipped)) == ({}, ["one", "two"])


def test_folders_are_named_as_labels_are() -> None:
    names = {"a/v.mp4": "a/v", "v.mp4#left": "v_left", "v1.5": "v1.5", "1-30-640x360": "1-30-640x360", "v.MOV#0": "v_0"}
    assert {clip_id: folder_name(clip_id) for clip_id in names} == names
    for clip_id, name in names.items():
        assert name in label_names(clip_id)


def test_a_clip_that_fails_stops_no_other_and_leaves_nothing(one: Source, finder: FaceFinder, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    empty = write_media(tmp_path / "empty.mp4", drawn(lambda _: [], 5))
    sources = [
        Source("bad.mp4", path=tmp_path / "bad.mp4"),
        Source("cut.mp4", path=one.path, start_s=0.1),
        Source("empty.mp4", path=empty),
        Source("gone.mp4", path=tmp_path / "gone.mp4"),
        one,
        Source("one.avi", path=one.path),
    ]
    result = write_crop_folders(sources, tmp_path / "crops", finder)
    reasons = {row["clip_id"]: row["reason"] for row in result.failures}
    assert list(reasons) == ["bad.mp4", "cut.mp4", "empty.mp4", "gone.mp4", "one.avi"]
    assert "crops are numbered by the frames of a whole recording. Leave start_s and end_s out" in reasons["cut.mp4"]
    assert "expected a face, got none in 5 frames" in reasons["empty.mp4"]
    assert "expected a recording, got none at" in reasons["gone.mp4"]
    assert "its folder one would be that of one.mp4" in reasons["one.avi"]
    assert names(tmp_path / "crops") == ["one"]


def test_a_full_disk_leaves_no_part_of_a_folder(
    one: Source, finder: FaceFinder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def write(path: Path, content: bytes) -> None:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(path)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(OSError, match="No space"):
        write_crop_folder(one, tmp_path / "crops/one", finder)
    assert list((tmp_path / "crops").iterdir()) == []


def test_clips_get_crops_where_they_have_none(one: Source, two: Source, finder: FaceFinder, tmp_path: Path) -> None:
    own = Source("own", crops=tmp_path, fps=25.0)
    lost = Source("lost.mp4", path=tmp_path / "lost.mp4")
    empty = Source("empty.mp4", path=write_media(tmp_path / "empty.mp4", drawn(lambda _: [], 5)))
    ticks: list[tuple[int, int]] = []
    cropped = add_crops(
        [own, one, lost, two, empty], tmp_path / "new", finder, tick=lambda *counts: ticks.append(counts)
    )
    clips = cropped.clips
    assert [clip.clip_id for clip in clips] == ["empty.mp4", "one.mp4", "own", "two.mp4"]
    assert (clips[2], list(cropped.failures), cropped.without_face) == (own, ["lost.mp4"], ["empty.mp4"])
    assert [len(crop_numbers(clip.crops)) for clip in clips[:2]] == [0, 16]
    assert ticks == [(1, 4), (2, 4), (3, 4), (4, 4)]
    people = add_crops([two], tmp_path / "everyone", finder, person="all").clips
    assert [(clip.clip_id, clip.person) for clip in people] == [("two.mp4#0", None), ("two.mp4#1", None)]


def test_someone_who_is_not_there_is_named(one: Source, finder: FaceFinder, tmp_path: Path) -> None:
    person = Source("one.mp4#right", path=one.path, person="right")
    with pytest.raises(InputError, match=r"one.mp4#right: expected the person 'right', got none in 20 frames"):
        write_crop_folder(person, tmp_path / "x", finder)


def test_ctrl_c_begins_no_other_clip_and_leaves_none_half_done(one: Source, finder: FaceFinder, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    clips = [replace(one, clip_id=f"{k}.mp4") for k in range(30)]
    with pytest.raises(KeyboardInterrupt):
        write_crop_folders(clips, tmp_path / "crops", finder, num_threads=2, tick=interrupt)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("sage-va-faces")]
    written = list((tmp_path / "crops").iterdir())
    assert 1 <= len(written) < 10
    assert all(len(crop_numbers(folder)) == len(SHOWN) for folder in written)
