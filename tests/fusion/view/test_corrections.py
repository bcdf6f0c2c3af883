"""Corrected labels: new values in a range, in a folder of their own, read as any labels; the originals stay."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_va.data import Clip, FrameClock, InputError
from sage_va.data.labels import LabelFolder, Truth
from sage_va.fusion.view.corrections import (
    Corrections,
    Edit,
    check_within,
    corrected,
    empty_truth,
    gap_of,
    read_edits,
)

CLIP = Clip("a/talk.mp4", clock=FrameClock.regular(10, 6))


def edit(target: int, *points: tuple[float, float | None]) -> Edit:
    return Edit.of({"target": target, "points": [list(point) for point in points]})


def truth_of(*rows: tuple[float, float, float]) -> Truth:
    times_s, valence, arousal = np.array(rows, np.float64).T
    va = np.stack([valence, arousal], axis=1).astype(np.float32)
    return Truth(times_s, va, np.asarray((np.abs(va) <= 1).all(axis=1)))


def test_values_run_along_a_line_in_the_range_alone() -> None:
    before = truth_of((0.0, 0.5, 0.1), (1.0, 0.5, 0.2), (2.0, 0.5, 0.3), (3.0, 0.5, 0.4))
    after = corrected(before, [edit(0, (1.0, 0.0), (2.0, 1.0))], 1.0)
    assert after.times_s.tolist() == before.times_s.tolist()
    assert after.va[:, 0].tolist() == [0.5, 0.0, 1.0, 0.5]
    assert after.va[:, 1].tolist() == before.va[:, 1].tolist()


def test_a_range_without_labels_gets_some() -> None:
    before = truth_of((0.0, 0.5, 0.5), (0.5, 0.5, 0.5), (3.0, 0.5, 0.5))
    after = corrected(before, [edit(0, (0.5, 0.0), (3.0, 0.0)), edit(1, (0.5, 1.0), (3.0, 1.0))], gap_of(before, 25.0))
    assert (np.diff(after.times_s) > 0).all()
    assert np.diff(after.times_s).max() <= 2.5
    assert after.mask.all()
    only_valence = corrected(empty_truth(), [edit(0, (0.0, 0.0), (1.0, 0.0))], 0.25)
    assert len(only_valence.times_s) == 5
    assert not only_valence.mask.any()


def test_labels_at_the_ends_of_a_range_belong_to_it_although_the_page_rounds_times() -> None:
    before = truth_of((0.5 / 15, 0.0, 0.0), (1.5 / 15, 0.0, 0.0), (2.5 / 15, 0.0, 0.0), (3.5 / 15, 0.0, 0.0))
    for rounded_s in (-5e-5, 5e-5):
        ends = [time_s + rounded_s for time_s in before.times_s[1:3]]
        after = corrected(before, [edit(0, (ends[0], 1.0), (ends[1], 1.0))], 1 / 15)
        assert after.va[:, 0].tolist() == [0, 1, 1, 0]


def test_a_range_is_marked_as_not_annotated() -> None:
    after = corrected(truth_of((0.0, 0.1, 0.1), (1.0, 0.2, 0.2)), [edit(0, (0.9, None), (1.1, None))], 1.0)
    assert after.mask.tolist() == [True, False]
    assert np.isnan(after.va[1, 0])


@pytest.mark.parametrize(
    "value",
    [
        None, [], {}, {"edits": []}, {"edits": {}}, {"edits": [1]}, {"edits": [{"target": 0}]},
        {"edits": [{"target": 2, "points": [[0, 0]]}]}, {"edits": [{"target": 0, "points": []}]},
        {"edits": [{"target": True, "points": [[0, 0]]}]}, {"edits": [{"target": 0, "points": [[0, 2]]}]},
        {"edits": [{"target": 0, "points": [[1, 0], [0, 0]]}]}, {"edits": [{"target": 0, "points": [["x", 0]]}]},
        {"edits": [{"target": 0, "points": [[0, None], [1, 0]]}]}, {"edits": [{"target": 0, "points": [[1e999, 0]]}]},
        {"edits": [{"target": 0, "points": [[0, float("nan")]]}] * 3000},
        {"edits": [{"target": 0, "points": [[10**400, 0]]}]}, {"edits": [{"target": 0, "points": [[0]]}]},
    ],
)  # fmt: skip
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"^correction: it"):
        read_edits(value)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Labels of three clips, two as Aff-Wild2 has them."""
    folder = tmp_path / "labels"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "talk.txt").write_text("valence,arousal\n" + "0.123456789,0.5\n-5,-5\n0.2,0.4\n")
    (folder / "b.txt").write_text("valence,arousal\n0,0\n")
    (folder / "c.csv").write_text("time_s,valence,arousal\n0,0,0\n0.1,1,1\n")
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_corrections_lie_beside_the_originals_and_are_read_as_labels(labels: Path) -> None:
    before = bytes_of(labels)
    corrections = Corrections(LabelFolder(labels), [CLIP.clip_id, "c.mp4"])
    assert corrections.read(CLIP) is None
    truth = LabelFolder(labels).join([CLIP.clip_id]).truths([CLIP])[CLIP.clip_id]
    place = corrections.write(CLIP.clip_id, corrected(truth, [edit(1, (0.2, 0.9), (0.2, 0.9))], 0.1))
    assert place == labels.parent / "labels-corrected" / "a" / "talk.csv"
    assert bytes_of(labels) == before
    again = corrections.read(CLIP)
    assert again is not None
    assert again.va[:, 0].tobytes() == truth.va[:, 0].tobytes()  # unchanged values keep their bits
    assert again.va[2, 1] == np.float32(0.9)
    assert again.mask.tolist() == [True, False, True]
    assert corrections.read(Clip("c.mp4")) is None  # a copy is no correction


def test_the_folder_of_corrections_is_complete(labels: Path) -> None:
    corrections = Corrections(LabelFolder(labels), [CLIP.clip_id, "b.mp4", "c.mp4"])
    corrections.write(CLIP.clip_id, truth_of((0.0, 0.5, 0.5)))
    assert sorted(bytes_of(corrections.folder)) == ["a/talk.csv", "b.txt", "c.csv"]
    corrections.write("b.mp4", truth_of((0.0, 0.25, 0.5)))
    corrections.write("c.mp4", truth_of((0.0, 0.75, 0.5)))
    corrections.write("new.mp4", truth_of((0.0, 1.0, 0.5)))
    assert sorted(bytes_of(corrections.folder)) == ["a/talk.csv", "b.csv", "c.csv", "new.mp4.csv"]
    clips = [CLIP, Clip("b.mp4"), Clip("c.mp4"), Clip("new.mp4")]
    joined = LabelFolder(corrections.folder).join([clip.clip_id for clip in clips])
    assert [truth.va[0, 0] for truth in joined.truths(clips).values()] == [0.5, 0.25, 0.75, 1.0]


def test_a_file_that_was_corrected_by_hand_is_kept_as_the_labels_so_far(labels: Path) -> None:
    corrections = Corrections(LabelFolder(labels), [CLIP.clip_id])
    by_hand = corrections.folder / "a" / "talk.txt"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_text("valence,arousal\n0.75,0.5\n-5,-5\n0.2,0.4\n")
    truth = corrections.read(CLIP)
    assert truth is not None
    assert truth.va[0, 0] == 0.75
    corrections.write(CLIP.clip_id, corrected(truth, [edit(1, (0.2, 0.9))], 0.1))
    again = corrections.read(CLIP)
    assert again is not None
    assert again.va[[0, 2]].tolist() == np.float32([[0.75, 0.5], [0.2, 0.9]]).tolist()
    assert sorted(bytes_of(corrections.folder)) == ["a/talk.csv", "b.txt", "c.csv"]


def test_a_clip_keeps_a_label(labels: Path) -> None:
    corrections = Corrections(LabelFolder(labels), [CLIP.clip_id])
    with pytest.raises(InputError, match=r"these corrections leave no label of both valence and arousal\. Give both"):
        corrections.write(CLIP.clip_id, truth_of((0.0, np.nan, 0.0)))
    assert not corrections.folder.exists()


def test_a_folder_that_cannot_be_written_is_named(labels: Path) -> None:
    corrections = Corrections(LabelFolder(labels), [CLIP.clip_id])
    corrections.folder.write_text("no folder")
    with pytest.raises(InputError, match=r"labels-corrected: it cannot be written \(File exists\)\. Make room"):
        corrections.write(CLIP.clip_id, truth_of((0.0, 0.5, 0.5)))


def test_two_viewers_of_one_clip_take_turns(labels: Path) -> None:
    original = LabelFolder(labels).join([CLIP.clip_id]).truths([CLIP])[CLIP.clip_id]

    def correct(target: int) -> None:
        corrections = Corrections(LabelFolder(labels), [CLIP.clip_id])
        with corrections.held():
            truth = corrections.read(CLIP) or original
            time.sleep(0.1)
            corrections.write(CLIP.clip_id, corrected(truth, [edit(target, (0.0, 0.75))], 0.1))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(correct, (0, 1)))
    truth = Corrections(LabelFolder(labels), [CLIP.clip_id]).read(CLIP)
    assert truth is not None
    assert truth.va[0].tolist() == [0.75, 0.75]


def test_a_link_to_the_originals_is_refused(labels: Path) -> None:
    os.symlink(labels, labels.parent / "labels-corrected")
    with pytest.raises(InputError, match="it leads to the original labels, which are never written"):
        Corrections(LabelFolder(labels), [CLIP.clip_id])


def test_a_link_inside_leads_nowhere(labels: Path) -> None:
    before = bytes_of(labels)
    (labels.parent / "labels-corrected").mkdir()
    os.symlink(labels / "a", labels.parent / "labels-corrected" / "a")
    corrections = Corrections(LabelFolder(labels), [CLIP.clip_id])
    with pytest.raises(InputError, match="it lies outside of"):
        corrections.write(CLIP.clip_id, truth_of((0.0, 0.5, 0.5)))
    assert bytes_of(labels) == before


def test_nothing_is_labelled_beyond_the_clip() -> None:
    check_within([edit(0, (0.0, 0.5), (4.0, 0.5))], 0.0, 4.0)
    for first_s, last_s in ((-1.0, 1.0), (1.0, 4000.0)):
        with pytest.raises(InputError, match=r"its times are not those of the clip, 0\.00 to 4\.00 s"):
            check_within([edit(0, (first_s, 0.5), (last_s, 0.5))], 0.0, 4.0)
