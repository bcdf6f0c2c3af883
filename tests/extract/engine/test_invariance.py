"""A clip's embedding is its own: the same alone and in any company, whatever the batch, the threads and the workers.

Same bits wherever the encoder sees one batch shape, which is what a run does; within `TOLERANCE` between batch shapes,
for which processors sum in another order. docs/encoders.md states both.
"""

import numpy as np
import pytest
import torch

from sage_va.data import open_store
from sage_va.data.manifest import find_sources
from sage_va.extract.encoders.timm_encoder import TimmEncoder
from sage_va.extract.encoders.transformers_encoder import TransformersEncoder
from sage_va.extract.engine import encode_stage
from sage_va.extract.engine.pipeline import extract
from sage_va.extract.engine.threads import use_one_thread
from sage_va.extract.identity import stream_of
from sage_va.extract.options import ExtractOptions
from sage_va.tests.encoders import TINY_CONVNET, TINY_VIT, write_wav2vec2, write_whisper
from sage_va.tests.media import noisy_frames, tone, write_media

TOLERANCE = 1e-5  # of the largest absolute value in the embedding, float32
FAMILIES = ["vit", "convnet", "wav2vec2-group", "wav2vec2-layer", "whisper"]
NUM_ITEMS = 16  # a multiple of a register's numbers: torch computes a remainder by another function, in other bits


def make(family, folder, device="cpu"):
    if family in ("vit", "convnet"):
        name = TINY_VIT if family == "vit" else TINY_CONVNET
        return TimmEncoder(name, weights="random", device=device, precision="float32")
    place = folder / family
    if family == "whisper":
        write_whisper(place)
    else:
        write_wav2vec2(place, norm=family.removeprefix("wav2vec2-"))
    return TransformersEncoder(str(place), weights="random", device=device, precision="float32")


@pytest.fixture(scope="module", params=FAMILIES)
def encoder(request, tmp_path_factory):
    return make(request.param, tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    for number, num_frames in enumerate((9, 26, 4)):
        sound = tone(num_frames / 25 + 0.1, hz=150.0 * (number + 1), seed=number)
        write_media(folder / f"{number}.mov", noisy_frames(num_frames, seed=number), audio=sound)
    return folder


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    use_one_thread()
    yield
    torch.set_num_threads(before)


def items_of(encoder, num=NUM_ITEMS, seed=0):
    if encoder.modality == "visual":
        return np.random.default_rng(seed).integers(0, 255, (num, *encoder.size, 3), dtype=np.uint8)
    return np.stack([tone(1.5, hz=90.0 * (k + 1), seed=seed + k) for k in range(num)])


def off(values, expected):
    return np.abs(values - expected).max() / np.abs(expected).max()


@pytest.mark.usefixtures("one_thread")  # as in a run
def test_other_company_same_bits(encoder):
    items, others = items_of(encoder), items_of(encoder, seed=50)
    together = encoder.encode(items)
    for place in range(NUM_ITEMS):
        mixed = others.copy()
        mixed[place] = items[2]
        np.testing.assert_array_equal(encoder.encode(mixed)[place], together[2])


def test_any_batch_size_within_the_tolerance(encoder):
    items = items_of(encoder)
    together = encoder.encode(items)
    for num in (1, 2, 3):
        assert off(encoder.encode(items[:num]), together[:num]) < TOLERANCE
    assert off(together[::-1], together) > 100 * TOLERANCE  # items differ by far more


def test_any_number_of_threads_within_the_tolerance(encoder):
    items, before = items_of(encoder), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = encoder.encode(items)
        torch.set_num_threads(4)
        assert off(encoder.encode(items), one) < TOLERANCE
    finally:
        torch.set_num_threads(before)


def run(sources, encoder, folder, **options):
    store = open_store(folder / f"{len(list(folder.iterdir()))}.zarr", "a")
    settings = ExtractOptions(**{"batch_size": 8, "num_decode_threads": 1, "store_dtype": "float32", **options})
    extract(sources, store, **{encoder.modality: encoder}, options=settings)
    stream = stream_of(encoder, settings)
    return {clip_id: store.read(clip_id, stream).values for clip_id in store.clip_ids()}


def test_a_run_gives_the_same_bits_alone_in_company_with_any_workers(encoder, media, tmp_path, monkeypatch):
    sources = find_sources([str(media)])
    together = run(sources, encoder, tmp_path)
    assert len(together) == 3
    alone = {}
    for source in sources:
        alone |= run([source], encoder, tmp_path)
    others = [alone, run(sources[::-1], encoder, tmp_path, num_decode_threads=3)]
    monkeypatch.setattr(encode_stage, "num_cores", lambda: 5)  # so many batches at once
    others.append(run(sources, encoder, tmp_path, num_decode_threads=2))
    for other in others:
        for clip_id, values in together.items():
            np.testing.assert_array_equal(other[clip_id], values)


def test_a_run_with_another_batch_size_is_within_the_tolerance(encoder, media, tmp_path):
    sources = find_sources([str(media)])
    together = run(sources, encoder, tmp_path)
    for batch_size in (1, 32):
        for clip_id, values in run(sources, encoder, tmp_path, batch_size=batch_size).items():
            assert off(values, together[clip_id]) < TOLERANCE


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_gives_what_the_processor_gives(family, tmp_path):
    there, here = make(family, tmp_path, "cuda"), make(family, tmp_path)
    items = items_of(there)
    assert off(there.encode(items), here.encode(items)) < 1e-4
    assert there.sent(items).is_cuda
    np.testing.assert_array_equal(there.encode(items), there.encode(items))


@pytest.mark.gpu
def test_threads_share_a_gpu_without_mixing_their_batches(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    encoder = make("vit", tmp_path, "cuda")
    batches = [items_of(encoder, num=32, seed=seed) for seed in range(12)]
    expected = [encoder.encode(batch) for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        for rows, wanted in zip(pool.map(encoder.encode, batches), expected, strict=True):
            np.testing.assert_array_equal(rows, wanted)
