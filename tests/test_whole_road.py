"""The whole road on small drawn media, by the public commands: extract, train, eval, predict; and the demo itself."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

pytest.importorskip("av")
pytest.importorskip("timm")
pytest.importorskip("transformers")

from sage_va.cli import main
from sage_va.data import InputError
from sage_va.demo.corpus import draw_corpus
from sage_va.demo.pretrained import FACE, VOICE, PackagedWeights
from sage_va.extract.encoders.factory import encoder_from_fingerprint
from sage_va.tests.encoders import TINY_CONVNET, write_wav2vec2
from sage_va.tests.synthetic import tiny

torch.set_num_threads(1)


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recordings of 4 s, with labels, an audio encoder and settings."""
    folder = tmp_path_factory.mktemp("road")
    draw_corpus(folder, num_clips=6, seconds=4, fps=5, size=64, num_subjects=6)
    write_wav2vec2(folder / "voice", weights=True)
    settings = tiny(train={"epochs": 2, "crossfit_epochs": 1}, data={"grid_hz": 5, "window_s": 12, "hop_s": 8})
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


def extract(drawn: Path, *more: Any) -> Result:
    eyes, ears = ("--visual", TINY_CONVNET, "--visual-weights", "random"), ("--audio", drawn / "voice")
    return run("extract", drawn / "manifest.csv", "--out", drawn / "c.zarr", *eyes, *ears, *more)


@pytest.fixture(scope="module")
def trained(drawn: Path) -> Path:
    plan = json.loads(extract(drawn, "--dry-run", "--json").stdout)
    assert (plan["num_clips"], plan["num_frames"], plan["num_unreadable"]) == (6, 120, 0)
    assert not (drawn / "c.zarr").exists()
    first = extract(drawn, "--json")
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["num_frames"] == 120
    where = ("--labels", drawn / "labels", "--out", drawn / "run", "--config", drawn / "tiny.yaml")
    done = run("train", drawn / "c.zarr", *where)
    assert done.exit_code == 0, done.output
    assert "Untrained encoder (random weights): visual/" in done.output
    return drawn / "run"


def test_a_second_run_computes_nothing(drawn: Path, trained: Path) -> None:
    again = extract(drawn, "--json")
    assert again.exit_code == 0
    assert {k: json.loads(again.stdout)[k] for k in ("num_done", "num_skipped", "num_frames")} == {
        "num_done": 0,
        "num_skipped": 6,
        "num_frames": 0,
    }


def test_a_bad_file_is_named_and_the_others_are_done(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    (tmp_path / "good.mp4").write_bytes(next((drawn / "media").glob("*.mp4")).read_bytes())
    result = run(
        "extract", tmp_path, "--out", tmp_path / "c.zarr", "--visual", TINY_CONVNET, "--visual-weights", "random"
    )
    assert result.exit_code == 1
    assert "1 clips done, 0 there already, 1 failed" in result.stdout
    assert "failed: broken.mp4: expected" in result.stdout
    assert "Traceback" not in result.output


def test_scores_say_that_the_encoder_is_untrained(trained: Path) -> None:
    assert "UNTRAINED ENCODER (random weights): visual/" in run("eval", trained).stdout
    score = json.loads(run("eval", trained, "--json").stdout)
    assert score["random_weights"][0].startswith("visual/test-resnet.r160-in1k-random-")


def test_recordings_and_their_cache_give_the_same_predictions(drawn: Path, trained: Path, tmp_path: Path) -> None:
    cached = run("predict", trained, drawn / "c.zarr", "--out", tmp_path / "cached")
    fresh = run("predict", trained, drawn / "manifest.csv", "--audio", drawn / "voice", "--out", tmp_path / "fresh")
    assert (cached.exit_code, fresh.exit_code) == (0, 0), cached.output + fresh.output
    names = sorted(path.name for path in (tmp_path / "cached").glob("*.csv"))
    assert len(names) == 6
    for name in names:
        assert (tmp_path / "cached" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
    with (tmp_path / "fresh" / names[0]).open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:3] == ["time_s", "valence", "arousal"]
    assert {"reliability_visual", "mask_visual", "reliability_audio", "mask_audio"} <= set(rows[0])
    noted = json.loads((tmp_path / "fresh" / "predictions.json").read_text())
    assert noted["random_weights"]
    assert noted["failures"] == []


def test_features_of_openvino_are_predicted_from_by_openvino(drawn: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    cache, voice = tmp_path / "c.zarr", ("--audio", drawn / "voice")
    what = ("--visual", TINY_CONVNET, "--visual-weights", "random", *voice, "--runtime", "openvino")
    first, second = (run("extract", drawn / "manifest.csv", "--out", cache, *what, "--json") for _ in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0), first.output
    assert "OpenVINO converted the encoders in " in first.stderr
    assert (second.stderr, json.loads(second.stdout)["num_skipped"]) == ("", 6)
    done = run("train", cache, "--labels", drawn / "labels", "--out", tmp_path / "run", "--config", drawn / "tiny.yaml")
    assert done.exit_code == 0, done.output
    cached = run("predict", tmp_path / "run", cache, "--out", tmp_path / "cached")
    fresh = run("predict", tmp_path / "run", drawn / "manifest.csv", *voice, "--out", tmp_path / "fresh")
    assert (cached.exit_code, fresh.exit_code) == (0, 0), cached.output + fresh.output
    for path in (tmp_path / "cached").glob("*.csv"):
        assert path.read_bytes() == (tmp_path / "fresh" / path.name).read_bytes()


def test_a_recording_is_decoded_once_for_both_streams(
    drawn: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import av

    opened: list[str] = []

    def opening(file: str, *arguments: Any, **options: Any) -> Any:
        opened.append(str(file))
        return original(file, *arguments, **options)

    original = av.open
    monkeypatch.setattr(av, "open", opening)
    (clip, *_) = sorted((drawn / "media").glob("*.mp4"))
    eyes, ears = ("--visual", TINY_CONVNET, "--visual-weights", "random"), ("--audio", drawn / "voice")
    assert run("extract", clip, "--out", tmp_path / "c.zarr", *eyes, *ears).exit_code == 0
    num_opened = len(opened)
    assert num_opened > 0
    done = run("predict", trained, clip, "--audio", drawn / "voice", "--out", tmp_path / "p")
    assert done.exit_code == 0, done.output
    assert len(opened) == 2 * num_opened


def test_other_weights_than_the_run_was_trained_with_are_refused(drawn: Path, trained: Path, tmp_path: Path) -> None:
    write_wav2vec2(tmp_path / "other", weights=True, hidden_dropout=0.0, num_hidden_layers=1)
    result = run("predict", trained, drawn / "manifest.csv", "--audio", tmp_path / "other", "--out", tmp_path / "p")
    assert result.exit_code == 1
    assert "that the features were extracted with, got" in result.output


def test_imported_features_cannot_be_made_from_recordings(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="openface: expected features that can be extracted, got imported ones"):
        encoder_from_fingerprint({"encoder": {"kind": "import", "name": "openface", "array": None}})


@pytest.mark.slow
@pytest.mark.parametrize("encoders", ["pretrained", "untrained"])
def test_the_demo(encoders: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if encoders == "untrained":
        monkeypatch.setattr(PackagedWeights, "place", lambda self: None)
    elif FACE.place() is None or VOICE.place() is None:
        pytest.skip("the packages of the extra `demo` are not installed")
    out = tmp_path / "demo"
    short = ("demo", "--out", out, "--clips", 6, "--seconds", 8)
    result = run(*short)
    assert result.exit_code == 0, result.output
    assert "12 streams checked, whole" in result.output
    assert result.output.count("reliability of audio") == 2  # of the score, and of the drawn stages
    marks = result.output.lower().count("random weights")
    assert marks >= 4 if encoders == "untrained" else marks == 0
    assert ("MB, Apache-2.0)" in result.output) == (encoders == "pretrained")
    assert list((out / "pictures").glob("*.png"))
    assert f"Open {out}/report.html in a browser." in result.output
    page = (out / "report.html").read_text(encoding="utf-8")
    assert '"pictures":{' in page
    assert ('"random_weights":[]' in page) == (encoders == "pretrained")
    weights = (out / "runs" / "sage" / "model.safetensors").read_bytes()
    again = run(*short)
    assert again.exit_code == 0, again.output
    assert "0 clips done, 6 there already" in again.output
    assert (out / "runs" / "sage" / "model.safetensors").read_bytes() == weights
    other = run(*short, "--seed", 1)
    assert other.exit_code == 1
    assert "it holds a demo with other settings or encoders. Choose another --out" in other.output
