"""A watched folder: recordings are found once they are complete, and a ledger knows which are done."""

import os
from pathlib import Path

import pytest

from sage_va.data import InputError
from sage_va.data.watched_folder import MAX_ATTEMPTS, FileVersion, Recording, WatchedFolder, WatchLedger


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watched(tmp_path: Path, clock: Clock) -> WatchedFolder:
    (tmp_path / "in").mkdir()
    return WatchedFolder(tmp_path / "in", settle_s=5.0, clock=clock)


def look(watched: WatchedFolder, clock: Clock, at_s: float, *done: str) -> list[str]:
    clock.now_s = at_s
    return [each.source.clip_id for each in watched.complete(lambda clip_id, _: clip_id in done)]


def put(path: Path, content: bytes = b"x", mtime_s: float = 1e9) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (mtime_s, mtime_s))
    return path


def test_a_recording_is_complete_when_it_has_stayed_the_same(watched: WatchedFolder, clock: Clock) -> None:
    file = put(watched.folder / "a.mp4")
    assert look(watched, clock, 0) == look(watched, clock, 4) == []
    put(file, b"more", 1e9 + 1)  # it grows
    assert look(watched, clock, 6) == look(watched, clock, 10) == []
    assert look(watched, clock, 11) == ["a.mp4"]
    assert look(watched, clock, 12, "a.mp4") == []


def test_the_oldest_is_first_and_what_is_no_recording_is_passed_over(watched: WatchedFolder, clock: Clock) -> None:
    put(watched.folder / "new.mp4", mtime_s=3e8)
    put(watched.folder / "sub" / "old.wav", mtime_s=1e8)
    put(watched.folder / "empty.mp4", b"")
    for name in (".a.mp4.Xy12", ".b.mp4", "c.mp4.part", "d.mp4.crdownload", "e.txt", "00001.jpg"):
        put(watched.folder / name)
    look(watched, clock, 0)
    assert look(watched, clock, 5) == ["sub/old.wav", "new.mp4"]


def test_a_rename_makes_a_recording(watched: WatchedFolder, clock: Clock) -> None:
    part = put(watched.folder / "a.mp4.part")
    assert look(watched, clock, 0) == look(watched, clock, 100) == []
    part.rename(watched.folder / "a.mp4")
    assert look(watched, clock, 101) == []
    assert look(watched, clock, 106) == ["a.mp4"]
    (watched.folder / "a.mp4").unlink()
    assert look(watched, clock, 107) == []


def test_a_folder_that_is_away_holds_nothing(watched: WatchedFolder, clock: Clock) -> None:
    watched.folder.rmdir()
    assert look(watched, clock, 0) == []


@pytest.fixture
def recording(watched: WatchedFolder, clock: Clock) -> Recording:
    put(watched.folder / "a.mp4")
    look(watched, clock, 0)
    clock.now_s = 5
    (only,) = watched.complete(lambda *_: False)
    return only


def test_a_ledger_remembers_versions(recording: Recording, tmp_path: Path) -> None:
    ledger = WatchLedger(tmp_path / "out" / "watch.jsonl", {"model": "m"})
    assert not ledger.is_done("a.mp4", recording.version)
    ledger.begin(recording)
    ledger.end(recording)
    again = WatchLedger(ledger.path, {"model": "m"})
    assert again.is_done("a.mp4", recording.version)
    assert again.num_done == 1
    assert not recording.changed
    put(tmp_path / "in" / "a.mp4", b"longer")
    assert recording.changed
    assert not again.is_done("a.mp4", FileVersion.of(tmp_path / "in" / "a.mp4"))


def test_a_failure_is_remembered_and_not_done(recording: Recording, tmp_path: Path) -> None:
    WatchLedger(tmp_path / "watch.jsonl", {}).end(recording, reason="no audio")
    again = WatchLedger(tmp_path / "watch.jsonl", {})
    assert again.is_done("a.mp4", recording.version)
    assert again.num_done == 0


def test_attempts_without_an_end_are_counted_but_for_those_that_were_released(
    recording: Recording, tmp_path: Path
) -> None:
    for _ in range(MAX_ATTEMPTS):
        WatchLedger(tmp_path / "watch.jsonl", {}).begin(recording)
    ledger = WatchLedger(tmp_path / "watch.jsonl", {})
    assert ledger.num_attempts(recording) == MAX_ATTEMPTS
    ledger.release(recording)
    assert WatchLedger(tmp_path / "watch.jsonl", {}).num_attempts(recording) == MAX_ATTEMPTS - 1


def test_a_torn_line_is_no_line(recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "watch.jsonl"
    WatchLedger(path, {}).end(recording)
    path.write_bytes(path.read_bytes()[:-20])
    assert not WatchLedger(path, {}).is_done("a.mp4", recording.version)


def test_a_ledger_of_another_model_is_refused(tmp_path: Path) -> None:
    WatchLedger(tmp_path / "watch.jsonl", {"model": "m"})
    with pytest.raises(InputError, match=r"watch\.jsonl: it was written with other models or options\. Choose another"):
        WatchLedger(tmp_path / "watch.jsonl", {"model": "n"})
