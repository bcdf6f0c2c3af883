"""Files that a browser plays: a recording itself, else a copy on the same clock, in a folder of bounded size."""

import fcntl
import os
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np
import pytest

from sage_va.data import InputError
from sage_va.data.atomic import locked
from sage_va.extract.playable import ConvertedCopies, convert, origin_s, playable_kind
from sage_va.tests.media import grey_frames, tone, write_media

FRAMES = grey_frames(12)


def write_avi(path: Path, num_frames: int = 12, fps: int = 10) -> Path:
    """Writes MPEG-4 part 2 in AVI, which no browser plays."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in grey_frames(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(container.streams.video[0])]


def levels_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.to_ndarray(format="gray").mean()) for frame in container.decode(video=0)]


def test_what_browsers_play_is_left_alone(tmp_path: Path) -> None:
    assert playable_kind(write_media(tmp_path / "a.mp4", FRAMES, audio=tone(0.5)), "a") == "video/mp4"
    assert playable_kind(write_media(tmp_path / "a.wav", audio=tone(0.5)), "a") == "audio/wav"


def test_what_browsers_do_not_play_is_converted(tmp_path: Path) -> None:
    assert playable_kind(write_avi(tmp_path / "a.avi"), "a") is None
    assert playable_kind(write_media(tmp_path / "a.mkv", FRAMES), "a") is None
    assert playable_kind(write_media(tmp_path / "pcm.mov", FRAMES, audio=tone(0.5)), "a") is None
    late = write_media(tmp_path / "late.mp4", FRAMES, ticks=[12800 * 2 + 512 * k for k in range(12)])
    assert playable_kind(late, "a") is None  # browsers differ in where they begin


def test_a_copy_has_the_same_frames_at_the_same_times(tmp_path: Path) -> None:
    ticks = [12800 * 2 + tick for tick in (0, 512, 1024, 3000, 3512, 4024, 9000, 9100, 9700, 10000, 12000, 12512)]
    path = write_media(tmp_path / "a.mkv", FRAMES, ticks=ticks, audio=tone(0.9), audio_start_s=2.25)
    convert(path, tmp_path / "copy.mp4", "a")
    assert playable_kind(tmp_path / "copy.mp4", "a") == "video/mp4"
    moved = np.array(times_of(tmp_path / "copy.mp4")) + origin_s(path, "a")
    assert moved == pytest.approx(times_of(path), abs=1e-3)
    assert levels_of(tmp_path / "copy.mp4") == pytest.approx(levels_of(path), abs=3)
    with av.open(str(tmp_path / "copy.mp4")) as container:
        block = next(block for block in container.decode(audio=0) if abs(block.to_ndarray()).max() > 0.05)
    assert float(block.time) + origin_s(path, "a") == pytest.approx(2.25, abs=0.05)


def test_odd_sizes_and_single_pixels_are_converted(tmp_path: Path) -> None:
    for side in (1, 33):
        with av.open(str(tmp_path / "a.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = side, side, "bgr0"
            for pixels in grey_frames(2, side, side):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels.copy(), format="rgb24")))
            container.mux(stream.encode(None))
        convert(tmp_path / "a.mkv", tmp_path / "copy.mp4", "a")
        assert len(times_of(tmp_path / "copy.mp4")) == 2


def test_frames_of_an_avi_keep_their_times(tmp_path: Path) -> None:
    convert(write_avi(tmp_path / "a.avi"), tmp_path / "copy.mp4", "a")
    assert times_of(tmp_path / "copy.mp4") == pytest.approx(np.arange(12) / 10, abs=1e-3)


def test_what_does_not_decode_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.avi").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"^clip: expected a recording, got"):
        convert(tmp_path / "a.avi", tmp_path / "copy.mp4", "clip")


def test_copies_are_made_once_and_of_each_version_of_a_file(tmp_path: Path) -> None:
    path, copies = write_avi(tmp_path / "a.avi"), ConvertedCopies(tmp_path / "copies")
    assert copies.known(path) is None
    shares: list[float] = []
    first = copies.make(path, "a", shares.append)
    assert shares[-1] > 0.8
    assert (copies.known(path), copies.make(path, "a", shares.clear)) == (first, first)
    assert shares
    assert first.parent.stat().st_mode & 0o077 == 0
    os.utime(path, (1, 1))
    assert copies.make(path, "a") != first


def test_the_copy_that_was_used_longest_ago_goes(tmp_path: Path) -> None:
    paths = [write_avi(tmp_path / f"{k}.avi", num_frames=5) for k in range(3)]
    copies = ConvertedCopies(tmp_path / "copies")
    made_0, made_1 = (copies.make(path, "a") for path in paths[:2])
    os.utime(made_1, (1, 1))
    bound = made_0.stat().st_size + made_1.stat().st_size
    newest = ConvertedCopies(tmp_path / "copies", bound).make(paths[2], "a")
    assert sorted(copies.folder.iterdir()) == sorted([made_0, newest])
    alone = ConvertedCopies(tmp_path / "copies", 1).make(write_avi(tmp_path / "4.avi"), "a")
    assert list(copies.folder.iterdir()) == [alone]  # the one in use stays


def test_what_a_killed_conversion_left_goes(tmp_path: Path) -> None:
    copies = ConvertedCopies(tmp_path / "copies")
    copies.folder.mkdir()
    for name in ("killed", "at-work"):
        (copies.folder / f".part-{name}.mp4").write_bytes(b"half")
    with locked(copies.folder / ".part-at-work.mp4", fcntl.LOCK_EX):
        copy = copies.make(write_avi(tmp_path / "a.avi", num_frames=5), "a")
    assert sorted(copies.folder.iterdir()) == sorted([copy, copies.folder / ".part-at-work.mp4"])


def test_a_copy_that_another_window_removes_meanwhile_is_no_trouble(tmp_path: Path) -> None:
    copies = ConvertedCopies(tmp_path / "copies")
    copies.folder.mkdir()
    (copies.folder / "gone.mp4").symlink_to(tmp_path / "gone")  # listed, and then not there
    assert copies.make(write_avi(tmp_path / "a.avi", num_frames=5), "a").is_file()


def test_the_clock_of_a_copy_is_fine_enough_for_any_recording(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", FRAMES, ticks=[1001 * k for k in range(12)], time_base=Fraction(1, 24000))
    convert(path, tmp_path / "copy.mp4", "a")
    assert times_of(tmp_path / "copy.mp4") == pytest.approx(times_of(path), abs=1e-4)


def test_a_recording_of_unknown_length_is_given_up_too(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with path.open("wb") as file, av.open(Unseekable(file), "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in FRAMES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert container.duration is None

    def stop(share: float) -> None:
        raise InputError("recordings", "they are closed", todo=f"It was at {share}.")

    with pytest.raises(InputError, match="they are closed"):
        convert(path, tmp_path / "copy.mp4", "a", stop)


class Unseekable:
    """A file that a recorder writes as it goes: nothing is filled in at the end."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write = file.write
