"""Decoding: real times, every frame, the sound in its place; and each broken file one clear error."""

from fractions import Fraction

import av
import numpy as np
import pytest

from sage_va.data import InputError
from sage_va.data.manifest import Source
from sage_va.extract.frames import Frames, Shrinker
from sage_va.extract.media import Ending, Wanted, decode
from sage_va.extract.sound import Sound
from sage_va.tests.media import RATE, grey_frames, noisy_frames, tone, write_crops, write_media

SIZE = (32, 32)


def decoded(source, *, pixels=True, sound=True, **options):
    """Pixels, samples and the ending of a clip."""
    wanted = Wanted(Shrinker(SIZE, (0, 0, 0)) if pixels else None, RATE if sound else None, **options)
    if not isinstance(source, Source):
        source = Source(source.name, path=source)
    parts = list(decode(source, wanted))
    (ending,) = [part for part in parts if isinstance(part, Ending)]
    images = [part.pixels for part in parts if isinstance(part, Frames)]
    samples = [part for part in parts if isinstance(part, np.ndarray)]
    none = np.zeros(0, np.float32)
    return np.concatenate(images) if images else none, np.concatenate([none, *samples]), ending


def numbers(pixels):
    """Which frame of `grey_frames` each image shows."""
    return np.round((pixels[:, 16, 16, 0].astype(float) - 8) / 5).astype(int).tolist()


def test_regular_frames(tmp_path):
    pixels, _, ending = decoded(write_media(tmp_path / "a.mp4", grey_frames(40)))
    assert numbers(pixels) == list(range(40))
    np.testing.assert_array_equal(ending.times_s, np.arange(40) * 512 / 12800)
    np.testing.assert_array_equal(ending.times_s, ending.clock.times_s)
    assert ending.duration_s == pytest.approx(1.6)
    assert ending.shown.tolist() == list(range(40))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_variable_frame_rate_is_kept(tmp_path, suffix):
    ticks = [1280, 2560, 5120, 12800, 14080, 25600]
    _, _, ending = decoded(write_media(tmp_path / f"a{suffix}", grey_frames(6), ticks=ticks))
    np.testing.assert_allclose(ending.times_s, np.array(ticks) / 12800, atol=1e-9)
    assert ending.start_s == pytest.approx(0.1)


def test_frames_at_a_rate_stand_on_its_grid(tmp_path):
    ticks = [1280, 2560, 5120, 12800, 14080, 25600]  # 0.1 0.2 0.4 1.0 1.1 2.0 s
    pixels, _, ending = decoded(write_media(tmp_path / "a.mp4", grey_frames(6), ticks=ticks), fps=5.0)
    np.testing.assert_allclose(ending.times_s, np.arange(1, 11) / 5)
    assert [numbers(pixels)[index] for index in ending.shown] == [1, 2, 2, 3, 3, 4, 4, 5, 5, 5]
    assert len(ending.clock.pts) == 6


def test_a_cut_keeps_the_clock(tmp_path):
    path = write_media(tmp_path / "a.mov", grey_frames(50), sound=tone(2.0))
    pixels, samples, ending = decoded(Source("a", path=path, start_s=0.4, end_s=1.2))
    assert numbers(pixels) == list(range(10, 30))
    assert (ending.times_s[0], ending.times_s[-1]) == (0.4, pytest.approx(1.16))
    assert len(samples) == 0.8 * RATE
    assert ending.sound_start_s == pytest.approx(0.4)
    assert ending.duration_s == pytest.approx(0.8)
    whole = decoded(path)[1]
    np.testing.assert_array_equal(samples, whole[6400:19200])


def test_a_cut_beyond_the_recording_is_an_error(tmp_path):
    path = write_media(tmp_path / "a.mp4", grey_frames(10))
    with pytest.raises(InputError, match="a: expected frames between start_s and end_s, got none"):
        decoded(Source("a", path=path, start_s=5.0))


def test_sound_that_starts_late_keeps_its_time(tmp_path):
    sound = np.zeros(RATE, np.float32)
    sound[4000:4010] = 0.9  # a click at 0.75 + 0.25 s
    path = write_media(tmp_path / "a.mov", grey_frames(50), sound=sound, sound_start_s=0.75)
    _, samples, ending = decoded(path)
    assert ending.sound_start_s == pytest.approx(0.75, abs=1e-4)
    assert ending.sound_start_s + np.abs(samples).argmax() / RATE == pytest.approx(1.0, abs=1e-3)
    assert ending.start_s == 0
    assert ending.duration_s == pytest.approx(2.0)


def test_sound_is_resampled_in_place(tmp_path):
    sound = np.zeros(RATE, np.float32)
    sound[8000:8010] = 0.9
    path = write_media(tmp_path / "a.mov", grey_frames(25), sound=sound)
    parts = decode(Source("a", path=path), Wanted(sampling_rate=24_000))
    samples = np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
    assert len(samples) == 24_000
    assert np.abs(samples).argmax() / 24_000 == pytest.approx(0.5, abs=1e-3)


def test_no_sound_is_not_an_error(tmp_path):
    _, samples, ending = decoded(write_media(tmp_path / "a.mp4", grey_frames(5)))
    assert len(samples) == 0
    assert ending.sound_start_s is None


def test_times_without_pixels_are_those_of_the_decoded_frames(tmp_path):
    path = write_media(tmp_path / "a.mp4", noisy_frames(40), sound=tone(1.6))  # libx264 reorders frames
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
    pixels, _, ending = decoded(Source("a", path=path, crops=crops), faces="crops")
    assert ending.shown.tolist() == [0, 1, -1, 2, -1, -1, -1, -1, -1, 3]
    assert numbers(pixels) == [0, 1, 3, 9]
    np.testing.assert_allclose(ending.times_s, np.arange(10) / 25)
    assert ending.visual_report["num_crops_beyond_video"] == 1
    assert (ending.visual_report["num_crops"], ending.visual_report["num_crops_shown"]) == (5, 4)


def test_crops_alone_need_a_rate(tmp_path):
    crops = write_crops(tmp_path / "a", [2, 3, 5])
    with pytest.raises(InputError, match="a: expected crops with a frame rate, got none: a crop folder alone has no"):
        decoded(Source("a", crops=crops), faces="crops")
    _, _, ending = decoded(Source("a", crops=crops, fps=30.0), faces="crops")
    np.testing.assert_allclose(ending.times_s, np.arange(5) / 30)
    assert ending.shown.tolist() == [-1, 0, 1, -1, 2]
    assert decoded(Source("a", crops=crops), faces="crops", fps=10.0)[2].times_s[-1] == pytest.approx(0.4)


def test_crops_at_another_rate_mask_the_absent(tmp_path):
    crops = write_crops(tmp_path / "a", [1, 2, 3, 5])
    pixels, _, ending = decoded(Source("a", crops=crops, fps=20.0), faces="crops", fps=10.0)
    np.testing.assert_allclose(ending.times_s, [0.0, 0.1, 0.2])
    assert [numbers(pixels)[index] for index in ending.shown] == [0, 2, 4]
    pixels, _, ending = decoded(Source("a", crops=crops, fps=20.0), faces="crops", fps=40.0)
    assert [numbers(pixels)[index] if index >= 0 else None for index in ending.shown] == [
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
    path = write_media(tmp_path / "a.wav", sound=tone(0.5))
    _, samples, ending = decoded(path, pixels=False)
    assert len(samples) == 0.5 * RATE
    assert ending.clock is None
    with pytest.raises(InputError, match=r"a\.wav: expected a video stream, got sound only"):
        decoded(path)


def cut_off(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


@pytest.mark.parametrize(
    ("suffix", "options", "message"),
    [
        (".mp4", {}, "expected a recording, got Invalid data"),
        (".mp4", {"movflags": "faststart"}, "expected a recording that decodes to its end, got .* after frame"),
        (".mkv", {}, r"expected the \d\.\d+ s that its header promises, got its end at"),
    ],
)
def test_a_file_that_was_cut_off_is_an_error(tmp_path, suffix, options, message):
    path = write_media(tmp_path / f"a{suffix}", noisy_frames(75), sound=tone(3.0), options=options)
    decoded(path)
    with pytest.raises(InputError, match=message):
        decoded(cut_off(path, 0.5))


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


def test_frames_out_of_order_are_an_error(tmp_path):
    """H.264 in AVI has no presentation times: decoders guess, and guess wrong."""
    path = write_media(tmp_path / "a.avi", noisy_frames(20), time_base=Fraction(1, 25))
    with pytest.raises(InputError, match=r"expected frames with increasing timestamps, got 0.* s after"):
        decoded(path)


def test_a_playlist_in_disguise_reaches_nothing(tmp_path):
    (tmp_path / "a.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(InputError, match="expected"):
        decoded(tmp_path / "a.mp4")


def blocks(*starts_s, seconds=0.25, level=0.5):
    for start_s in starts_s:
        pixels = np.full((1, round(seconds * RATE)), level, np.float32)
        block = av.AudioFrame.from_ndarray(pixels, format="fltp", layout="mono")
        block.sample_rate, block.time_base, block.pts = RATE, Fraction(1, RATE), round(start_s * RATE)
        yield block


def heard(sound, *starts_s):
    return np.concatenate([*(sound.push(block) for block in blocks(*starts_s)), sound.finish()])


def test_a_hole_between_blocks_is_silence():
    sound = Sound("a", RATE, None, None)
    samples = heard(sound, 1.0, 1.25, 2.0)
    assert len(samples) == 1.25 * RATE
    assert (samples[: RATE // 2] == 0.5).all()
    assert not samples[RATE // 2 : RATE].any()
    assert (samples[RATE:] == 0.5).all()
    assert sound.report()["audio_filled_s"] == pytest.approx(0.5)
    assert sound.end_s == pytest.approx(2.25)


def test_sound_that_comes_twice_is_dropped():
    sound = Sound("a", RATE, None, None)
    assert len(heard(sound, 0.0, 0.25, 0.30)) == 0.55 * RATE
    assert sound.report()["audio_dropped_s"] == pytest.approx(0.2)


def test_jitter_of_timestamps_is_forgiven():
    assert len(heard(Sound("a", RATE, None, None), 0.0, 0.251, 0.499)) == 0.75 * RATE


@pytest.mark.parametrize("start_s", [700.0, -2.0])
def test_sound_that_jumps_is_an_error(start_s):
    with pytest.raises(InputError, match="a: expected sound without jumps in time, got a jump of"):
        heard(Sound("a", RATE, None, None), 0.0, start_s)


@pytest.mark.parametrize(
    ("form", "value"), [("u8", 192), ("s16", 16384), ("s32", 1 << 30), ("flt", 0.5), ("dblp", 0.5)]
)
def test_every_sample_format_has_one_scale(form, value):
    planar = form.endswith("p")
    dtypes = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dblp": np.float64}
    stereo = np.full((2, 100) if planar else (1, 200), value, dtypes[form])
    block = av.AudioFrame.from_ndarray(stereo, format=form, layout="stereo")
    block.sample_rate, block.time_base, block.pts = RATE, Fraction(1, RATE), 0
    np.testing.assert_allclose(Sound("a", RATE, None, None).push(block), np.full(100, 0.5), atol=1e-6)
