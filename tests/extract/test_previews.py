"""Previews of recordings: pictures at their times, the outline of the audio, within the bytes that they may take."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from sage_va.data import InputError
from sage_va.data.manifest import Source
from sage_va.extract.previews import NUM_PEAKS, find_recordings, preview_of
from sage_va.tests.media import grey_frames, noisy_frames, tone, write_media


def pixels(jpeg: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of which frame k has the level 8 + 5 k; its audio is silent for one second, then a tone."""
    audio = np.concatenate([np.zeros(16_000, np.float32), tone(1.0)])
    return write_media(tmp_path_factory.mktemp("media") / "a.mov", grey_frames(50), audio=audio)


def test_pictures_are_the_frames_at_their_times(recording: Path) -> None:
    preview = preview_of(Source("a", path=recording), 0.0, 2.0, 100_000)
    strip, (width, height) = pixels(preview.jpeg), preview.size
    assert strip.shape == (height, width * len(preview.times_s), 3)
    assert len(preview.times_s) == 24
    for k, time_s in enumerate(preview.times_s):
        level = strip[:, k * width + 4 : (k + 1) * width - 4].mean()
        assert abs(level - (8 + 5 * round(time_s * 25)) % 256) < 6


def test_pictures_of_a_long_recording_are_sought(tmp_path: Path) -> None:
    path = write_media(tmp_path / "long.mp4", grey_frames(300), fps=2, time_base=Fraction(1, 1000))
    preview = preview_of(Source("a", path=path), 0.0, 150.0, 100_000)
    strip, (width, _) = pixels(preview.jpeg), preview.size
    assert preview.times_s == pytest.approx(np.ceil((np.arange(24) + 0.5) * 6.25 * 2) / 2)
    for k, time_s in enumerate(preview.times_s):
        level = strip[:, k * width + 4 : (k + 1) * width - 4].mean()
        assert abs(level - (8 + 5 * round(time_s * 2)) % 256) < 6


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    stored = np.zeros((64, 96, 3), np.uint8)
    stored[:24] = 250
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode(None))
    preview = preview_of(Source("a", path=tmp_path / "a.mp4"), -1.0, 0.0, 100_000)
    width, height = preview.size
    assert width < height
    first = pixels(preview.jpeg)[:, :width]
    assert first[:, :4].mean() > 200 > 50 > first[:, -4:].mean()


def test_peaks_outline_the_audio(recording: Path) -> None:
    preview = preview_of(Source("a", path=recording), 0.0, 2.0, 100_000)
    assert preview.peaks is not None
    assert preview.peaks.shape == (NUM_PEAKS, 2)
    assert np.abs(preview.peaks[: NUM_PEAKS // 2 - 1]).max() <= 1
    assert preview.peaks[NUM_PEAKS // 2 + 1 :, 1].min() > 60
    assert preview.audio_s == pytest.approx((0.0, 2.0), abs=0.05)


def test_fewer_and_smaller_pictures_keep_to_the_bytes(tmp_path: Path) -> None:
    path = write_media(tmp_path / "noise.mp4", noisy_frames(50, width=256, height=128))
    sizes = [preview_of(Source("a", path=path), 0.0, 2.0, room) for room in (60_000, 8_000, 100)]
    assert [len(preview.jpeg) <= room for preview, room in zip(sizes, (60_000, 8_000, 100), strict=True)] == [True] * 3
    assert len(sizes[0].times_s) > len(sizes[1].times_s) > len(sizes[2].times_s) == 0
    assert sizes[0].peaks is None
    assert sizes[0].size[0] <= 1.8 * sizes[0].size[1] + 1


def test_pictures_come_from_crops_where_there_are_some(recording: Path, tmp_path: Path) -> None:
    for number, level in ((1, 40), (50, 200)):
        cv2.imwrite(str(tmp_path / f"{number:05}.jpg"), np.full((32, 32, 3), level, np.uint8))
    preview = preview_of(Source("a", path=recording, crops=tmp_path, fps=25), 0.0, 2.0, 100_000)
    assert preview.times_s == pytest.approx([0.0, 1.96])
    strip = pixels(preview.jpeg)
    assert (strip[:, :20].mean(), strip[:, -20:].mean()) == pytest.approx((40, 200), abs=3)
    assert preview.peaks is not None


def test_what_cannot_be_shown_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none at"):
        preview_of(Source("a", path=tmp_path / "absent.mp4"), 0.0, 1.0, 1000)
    with pytest.raises(InputError, match="expected a folder of crops, got none"):
        preview_of(Source("a", crops=tmp_path / "absent"), 0.0, 1.0, 1000)


def test_recordings_are_known_by_id_by_path_and_by_name(tmp_path: Path) -> None:
    for name in ("x/one.mp4", "two.mp4", "three.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"0")
    clip_ids = {"x/one.mp4": None, "two.mp4#left": None, "first": "three.wav", "one": None, "four": None}
    matched = {clip_id: source.clip_id for clip_id, source in find_recordings(str(tmp_path), clip_ids).items()}
    assert matched == {"x/one.mp4": "x/one.mp4", "two.mp4#left": "two.mp4", "first": "three.wav", "one": "x/one.mp4"}
