"""The sync check: counts, offsets, holes and drift of clips whose faults are known."""

import json
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest
from click.testing import CliRunner

from sage_va.cli import main
from sage_va.commands.sync_check import describe_sync
from sage_va.data import Clip, FrameClock, InputError, open_store
from sage_va.data.sync_check import check_sync
from sage_va.testing import put

FPS = 25


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "a.zarr", "a")


def clock(num_frames, fps=FPS, first=0, hole=None):
    """Frames at first + k ticks of 1 / fps seconds; after frame `hole` a second is missing."""
    pts = first + np.arange(num_frames)
    if hole is not None:
        pts[hole + 1 :] += fps
    return FrameClock(Fraction(1, fps), pts)


STEADY = clock(100)


def add(store, clip_id, frames=STEADY, audio=None, **report):
    duration_s = None if frames is None else float(frames.times_s[-1] - frames.times_s[0]) + 1 / FPS
    clip = Clip(clip_id, duration_s=duration_s, clock=frames)
    put(store, clip_id, clip=clip, report=report)
    if audio:
        put(store, clip_id, "audio", clip=clip, report={"audio_first_s": audio[0], "audio_s": audio[1]} | report)


def write_rows(folder, name, num_rows):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_text("valence,arousal\n" + "0.1,0.2\n" * num_rows)
    return folder


def only(store, *args, **options):
    (clip,) = check_sync(store, *args, **options).clips
    return clip


def test_a_clip_that_lines_up(store):
    add(store, "a.mp4", audio=(0.0, 4.0), num_frames_promised=100, fps_promised=25.0, container_s=4.0)
    clip = only(store)
    assert (clip.problems, clip.notes) == ([], [])
    assert (clip.num_frames, clip.num_frames_promised, clip.num_label_rows) == (100, 100, None)
    assert (clip.fps, clip.container_s) == (pytest.approx(25), 4.0)
    assert (clip.offset_s, clip.frames_s) == (0.0, pytest.approx(4.0))
    assert clip.drift_s == pytest.approx(0.0)
    assert clip.largest_gap_s == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("frames", "audio", "report", "problem"),
    [
        (clock(100), (0.5, 4.0), {}, "audio begins 0.50 s after the first frame"),
        (clock(100, first=25), (0.0, 4.0), {}, "audio begins 1.00 s before the first frame"),
        (clock(100), (0.0, 3.0), {}, "audio is 1.00 s shorter than the frames"),
        (clock(100), (0.0, 4.3), {}, "audio is 0.30 s longer than the frames"),
        (clock(100, hole=49), (0.0, 5.0), {}, "no frame for 1.04 s after 1.96 s"),
        (clock(100), (0.0, 4.0), {"audio_filled_s": 0.75}, "0.75 s of audio missing, now silence"),
        (clock(100), (0.0, 4.0), {"audio_dropped_s": 0.3}, "0.30 s of audio twice, left out"),
        (clock(100), None, {"num_crops_beyond_video": 9}, "9 crops beyond the last frame, left out"),
    ],
)
def test_problems_are_listed_and_a_tolerance_forgives_them(store, frames, audio, report, problem):
    add(store, "a.mp4", frames, audio, **report)
    assert only(store).problems == [problem]
    assert only(store, tolerance_s=1.5).problems == []
    assert check_sync(store).num_flagged == 1
    assert f"  ! {problem}" in describe_sync(check_sync(store).to_json()).splitlines()


def test_a_wrong_rate_in_the_name_or_header_is_a_note(store):
    """In Aff-Wild2 the rate in the file name is wrong for 63 of 150 names: times are the recording's own."""
    add(store, "2-30-640x360.mp4", clock(1000), fps_promised=24.0)
    add(store, "deep/3-25-1920x1080.mp4", clock(1000), fps_promised=25.0)
    wrong, right = check_sync(store).clips
    assert (wrong.problems, right.problems, right.notes) == ([], [], [])
    assert wrong.notes == [
        "30 fps in its name, 25.000 by its timestamps: 6.66 s by its end",
        "24 fps in its header, 25.000 by its timestamps: 1.66 s by its end",
    ]


def test_repaired_timestamps_are_a_note(store):
    add(store, "a.avi", repaired_times={"missing": 0, "repeated": 2, "unordered": 7})
    assert only(store).notes == ["timestamps repaired: 2 repeated, 7 unordered"]


@pytest.mark.parametrize(
    ("num_rows", "problems", "notes"),
    [
        (100, [], []),
        (101, [], ["101 label rows for 100 frames"]),  # 98 of 138 test videos of Aff-Wild2
        (102, [], ["102 label rows for 100 frames"]),
        (97, [], ["97 label rows for 100 frames"]),
        (106, ["106 label rows for 100 frames: 0.24 s too many"], []),
        (60, ["60 label rows for 100 frames: 1.60 s too few"], []),
    ],
)
def test_label_rows_are_counted_against_frames(store, tmp_path, num_rows, problems, notes):
    add(store, "video1.mp4")
    clip = only(store, write_rows(tmp_path / "labels", "video1", num_rows))
    assert (clip.problems, clip.notes) == (problems, notes)
    assert (clip.num_label_rows, clip.label_drift_s) == (num_rows, pytest.approx((num_rows - 100) / 25))


def test_left_and_right_are_two_people_on_one_clock(store, tmp_path):
    """The odd names of Aff-Wild2: one person without a suffix, the other with; `-1` and `_1` are no persons."""
    names = (
        "10-60-1280x720",
        "10-60-1280x720_right",
        "video59",
        "video59_right",
        "video2_left",
        "video5_1",
        "video5-1",
    )
    clips = ("10-60-1280x720.mp4", "10-60-1280x720.mp4#right", "video59.mp4", "video59.mp4#right", "video2.mp4#left")
    for number, clip_id in enumerate((*clips, "video5_1.mp4", "video5-1.mp4", "video2.mp4")):
        add(store, clip_id, clock(100 + number, fps=60 if clip_id.startswith("10") else FPS))
    rows = dict(zip((*clips, "video5_1.mp4", "video5-1.mp4"), range(100, 107), strict=True))
    for name, num_rows in zip(names, rows.values(), strict=True):
        write_rows(tmp_path / "labels", name, num_rows)
    write_rows(tmp_path / "labels", "video77_left", 3)
    report = check_sync(store, tmp_path / "labels")
    assert {clip.clip_id: clip.num_label_rows for clip in report.clips} == {**rows, "video2.mp4": None}
    assert [clip.problems for clip in report.clips if clip.problems] == []
    assert (report.unlabelled, report.num_flagged) == (["video2.mp4"], 0)
    assert [path.rpartition("/")[2] for path in report.unused_labels] == ["video77_left.txt"]
    assert "  - no clip for" in describe_sync(report.to_json())


def test_clips_without_labels_are_listed_and_no_fault(store, tmp_path):
    """A test set has no labels: its clips were "off by more than 0.2 s"."""
    for name, audio in (("a.mp4", None), ("b.mp4", None), ("c.mp4", (1.0, 4.0))):
        add(store, name, audio=audio)
    labels = write_rows(tmp_path / "labels", "a", 100)
    report = check_sync(store, labels)
    assert (report.unlabelled, report.num_flagged) == (["b.mp4", "c.mp4"], 1)
    lines = describe_sync(report.to_json()).splitlines()
    assert lines.count("  - no labels") == 2
    assert lines[-1] == "1 of 3 clips are off by more than 0.2 s; 2 have no labels"
    assert check_sync(store).unlabelled == []  # labels were not asked for


@pytest.mark.parametrize("verb", ["sync-check", "align"])
def test_the_verb_exits_with_1_for_a_clip_that_is_off_alone(store, tmp_path, verb):
    add(store, "a.mp4")
    add(store, "b.mp4")
    labels = write_rows(tmp_path / "labels", "a", 100)
    command = [verb, store.url, "--labels", str(labels)]
    result = CliRunner().invoke(main, command)
    assert (result.exit_code, result.output.splitlines()[-1][:4]) == (0, "0 of")
    add(store, "c.mp4", audio=(1.0, 4.0))
    result = CliRunner().invoke(main, [*command, "--json"])
    assert (result.exit_code, json.loads(result.output)["num_flagged"]) == (1, 1)


def test_the_old_verb_is_hidden():
    text = CliRunner().invoke(main, ["--help"]).output
    assert "sync-check" in text
    assert "align" not in text


def test_each_record_is_read_once(store, monkeypatch):
    add(store, "a.mp4", audio=(0.0, 4.0))
    load, read = type(store)._load_record, []
    monkeypatch.setattr(type(store), "_load_record", lambda self, *place: read.append(place) or load(self, *place))
    check_sync(store)
    assert len(read) == len(set(read)) == 2


@pytest.mark.parametrize(
    ("times", "problems"),
    [
        (np.arange(40) / 10, []),
        (np.arange(60) / 10, ["labels to 5.90 s: 2.00 s too many"]),
        (np.arange(20) / 10, ["labels to 1.90 s: 2.00 s too few"]),
        (np.arange(-10, 40) / 10, ["labels begin 1.00 s before the clip"]),
    ],
)
def test_labels_with_times_are_held_to_the_clip(store, tmp_path, times, problems):
    add(store, "a.mp4")
    (tmp_path / "labels").mkdir()
    rows = "".join(f"{time},0,0\n" for time in times)
    (tmp_path / "labels/a.csv").write_text(f"time_s,valence,arousal\n{rows}")
    assert only(store, tmp_path / "labels").problems == problems


def test_what_is_not_known_is_none_not_zero(store, tmp_path):
    add(store, "a", frames=None)
    clip = only(store, write_rows(tmp_path / "labels", "a", 10))
    known = {key for key, value in asdict(clip).items() if value not in (None, [])}
    assert known == {"clip_id", "num_label_rows", "problems"}
    assert clip.problems == ["labels are by frame, and the frames' times are not known"]
    assert " - " in describe_sync(check_sync(store).to_json())


def test_the_report_is_plain_and_a_table(store):
    add(store, "a.mp4", audio=(0.5, 4.0))
    add(store, "b.mp4", clock(1))
    report = check_sync(store).to_json()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    text = describe_sync(report).splitlines()
    assert text[0].split()[:3] == ["clip", "seconds", "frames"]
    assert text[1].split()[:3] == ["a.mp4", "4.00", "100"]
    assert text[-1] == "1 of 2 clips are off by more than 0.2 s"


def test_malformed_labels_are_refused(store, tmp_path):
    add(store, "a.mp4")
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match="expected a folder of label files, got none"):
        check_sync(store, tmp_path / "labels")
