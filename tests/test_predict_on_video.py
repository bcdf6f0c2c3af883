"""A model of face crops is applied to a recording: the same crops, made here, give the same estimates."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("av")
pytest.importorskip("timm")

from sage_va import SAGE, predict
from sage_va.cli import main
from sage_va.data import open_store
from sage_va.data.crops import AFFWILD2
from sage_va.data.manifest import Source
from sage_va.data.windows.load import choose_streams
from sage_va.extract.encoders.factory import encoders_from
from sage_va.extract.engine.pipeline import extract
from sage_va.extract.faces import detectors
from sage_va.extract.faces.crop_folder import write_crop_folder
from sage_va.extract.faces.finder import FaceFinder
from sage_va.extract.options import ExtractOptions
from sage_va.fusion.config import check_config
from sage_va.fusion.models.variants import build_model
from sage_va.tests.encoders import TINY_CONVNET
from sage_va.tests.media import write_media
from sage_va.tests.squares import Squares, drawn
from sage_va.tests.synthetic import tiny

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A recording of two people and an untrained model of crops, with the cache that it belongs to."""
    home = tmp_path_factory.mktemp("video")
    film = write_media(home / "film.mp4", drawn(lambda k: [(20 + k // 4, 30, 40), (110, 40, 24)] if k != 7 else [], 30))
    write_crop_folder(Source("film.mp4", path=film), home / "crops", FaceFinder(Squares))
    store = open_store(home / "c.zarr", "a")
    visual, _ = encoders_from(visual=TINY_CONVNET, visual_weights="random", device="cpu")
    source = Source("film.mp4", path=film, crops=home / "crops")
    assert not extract([source], store, visual=visual, options=ExtractOptions(faces="crops")).failures
    config = check_config(tiny(model={"variant": "visual"}, data={"grid_hz": 25.0}), "test")
    torch.manual_seed(0)
    model = SAGE(build_model(choose_streams(store, ["visual"]), config.model), config, crop_template=AFFWILD2)
    model.save_pretrained(home / "model")
    return {"film": film, "cache": home / "c.zarr", "model": home / "model"}


@pytest.fixture(autouse=True)
def squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--face-detector squares`."""
    monkeypatch.setattr(detectors, "BUILT_IN", {**detectors.BUILT_IN, "squares": lambda weights: Squares()})


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_recording_gives_what_its_crops_gave_and_the_difference_is_stated(
    places: dict[str, Path], tmp_path: Path
) -> None:
    cached = predict(places["model"], places["cache"])[0]
    done = run("predict", places["model"], places["film"], "--out", tmp_path, "--face-detector", "squares", "--at", 25)
    assert done.exit_code == 0, done.output
    note = (
        "The model was trained on ready-made crops; here squares finds the faces, and those of one person "
        "(largest) are aligned to the ArcFace template, 112 x 112 without margin: estimates may differ from those on "
        "its own crops"
    )
    assert note in done.stdout.splitlines()
    assert json.loads((tmp_path / "predictions.json").read_text())["preparation"] == note
    rows = np.genfromtxt(tmp_path / "film.mp4.csv", delimiter=",", names=True)
    np.testing.assert_allclose(rows["valence"], cached.va[:, 0], atol=1e-5)
    assert rows["mask_visual"].tolist() == [float(k != 7) for k in range(30)]


def test_options_that_would_change_nothing_are_refused(places: dict[str, Path], tmp_path: Path) -> None:
    store = open_store(tmp_path / "c.zarr", "a")
    visual, _ = encoders_from(visual=TINY_CONVNET, visual_weights="random", device="cpu")
    extract([Source("film.mp4", path=places["film"])], store, visual=visual)
    config = check_config(tiny(model={"variant": "visual"}, data={"grid_hz": 25.0}), "test")
    SAGE(build_model(choose_streams(store, ["visual"]), config.model), config).save_pretrained(tmp_path / "model")
    for option, message in (
        (("--person", "left"), "Error: --person: the model sees whole frames, not faces. Leave it out."),
        (("--face-detector", "squares"), "Error: --face-detector: it is for models that were trained on ready-made"),
        (("--face-weights", "x.onnx"), "Error: --face-weights: the model sees whole frames, not faces. Leave it out."),
        (("--audio", "voice"), "Error: --audio: the model reads no audio stream. Leave it out."),
    ):
        refused = run("predict", tmp_path / "model", places["film"], "--out", tmp_path / "p", *option)
        assert refused.exit_code == 1
        assert message in refused.output


@pytest.mark.parametrize(
    "option", [("--face-weights", "x"), ("--audio", "x"), ("--person", "left"), ("--batch-size", "2")]
)
def test_options_of_the_extraction_are_refused_for_a_cache(
    places: dict[str, Path], tmp_path: Path, option: tuple[str, str]
) -> None:
    refused = run("predict", places["model"], places["cache"], "--out", tmp_path / "p", *option)
    message = f"Error: {option[0]}: a cache is predicted, so nothing is extracted. Leave it out."
    assert (refused.exit_code, refused.stderr.strip()) == (1, message)


def test_python_warns_of_the_difference(places: dict[str, Path]) -> None:
    with pytest.warns(UserWarning, match="trained on ready-made crops; here squares finds the faces"):
        (prediction,) = predict(places["model"], places["film"], face_detector="squares", person="right")
    assert prediction.clip_id == "film.mp4#right"
    assert not np.allclose(prediction.va, predict(places["model"], places["cache"])[0].va)


def test_crops_that_are_there_are_taken(places: dict[str, Path], tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"clip_id,path,crops\nfilm,{places['film']},{places['film'].parent / 'crops'}\n")
    done = run("predict", places["model"], manifest, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["preparation"] is None
    for option, message in (
        (("--person", "all"), "Error: --person: all recordings bring crops, no faces are detected. Leave it out."),
        (("--face-detector", "squares"), "Error: --face-detector: all recordings bring crops, no faces are detected."),
        (("--face-weights", "x.onnx"), "Error: --face-weights: all recordings bring crops, no faces are detected."),
    ):
        refused = run("predict", places["model"], manifest, "--out", tmp_path / "p", *option)
        assert refused.exit_code == 1
        assert message in refused.output
    manifest.write_text(f"{manifest.read_text()}other,{places['film']},\n")  # one without crops
    options = ("--face-detector", "squares", "--person", "left", "--json")
    done = run("predict", places["model"], manifest, "--out", tmp_path / "both", *options)
    assert json.loads(done.stdout)["clips"] == ["film", "other#left"]


def test_the_model_folder_holds_the_template(places: dict[str, Path]) -> None:
    described = json.loads((places["model"] / "config.json").read_text())
    assert described["crop_template"] == {"landmarks": "ArcFace", "size": 112, "margin": 0.0}
    assert SAGE.load(places["model"]).crop_template == AFFWILD2


def test_a_recording_without_a_face_is_masked_and_named(places: dict[str, Path], tmp_path: Path) -> None:
    film = write_media(tmp_path / "empty.mp4", drawn(lambda _: [], 6))
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    media = (film, places["film"], tmp_path / "bad.mp4")
    done = run("predict", places["model"], *media, "--out", tmp_path, "--face-detector", "squares")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert "note: empty.mp4: no face was found, all frames are masked" in lines
    assert any(line.startswith("failed: bad.mp4: ") for line in lines)
    masks = np.genfromtxt(tmp_path / "empty.mp4.csv", delimiter=",", names=True)["mask_visual"]
    assert masks.tolist() == [0.0] * 6
    assert (tmp_path / "film.mp4.csv").exists()


def test_faces_writes_folders_and_says_in_how_many_frames(places: dict[str, Path], tmp_path: Path) -> None:
    done = run("faces", places["film"], "--out", tmp_path / "crops", "--face-detector", "squares", "--person", "left")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        f"1 folders of crops -> {tmp_path / 'crops'}, 0 failed",
        "  film_left: 29 of 30 frames (97 %), 2 people",
    ]
    again = run("faces", places["film"], "--out", tmp_path / "crops", "--face-detector", "squares", "--person", "left")
    assert again.stdout == f"0 folders of crops -> {tmp_path / 'crops'}, 1 there already, 0 failed\n"
    for out, more in ((tmp_path / "a.mp4", places["film"].parent / "film.mp4"), (tmp_path / "b.mp4", None)):
        person = () if more else ("--person", "all")
        films = (places["film"].parent, more) if more else (places["film"],)
        assert run("faces", *films, "--out", out, *person, "--face-detector", "squares").exit_code == 2
