"""Recordings for the page of `sage-va view`: matched by name, inside one folder, converted on demand."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sage_va.data import InputError
from sage_va.extract.shown_recordings import ShownRecordings, show_recordings
from sage_va.tests.media import grey_frames, write_media

FRAMES = grey_frames(5)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A folder with a video, and a video outside of it."""
    write_media(tmp_path / "media" / "a.mp4", FRAMES)
    write_media(tmp_path / "secret.mp4", FRAMES)
    return tmp_path / "media"


def waited(shown: ShownRecordings, clip_id: str) -> dict[str, Any]:
    end_s = time.monotonic() + 300
    while (state := shown.medium(clip_id))["state"] == "working":
        assert time.monotonic() < end_s
        time.sleep(0.02)
    return state


def test_a_recording_is_played_as_it_is(media: Path) -> None:
    shown = show_recordings(media, {"a": None, "b": None}, [])
    assert shown.medium("a") == {"state": "ready", "kind": "video", "origin_s": 0.0, "converted": False}
    assert shown.video("a") == (media / "a.mp4", "video/mp4")
    assert (shown.medium("b"), shown.video("b"), shown.crops("b")) == ({"state": "none"}, None, {"state": "none"})


def test_a_link_out_of_the_folder_is_refused(media: Path, tmp_path: Path) -> None:
    os.symlink(tmp_path / "secret.mp4", media / "b.mp4")
    shown = show_recordings(media, {"a": None, "b": None}, [])
    state = shown.medium("b")
    assert state["state"] == "failed"
    assert "lies outside of" in state["reason"]
    assert shown.video("b") is None
    assert shown.preview("b", 0.0, 0.1) is None


def test_a_link_that_is_made_later_is_refused_too(media: Path, tmp_path: Path) -> None:
    shown = show_recordings(media, {"a": None}, [])
    (media / "a.mp4").unlink()
    os.symlink(tmp_path / "secret.mp4", media / "a.mp4")
    for ask in (shown.video, shown.medium):
        with pytest.raises(InputError, match="lies outside of"):
            ask("a")


@pytest.mark.parametrize("path", ["../secret.mp4", "{root}/secret.mp4", "x/../../secret.mp4"])
def test_a_manifest_leads_nowhere_else(media: Path, tmp_path: Path, path: str) -> None:
    (media / "x").mkdir()
    manifest = media / "manifest.csv"
    manifest.write_text(f"clip_id,path\na,{path.format(root=tmp_path)}\n")
    with pytest.raises(InputError, match=r"it lies outside of .*media"):
        show_recordings(manifest, {"a": None}, [])


def test_a_folder_that_is_a_link_itself_is_fine(media: Path, tmp_path: Path) -> None:
    os.symlink(media, tmp_path / "link")
    assert show_recordings(tmp_path / "link", {"a": None}, []).medium("a")["state"] == "ready"


def test_no_recording_at_all_is_named(media: Path) -> None:
    with pytest.raises(InputError, match=r"^media: expected a recording of x or another clip of the run, got none in"):
        show_recordings(media, {"x": None, "y": "z.mp4"}, [])


def test_a_recording_that_the_browser_gives_up_is_converted(media: Path) -> None:
    shown = show_recordings(media, {"a": None}, [])
    shown.convert("a")
    assert shown.medium("a")["state"] in ("working", "ready")
    state = waited(shown, "a")
    assert (state["state"], state["converted"]) == ("ready", True)
    video = shown.video("a")
    assert video is not None
    assert video[0] != media / "a.mp4"


def test_a_recording_that_does_not_decode_says_why(media: Path) -> None:
    (media / "b.avi").write_bytes(b"RIFF")
    state = waited(show_recordings(media, {"a": None, "b": None}, []), "b")
    assert state["state"] == "failed"
    assert "expected a recording" in state["reason"]


def test_ready_made_crops_are_shown_by_their_numbers(media: Path, tmp_path: Path) -> None:
    (media / "b").mkdir()
    for number in (1, 3):
        Image.new("RGB", (8, 8)).save(media / "b" / f"{number:05d}.jpg")
    os.symlink(tmp_path / "secret.mp4", media / "b" / "00004.jpg")
    shown = show_recordings(media, {"b": None}, [])
    assert shown.crops("b") == {"state": "images", "numbers": [1, 3, 4], "fps": None}
    assert shown.crop("b", 3) == (media / "b" / "00003.jpg", "image/jpeg")
    assert (shown.crop("b", 2), shown.crop("a", 1)) == (None, None)
    with pytest.raises(InputError, match="lies outside of"):
        shown.crop("b", 4)
