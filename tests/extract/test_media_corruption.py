"""Corrupted copies of recordings: what they change, what stays to the bit, and what is refused."""

from pathlib import Path

import av
import numpy as np
import pytest

from sage_va.data import InputError
from sage_va.extract.media_corruption import MEDIA_CORRUPTIONS, corrupt_recording, read_sound
from sage_va.tests.media import RATE, noisy_frames, tone, write_media

AUDIO = [name for name, kind in MEDIA_CORRUPTIONS.items() if kind.modality == "audio"]
VISUAL = [name for name, kind in MEDIA_CORRUPTIONS.items() if kind.modality == "visual"]
TICKS = [0, 512, 1200, 1536, 2560, 3072]  # not regular


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("media")
    frames = noisy_frames(len(TICKS)) // 2 + 60
    return [
        write_media(folder / f"{k}.mp4", frames, ticks=TICKS, audio=tone(0.5, 200 + 150 * k, seed=k)) for k in range(3)
    ]


def frames_of(path: Path) -> tuple[list[float], np.ndarray]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [float(frame.time) for frame in frames], np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def corrupted(recordings: list[Path], folder: Path, kind: str, name: str = "copy.mov", seed: int = 0) -> Path:
    corrupt_recording(recordings[0], folder / name, kind, others=recordings[1:], seed=seed)
    return folder / name


@pytest.mark.parametrize("kind", MEDIA_CORRUPTIONS)
def test_the_other_modality_and_all_times_stay_and_the_copy_repeats_itself(
    recordings: list[Path], tmp_path: Path, kind: str
) -> None:
    copy = corrupted(recordings, tmp_path, kind)
    (times_s, pixels), (sound, start_s) = frames_of(copy), read_sound(copy, RATE)
    (clean_s, clean_pixels), (clean_sound, clean_start_s) = frames_of(recordings[0]), read_sound(recordings[0], RATE)
    assert times_s == clean_s
    assert (len(sound), start_s) == (len(clean_sound), clean_start_s)
    assert np.array_equal(pixels, clean_pixels) == (kind in AUDIO)
    assert np.array_equal(sound, clean_sound) == (kind in VISUAL)
    again = corrupted(recordings, tmp_path, kind, "again.mov")
    assert np.array_equal(read_sound(again, RATE)[0], sound)
    assert np.array_equal(frames_of(again)[1], pixels)


def test_babble_is_five_decibels_above_the_sound(recordings: list[Path], tmp_path: Path) -> None:
    clean = read_sound(recordings[0], RATE)[0]
    harm = read_sound(corrupted(recordings, tmp_path, "babble"), RATE)[0] - clean
    assert 20 * np.log10(harm.std() / clean.std()) == pytest.approx(5, abs=1)
    other = read_sound(corrupted(recordings, tmp_path, "babble", "other.mov", seed=1), RATE)[0] - clean
    assert not np.allclose(other, harm)


def test_dark_is_dark_and_blur_is_smooth_and_an_occluder_hides_the_middle(
    recordings: list[Path], tmp_path: Path
) -> None:
    clean = frames_of(recordings[0])[1].astype(float)
    dark, blur, hidden = (
        frames_of(corrupted(recordings, tmp_path, kind, f"{kind}.mov"))[1].astype(float)
        for kind in ("dark", "blur", "occluder")
    )
    assert dark.mean() < 0.2 * clean.mean()
    edges, soft = (np.percentile(np.abs(np.diff(pixels, axis=2)), 99) for pixels in (clean, blur))
    assert soft < 0.6 * edges
    middle = np.s_[:, 22:26, 30:34]
    assert hidden[middle].std((0, 1, 2)).mean() < 0.3 * clean[middle].std((0, 1, 2)).mean()


def test_what_cannot_be_corrupted_is_refused_and_leaves_no_file(recordings: list[Path], tmp_path: Path) -> None:
    silent = write_media(tmp_path / "silent.mp4", noisy_frames(3))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing of the kind")
    for source, kind, line in (
        (recordings[0], "fog", r"media kind: expected one of babble, .*, got 'fog'"),
        (silent, "babble", r"silent\.mp4: expected a recording with audio, got none\. Leave it out"),
        (broken, "blur", r"broken\.mp4: expected a recording"),
        (recordings[0], "babble", r"0\.mp4: no other recording has sound"),
    ):
        with pytest.raises(InputError, match=line):
            corrupt_recording(source, tmp_path / "copy.mov", kind, others=[silent] if source is not silent else [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.mp4", "silent.mp4"]
