"""The run as a whole: one cache whatever the workers, kills and company; a failure is one clip's own."""

import errno
import json
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from sage_va.data import InputError, open_store
from sage_va.data.manifest import Source, find_sources
from sage_va.data.store.zarr_store import ZarrStore
from sage_va.extract.batch import BytesQueue, ClosedError, Packer
from sage_va.extract.encoders.timm_encoder import TimmEncoder
from sage_va.extract.encoders.transformers_encoder import TransformersEncoder
from sage_va.extract.engine import clip_decoder, encode_stage, pipeline, prefetch
from sage_va.extract.engine.assemble import Assembly
from sage_va.extract.engine.dry_run import estimate
from sage_va.extract.engine.pipeline import extract
from sage_va.extract.engine.progress import Failure
from sage_va.extract.identity import stream_of
from sage_va.extract.options import ExtractOptions
from sage_va.tests.encoders import TINY_VIT, write_wav2vec2
from sage_va.tests.media import grey_frames, noisy_frames, tone, write_crops, write_media

OPTIONS = ExtractOptions(batch_size=8, num_decode_threads=2)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_media(folder / "s1/clip.mov", noisy_frames(30, seed=1), audio=tone(1.2))
    write_media(folder / "s2/clip.mov", noisy_frames(21, seed=2), audio=tone(1.0, seed=2), audio_start_s=0.3)
    write_media(folder / "mute.mp4", noisy_frames(13, seed=3), ticks=[512 * k + 99 * (k % 3) for k in range(13)])
    write_media(folder / "silent.mov", noisy_frames(9, seed=4), audio=np.zeros(16_000, np.float32))
    return folder


@pytest.fixture(scope="module")
def audio_folder(tmp_path_factory):
    return str(write_wav2vec2(tmp_path_factory.mktemp("encoder") / "w2v"))


@pytest.fixture(scope="module")
def vit():
    return TimmEncoder(TINY_VIT, weights="random", device="cpu")


@pytest.fixture(scope="module")
def wav2vec2(audio_folder):
    return TransformersEncoder(audio_folder, weights="random", device="cpu")


@pytest.fixture(scope="module")
def whole(media, vit, wav2vec2, tmp_path_factory):
    """An uninterrupted run over all media."""
    store = open_store(tmp_path_factory.mktemp("whole") / "whole.zarr", "a")
    summary = extract(find_sources([str(media)]), store, visual=vit, audio=wav2vec2, options=OPTIONS)
    assert (summary.num_done, summary.failures) == (4, [])
    assert summary.num_frames == 30 + 21 + 13 + 9
    return store


def files(store):
    contents = {path.relative_to(store.path): path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    return {path: content for path, content in contents.items() if path.name != "journal.jsonl"}


def streams(vit, wav2vec2):
    return stream_of(vit, OPTIONS), stream_of(wav2vec2, OPTIONS)


def test_what_is_in_the_cache(whole, vit, wav2vec2):
    visual, audio = streams(vit, wav2vec2)
    assert whole.clip_ids() == ["mute.mp4", "s1/clip.mov", "s2/clip.mov", "silent.mov"]
    assert not [problem for *_, problem in whole.verify() if problem]
    track = whole.read("s2/clip.mov", visual)
    assert (track.values.shape, track.values.dtype) == ((21, vit.dim), np.float16)
    np.testing.assert_allclose(track.times_s, np.arange(21) / 25)
    assert track.mask.all()
    assert dict(track.quality_units).keys() == {"brightness", "sharpness"}
    voice = whole.read("s2/clip.mov", audio)
    assert voice.times_s[0] == pytest.approx(0.3 + 200 / 16_000)
    assert voice.num_frames == 49
    assert voice.mask.all()
    clip = whole.clip("s2/clip.mov")
    np.testing.assert_allclose(clip.clock.times_s, np.arange(21) / 25)
    assert clip.media["path"] == "s2/clip.mov"
    assert clip.duration_s == pytest.approx(1.3)
    assert whole.record("s2/clip.mov", audio)["report"]["audio_first_s"] == pytest.approx(0.3)


def test_features_are_those_of_each_frame(whole, media, vit, wav2vec2):
    """The track of a clip extracted in company equals its frames encoded by hand."""
    from sage_va.extract.decode.frames import Frames
    from sage_va.extract.decode.reader import decode
    from sage_va.extract.decode.request import DecodeOptions

    source = Source("a", path=media / "s1/clip.mov")
    pixels = [part.pixels for part in decode(source, DecodeOptions(vit.letterbox())) if isinstance(part, Frames)]
    expected = vit.encode(np.concatenate(pixels))
    values = whole.read("s1/clip.mov", streams(vit, wav2vec2)[0]).values
    np.testing.assert_allclose(values.astype(np.float32), expected, atol=2e-3)


def test_missing_and_silent_sound_is_masked(whole, vit, wav2vec2):
    _, audio = streams(vit, wav2vec2)
    mute, silent = whole.read("mute.mp4", audio), whole.read("silent.mov", audio)
    assert not mute.mask.any()
    assert np.isnan(mute.values).all()
    assert np.isnan(mute.quality).all()
    assert mute.num_frames == wav2vec2.plan.num_steps(round(whole.clip("mute.mp4").duration_s * 16_000))
    assert not silent.mask.any()
    assert (silent.quality[:, 0] == -120).all()


def test_variable_frame_rate_reaches_the_cache(whole, vit, wav2vec2):
    times = whole.read("mute.mp4", streams(vit, wav2vec2)[0]).times_s
    np.testing.assert_allclose(times, [(512 * k + 99 * (k % 3)) / 12800 for k in range(13)])


@pytest.mark.parametrize("num_threads", [1, 3])
def test_workers_and_order_change_nothing(media, vit, wav2vec2, whole, tmp_path, num_threads):
    store = open_store(tmp_path / "a.zarr", "a")
    sources = find_sources([str(media)])[::-1]
    options = ExtractOptions(batch_size=8, num_decode_threads=num_threads)
    extract(sources, store, visual=vit, audio=wav2vec2, options=options)
    assert store.content_sha256() == whole.content_sha256()
    assert files(store) == files(whole)


def test_company_changes_nothing(media, vit, wav2vec2, whole, tmp_path):
    store = open_store(tmp_path / "a.zarr", "a")
    for source in find_sources([str(media)]):
        extract([source], store, visual=vit, audio=wav2vec2, options=OPTIONS)
    assert files(store) == files(whole)


def test_the_second_run_does_nothing(media, vit, wav2vec2, whole, monkeypatch):
    before = files(whole)
    monkeypatch.setattr(vit, "encode", None)
    monkeypatch.setattr(wav2vec2, "encode", None)
    monkeypatch.setattr(clip_decoder, "decode", None)
    reports = []
    summary = extract(
        find_sources([str(media)]),
        whole,
        visual=vit,
        audio=wav2vec2,
        options=OPTIONS,
        progress=reports.append,
    )
    assert (summary.num_done, summary.num_skipped, summary.failures) == (0, 4, [])
    assert files(whole) == before
    assert (reports[-1].num_skipped, reports[-1].num_clips) == (4, 4)


def test_a_missing_stream_is_made_alone(media, vit, wav2vec2, whole, tmp_path, monkeypatch):
    store, sources = open_store(tmp_path / "a.zarr", "a"), find_sources([str(media)])
    extract(sources, store, visual=vit, options=OPTIONS)
    assert len(store.streams()) == 1
    monkeypatch.setattr(vit, "encode", None)
    summary = extract(sources, store, visual=vit, audio=wav2vec2, options=OPTIONS)
    assert (summary.num_done, summary.num_frames) == (4, 0)
    assert files(store) == files(whole)


def test_changed_bytes_are_a_failure_until_overwritten(vit, tmp_path):
    store = open_store(tmp_path / "a.zarr", "a")
    path = write_media(tmp_path / "a.mp4", grey_frames(5))
    sources = [Source("a", path=path)]
    extract(sources, store, visual=vit, options=OPTIONS)
    write_media(path, grey_frames(6))
    (failure,) = extract(sources, store, visual=vit, options=OPTIONS).failures
    assert failure.clip_id == "a"
    assert "got a file with other bytes. Give the new file a name of its own, or pass --overwrite" in failure.reason
    over = ExtractOptions(batch_size=8, overwrite=True)
    assert extract(sources, store, visual=vit, options=over).num_done == 1
    assert store.read("a", stream_of(vit, over)).num_frames == 6


def test_another_cut_is_another_medium(vit, tmp_path):
    store = open_store(tmp_path / "a.zarr", "a")
    path = write_media(tmp_path / "a.mp4", grey_frames(20))
    extract([Source("a", path=path)], store, visual=vit, options=OPTIONS)
    (failure,) = extract([Source("a", path=path, end_s=0.4)], store, visual=vit, options=OPTIONS).failures
    assert "other bytes" in failure.reason


def test_a_bad_file_fails_alone_and_in_the_open(media, vit, wav2vec2, tmp_path):
    bad = tmp_path / "media"
    for name, content in {"empty.mp4": b"", "text.mp4": b"not a video\n" * 50}.items():
        bad.mkdir(exist_ok=True)
        (bad / name).write_bytes(content)
    write_media(bad / "good.mov", noisy_frames(9), audio=tone(0.4))
    torn = write_media(bad / "torn.mkv", noisy_frames(75), audio=tone(3.0))
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    write_media(bad / "voice.wav", audio=tone(0.4))
    sources = [*find_sources([str(bad)]), Source("gone.mp4", path=bad / "gone.mp4")]
    store, reports = open_store(tmp_path / "a.zarr", "a"), []
    summary = extract(sources, store, visual=vit, audio=wav2vec2, options=OPTIONS, progress=reports.append)
    assert store.clip_ids() == ["good.mov"]
    reasons = {failure.clip_id: failure.reason for failure in summary.failures}
    assert list(reasons) == ["empty.mp4", "gone.mp4", "text.mp4", "torn.mkv", "voice.wav"]
    assert reasons["empty.mp4"].startswith("expected a recording, got an empty file. ")
    assert reasons["gone.mp4"].startswith("expected a file, got none at ")
    assert "got Invalid data" in reasons["text.mp4"]
    assert "that its header declares" in reasons["torn.mkv"]
    assert "expected a video stream, got audio only" in reasons["voice.wav"]
    journal = [json.loads(line) for line in (tmp_path / "a.zarr/.sage-va/journal.jsonl").read_text().splitlines()]
    assert {entry["clip_id"] for entry in journal if entry["event"] == "failure"} == set(reasons)
    assert (reports[-1].num_done, reports[-1].num_failed, reports[-1].num_clips) == (1, 5, 6)
    assert extract(sources, store, audio=wav2vec2, options=OPTIONS).num_done == 1, (
        "voice.wav, now that no frames are wanted"
    )


def test_names_that_are_not_text_are_a_failure(vit, tmp_path):
    write_media(tmp_path / "a.mp4", grey_frames(2))
    odd = tmp_path / "b\udcff.mp4"
    try:
        (tmp_path / "a.mp4").rename(odd)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 names only")
    (failure,) = extract(find_sources([str(tmp_path)]), open_store(tmp_path / "a.zarr", "a"), visual=vit).failures
    assert failure.clip_id.encode() == b"b\\udcff.mp4"


def test_crops_with_gaps(vit, tmp_path):
    write_crops(tmp_path / "m/a", [1, 2, 5])
    (tmp_path / "m.csv").write_text("clip_id,crops,fps\nx,m/a,25\n")
    store = open_store(tmp_path / "a.zarr", "a")
    options = ExtractOptions(faces="crops", batch_size=8)
    assert extract(find_sources([str(tmp_path / "m.csv")]), store, visual=vit, options=options).num_done == 1
    track = store.read("x", stream_of(vit, options))
    assert track.mask.tolist() == [True, True, False, False, True]
    assert np.isnan(track.values[2:4]).all()
    assert np.isnan(track.quality[2:4]).all()
    clip = store.clip("x")
    assert clip.media["path"] == "m/a"
    write_crops(tmp_path / "m/a", [3])
    (failure,) = extract(find_sources([str(tmp_path / "m.csv")]), store, visual=vit, options=options).failures
    assert "other bytes" in failure.reason


def test_a_recording_shorter_than_a_step_has_one_masked_step(wav2vec2, tmp_path):
    store = open_store(tmp_path / "a.zarr", "a")
    write_media(tmp_path / "a.wav", audio=tone(0.02))
    extract(find_sources([str(tmp_path / "a.wav")]), store, audio=wav2vec2, options=OPTIONS)
    track = store.read("a.wav", stream_of(wav2vec2, OPTIONS))
    assert (track.num_frames, track.mask.tolist(), track.times_s.tolist()) == (1, [False], [0.0125])


def test_long_sound_is_masked_where_it_is_silent(wav2vec2, tmp_path):
    sound = np.concatenate([tone(22.0), np.zeros(16_000 * 3, np.float32), tone(8.0)])
    write_media(tmp_path / "a.wav", audio=sound)
    store = open_store(tmp_path / "a.zarr", "a")
    summary = extract(find_sources([str(tmp_path / "a.wav")]), store, audio=wav2vec2, options=OPTIONS)
    track = store.read("a.wav", stream_of(wav2vec2, OPTIONS))
    assert track.num_frames == (33 * 16_000 - 400) // 320 + 1
    assert summary.audio_s == pytest.approx(33, abs=0.05)
    times = track.times_s
    assert not track.mask[(times > 22.02) & (times < 24.98)].any()
    assert track.mask[(times < 21.98) | (times > 25.02)].all()


def test_features_beyond_float16_are_a_failure(media, vit, tmp_path, monkeypatch):
    encode = vit.encode
    monkeypatch.setattr(vit, "encode", lambda pixels: encode(pixels) * 1e6)
    store, sources = open_store(tmp_path / "a.zarr", "a"), find_sources([str(media / "mute.mp4")])
    (failure,) = extract(sources, store, visual=vit, options=OPTIONS).failures
    assert "too large for float16. Pass --store-dtype float32." in failure.reason
    options = ExtractOptions(batch_size=8, store_dtype="float32")
    assert extract(sources, store, visual=vit, options=options).num_done == 1
    monkeypatch.setattr(vit, "encode", lambda pixels: encode(pixels) * np.nan)
    (failure,) = extract(sources, open_store(tmp_path / "b.zarr", "a"), visual=vit, options=OPTIONS).failures
    assert "expected finite features from encoder test_vit.r160_in1k, got NaN or infinity" in failure.reason


def no_threads_left():
    return not [thread for thread in threading.enumerate() if thread.name.startswith(("decode-", "sage-va"))]


def test_an_encoder_that_breaks_down_stops_the_run(media, vit, tmp_path, monkeypatch):
    def out_of_memory(pixels):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr(vit, "encode", out_of_memory)
    with pytest.raises(
        InputError, match=r"got CUDA out of memory\. Tried to allocate 2 GiB\. Try a smaller --batch-size"
    ):
        extract(find_sources([str(media)]), open_store(tmp_path / "a.zarr", "a"), visual=vit, options=OPTIONS)
    assert no_threads_left()


def test_a_full_disk_stops_the_run_at_once(media, vit, tmp_path, monkeypatch):
    written = []

    def full(self, entries, overwrite):
        written.append(entries)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ZarrStore, "_save_entries", full)
    with pytest.raises(OSError, match="No space left"):
        extract(find_sources([str(media)]), open_store(tmp_path / "a.zarr", "a"), visual=vit, options=OPTIONS)
    assert no_threads_left()
    assert len(written) == 1


@pytest.mark.parametrize("at", [1, 20])
def test_an_interrupt_stops_cleanly(media, vit, tmp_path, monkeypatch, at):
    """Also while decoders wait at a full queue."""
    monkeypatch.setattr(prefetch, "QUEUE_BYTES", 1)
    encode, calls = vit.encode, []

    def interrupted(pixels):
        calls.append(1)
        if len(calls) == min(at, 6):
            time.sleep(0.05)
            raise KeyboardInterrupt
        return encode(pixels)

    monkeypatch.setattr(vit, "encode", interrupted)
    store = open_store(tmp_path / "a.zarr", "a")
    with pytest.raises(KeyboardInterrupt):
        extract(find_sources([str(media)]), store, visual=vit, options=OPTIONS)
    assert no_threads_left()
    assert not [problem for *_, problem in store.verify() if problem]


def test_a_tiny_queue_gives_the_same_cache(media, vit, wav2vec2, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(prefetch, "QUEUE_BYTES", 1)
    store = open_store(tmp_path / "a.zarr", "a")
    options = ExtractOptions(batch_size=8, num_decode_threads=3)
    extract(find_sources([str(media)]), store, visual=vit, audio=wav2vec2, options=options)
    assert files(store) == files(whole)


KILLED = """
    import os, signal, sys
    from sage_va.data import open_store
    from sage_va.data.manifest import find_sources
    from sage_va.data.store.zarr_store import ZarrStore
    from sage_va.extract.encoders.factory import encoders_from
    from sage_va.extract.options import ExtractOptions
    from sage_va.extract.engine.pipeline import extract

    media, audio, cache, at = sys.argv[1:]
    count, is_replaced = 0, ZarrStore._is_replaced  # called before an entry is put in its place

    def killed(self, *args, **options):
        global count
        count += 1
        if count == int(at):
            os.kill(os.getpid(), signal.SIGKILL)
        return is_replaced(self, *args, **options)

    ZarrStore._is_replaced = killed
    vit, wav2vec2 = encoders_from(
        visual="{name}", visual_weights="random", audio=audio, audio_weights="random", device="cpu"
    )
    options = ExtractOptions(batch_size=8, num_decode_threads=2)
    extract(find_sources([media]), open_store(cache, "a"), visual=vit, audio=wav2vec2, options=options)
"""


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 4])
def test_a_killed_run_resumes_to_the_same_bytes(media, audio_folder, vit, wav2vec2, whole, tmp_path, at):
    """Killed before the first stream, and between the two streams of a clip."""
    cache = tmp_path / "a.zarr"
    script = textwrap.dedent(KILLED).replace("{name}", TINY_VIT)
    command = [sys.executable, "-c", script, str(media), audio_folder, str(cache), str(at)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    store = open_store(cache, "a")
    summary = extract(find_sources([str(media)]), store, visual=vit, audio=wav2vec2, options=OPTIONS)
    assert summary.num_skipped == (at - 1) // 2
    assert summary.failures == []
    assert store.content_sha256() == whole.content_sha256()
    assert files(store) == files(whole)


def test_a_run_that_was_cut_between_two_streams_resumes_to_the_same_bytes(
    media, vit, wav2vec2, whole, tmp_path, monkeypatch
):
    """Like the test above without a process of its own: the fourth stream cannot be put in its place."""
    is_replaced, count = ZarrStore._is_replaced, []  # called before an entry is put in its place

    def failing(self, *args):
        count.append(1)
        if len(count) == 4:
            raise OSError(errno.EIO, "Input/output error")
        return is_replaced(self, *args)

    store, sources = open_store(tmp_path / "a.zarr", "a"), find_sources([str(media)])
    with monkeypatch.context() as patch:
        patch.setattr(ZarrStore, "_is_replaced", failing)
        with pytest.raises(OSError, match="Input/output"):
            extract(sources, store, visual=vit, audio=wav2vec2, options=OPTIONS)
    assert extract(sources, store, visual=vit, audio=wav2vec2, options=OPTIONS).failures == []
    assert files(store) == files(whole)


def test_the_plan_counts_before_the_work(media, vit, wav2vec2, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no")
    sources = [*find_sources([str(media)]), Source("bad", path=tmp_path / "bad.mp4")]
    sources.append(Source("crops", crops=write_crops(tmp_path / "c", [1, 50]), fps=25.0))
    forecast = estimate(sources, vit, wav2vec2, OPTIONS)
    assert (forecast.num_clips, forecast.num_unreadable) == (6, 1)
    assert forecast.num_frames == 30 + 21 + 13 + 9 + 50
    assert forecast.media_s == pytest.approx(1.2 + 1.3 + 0.55 + 1.0 + 2.0, abs=0.1)
    rows = forecast.num_frames * (vit.dim * 2 + 32) + forecast.media_s * 50 * (wav2vec2.dim * 2 + 32)
    assert forecast.cache_bytes == pytest.approx(rows, rel=0.05)
    slower = estimate(sources, vit, None, ExtractOptions(fps=5.0))
    assert slower.num_frames < forecast.num_frames


def test_misuse_is_refused(vit, tmp_path):
    store = open_store(tmp_path / "a.zarr", "a")
    with pytest.raises(InputError, match="expected an encoder, got none"):
        extract([], store)
    with pytest.raises(InputError, match="expected each clip_id once"):
        extract([Source("a", path=tmp_path), Source("a", path=tmp_path)], store, visual=vit)
    assert extract([], store, visual=vit).num_done == 0
    for wrong in ({"faces": "some"}, {"fps": 0}, {"store_dtype": "int8"}, {"batch_size": 0}, {"num_decode_threads": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            ExtractOptions(**wrong)


def test_a_queue_is_bounded_and_closes():
    queue = BytesQueue(10)
    queue.put("a", 100)
    ended = []

    def wait():
        try:
            queue.put("b", 1)
        except ClosedError:
            ended.append("closed")

    blocked = threading.Thread(target=wait)
    blocked.start()
    time.sleep(0.05)
    assert blocked.is_alive()
    queue.close()
    blocked.join(300)
    assert ended == ["closed"]
    assert queue.get() == "a"


def test_batches_have_one_shape():
    shapes, packer = [], None

    def encode(items):
        shapes.append(items.shape)
        return items * 2.0

    packer = Packer(4, encode)
    batches = list(packer.push("a", np.ones((3, 2)))) + list(packer.push("b", np.full((3, 2), 5)))
    batches += list(packer.flush()) + list(packer.flush())
    assert shapes == [(4, 2), (4, 2)]
    assert [(owner, values[:, 0].tolist()) for owner, values in batches] == [
        ("a", [2] * 3),
        ("b", [10]),
        ("b", [10] * 2),
    ]


def test_failures_read_as_one_line():
    error = InputError("a", expected="x", got="y", todo="Do z.")
    assert Failure.of("a", error).reason == "expected x, got y. Do z."
    assert Failure.of("b", error).reason == "a: expected x, got y. Do z."
    assert Failure.of("b", ValueError("one\ntwo")).reason == "ValueError: one"


def test_a_clip_that_failed_is_not_tried_again_until_asked(media, vit, tmp_path):
    bad = write_media(tmp_path / "m/bad.mkv", noisy_frames(75))
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    store, sources = open_store(tmp_path / "a.zarr", "a"), find_sources([str(tmp_path / "m")])
    (first,) = extract(sources, store, visual=vit, options=OPTIONS).failures
    (again,) = (summary := extract(sources, store, visual=vit, options=OPTIONS)).failures
    assert again.reason == f"{first.reason} (as before; --retry-failed tries it again)"
    assert summary.num_frames == 0
    assert [line["reason"] for line in store.journal() if line["event"] == "failure"] == [first.reason]
    retry = ExtractOptions(batch_size=8, num_decode_threads=2, retry_failed=True)
    assert extract(sources, store, visual=vit, options=retry).failures == [first]
    bad.write_bytes(whole)
    assert extract(sources, store, visual=vit, options=OPTIONS).num_done == 1
    assert store.failures() == {}


def test_too_many_failures_end_the_run(media, vit, tmp_path):
    for k in range(4):
        (tmp_path / f"{k}.mp4").write_bytes(b"not a video" * 50)
    options = ExtractOptions(num_decode_threads=1, max_failures=1)
    with pytest.raises(InputError, match=r"extract: expected at most 1 failures, got 2, the last 1\.mp4: .*Mend the"):
        extract(find_sources([str(tmp_path)]), open_store(tmp_path / "a.zarr", "a"), visual=vit, options=options)
    assert no_threads_left()


def test_asked_to_stop_it_finishes_what_it_began(media, vit, wav2vec2, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(prefetch, "QUEUE_BYTES", 1)
    monkeypatch.setattr(encode_stage, "num_cores", lambda: 1)
    store, sources, stop = open_store(tmp_path / "a.zarr", "a"), find_sources([str(media)]), threading.Event()
    options = ExtractOptions(batch_size=8, num_decode_threads=1)

    monkeypatch.setattr(pipeline, "_PROGRESS_EVERY_S", 0)  # so that it is asked while the first clip is decoded

    def report(progress):
        stop.set()

    summary = extract(sources, store, visual=vit, audio=wav2vec2, options=options, progress=report, stop=stop)
    assert 1 <= summary.num_done < 4
    assert summary.failures == []
    assert len(store.clip_ids()) == summary.num_done
    extract(sources, store, visual=vit, audio=wav2vec2, options=options)
    assert store.content_sha256() == whole.content_sha256()


@pytest.mark.parametrize("place", ["decoding", "assembling", "committing"])
def test_memory_that_does_not_suffice_fails_the_clip_alone(media, vit, wav2vec2, tmp_path, monkeypatch, place):
    owner, name, clip_of = {
        "decoding": (clip_decoder.ClipDecoder, "_needed_parts", lambda self, clip, *_: clip.source.clip_id),
        "assembling": (Assembly, "add_images", lambda self, *_: self.source.clip_id),
        "committing": (Assembly, "track", lambda self, *_: self.source.clip_id),
    }[place]
    method = getattr(owner, name)

    def hungry(*args):
        if clip_of(*args) == "mute.mp4":
            raise MemoryError
        return method(*args)

    monkeypatch.setattr(owner, name, hungry)
    store = open_store(tmp_path / "a.zarr", "a")
    summary = extract(find_sources([str(media)]), store, visual=vit, audio=wav2vec2, options=OPTIONS)
    todo = "Cut the clip into parts (start_s, end_s), or decode fewer at once."
    reason = f"the memory of this machine does not suffice. {todo}"
    assert [(failure.clip_id, failure.reason) for failure in summary.failures] == [("mute.mp4", reason)]
    assert summary.num_done == 3
