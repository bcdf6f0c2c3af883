"""Notes on what clips lost on the way: no loss of more than 2 % is silent."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from sage_va.cli import main
from sage_va.data import open_store
from sage_va.data.clip import Track
from sage_va.data.manifest import Source
from sage_va.extract.engine.clip_notes import note_on_faces, notes_of
from sage_va.tests.media import grey_frames, tone, write_media

WHOLE = Source("a", Path("a.mp4"))


@pytest.mark.parametrize(
    ("visual", "audio", "note"),
    [
        ({"num_frames": 148, "num_frames_promised": 300}, {}, "148 frames were decoded, where the header counts 300"),
        ({}, {"audio_s": 18.0, "audio_dropped_s": 4.4}, "4.40 of 18.00 s of audio overlapped"),
        ({}, {"audio_s": 10.0, "audio_filled_s": 1.0}, "1.00 of 10.00 s of audio were missing, and are masked"),
        ({}, {"audio_track": "2 of 3, the first with sound"}, "audio of track 2 of 3, the first with sound"),
    ],
)
def test_a_loss_is_one_line(visual: dict[str, Any], audio: dict[str, Any], note: str) -> None:
    assert notes_of(WHOLE, 10.0, {"visual": visual, "audio": audio}) == [note]


def test_a_cut_past_the_end_is_one_line() -> None:
    late = Source("a", Path("a.mp4"), end_s=99.0)
    assert notes_of(late, 10.0, {}) == ["end_s 99 lies past the end of the recording at 10.00 s"]


def test_what_is_whole_has_no_note() -> None:
    almost = {
        "visual": {"num_frames": 299, "num_frames_promised": 300},
        "audio": {"audio_s": 9.0, "audio_filled_s": 0.1},
    }
    assert notes_of(WHOLE, 10.0, {}) == notes_of(WHOLE, 10.0, almost) == []
    part = {"visual": {"num_frames": 25, "num_frames_promised": 300}}
    assert notes_of(Source("a", Path("a.mp4"), start_s=1.0, end_s=2.0), 2.0, part) == []
    assert notes_of(Source("a", Path("a.mp4"), end_s=10.2), 10.0, {}) == []


def test_few_faces_are_noted_and_none_is_another_line() -> None:
    def track(num_valid: int) -> Track:
        return Track.of(np.zeros((100, 2), np.float16), np.arange(100) / 25, np.arange(100) < num_valid)

    report = {"faces": {"num_people": 6}}
    assert note_on_faces(track(9), report) == [
        "face in 9 % of frames (6 people seen); see --person, and `sage-va faces`"
    ]
    assert note_on_faces(track(0), report) == note_on_faces(track(60), report) == []


def test_extract_prints_the_notes(tmp_path: Path) -> None:
    write_media(tmp_path / "a.mkv", grey_frames(100), audio=tone(1.0))
    (tmp_path / "clips.csv").write_text("clip_id,path,start_s,end_s\na,a.mkv,0,50\n", encoding="utf-8")
    words = ["extract", str(tmp_path / "clips.csv"), "--out", str(tmp_path / "c.zarr"), "--audio", "logmel"]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "note: a: end_s 50 lies past the end of the recording at 4.00 s" in done.output


def test_findings_are_printed_once_and_recorded(tmp_path: Path) -> None:
    write_media(tmp_path / "a.mkv", grey_frames(100), audio=tone(1.0))
    words = ["extract", str(tmp_path / "a.mkv"), "--out", str(tmp_path / "c.zarr"), "--audio", "logmel"]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    line = "its frames last from 0.00 to 4.00 s, its audio from 0.00 to 1.00 s"
    assert done.output.count(f"note: a.mkv: {line}") == 1
    store = open_store(tmp_path / "c.zarr")
    assert store.record("a.mkv", store.streams("a.mkv")[0])["report"]["findings"] == [line]


def test_a_finding_of_both_streams_is_one_line() -> None:
    report = {"findings": ["gaps"]}
    assert notes_of(WHOLE, 10.0, {"visual": report, "audio": report}) == ["gaps"]
