"""Encoders: named by their weights, indifferent to company, on the clock that they promise."""

import pickle
import zipfile

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from sage_va.data import InputError, stream_name
from sage_va.extract.encoders import plugins
from sage_va.extract.encoders.audio_windows import Windower
from sage_va.extract.encoders.factory import encoder_from_fingerprint, encoders_from
from sage_va.extract.encoders.timm_encoder import TimmEncoder
from sage_va.extract.encoders.transformers_encoder import TransformersEncoder
from sage_va.extract.encoders.weights import load_state
from sage_va.extract.identity import fingerprint_of, stream_of
from sage_va.extract.options import ExtractOptions
from sage_va.tests.encoders import TINY_CONVNET, TINY_VIT, write_wav2vec2, write_whisper
from sage_va.tests.media import RATE, tone

OPTIONS = ExtractOptions()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture(scope="module")
def vit():
    return TimmEncoder(TINY_VIT, weights="random", device="cpu")


@pytest.fixture(scope="module")
def wav2vec2(folder):
    return TransformersEncoder(str(write_wav2vec2(folder / "w2v-tiny")), weights="random", device="cpu")


@pytest.fixture(scope="module")
def whisper(folder):
    return TransformersEncoder(str(write_whisper(folder / "whisper-tiny")), weights="random", device="cpu")


def images(num, size, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (num, *size, 3), dtype=np.uint8)


def test_features_are_those_of_the_model_as_its_authors_feed_it(vit):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(TINY_VIT, pretrained=False, num_classes=0).eval()
    config = timm.data.resolve_model_data_config(model)
    assert (vit.size, vit.mean, vit.std) == (config["input_size"][1:], config["mean"], config["std"])
    pixels = images(2, vit.size)
    normal = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - torch.tensor(vit.mean).view(3, 1, 1)) / torch.tensor(
        vit.std
    ).view(3, 1, 1)
    with torch.inference_mode():
        theirs = model.forward_head(model.forward_features(normal), pre_logits=True).numpy()
    np.testing.assert_allclose(vit.encode(pixels), theirs, atol=1e-5)
    assert vit.dim == theirs.shape[1]


def test_padding_normalises_to_about_zero(vit):
    blank = vit.letterbox()._blank
    assert (np.abs((blank / 255 - vit.mean) / vit.std) < 0.01).all()


@pytest.mark.parametrize("name", [TINY_VIT, TINY_CONVNET])
def test_an_image_is_the_same_bits_at_every_place_and_in_every_company(name):
    encoder = TimmEncoder(name, weights="random", device="cpu")
    some, others = images(8, encoder.size), images(8, encoder.size, seed=1)
    alone = encoder.encode(some)
    for place in range(8):
        mixed = others.copy()
        mixed[place] = some[3]
        np.testing.assert_array_equal(encoder.encode(mixed)[place], alone[3])


def test_weights_name_the_stream(folder, vit):
    file = folder / "tiny.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = timm.create_model(TINY_VIT, pretrained=False, num_classes=10)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(state, file)
    loaded = TimmEncoder(TINY_VIT, weights=str(file), device="cpu")
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, folder / "tiny.pth")
    again = TimmEncoder(TINY_VIT, weights=str(folder / "tiny.pth"), device="cpu")
    assert stream_of(loaded, OPTIONS) == stream_of(again, OPTIONS)
    assert stream_of(vit, OPTIONS) != stream_of(loaded, OPTIONS)
    assert stream_of(vit, OPTIONS).startswith("visual/test-vit.r160-in1k-random-")
    assert "random" not in stream_of(loaded, OPTIONS)
    assert TimmEncoder(TINY_VIT, weights="random", device="cpu").weights_sha256 == vit.weights_sha256
    fingerprint = fingerprint_of(loaded, OPTIONS)
    assert encoder_from_fingerprint(fingerprint, str(file), device="cpu").fingerprint == loaded.fingerprint
    with pytest.raises(InputError, match=r"expected the weights \w{12}… that the features were extracted with, got"):
        encoder_from_fingerprint(
            {**fingerprint, "encoder": {**fingerprint["encoder"], "weights": "random"}}, device="cpu"
        )


def test_options_that_change_numbers_change_the_name(vit):
    base = stream_of(vit, OPTIONS)
    for changed in (ExtractOptions(faces="crops"), ExtractOptions(fps=5.0), ExtractOptions(store_dtype="float32")):
        assert stream_of(vit, changed) != base
    for same in (ExtractOptions(batch_size=3), ExtractOptions(num_decode_threads=2), ExtractOptions(overwrite=True)):
        assert stream_of(vit, same) == base
    assert stream_name("visual", vit.alias, fingerprint_of(vit, OPTIONS)) == base


def test_a_pickle_of_code_is_refused(folder):
    class Payload:
        def __reduce__(self):
            return (exec, (f"open({str(folder / 'ran')!r}, 'w')",))

    (folder / "bad.pth").write_bytes(pickle.dumps(Payload()))
    torch.save({"state_dict": Payload()}, folder / "bad2.pth")
    for name in ("bad.pth", "bad2.pth"):
        with pytest.raises(InputError, match=rf"{name}: expected tensors, got a pickle of more than tensors"):
            TimmEncoder(TINY_VIT, weights=str(folder / name), device="cpu")
    assert not (folder / "ran").exists()


def test_weights_that_do_not_fit_are_refused(folder, vit):
    state = {name: value.clone().contiguous() for name, value in vit._model.state_dict().items()}
    save_file({name: value for name, value in state.items() if name != "cls_token"}, folder / "short.safetensors")
    with pytest.raises(InputError, match=r"expected the \d+ weights of the model, got 1 missing \(e\.g\. cls_token\)"):
        TimmEncoder(TINY_VIT, weights=str(folder / "short.safetensors"), device="cpu")
    save_file(state | {"more": torch.zeros(1)}, folder / "more.safetensors")
    with pytest.raises(InputError, match=r"got 1 left over \(e\.g\. more\)"):
        TimmEncoder(TINY_VIT, weights=str(folder / "more.safetensors"), device="cpu")
    with pytest.raises(InputError, match="expected a weights file, got no such file"):
        TimmEncoder(TINY_VIT, weights=str(folder / "absent.pth"), device="cpu")
    (folder / "torn.safetensors").write_bytes((folder / "more.safetensors").read_bytes()[:200])
    with pytest.raises(InputError, match=r"torn\.safetensors: expected tensors, got"):
        TimmEncoder(TINY_VIT, weights=str(folder / "torn.safetensors"), device="cpu")


def test_unknown_names_are_refused(folder):
    with pytest.raises(
        InputError, match=r"visual: expected the name of a timm model, got 'test_vitt'\. Did you mean test_vit"
    ):
        TimmEncoder("test_vitt", weights="random", device="cpu")
    with pytest.raises(InputError, match="visual: expected a timm model and its tag"):
        TimmEncoder("test_vit.nonsense", device="cpu")
    with pytest.raises(InputError, match="device cuda:99: this machine has none"):
        TimmEncoder(TINY_VIT, weights="random", device="cuda:99")
    with pytest.raises(InputError, match="precision: expected auto"):
        TimmEncoder(TINY_VIT, weights="random", device="cpu", precision="int3")
    with pytest.raises(InputError, match="expected an encoder, got none"):
        encoders_from()
    with pytest.raises(InputError, match="audio_weights: expected hub or random"):
        TransformersEncoder("x", weights="x.pth")
    (folder / "bert").mkdir()
    (folder / "bert/config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="expected wav2vec2, hubert, wavlm or whisper, got model type 'bert'"):
        TransformersEncoder(str(folder / "bert"), weights="random")


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match=r"expected weights from the model hub, got .* pass --visual-weights with a local path"
    ):
        TimmEncoder(TINY_VIT, device="cpu")
    with pytest.raises(InputError, match=r"expected weights from the model hub, got .* pass --audio with a local path"):
        TransformersEncoder("facebook/no-such-model-here", device="cpu")


def test_precision_is_part_of_the_name(vit):
    half = TimmEncoder(TINY_VIT, weights="random", device="cpu", precision="bfloat16")
    assert vit.fingerprint["compute_dtype"] == "float32"
    assert half.fingerprint["compute_dtype"] == "bfloat16"
    pixels = images(2, vit.size)
    close = np.abs(half.encode(pixels) - vit.encode(pixels)).max()
    assert 0 < close < 0.1


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert", "WavLM"])
def test_raw_encoders_keep_their_clock(folder, kind):
    encoder = TransformersEncoder(str(write_wav2vec2(folder / kind, kind=kind)), weights="random", device="cpu")
    plan = encoder.plan
    assert (plan.sampling_rate, plan.step, plan.receptive_field, plan.first_centre) == (16_000, 320, 400, 200)
    assert plan.window == 320 * 1000 + 80
    for num_samples in (400, 719, 720, 16_000):
        assert encoder.encode(tone(1)[None, :num_samples]).shape == (1, plan.num_steps(num_samples), encoder.dim)
    assert plan.num_steps(16_000) == 49
    assert encoder.alias == f"{kind}-random"


def stitched(encoder, samples):
    windower = Windower(encoder.plan)
    windows = [*windower.push(samples), *windower.finish()]
    return np.concatenate([encoder.encode(w.samples[None])[0, w.first : w.end] for w in windows]), windows


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_windows_stitch_to_what_one_long_pass_gives(folder, norm):
    """Not to the bit: attention, and with group norm the statistics, see 20 s and not the whole. Cosine > .99."""
    encoder = TransformersEncoder(
        str(write_wav2vec2(folder / f"long-{norm}", norm=norm)), weights="random", device="cpu"
    )
    samples = tone(47.3)
    mine, windows = stitched(encoder, samples)
    assert [len(window.samples) for window in windows] == [encoder.plan.window] * 3
    whole = encoder.encode(samples[None])[0]
    assert mine.shape == whole.shape
    mine, whole = mine - whole.mean(axis=0), whole - whole.mean(axis=0)
    cosine = (mine * whole).sum(axis=1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(whole, axis=1)
    assert np.median(cosine) > 0.99
    shifted = (
        (mine[1:] * whole[:-1]).sum(axis=1) / np.linalg.norm(mine[1:], axis=1) / np.linalg.norm(whole[:-1], axis=1)
    )
    assert np.median(cosine) > np.median(shifted)


def test_a_window_is_the_same_bits_in_every_company(wav2vec2, whisper):
    for encoder in (wav2vec2, whisper):
        batch = np.stack([tone(2.0, hz=100 * (k + 1), seed=k) for k in range(4)])
        one = encoder.encode(batch)
        for place in (0, 3):
            mixed = np.stack([tone(2.0, seed=9)] * 4)
            mixed[place] = batch[1]
            np.testing.assert_array_equal(encoder.encode(mixed)[place], one[1])


def test_whisper_steps(whisper):
    plan = whisper.plan
    assert (plan.window, plan.step, plan.window_steps, plan.context_steps) == (480_000, 320, 1500, 50)
    assert plan.num_steps(16_000) == 50
    np.testing.assert_allclose(plan.times_s(3, 1.0), [1.0, 1.02, 1.04])
    mine, windows = stitched(whisper, tone(61.0))
    assert mine.shape == (3050, whisper.dim)
    assert [window.end - window.first for window in windows] == [1450, 1400, 200]
    assert whisper.alias == "whisper-tiny-random"


def test_whisper_hears_a_click_where_it_is(whisper):
    """The step at 0.02 i s is the one that changes most when a click comes there."""
    silence = np.zeros(RATE * 2, np.float32)
    silence[:10] = 0.5  # keeps the log-mel maximum in place
    click = silence.copy()
    click[RATE : RATE + 40] = 0.4
    change = np.abs(whisper.encode(click[None]) - whisper.encode(silence[None]))[0].sum(axis=1)
    assert whisper.plan.times_s(1500, 0)[change.argmax()] == pytest.approx(1.0, abs=0.04)


def test_wav2vec2_hears_a_click_where_it_is(folder):
    place = write_wav2vec2(folder / "click", norm="layer", num_conv_pos_embeddings=2)
    encoder = TransformersEncoder(str(place), weights="random", device="cpu", layer="0")
    noise = tone(2.0, level=0.0)
    click = noise.copy()
    click[RATE : RATE + 40] += 0.9
    change = np.abs(encoder.encode(click[None]) - encoder.encode(noise[None]))[0].sum(axis=1)
    assert encoder.plan.times_s(len(change), 0)[change.argmax()] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("family", [write_wav2vec2, write_whisper])
def test_layers(folder, family):
    place = str(family(folder / f"layers-{family.__name__}"))
    make = {
        layer: TransformersEncoder(place, weights="random", layer=layer, device="cpu")
        for layer in ("last", "0", "1", "0-1")
    }
    samples = tone(1.0)[None]
    embeddings = {layer: encoder.encode(samples) for layer, encoder in make.items()}
    np.testing.assert_allclose(embeddings["0-1"], (embeddings["0"] + embeddings["1"]) / 2, atol=1e-6)
    assert np.abs(embeddings["0"] - embeddings["1"]).max() > 1e-3
    assert len({stream_of(encoder, OPTIONS) for encoder in make.values()}) == 4
    assert "layer0-1" in make["0-1"].alias
    for layer in ("-1", "9", "1-0", "0-9", "first", ""):
        with pytest.raises(InputError, match=r"layer: expected last, 0 to \d, or a range"):
            TransformersEncoder(place, weights="random", layer=layer, device="cpu")


def test_a_model_directory_brings_its_weights(folder):
    place = write_wav2vec2(folder / "real", weights=True)
    loaded = TransformersEncoder(str(place), device="cpu")
    random = TransformersEncoder(str(place), weights="random", device="cpu")
    assert loaded.weights_sha256 != random.weights_sha256
    assert loaded.alias == "real"
    assert str(folder) not in str(fingerprint_of(loaded, OPTIONS))
    rebuilt = encoder_from_fingerprint(fingerprint_of(loaded, OPTIONS), str(place), device="cpu")
    assert rebuilt.fingerprint == loaded.fingerprint
    again = encoder_from_fingerprint(fingerprint_of(random, OPTIONS), str(place), device="cpu")
    assert again.weights_sha256 == random.weights_sha256


def test_whisper_is_named_by_its_encoder_alone(folder):
    place = write_whisper(folder / "whisper-real", weights=True)
    encoder = TransformersEncoder(str(place), device="cpu")
    assert not any("decoder" in name for name in encoder._model.state_dict())


def test_a_directory_without_its_parts_is_refused(folder):
    place = write_wav2vec2(folder / "bare")
    with pytest.raises(InputError, match="expected a directory of a transformers model, got"):
        TransformersEncoder(str(place), device="cpu")
    real = write_wav2vec2(folder / "deeper", weights=True)
    text = (real / "config.json").read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    (real / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"expected all weights of the model, got \d+ missing"):
        TransformersEncoder(str(real), device="cpu")
    empty = folder / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="expected a directory of a transformers model"):
        TransformersEncoder(str(empty), weights="random", device="cpu")


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        (TINY_VIT, "visual/test-vit.r160-in1k-random-30f65edd"),
        (TINY_CONVNET, "visual/test-resnet.r160-in1k-random-367bdae8"),
    ],
)
def test_an_image_size_is_another_stream_and_no_size_the_one_of_before(name, golden):
    def named(encoder):
        fingerprint = fingerprint_of(encoder, ExtractOptions())
        fingerprint["decoder"], fingerprint["encoder"]["weights_sha256"] = {}, ""  # they differ between versions
        return stream_name("visual", encoder.alias, fingerprint)

    plain, native, other = (
        TimmEncoder(name, weights="random", device="cpu", image_size=size) for size in (None, 160, 96)
    )
    assert named(plain) == named(native) == golden
    assert named(other) != golden
    assert (other.size, other.dim, other.weights_sha256) == ((96, 96), plain.dim, plain.weights_sha256)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 96, 96, 3), dtype=np.uint8)
    assert other.encode(pixels).shape == (2, plain.dim)
    again = encoder_from_fingerprint(fingerprint_of(other, OPTIONS), device="cpu")
    assert again.size == (96, 96)
    np.testing.assert_array_equal(again.encode(pixels), other.encode(pixels))


def test_an_image_size_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"image_size: test_vit\S+ has patches of 16 pixels\. Choose a"):
        TimmEncoder(TINY_VIT, weights="random", device="cpu", image_size=100)
    with pytest.raises(InputError, match="it takes no image_size, and 96 was given"):
        plugins._check_settings("encoder own", "visual", {"image_size": 96}, ())


def test_weights_that_inflate_are_refused(tmp_path):
    """torch reads compressed members as well, and two megabytes of them can be a gigabyte."""
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pth")
    assert load_state(tmp_path / "a.pth")["a"].shape == (1000,)
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as whole,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in whole.namelist():
            small.writestr(name, whole.read(name))
    with pytest.raises(InputError, match=r"b\.pth: expected tensors as torch saves them, got compressed ones\. Load"):
        load_state(tmp_path / "b.pth")
