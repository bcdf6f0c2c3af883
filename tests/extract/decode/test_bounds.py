"""Bounds of a recording: what asks for more memory than any real one is refused in one line; what is long is not."""

import pytest

from sage_va.data import InputError
from sage_va.data.manifest import Source
from sage_va.extract.decode.bounds import MAX_EMPTY_S, EmptyTime
from sage_va.extract.decode.frames import Letterbox, load_crop
from sage_va.extract.decode.reader import decode
from sage_va.extract.decode.request import DecodeOptions
from sage_va.tests.attacks import write_audio_gaps, write_gap, write_png, write_wav, write_wide
from sage_va.tests.media import RATE, noisy_frames, tone, write_crops, write_media

IMAGES = DecodeOptions(Letterbox((32, 32), (0, 0, 0)))
AUDIO = DecodeOptions(sampling_rate=RATE)
AT_A_RATE = DecodeOptions(Letterbox((32, 32), (0, 0, 0)), fps=25)
CROPS = DecodeOptions(Letterbox((32, 32), (0, 0, 0)), faces="crops")
LARGE = 7000  # 49 million pixels


@pytest.mark.parametrize("rate", [1, 999, 800_000])
def test_a_sampling_rate_that_no_recorder_writes(tmp_path, rate):
    path = write_wav(tmp_path / "a.wav", rate, 5000)
    with pytest.raises(InputError, match=f"a: expected a sampling rate from 1000 to 768000 Hz, got {rate} Hz"):
        list(decode(Source("a", path=path), AUDIO))


@pytest.mark.parametrize("options", [IMAGES, AT_A_RATE, AUDIO])
def test_a_jump_of_a_month(tmp_path, options):
    path = write_gap(tmp_path / "a.mkv", audio=tone(0.5))
    message = r"a: expected at most 4 hours without frames, got a jump of 3e\+06 s to 3e\+06 s, 3e\+06 s in all\. Cut"
    with pytest.raises(InputError, match=message):
        list(decode(Source("a", path=path), options))


def test_many_gaps_of_audio(tmp_path):
    path = write_audio_gaps(tmp_path / "a.mka", num=27, gap_s=599)
    with pytest.raises(InputError, match=r"a: expected at most 4 hours without audio, got a jump of 598\.99 s"):
        for _ in decode(Source("a", path=path), DecodeOptions(sampling_rate=None)):
            pass


def test_frames_a_month_after_the_audio(tmp_path):
    ticks = [12_800 * 3_000_000 + 512 * number for number in range(5)]
    path = write_media(tmp_path / "a.mkv", noisy_frames(5), ticks=ticks, audio=tone(0.5))
    with pytest.raises(InputError, match="a: expected at most 4 hours without frames or audio"):
        list(decode(Source("a", path=path), IMAGES))


def test_slides_of_ten_minutes_each_are_no_attack(tmp_path):
    """As a lecture is recorded: a frame when the slide changes."""
    path = write_media(tmp_path / "a.mkv", noisy_frames(20), ticks=[12_800 * 600 * number for number in range(20)])
    *_, result = decode(Source("a", path=path), DecodeOptions(Letterbox((32, 32), (0, 0, 0)), fps=1))
    assert len(result.times_s) == 19 * 600 + 1


def test_four_hours_at_thirty_frames_are_no_attack():
    empty = EmptyTime("a", "frames")
    for number in range(4 * 3600 * 30):
        empty.add(1 / 30, number / 30)
    empty.add(MAX_EMPTY_S, 8 * 3600.0)


def test_images_of_too_many_pixels(tmp_path):
    path = write_wide(tmp_path / "a.mov", LARGE)
    with pytest.raises(InputError, match=r"a: .* invalid data, or an image of over 40,000,000 pixels, at the start"):
        list(decode(Source("a", path=path), IMAGES))
    with pytest.raises(InputError, match=r"00001\.png: expected images of at most 40,000,000 pixels, got 7000 x 7000"):
        load_crop(write_png(tmp_path / "00001.png", LARGE))


def test_a_header_that_declares_too_many_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr("sage_va.extract.decode.bounds.MAX_PIXELS", 3000)
    path = write_media(tmp_path / "a.mp4", noisy_frames(5))
    with pytest.raises(InputError, match="a: expected images of at most 3,000 pixels, got 64 x 48"):
        list(decode(Source("a", path=path), IMAGES))


def test_crops_of_one_frame_in_a_month(tmp_path):
    crops = write_crops(tmp_path / "a", [1, 2])
    with pytest.raises(InputError, match="a: expected at most 4 hours without crops, got a jump of"):
        list(decode(Source("a", crops=crops, fps=1e-6), CROPS))


def test_a_crop_of_a_frame_far_away(tmp_path):
    crops = write_crops(tmp_path / "a", [1, 2, 999_999_999])
    with pytest.raises(InputError, match="a: expected at most 4 hours without crops, got a jump of"):
        list(decode(Source("a", crops=crops, fps=25), CROPS))
