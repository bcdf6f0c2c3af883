"""A model finds its encoder again by the weights, wherever their file or folder lies now."""

import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from sage_va.data import InputError
from sage_va.extract.encoders.factory import encoder_from_fingerprint, encoders_from
from sage_va.extract.encoders.places import find_place, note_place
from sage_va.extract.identity import fingerprint_of
from sage_va.extract.options import ExtractOptions
from sage_va.tests.encoders import TINY_CONVNET, write_wav2vec2


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new machine: nothing is remembered, and there is no hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("SAGE_VA_CACHE", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_last_place_that_is_still_there_counts(tmp_path: Path) -> None:
    assert find_place("a" * 64) is None
    for name in ("one", "two", "three"):
        (tmp_path / name).write_text("")
        note_place("a" * 64, str(tmp_path / name))
    note_place("b" * 64, str(tmp_path / "nowhere"))
    assert (find_place("a" * 64), find_place("b" * 64)) == (str(tmp_path / "three"), None)
    (tmp_path / "three").unlink()
    assert find_place("a" * 64) == str(tmp_path / "two")


@pytest.mark.parametrize("weights", ["hub", "random"])
def test_an_audio_folder_is_found_again_and_elsewhere_by_its_weights(weights: str, home: Path, tmp_path: Path) -> None:
    folder = write_wav2vec2(tmp_path / "voice", weights=True)
    _, encoder = encoders_from(audio=str(folder), audio_weights=weights, device="cpu")
    fingerprint = fingerprint_of(encoder, ExtractOptions())
    again = encoder_from_fingerprint(fingerprint, device="cpu")
    assert again.weights_sha256 == encoder.weights_sha256
    shutil.move(folder, tmp_path / "moved")
    for forgotten in (False, True):
        if forgotten:
            shutil.rmtree(home)
        with pytest.raises(InputError, match=r"voice: this encoder is a local folder .* Pass its place by --audio"):
            encoder_from_fingerprint(fingerprint, device="cpu")
    named = encoder_from_fingerprint(fingerprint, str(tmp_path / "moved"), device="cpu")
    assert named.name == "voice"
    assert encoder_from_fingerprint(fingerprint, device="cpu").fingerprint == named.fingerprint  # from now on by itself


def test_a_weights_file_is_found_again(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_file(timm.create_model(TINY_CONVNET, num_classes=0).state_dict(), file)
    encoder, _ = encoders_from(visual=TINY_CONVNET, visual_weights=str(file), device="cpu")
    fingerprint = fingerprint_of(encoder, ExtractOptions())
    assert encoder_from_fingerprint(fingerprint, device="cpu").weights_sha256 == encoder.weights_sha256
    file.unlink()
    with pytest.raises(InputError, match="expected weights from the model hub, got no connection to it"):
        encoder_from_fingerprint(fingerprint, device="cpu")
