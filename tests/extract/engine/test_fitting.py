"""Batches by device, halved when its memory is exhausted, and what a run says about both."""

import numpy as np
import pytest
import torch

from sage_va.commands.extract import describe_extraction
from sage_va.data import open_store
from sage_va.data.manifest import find_sources
from sage_va.extract.encoders.base import AudioEncoder, VisualEncoder
from sage_va.extract.engine import encode_stage, threads
from sage_va.extract.engine.fitting import FittingBatches, default_batch
from sage_va.extract.engine.pipeline import extract
from sage_va.extract.options import ExtractOptions
from sage_va.tests.media import noisy_frames, write_media


class Small(VisualEncoder):
    """Has memory for batches of `room` images."""

    name, dim, size = "small", 2, (8, 8)

    def __init__(self, room):
        self.room, self.shapes = room, []

    def embed(self, items):
        if len(items) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.shapes.append(len(items))
        return items.reshape(len(items), -1)[:, :2].astype(np.float32)


def images(num):
    return np.random.default_rng(0).integers(0, 255, (num, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize(("room", "used"), [(100, 20), (10, 10), (9, 5), (1, 1)])
def test_a_batch_is_halved_until_it_fits(room, used):
    encoder, items = Small(room), images(20)
    fitting = FittingBatches(encoder, 20)
    if used == 20:
        values = fitting.encode(items)
    else:
        with pytest.warns(UserWarning) as lines:  # noqa: PT030 - several, of which the first is checked
            values = fitting.encode(items)
        assert str(lines[0].message) == "small: out of memory on cpu with batches of 20; continuing with 10"
    np.testing.assert_array_equal(values, Small(100).encode(items))
    assert fitting.used == used
    encoder.shapes.clear()
    fitting.encode(items)
    assert set(encoder.shapes) == {used}  # one shape, and no other try with a larger one


def test_the_last_piece_is_filled_up():
    encoder, items = Small(3), images(7)
    with pytest.warns(UserWarning, match="continuing with"):
        values = FittingBatches(encoder, 7).encode(items)
    np.testing.assert_array_equal(values, Small(100).encode(items))
    assert set(encoder.shapes) == {2}


def test_memory_too_small_for_one_item_is_an_error():
    with pytest.warns(UserWarning, match="continuing with 1"), pytest.raises(torch.OutOfMemoryError):
        FittingBatches(Small(0), 4).encode(images(4))


def test_the_size_follows_modality_and_device():
    class Voice(AudioEncoder):
        def embed(self, items):
            return items

    image, voice = Small(1), Voice()
    assert (default_batch(image), default_batch(voice)) == (32, 1)
    image.device = voice.device = torch.device("cuda:0")
    assert (default_batch(image), default_batch(voice)) == (128, 8)


def test_a_run_says_what_limited_it_and_which_batches_it_used(tmp_path):
    write_media(tmp_path / "a.mov", noisy_frames(30))
    store, encoder = open_store(tmp_path / "a.zarr", "a"), Small(8)
    with pytest.warns(UserWarning, match="out of memory"):
        summary = extract(find_sources([str(tmp_path / "a.mov")]), store, visual=encoder, options=ExtractOptions())
    assert summary.batch_sizes == {"visual": 8}
    assert set(encoder.shapes) == {8}
    assert "items per batch: 8 (visual)" in describe_extraction(summary)
    (end,) = [line for line in store.journal() if line["event"] == "end"]
    assert end["bottleneck"] in ("decode", "encode", "write")
    assert end["batches"] == {"visual": 8}
    assert {"wall_s", "decode_s", "encode_s", "write_s"} <= set(end)


def test_threads_of_a_gpu_have_streams_and_page_locked_batches(monkeypatch):
    """Nothing of it can run here: which calls are made, in which order."""
    calls = []

    class Stream:
        def __init__(self, device):
            self.device = device

        def wait_stream(self, other):
            calls.append(("waits for", other))

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: f"default of {device}")
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: calls.append(("set", str(stream.device))))
    before = torch.get_num_threads()
    try:
        threads.prepare_encoder_thread([torch.device("cuda:1"), torch.device("mps")])
    finally:
        torch.set_num_threads(before)
    assert calls == [("waits for", "default of cuda:1"), ("set", "cuda:1")]

    empty, asked = torch.empty, []
    monkeypatch.setattr(
        torch, "empty", lambda *size, pin_memory=False, **how: asked.append(pin_memory) or empty(*size, **how)
    )
    encoder = Small(100)
    encoder.device = torch.device("cuda:0")
    stage = encode_stage.EncodeStage(encoder, None, ExtractOptions(batch_size=4), encode_stage.Buffers())
    batch = stage._buffers.take((4, 8, 8, 3), np.dtype(np.uint8))
    batch[...] = 7
    assert asked == [True]
    stage.close()
