"""An extraction that has nothing to do: no encoder is loaded, and the summary is the same as if one were."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av")
pytest.importorskip("timm")
pytest.importorskip("transformers")

from sage_va.demo.corpus import draw_corpus
from sage_va.extract.encoders import factory, remembered
from sage_va.extract.encoders.remembered import recall, remember
from sage_va.tests.encoders import TINY_CONVNET, write_wav2vec2

HEAVY = {"torch", "timm", "transformers", "torchvision", "zarr"}
CODE = """
import sys
sys.argv = ["sage-va", *{arguments!r}]
from sage_va.cli import main
try:
    main()
finally:
    print("imported:", *sorted({watched!r} & sys.modules.keys()), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings and an audio encoder whose files did not just change."""
    folder = tmp_path_factory.mktemp("finished")
    draw_corpus(folder, num_clips=3, seconds=2, fps=5, size=64, num_subjects=3)
    write_wav2vec2(folder / "voice", weights=True)
    for file in folder.rglob("*"):
        os.utime(file, (time.time() - 60,) * 2)
    return folder


def extract(media: Path, cache: Path, home: Path, *more: str) -> tuple[dict[str, Any], set[str]]:
    """(result, heavy packages imported) of an extraction in a process of its own."""
    encoders = ["--visual", TINY_CONVNET, "--visual-weights", "random", "--audio", str(media / "voice")]
    arguments = ["extract", str(media / "media"), "--out", str(cache), *encoders, "--json", *more]
    code = CODE.format(arguments=arguments, watched=HEAVY)
    surroundings = {**os.environ, "SAGE_VA_CACHE": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=surroundings, check=False)
    last = done.stderr.splitlines()[-1]
    return json.loads(done.stdout), set(last.removeprefix("imported:").split())


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in ("wall_s", "busy_s", "bottleneck")}


def test_a_finished_cache_needs_no_encoder(media: Path, tmp_path: Path) -> None:
    (media / "media" / "broken.mp4").write_bytes(b"no film")
    os.utime(media / "media" / "broken.mp4", (time.time() - 60,) * 2)
    first, _ = extract(media, tmp_path / "c.zarr", tmp_path / "home")
    assert (first["num_done"], len(first["failures"])) == (3, 1)
    again, packages = extract(media, tmp_path / "c.zarr", tmp_path / "home")
    assert packages == set()
    assert (again["num_done"], again["num_skipped"], again["streams"]) == (0, 3, first["streams"])
    assert "as before" in again["failures"][0]["reason"]
    whole, packages = extract(media, tmp_path / "c.zarr", tmp_path / "other-home")
    assert "torch" in packages
    assert without_times(again) == without_times(whole)
    (media / "media" / "broken.mp4").unlink()


@pytest.mark.slow
def test_other_options_load_the_encoders(media: Path, tmp_path: Path) -> None:
    extract(media, tmp_path / "c.zarr", tmp_path / "home")
    for option, num_done in {"--rehash": 0, "--overwrite": 3}.items():
        result, packages = extract(media, tmp_path / "c.zarr", tmp_path / "home", option)
        assert "torch" in packages
        assert result["num_done"] == num_done


def arguments_of(media: Path, **changes: Any) -> dict[str, Any]:
    usual = {"visual": None, "visual_weights": "hub", "audio": str(media / "voice"), "audio_weights": "hub"}
    return {**usual, "layer": "last", "vad": False, "precision": "float32", **changes}


@pytest.fixture
def known(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of a remembered encoder."""
    monkeypatch.setenv("SAGE_VA_CACHE", str(tmp_path))
    arguments = arguments_of(media)
    assert recall(arguments, "cpu") is None
    remember(arguments, "cpu", factory.encoders_from(**arguments, device="cpu"))
    return arguments


def test_what_is_recalled_is_what_would_be_built(known: dict[str, Any]) -> None:
    encoders = recall(known, "cpu")
    assert encoders is not None
    (encoder,) = encoders
    built = factory.encoders_from(**known, device="cpu")[1]
    assert built is not None
    assert (encoder.modality, encoder.alias, encoder.fingerprint) == (built.modality, built.alias, built.fingerprint)
    encoder.fingerprint["preprocessing"]["faces"] = "full"
    assert encoder.fingerprint == built.fingerprint


@pytest.mark.parametrize(
    "change",
    [{"layer": "1"}, {"vad": True}, {"precision": "bfloat16"}, {"audio_weights": "random"}, {"runtime": "openvino"}],
)
def test_other_settings_are_not_recalled(change: dict[str, Any], known: dict[str, Any]) -> None:
    assert recall({**known, **change}, "cpu") is None
    assert recall(known, "cpu") is not None


def test_a_changed_weights_file_is_not_recalled(known: dict[str, Any], media: Path) -> None:
    os.utime(media / "voice" / "model.safetensors", (time.time() - 30,) * 2)
    assert recall(known, "cpu") is None


def test_a_file_that_may_still_change_is_not_remembered(known: dict[str, Any], media: Path) -> None:
    (media / "voice" / "note.txt").touch()
    remember(known, "cpu", factory.encoders_from(**known, device="cpu"))
    assert recall(known, "cpu") is None
    (media / "voice" / "note.txt").unlink()


def test_other_versions_and_code_are_not_recalled(known: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(remembered, "version", lambda package: "9")
        assert recall(known, "cpu") is None
    monkeypatch.setattr(remembered, "__file__", __file__)
    assert recall(known, "cpu") is None


def test_an_added_encoder_is_not_recalled(known: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "added_names", lambda group: [known["audio"]])
    assert recall(known, "cpu") is None


def test_revisions_of_the_hub_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert remembered._files("visual", "resnet18.a1_in1k", "hub") is None
    for repository, revision in (("timm--resnet18.a1_in1k", "one"), ("someone--wavlm", "two")):
        (tmp_path / f"models--{repository}" / "refs").mkdir(parents=True)
        (tmp_path / f"models--{repository}" / "refs" / "main").write_text(revision)
    assert remembered._files("visual", "resnet18.a1_in1k", "hub") == [["models--timm--resnet18.a1_in1k", "main", "one"]]
    assert remembered._files("visual", "hf-hub:timm/resnet18.a1_in1k", "hub") is not None
    assert remembered._files("audio", "someone/wavlm", "hub") == [["models--someone--wavlm", "main", "two"]]
    assert remembered._files("audio", "wavlm", "hub") is None
    assert remembered._files("visual", "resnet18", "random") == []
    assert remembered._files("visual", "resnet18", str(tmp_path / "none.pth")) is None


def test_the_driver_and_the_visible_gpus_decide_the_automatic_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "version"
    monkeypatch.setattr(remembered, "_GPU_DRIVERS", (str(driver),))
    assert remembered._device("auto") == remembered._device("cpu") == ["cpu"]
    driver.write_text("1")
    with_driver = remembered._device("auto")
    assert with_driver != remembered._device("cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert remembered._device("auto") != with_driver
