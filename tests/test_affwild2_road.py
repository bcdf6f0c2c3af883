"""The miniature of Aff-Wild2 beside the checkout, from its folders to predictions; no trap of it is lost on the way."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

pytest.importorskip("av")
pytest.importorskip("cv2")
pytest.importorskip("timm")
pytest.importorskip("transformers")

from sage_va.cli import main
from sage_va.data import Store, open_store
from sage_va.data.labels import LabelFolder
from sage_va.tests.encoders import TINY_CONVNET, write_wav2vec2
from sage_va.tests.synthetic import tiny

pytestmark = [pytest.mark.slow, pytest.mark.shared]
TEST = {"100-29-1080x1920", "video73", "28-30-1280x720-4", "28-30-1280x720-4_left"}
VALIDATION = {"6-30-1920x1080", "video20", "video49_left"}


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def road(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared, extracted, trained."""
    folder = tmp_path_factory.mktemp("affwild2")
    spec = importlib.util.spec_from_file_location("affwild2_miniature", shared / "tools/affwild2_miniature.py")
    miniature = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(miniature)
    miniature.main(folder / "corpus")
    settings = tiny(train={"epochs": 2, "crossfit_epochs": 1}, data={"grid_hz": 5, "window_s": 6, "hop_s": 3})
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    write_wav2vec2(folder / "voice", weights=True)
    run("prepare", "affwild2", folder / "corpus", "--out", folder / "p")
    encoders = ("--visual", TINY_CONVNET, "--visual-weights", "random", "--audio", folder / "voice")
    run("extract", folder / "p/manifest.csv", "--out", folder / "c.zarr", *encoders, "--faces", "crops")
    return folder


@pytest.fixture(scope="module")
def store(road: Path) -> Store:
    return open_store(road / "c.zarr")


def test_frames_crops_and_labels_of_each_clip(road: Path, store: Store) -> None:
    report = {clip["clip_id"]: clip for clip in json.loads((road / "p/prepared.json").read_text())["clips"]}
    assert report.keys() == set(store.clip_ids())
    visual = store.resolve("visual")
    joined = LabelFolder(road / "p/labels").join(store.clip_ids())
    assert set(joined.unlabelled) == TEST
    for clip_id, clip in report.items():
        track, clock = store.read(clip_id, visual), store.clip(clip_id).clock
        numbers = {int(path.stem) for path in (road / "corpus/cropped_aligned" / clip_id).glob("*.jpg")}
        assert clip["num_frames"] == len(clock.times_s) == track.num_frames
        assert set(np.flatnonzero(track.mask) + 1) == numbers  # crop n is frame n - 1, a gap is masked
        if clip_id not in TEST:
            truth = joined.files[clip_id].labels.timed(store.clip(clip_id))
            assert np.array_equal(truth.times_s, clock.times_s)  # row k at frame k's own time
            assert (~truth.mask).sum() == clip["num_not_annotated"] == 12
    assert report["video20"]["num_label_rows"] == report["video20"]["num_frames"] + 1


def test_two_persons_share_their_sound_and_not_their_faces(store: Store) -> None:
    audio, visual = store.resolve("audio"), store.resolve("visual")
    for left, right in (("video5_left", "video5_right"), ("10-60-1280x720", "10-60-1280x720_right")):
        assert np.array_equal(store.read(left, audio).values, store.read(right, audio).values, equal_nan=True)
        assert not np.array_equal(store.read(left, visual).values, store.read(right, visual).values, equal_nan=True)


def test_the_official_split_trains_validates_and_predicts(road: Path, store: Store) -> None:
    options = ("--labels", road / "p/labels", "--out", road / "run", "--config", road / "tiny.yaml")
    text = run("train", road / "c.zarr", *options)
    assert "split: 8 train, 3 val (the official one" in text
    score = json.loads(run("eval", road / "run", "--json"))
    assert score["num_labels"] == 209 + 240 + 175 - 3 * 12
    run("predict", road / "run", road / "c.zarr", "--out", road / "predictions")
    assert {path.stem for path in (road / "predictions").glob("*.csv")} == set(store.clip_ids())
    assert store.root()["restricted"] is True
    assert store.root()["licence"].startswith("Aff-Wild2 EULA")
