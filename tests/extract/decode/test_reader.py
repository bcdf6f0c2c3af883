"""Decoding: real times, every frame, the sound in its place; and each broken file one clear error."""

import subprocess
import sys
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_va.data import InputError
from sage_va.data.manifest import Source
from sage_va.extract.decode import keyframes as seek
from sage_va.extract.decode.audio import MonoAudio
from sage_va.extract.decode.frames import Frames, Letterbox
from sage_va.extract.decode.reader import decode
from sage_va.extract.decode.recording import RecordingReader
from sage_va.extract.decode.request import DecodeOptions, DecodeResult
from sage_va.extract.decode.timestamps import HELD_FRAMES, TimestampRepair
from sage_va.extract.decode.video import FrameSettler, PacketTimes
from sage_va.tests.media import RATE, grey_frames, noisy_frames, tone, write_audio, write_crops, write_media

SIZE = (32, 32)


def decoded(source, *, pixels=True, audio=True, **options):
    """Pixels, samples and the result of a clip."""
    decode_options = DecodeOptions(Letterbox(SIZE, (0, 0, 0)) if pixels else None, RATE if audio else None, **options)
    if not isinstance(source, Source):
        source = Source(source.name, path=source)
    parts = list(decode(source, decode_options))
    (result,) = [part for part in parts if isinstance(part, DecodeResult)]
    images = [part.pixels for part in parts if isinstance(part, Frames)]
    samples = [part for part in parts if isinstance(part, np.ndarray)]
    none = np.zeros(0, np.float32)
    return np.concatenate(images) if images else none, np.concatenate([none, *samples]), result


def numbers(pixels):
    """The frame of `grey_frames` that each image shows."""
    return np.round((pixels[:, 16, 16, 0].astype(float) - 8) / 5).astype(int).tolist()


def test_regular_frames(tmp_path):
    pixels, _, result = decoded(write_media(tmp_path / "a.mp4", grey_frames(40)))
    assert numbers(pixels) == list(range(40))
    np.testing.assert_array_equal(result.times_s, np.arange(40) * 512 / 12800)
    np.testing.assert_array_equal(result.times_s, result.clock.times_s)
    assert result.duration_s == pytest.approx(1.6)
    assert result.shown.tolist() == list(range(40))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_variable_frame_rate_is_kept(tmp_path, suffix):
    ticks = [1280, 2560, 5120, 12800, 14080, 25600]
    _, _, result = decoded(write_media(tmp_path / f"a{suffix}", grey_frames(6), ticks=ticks))
    np.testing.assert_allclose(result.times_s, np.array(ticks) / 12800, atol=1e-9)
    assert result.start_s == pytest.approx(0.1)


def test_frames_at_a_rate_stand_on_its_grid(tmp_path):
    ticks = [1280, 2560, 5120, 12800, 14080, 25600]  # 0.1 0.2 0.4 1.0 1.1 2.0 s
    pixels, _, result = decoded(write_media(tmp_path / "a.mp4", grey_frames(6), ticks=ticks), fps=5.0)
    np.testing.assert_allclose(result.times_s, np.arange(1, 11) / 5)
    assert [numbers(pixels)[index] for index in result.shown] == [1, 2, 2, 3, 3, 4, 4, 5, 5, 5]
    assert len(result.clock.pts) == 6


def test_a_cut_keeps_the_clock(tmp_path):
    path = write_media(tmp_path / "a.mov", grey_frames(50), audio=tone(2.0))
    pixels, samples, result = decoded(Source("a", path=path, start_s=0.4, end_s=1.2))
    assert numbers(pixels) == list(range(10, 30))
    assert (result.times_s[0], result.times_s[-1]) == (0.4, pytest.approx(1.16))
    assert len(samples) == 0.8 * RATE
    assert result.audio_start_s == pytest.approx(0.4)
    assert result.duration_s == pytest.approx(0.8)
    whole = decoded(path)[1]
    np.testing.assert_array_equal(samples, whole[6400:19200])


def test_a_cut_beyond_the_recording_is_an_error(tmp_path):
    path = write_media(tmp_path / "a.mp4", grey_frames(10))
    with pytest.raises(InputError, match="a: expected frames between start_s and end_s, got none"):
        decoded(Source("a", path=path, start_s=5.0))


def test_sound_that_starts_late_keeps_its_time(tmp_path):
    sound = np.zeros(RATE, np.float32)
    sound[4000:4010] = 0.9  # a click at 0.75 + 0.25 s
    path = write_media(tmp_path / "a.mov", grey_frames(50), audio=sound, audio_start_s=0.75)
    _, samples, result = decoded(path)
    assert result.audio_start_s == pytest.approx(0.75, abs=1e-4)
    assert result.audio_start_s + np.abs(samples).argmax() / RATE == pytest.approx(1.0, abs=1e-3)
    assert result.start_s == 0
    assert result.duration_s == pytest.approx(2.0)


def test_sound_is_resampled_in_place(tmp_path):
    sound = np.zeros(RATE, np.float32)
    sound[8000:8010] = 0.9
    path = write_media(tmp_path / "a.mov", grey_frames(25), audio=sound)
    parts = decode(Source("a", path=path), DecodeOptions(sampling_rate=24_000))
    samples = np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
    assert len(samples) == 24_000
    assert np.abs(samples).argmax() / 24_000 == pytest.approx(0.5, abs=1e-3)


def test_no_sound_is_not_an_error(tmp_path):
    _, samples, result = decoded(write_media(tmp_path / "a.mp4", grey_frames(5)))
    assert len(samples) == 0
    assert result.audio_start_s is None


def test_times_without_pixels_are_those_of_the_decoded_frames(tmp_path):
    path = write_media(tmp_path / "a.mp4", noisy_frames(40), audio=tone(1.6))  # libx264 reorders frames
    whole, alone = decoded(path)[2], decoded(path, pixels=False)[2]
    np.testing.assert_array_equal(whole.clock.pts, alone.clock.pts)
    assert whole.duration_s == alone.duration_s
    assert whole.audio_report == alone.audio_report


@pytest.mark.parametrize(("degrees", "bright"), [(0, "top"), (90, "left"), (180, "bottom"), (-90, "right")])
def test_frames_are_turned_upright(tmp_path, degrees, bright):
    """A display matrix of +90 turns the stored frame a quarter counterclockwise: its top comes to the left."""
    path = tmp_path / "a.mp4"
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:24] = 250
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.set_display_rotation(degrees)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    image = decoded(path)[0][0]
    sides = {"top": image[2, 16], "bottom": image[-3, 16], "left": image[16, 2], "right": image[16, -3]}
    assert max(sides, key=lambda side: int(sides[side][0])) == bright


def test_crops_take_times_from_the_recording(tmp_path):
    path = write_media(tmp_path / "a.mp4", grey_frames(10))
    crops = write_crops(tmp_path / "a", [1, 2, 4, 10, 12])
    pixels, _, result = decoded(Source("a", path=path, crops=crops), faces="crops")
    assert result.shown.tolist() == [0, 1, -1, 2, -1, -1, -1, -1, -1, 3]
    assert numbers(pixels) == [0, 1, 3, 9]
    np.testing.assert_allclose(result.times_s, np.arange(10) / 25)
    assert result.visual_report["num_crops_beyond_video"] == 1
    assert (result.visual_report["num_crops"], result.visual_report["num_crops_shown"]) == (5, 4)


def test_crops_alone_need_a_rate(tmp_path):
    crops = write_crops(tmp_path / "a", [2, 3, 5])
    with pytest.raises(InputError, match="a: expected crops with a frame rate, got none: a crop folder alone has no"):
        decoded(Source("a", crops=crops), faces="crops")
    _, _, result = decoded(Source("a", crops=crops, fps=30.0), faces="crops")
    np.testing.assert_allclose(result.times_s, np.arange(5) / 30)
    assert result.shown.tolist() == [-1, 0, 1, -1, 2]
    assert decoded(Source("a", crops=crops), faces="crops", fps=10.0)[2].times_s[-1] == pytest.approx(0.4)


def test_crops_at_another_rate_mask_the_absent(tmp_path):
    crops = write_crops(tmp_path / "a", [1, 2, 3, 5])
    pixels, _, result = decoded(Source("a", crops=crops, fps=20.0), faces="crops", fps=10.0)
    np.testing.assert_allclose(result.times_s, [0.0, 0.1, 0.2])
    assert [numbers(pixels)[index] for index in result.shown] == [0, 2, 4]
    pixels, _, result = decoded(Source("a", crops=crops, fps=20.0), faces="crops", fps=40.0)
    assert [numbers(pixels)[index] if index >= 0 else None for index in result.shown] == [
        0,
        1,
        1,
        2,
        2,
        None,
        None,
        4,
        4,
    ]


def test_crops_numbered_from_zero_are_refused(tmp_path):
    crops = write_crops(tmp_path / "a", [0, 1, 2])
    with pytest.raises(InputError, match=r"a: expected crops numbered from 1, got 00000\.jpg\. Rename them"):
        decoded(Source("a", crops=crops, fps=25.0), faces="crops")


def test_faces_must_be_there(tmp_path):
    crops = write_crops(tmp_path / "a", [1])
    with pytest.raises(InputError, match="expected a recording, got a crop folder alone"):
        decoded(Source("a", crops=crops, fps=30.0))
    with pytest.raises(InputError, match="expected a folder of crops, got a recording alone"):
        decoded(write_media(tmp_path / "b.mp4", grey_frames(2)), faces="crops")


def test_sound_alone_is_an_error_only_where_frames_are_wanted(tmp_path):
    path = write_media(tmp_path / "a.wav", audio=tone(0.5))
    _, samples, result = decoded(path, pixels=False)
    assert len(samples) == 0.5 * RATE
    assert result.clock is None
    with pytest.raises(InputError, match=r"a\.wav: expected a video stream, got audio only"):
        decoded(path)


def cut_off(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


@pytest.mark.parametrize(
    ("suffix", "options", "message"),
    [
        (".mp4", {}, "expected a recording, got Invalid data"),
        (".mp4", {"movflags": "faststart"}, "expected a recording that decodes to its end, got .* after frame"),
        (".mkv", {}, r"expected the \d\.\d+ s that its header declares, got its end at"),
    ],
)
def test_a_file_that_was_cut_off_is_an_error(tmp_path, suffix, options, message):
    path = write_media(tmp_path / f"a{suffix}", noisy_frames(75), audio=tone(3.0), options=options)
    decoded(path)
    with pytest.raises(InputError, match=message):
        decoded(cut_off(path, 0.5))


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".wav", None), (".mp3", "libmp3lame"), (".flac", "flac"), (".m4a", "aac"), (".mka", None)]
)
def test_sound_that_was_cut_off_is_an_error(tmp_path, suffix, codec):
    options = {"movflags": "faststart"} if suffix == ".m4a" else {}
    codec = codec or "pcm_s16le"
    path = write_media(tmp_path / f"a{suffix}", audio=tone(10.0), audio_codec=codec, options=options)
    assert len(decoded(path, pixels=False)[1]) == pytest.approx(10 * RATE, abs=2000)
    with pytest.raises(
        InputError, match=r"10\.\d\d s that its header declares, got its end at|decodes to its end, got"
    ):
        decoded(cut_off(path, 0.6), pixels=False)


def test_sound_that_lacks_less_than_half_a_second_passes(tmp_path):
    path = write_media(tmp_path / "a.wav", audio=tone(10.0))
    assert len(decoded(cut_off(path, 0.96), pixels=False)[1]) < 9.7 * RATE


def test_sound_of_unknown_length_passes(tmp_path):
    """A WAV written to a pipe cannot know its size; a plain MP3 does not say how many frames it has."""
    path = write_media(tmp_path / "a.wav", audio=tone(2.0))
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = b"\xff" * 4
    path.write_bytes(content)
    assert len(decoded(path, pixels=False)[1]) == 2 * RATE
    plain = write_media(tmp_path / "a.mp3", audio=tone(10.0), audio_codec="libmp3lame", options={"write_xing": "0"})
    assert len(decoded(cut_off(plain, 0.6), pixels=False)[1]) < 6.5 * RATE


def test_promised_sound_that_never_comes_is_an_error(tmp_path, monkeypatch):
    path = write_media(tmp_path / "a.mov", grey_frames(25), audio=tone(1.0))
    monkeypatch.setattr(RecordingReader, "_decode_audio", lambda self, packet: iter(()))
    with pytest.raises(InputError, match=r"expected the 1\.00 s of audio that its header declares, got none"):
        decoded(path)
    assert len(decoded(path, audio=False)[0]) == 25


def test_promised_frames_that_never_come_are_an_error_for_the_voice_too(tmp_path, monkeypatch):
    path = write_media(tmp_path / "a.mov", grey_frames(25), audio=tone(1.0))
    monkeypatch.setattr(PacketTimes, "finish", lambda self: iter(()))
    with pytest.raises(InputError, match=r"expected the 25 frames that its header declares, got none"):
        decoded(path, pixels=False)


def test_damage_in_the_middle_is_an_error(tmp_path):
    path = write_media(tmp_path / "a.mp4", noisy_frames(75))
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 2000] = bytes(value ^ 0x5A for value in content[middle : middle + 2000])
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"expected a recording that decodes to its end, got .* \(\d\.\d\d s\)"):
        decoded(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "got an empty file"), (b"hello, I am text\n" * 99, "got Invalid data"), (None, "expected a file, got none")],
)
def test_what_is_no_recording_is_an_error(tmp_path, content, message):
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.mp4: .*{message}"):
        decoded(path)


def times_as(monkeypatch, pts_of):
    """Makes the container give frame k (as shown) another timestamp: `pts_of(k, pts)`."""
    settle, count = FrameSettler.push, iter(range(10**6))

    def changed(self, frame):
        frame.pts = pts_of(next(count), frame.pts)
        return settle(self, frame)

    monkeypatch.setattr(FrameSettler, "push", changed)


def test_unordered_times_are_sorted_and_reported(tmp_path):
    """H.264 in AVI has no presentation times: decoders guess, and guess wrong."""
    path = write_media(tmp_path / "a.avi", grey_frames(20), time_base=Fraction(1, 25))
    pixels, _, result = decoded(path)
    assert numbers(pixels) == list(range(20))
    np.testing.assert_allclose(np.diff(result.times_s), 1 / 25)
    repaired = result.visual_report["repaired_times"]
    assert repaired["unordered"] > 0
    assert (repaired["missing"], repaired["repeated"]) == (0, 0)
    np.testing.assert_array_equal(decoded(path, pixels=False)[2].clock.pts, result.clock.pts)


def test_good_times_are_not_reported_as_repaired(tmp_path):
    ticks = [1280, 2560, 5120, 12800, 14080, 25600, 90000]
    _, _, result = decoded(write_media(tmp_path / "a.mp4", grey_frames(7), ticks=ticks))
    assert "repaired_times" not in result.visual_report


def test_missing_and_repeated_times_stand_between_their_neighbours(tmp_path, monkeypatch):
    path = write_media(tmp_path / "a.mp4", grey_frames(20))
    times_as(monkeypatch, lambda k, pts: None if k in (3, 4, 19) else 10 * 512 if k == 11 else pts)
    pixels, _, result = decoded(path)
    assert numbers(pixels) == list(range(20))
    np.testing.assert_allclose(result.times_s, np.arange(20) / 25, atol=1e-4)
    assert result.visual_report["repaired_times"] == {"missing": 3, "repeated": 1, "unordered": 0}


def test_no_times_at_all_are_those_of_the_rate(tmp_path, monkeypatch):
    path = write_media(tmp_path / "a.mp4", grey_frames(20))
    times_as(monkeypatch, lambda k, pts: None)
    _, _, result = decoded(path)
    np.testing.assert_allclose(result.times_s, np.arange(20) / 25)
    assert result.visual_report["repaired_times"]["missing"] == 20


def test_times_that_jump_back_are_an_error(tmp_path, monkeypatch):
    path = write_media(tmp_path / "a.mp4", grey_frames(60))
    times_as(monkeypatch, lambda k, pts: pts - 40 * 512 if k == 50 else pts)
    with pytest.raises(
        InputError, match=r"expected frames with increasing timestamps, got 0\.400 s after 1\.960 s near"
    ):
        decoded(path)


@settings(max_examples=200)
@given(st.data())
def test_mended_times_keep_order_and_what_is_right(data):
    """Whatever comes, times increase; shuffled within reach of a codec, they are the sorted ones."""
    true = np.cumsum(data.draw(st.lists(st.sampled_from([40, 40, 40, 80]), min_size=1, max_size=60))).tolist()
    given_ = list(true)
    kind = data.draw(st.sampled_from(["good", "shuffled", "spoilt"]))
    if kind == "shuffled":
        for first in range(1, len(given_) - 2, 3):
            given_[first : first + 3] = data.draw(st.permutations(given_[first : first + 3]))
    elif kind == "spoilt":
        for place in data.draw(st.lists(st.integers(0, len(given_) - 1), max_size=20)):
            given_[place] = data.draw(st.sampled_from([None, given_[place - 1], 40]))
    mender, frames = TimestampRepair(40), []
    for number, pts in enumerate(given_):
        frames += mender.push(pts, 40, number)
        assert len(mender._held) < HELD_FRAMES
    frames += mender.finish()
    assert [number for *_, number in frames] == list(range(len(true)))
    times = [pts for pts, *_ in frames]
    assert (np.diff(times) > 0).all()
    if kind == "good":
        assert (times, mender.repaired) == (true, {"missing": 0, "repeated": 0, "unordered": 0})
    if kind == "shuffled" and set(np.diff(true)) <= {40}:
        assert times == true


def long_group(path, **options):
    """Noisy frames with a key frame every 50."""
    with av.open(str(path), "w", **options) as container:
        video = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=25)
        video.width, video.height, video.pix_fmt, video.gop_size = 64, 48, "yuv420p", 50
        video.options = {"sc_threshold": "0", "keyint_min": "50"} if video.codec_context.name == "libx264" else {}
        audio = container.add_stream("aac", rate=RATE)
        audio.layout = "mono"
        for number, pixels in enumerate(noisy_frames(220)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        write_audio(container, audio, tone(8.8), 0.0)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".mov"])
@pytest.mark.parametrize(("start_s", "end_s"), [(0.5, 1.0), (2.0, 2.4), (4.43, None), (5.99, 6.5)])
def test_a_cut_is_the_same_without_decoding_what_lies_before(tmp_path, monkeypatch, suffix, start_s, end_s):
    source = Source("a", path=long_group(tmp_path / f"a{suffix}"), start_s=start_s, end_s=end_s)
    skipped = decoded(source)
    shown_from = []
    monkeypatch.setattr(seek, "KEYED", ())
    monkeypatch.setattr(TimestampRepair, "push", counting(TimestampRepair.push, shown_from))
    whole = decoded(source)
    assert len(shown_from) >= start_s * 25
    for one, other in zip(skipped[:2], whole[:2], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(skipped[2].times_s, whole[2].times_s)
    assert skipped[2].visual_report == whole[2].visual_report
    assert (skipped[2].start_s, skipped[2].duration_s) == (whole[2].start_s, whole[2].duration_s)


def counting(push, calls):
    return lambda self, pts, *rest: calls.append(pts) or push(self, pts, *rest)


def test_a_cut_begins_to_decode_at_the_key_frame_before_it(tmp_path, monkeypatch):
    calls = []
    path = long_group(tmp_path / "a.mp4")
    monkeypatch.setattr(TimestampRepair, "push", counting(TimestampRepair.push, calls))
    pixels, _, _ = decoded(Source("a", path=path, start_s=6.5))
    assert len(pixels) == 220 - 163
    assert len(calls) == 220 - 150  # the key frame stands at 6 s


def test_a_group_of_pictures_too_large_to_hold_is_decoded(tmp_path, monkeypatch):
    calls = []
    path = long_group(tmp_path / "a.mp4")
    monkeypatch.setattr(seek, "HELD_BYTES", 10_000)
    monkeypatch.setattr(TimestampRepair, "push", counting(TimestampRepair.push, calls))
    assert len(decoded(Source("a", path=path, start_s=6.5))[0]) == 220 - 163
    assert len(calls) == 220


def test_an_edit_list_is_obeyed(tmp_path):
    """The first 15 frames stand before zero: an MP4 keeps them for decoding, and says that they are not to be shown."""
    ticks = [512 * (k - 15) for k in range(45)]
    path = write_media(tmp_path / "a.mp4", grey_frames(45), ticks=ticks, options={"avoid_negative_ts": "disabled"})
    pixels, _, result = decoded(path)
    assert numbers(pixels) == list(range(15, 45))
    np.testing.assert_allclose(result.times_s, np.arange(30) / 25)
    np.testing.assert_array_equal(decoded(path, pixels=False)[2].times_s, [])
    np.testing.assert_array_equal(decoded(path, pixels=False)[2].clock.pts, result.clock.pts)


def test_a_playlist_in_disguise_reaches_nothing(tmp_path):
    (tmp_path / "a.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(InputError, match="expected"):
        decoded(tmp_path / "a.mp4")


def test_a_list_of_other_files_in_disguise_is_refused(tmp_path):
    write_media(tmp_path / "b.mp4", grey_frames(3))
    (tmp_path / "a.mp4").write_text("ffconcat version 1.0\nfile b.mp4\n")
    with pytest.raises(InputError, match=r"expected a recording, got a list of other files\. Name those files"):
        decoded(tmp_path / "a.mp4")


def blocks(*starts_s, seconds=0.25, level=0.5):
    for start_s in starts_s:
        pixels = np.full((1, round(seconds * RATE)), level, np.float32)
        block = av.AudioFrame.from_ndarray(pixels, format="fltp", layout="mono")
        block.sample_rate, block.time_base, block.pts = RATE, Fraction(1, RATE), round(start_s * RATE)
        yield block


def samples_of(sound, *starts_s):
    return np.concatenate([*(sound.push(block) for block in blocks(*starts_s)), sound.finish()])


def test_a_hole_between_blocks_is_silence():
    sound = MonoAudio("a", RATE, None, None)
    samples = samples_of(sound, 1.0, 1.25, 2.0)
    assert len(samples) == 1.25 * RATE
    assert (samples[: RATE // 2] == 0.5).all()
    assert not samples[RATE // 2 : RATE].any()
    assert (samples[RATE:] == 0.5).all()
    assert sound.report()["audio_filled_s"] == pytest.approx(0.5)
    assert sound.end_s == pytest.approx(2.25)


def test_sound_that_comes_twice_is_dropped():
    sound = MonoAudio("a", RATE, None, None)
    assert len(samples_of(sound, 0.0, 0.25, 0.30)) == 0.55 * RATE
    assert sound.report()["audio_dropped_s"] == pytest.approx(0.2)


def test_jitter_of_timestamps_is_forgiven():
    assert len(samples_of(MonoAudio("a", RATE, None, None), 0.0, 0.251, 0.499)) == 0.75 * RATE


@pytest.mark.parametrize("start_s", [700.0, -2.0])
def test_sound_that_jumps_is_an_error(start_s):
    with pytest.raises(InputError, match="a: expected audio without jumps in time, got a jump of"):
        samples_of(MonoAudio("a", RATE, None, None), 0.0, start_s)


@pytest.mark.parametrize(
    ("form", "value"), [("u8", 192), ("s16", 16384), ("s32", 1 << 30), ("flt", 0.5), ("dblp", 0.5)]
)
def test_every_sample_format_has_one_scale(form, value):
    planar = form.endswith("p")
    dtypes = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dblp": np.float64}
    stereo = np.full((2, 100) if planar else (1, 200), value, dtypes[form])
    block = av.AudioFrame.from_ndarray(stereo, format=form, layout="stereo")
    block.sample_rate, block.time_base, block.pts = RATE, Fraction(1, RATE), 0
    np.testing.assert_allclose(MonoAudio("a", RATE, None, None).push(block), np.full(100, 0.5), atol=1e-6)


WINDOW_ALL = """
import resource, sys
from pathlib import Path
from sage_va.data.manifest import Source
from sage_va.extract.decode.reader import decode
from sage_va.extract.decode.request import DecodeOptions, DecodeResult
from sage_va.extract.encoders.audio_windows import WindowPlan, Windower

windower = Windower(WindowPlan(16_000, 320_080, 320, 400, 200, 1000, 50, padded=False))
steps = 0
for part in decode(Source("a", path=Path(sys.argv[1])), DecodeOptions(sampling_rate=16_000)):
    windows = windower.finish() if isinstance(part, DecodeResult) else windower.push(part)
    steps += sum(window.end - window.first for window in windows)
print(steps, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_long_sound_takes_no_more_memory_than_short(tmp_path):
    """One hour against six minutes, at another rate than the encoder's: samples are never held as a whole."""
    peaks = []
    for minutes in (6, 60):
        path = tmp_path / f"{minutes}.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 24_000, 0, "NONE", ""))
            for second in range(minutes * 60):
                noise = np.random.default_rng(second).integers(-9000, 9000, 24_000, np.int16)
                file.writeframesraw(noise.tobytes())
        done = subprocess.run([sys.executable, "-c", WINDOW_ALL, path], capture_output=True, text=True, check=True)
        steps, peak = map(int, done.stdout.split())
        assert steps == minutes * 60 * 50 - 1
        peaks.append(peak)
    assert peaks[1] <= 1.05 * peaks[0], peaks


def test_an_empty_folder_of_crops_beside_a_recording_shows_no_face(tmp_path):
    path = write_media(tmp_path / "a.mp4", grey_frames(6))
    (tmp_path / "empty").mkdir()
    options = DecodeOptions(transform=Letterbox((32, 32), (0, 0, 0)), faces="crops")
    (result,) = (
        part
        for part in decode(Source("a", path=path, crops=tmp_path / "empty"), options)
        if not isinstance(part, Frames)
    )
    assert (result.shown.tolist(), result.visual_report["num_crops"]) == ([-1] * 6, 0)
    (tmp_path / "empty/notes.txt").write_text("not crops")
    for source in (Source("a", path=path, crops=tmp_path / "empty"), Source("a", path=path, crops=tmp_path / "absent")):
        with pytest.raises(InputError, match=r"expected a folder of crops 00001\.jpg, …, got none in"):
            list(decode(source, options))
