"""`eval --robustness --media`: recordings are corrupted, extracted with the encoders of the run, and scored."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from sage_va import train
from sage_va.cli import main
from sage_va.demo.corpus import draw_corpus
from sage_va.extract.media_corruption import MEDIA_CORRUPTIONS
from sage_va.tests.encoders import write_whisper
from sage_va.tests.media import tone, write_media
from sage_va.tests.synthetic import make_cache, tiny

torch.set_num_threads(1)
QUICK = {**tiny(train={"epochs": 2, "crossfit_epochs": 1}), "split": {"by": "clip", "fractions": [0.4, 0.2, 0.4]}}


def invoked(*words: object, fails: int = 0) -> str:
    result = CliRunner().invoke(main, [*map(str, words)])
    assert result.exit_code == fails, result.output
    return result.output if fails else result.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on features of no recording."""
    folder = tmp_path_factory.mktemp("media")
    cache, labels = make_cache(folder, num_clips=6, seconds=3)
    return train(cache, labels, folder / "run", tiny(model={"variant": "concat"}, train={"epochs": 1}))


def test_options_that_do_not_go_together_are_refused(run: Path) -> None:
    assert "--media need --robustness" in invoked("eval", run, "--media", "videos", fails=2)
    assert "--face-weights need --media" in invoked("eval", run, "--robustness", "--audio", "x", fails=2)


def test_a_clip_without_a_recording_is_named(run: Path, tmp_path: Path) -> None:
    write_media(tmp_path / "other.wav", audio=tone(0.1))
    message = invoked("eval", run, "--robustness", "--media", tmp_path, fails=1)
    assert "--media: expected a recording of clip clip0" in message
    assert "Name the folder or manifest that was extracted." in message


@pytest.mark.slow
def test_the_other_modality_stays_and_each_kind_has_score_weight_and_reliability(tmp_path: Path) -> None:
    draw_corpus(tmp_path, num_clips=6, seconds=3, fps=10, size=64, num_subjects=3)
    encoder = write_whisper(tmp_path / "whisper")
    cache, labels, media = tmp_path / "cache.zarr", tmp_path / "labels", tmp_path / "manifest.csv"
    words = ["--visual", "test_resnet.r160_in1k", "--visual-weights", "random", "--audio", encoder]
    invoked("extract", media, "--out", cache, *words, "--audio-weights", "random", "--licence", "CC0-1.0")
    run = train(cache, labels, tmp_path / "run", QUICK)
    options = ["--robustness", "--media", media, "--audio", encoder, "--device", "cpu"]
    (result,) = json.loads(invoked("eval", run, *options, "--json"))["runs"]
    assert list(result["kinds"]) == list(MEDIA_CORRUPTIONS)
    for name, kind in result["kinds"].items():
        assert kind["modality"] == MEDIA_CORRUPTIONS[name].modality
        assert set(kind["score"]["reliability"]) == {"visual", "audio"}
        assert kind["score"]["ccc"] != result["clean"]["ccc"]
        assert kind["difference"]["mean"]["mean"] == pytest.approx(
            kind["score"]["ccc"]["mean"] - result["clean"]["ccc"]["mean"]
        )
    text = invoked("eval", run, *options, "--out", tmp_path / "out")
    assert text.startswith("UNTRAINED ENCODER")
    assert "  babble      " in text
    assert json.loads((tmp_path / "out" / "media.json").read_text())["runs"] == [result]
