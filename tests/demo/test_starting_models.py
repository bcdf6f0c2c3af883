"""Models to start from: a list that is true and asks no server, and a shipped model that does what its card says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("av")

from sage_va import SAGE
from sage_va.cli import main
from sage_va.data.tensor_file import load_tensors
from sage_va.demo.pretrained import FACE, PackagedWeights
from sage_va.demo.starting_models import SHIPPED
from sage_va.extract.catalogue import is_cached, known_encoders
from sage_va.fusion.ccc import ccc


def listed(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["models", "--json", *arguments])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("a server was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)


def test_the_list_is_complete_and_asks_no_server(no_network: None) -> None:
    rows = listed()["models"]
    assert {row["use"] for row in rows} == {"--visual", "--audio", "predict"}
    for row in rows:
        assert row["licence"]
        assert row["trained_on"]
        assert row["card"].startswith("https://") or row["source"] == "sage-va"
        assert (row["dimensions"] is None) == (row["use"] == "predict")
    assert [row["name"] for row in rows if row["affect"]] == [
        "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
        "drawn-faces",
    ]
    text = CliRunner().invoke(main, ["models"]).stdout
    assert "Visual encoders (--visual NAME)\n  vit_small_patch14_dinov2.lvd142m\n      384 dimensions, 88 MB" in text
    assert "labels of affect, from sage-va, here; trained on drawn faces and synthetic voices: not for people" in text


@pytest.mark.slow
def test_names_dimensions_licences_and_sizes_are_those_of_the_networks() -> None:
    timm = pytest.importorskip("timm")
    for model in known_encoders():
        if model.use == "--visual":
            with torch.device("meta"):
                network = timm.create_model(model.name, pretrained=False)
            megabytes = 4 * sum(weight.numel() for weight in network.parameters()) / 1e6
            assert network.num_features == model.dimensions
            assert network.pretrained_cfg["license"].split("-")[0] in model.licence.lower()
            assert megabytes == pytest.approx(model.megabytes, abs=0.6)


def test_weights_in_the_cache_of_the_hub_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    assert not is_cached("someone/model")
    snapshot = tmp_path / "models--someone--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "models--someone--model" / "refs").mkdir()
    (tmp_path / "models--someone--model" / "refs" / "main").write_text("abc")
    assert is_cached("someone/model")


def test_what_is_not_installed_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackagedWeights, "place", lambda self: None)
    out = listed("--out", str(tmp_path / "models"))
    assert {row["here"] for row in out["models"] if row["source"].startswith("package")} == {False}
    assert out["written"] == [str(tmp_path / "models" / "drawn-faces")]
    assert SAGE.load(tmp_path / "models" / "drawn-faces").streams
    done = CliRunner().invoke(main, ["models", "--out", str(tmp_path / "models")])
    assert "drawn-faces: it exists already. Choose another --out." in done.output


def test_the_shipped_model_is_small_whole_and_labelled() -> None:
    assert (SHIPPED / "model.safetensors").stat().st_size < 300_000
    load_tensors(SHIPPED / "model.safetensors")  # compares the SHA-256 in its header
    model = SAGE.load(SHIPPED)
    assert [stream.name.rpartition("-")[0] for stream in model.streams] == [
        "visual/tf-efficientnet-lite0",
        "audio/logmel",
    ]
    assert model.random_weights == []
    assert not model.restricted
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert "Trained on drawn faces and synthetic voices, not on people." in card
    assert "On people its values mean nothing" in card.replace("\n> ", " ")
    assert "Licence of the data that it was trained on: CC0-1.0." in card


@pytest.mark.slow
def test_the_shipped_model_estimates_a_new_drawn_clip(tmp_path: Path) -> None:
    if FACE.place() is None:
        pytest.skip("the packages of the extra `demo` are not installed")
    from sage_va import predict
    from sage_va.demo.corpus import draw_corpus

    clips = draw_corpus(tmp_path, num_clips=2, seconds=20, fps=15, num_subjects=2, seed=99)
    listed("--out", str(tmp_path / "models"))  # predictions find its encoder by themselves
    predictions = predict(tmp_path / "models" / "drawn-faces", str(tmp_path / "manifest.csv"), at="frames")
    va = torch.from_numpy(np.concatenate([prediction.va for prediction in predictions])).T
    truth = torch.from_numpy(np.concatenate([clip.va for clip in clips])).T
    assert ccc(va, truth, torch.ones_like(truth, dtype=torch.bool)).min() > 0.75
