"""Number formats: float32 is IEEE float32, bfloat16 stays near it, and casting weights once changes no bit."""

import threading
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from sage_va.data import InputError
from sage_va.extract.encoders import arithmetic, timm_encoder, transformers_encoder
from sage_va.extract.encoders.arithmetic import cast_once, check_convolutions, plain_float32
from sage_va.extract.encoders.base import VisualEncoder
from sage_va.extract.encoders.timm_encoder import TimmEncoder
from sage_va.extract.encoders.transformers_encoder import TransformersEncoder
from sage_va.tests.encoders import TINY_CONVNET, TINY_VIT, write_wav2vec2, write_whisper
from sage_va.tests.media import tone

FAMILIES = ["vit", "convnet", "wav2vec2-group", "wav2vec2-layer", "whisper"]


def make(family, folder, precision):
    if family in ("vit", "convnet"):
        name = TINY_VIT if family == "vit" else TINY_CONVNET
        return TimmEncoder(name, weights="random", device="cpu", precision=precision)
    place = folder / family
    if not place.exists():
        wide = {"hidden_size": 32}  # processors with AMX compute groups of 8 channels wrong
        norm = family.removeprefix("wav2vec2-")
        write_whisper(place) if family == "whisper" else write_wav2vec2(place, norm=norm, **wide)
    return TransformersEncoder(str(place), weights="random", device="cpu", precision=precision)


def items_of(encoder):
    if encoder.modality == "visual":
        return np.random.default_rng(0).integers(0, 255, (4, *encoder.size, 3), dtype=np.uint8)
    return np.stack([tone(1.5, hz=90.0 * (k + 1), seed=k) for k in range(2)])


def settings():
    return [getattr(place, name) for place, name, _ in arithmetic._shortcuts()]


class Recorder(VisualEncoder):
    """Notes torch's settings while it embeds."""

    name, dim, size = "recorder", 1, (8, 8)

    def embed(self, items):
        self.during = settings()
        return np.zeros((len(items), 1), np.float32)


@pytest.mark.parametrize(("dtype", "plain"), [(torch.float32, True), (torch.bfloat16, False)])
def test_float32_is_computed_without_shortcuts(dtype, plain):
    encoder, before = Recorder(), settings()
    encoder.dtype = dtype
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"  # a user's choice
        chosen = settings()
        encoder.encode(np.zeros((2, 8, 8, 3), np.uint8))
        assert encoder.during == (["ieee"] * len(chosen) if plain else chosen)
        assert settings() == chosen
    finally:
        torch.backends.cuda.matmul.fp32_precision = before[2]
    assert settings() == before


def test_the_last_thread_to_leave_restores_the_settings():
    before, inside, leave = settings(), threading.Event(), threading.Event()

    def other():
        with plain_float32():
            inside.set()
            assert leave.wait(300)

    thread = threading.Thread(target=other)
    with plain_float32():
        thread.start()
        assert inside.wait(300)
    assert settings() == ["ieee"] * len(before) != before
    leave.set()
    thread.join(300)
    assert settings() == before


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_stays_near_float32(family, tmp_path):
    exact, half = make(family, tmp_path, "float32"), make(family, tmp_path, "bfloat16")
    rows = [encoder.encode(items_of(encoder)).reshape(-1, encoder.dim) for encoder in (exact, half)]
    cosines = (rows[0] * rows[1]).sum(1) / np.linalg.norm(rows[0], axis=1) / np.linalg.norm(rows[1], axis=1)
    assert np.median(cosines) > 0.999
    assert cosines.min() > 0.99
    assert not np.array_equal(*rows)
    assert half.fingerprint["compute_dtype"] == "bfloat16"
    assert half.weights_sha256 == exact.weights_sha256


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_are_cast_once_give_the_same_bits(family, tmp_path, monkeypatch):
    once = make(family, tmp_path, "bfloat16")
    for module in (timm_encoder, transformers_encoder):
        monkeypatch.setattr(module, "cast_once", lambda *_: False)
    each_time = make(family, tmp_path, "bfloat16")
    np.testing.assert_array_equal(once.encode(items_of(once)), each_time.encode(items_of(each_time)))
    kinds = {weight.dtype for weight in once._model.parameters()}
    assert kinds == {torch.float32, torch.bfloat16}  # norms stay
    assert {weight.dtype for weight in each_time._model.parameters()} == {torch.float32}
    assert once.weights_sha256 == each_time.weights_sha256


class Wrong(nn.Conv1d):
    """Is computed wrong in few bits, as some libraries do on some processors."""

    def forward(self, input):  # noqa: A002
        y = super().forward(input)
        return y.roll(1, dims=1) if torch.is_autocast_enabled("cpu") else y


@pytest.mark.parametrize("layer", [nn.Conv1d, Wrong])
def test_a_convolution_that_is_computed_wrong_is_refused(layer):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv1d(1, 16, 8), layer(16, 16, 8)).requires_grad_(False)
        items = torch.randn(1, 1, 200)

    def embed():
        with torch.autocast("cpu", torch.bfloat16):
            return model(items)

    with (
        pytest.raises(InputError, match="its Wrong is computed wrong in bfloat16") if layer is Wrong else nullcontext()
    ):
        check_convolutions(model, torch.bfloat16, embed, "test")
    check_convolutions(model, torch.float32, embed, "test")
    assert not any(module._forward_hooks for module in model.modules())


class Odd(nn.Module):
    """Computes with a weight in float32 too."""

    def __init__(self):
        super().__init__()
        self.layer, self.normed = nn.Linear(64, 8), nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.odd = True

    def forward(self, x):
        scale = self.layer.weight.float().square().mean() if self.odd else 1.0
        return self.normed(self.layer(x)).float() * scale


@pytest.mark.parametrize("odd", [True, False])
def test_weights_that_are_needed_in_float32_stay(odd):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, items = Odd().requires_grad_(False), torch.randn(4, 64)
    model.odd = odd

    def embed():
        with torch.autocast("cpu", torch.bfloat16):
            return model(items)

    expected = embed()
    assert cast_once(model, torch.bfloat16, embed) is not odd
    assert model.layer.weight.dtype == (torch.float32 if odd else torch.bfloat16)
    assert model.normed.parametrizations.weight.original1.dtype == torch.float32
    torch.testing.assert_close(embed(), expected, rtol=0, atol=0)
