"""ONNX files give what the model gives, for other numbers of windows and steps than they were traced with."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnx
import onnxruntime

import sage_va
from sage_va.cli import main
from sage_va.data import InputError
from sage_va.data.windows.corpus import Stream, Windows
from sage_va.fusion.config import check_config
from sage_va.fusion.export import onnx as export
from sage_va.fusion.export.onnx import EXAMPLE, export_onnx
from sage_va.fusion.export.pretrained import SAGE
from sage_va.fusion.models.base import Output
from sage_va.fusion.models.variants import VARIANTS, build_model
from sage_va.tests.synthetic import random_windows, tiny

torch.set_num_threads(1)
SHAPES = [(1, 1), (3, 7), (1, 50), (2, 130)]
Given = tuple[Path, SAGE]


def model_of(variant: str, **model: Any) -> SAGE:
    """Untrained, with normalisation that does something; the first stream has a voice signal, the second none."""
    streams = [
        Stream("visual/s0-00000000", "visual", "visual", 8, ("voice", "score"), {"encoder": {"weights": "random"}}),
        Stream("audio/s1-00000000", "audio", "audio", 6, (), {}),
    ]
    config = check_config(tiny(model={"variant": variant, "memory_steps": 20, **model}), "test").on_grid(25)
    torch.manual_seed(0)
    modality = VARIANTS[variant].modality
    network = build_model([s for s in streams if modality in (None, s.modality)], config.model)
    for norm in (*network.norms, *network.quality_norms):
        norm.mean.normal_()
        norm.scale.uniform_(0.5, 2)
    return SAGE(network, config, smoothing_s=0.5, licence="EULA", restricted=True)


def windows_of(model: SAGE, num_windows: int, length: int) -> Windows:
    """With masked steps whose values are NaN, steps where nothing is valid, and signals that were not measured."""
    windows = random_windows(model.streams, num_windows, length, seed=length)
    windows.mask[:, ::5] = False
    for m, values in enumerate(windows.values):
        values[~windows.mask[..., m]] = torch.nan
    for quality in windows.quality:
        quality[:, ::3] = torch.nan
        quality[:, 1::4] *= 100
    return windows


def feed(model: SAGE, windows: Windows) -> dict[str, Any]:
    tensors: dict[str, Tensor] = {"mask": windows.mask}
    for m, stream in enumerate(model.streams):
        tensors[f"{stream.label}.values"] = windows.values[m]
        if stream.quality_names:
            tensors[f"{stream.label}.quality"] = windows.quality[m]
    return {name: value.numpy() for name, value in tensors.items()}


@torch.inference_mode()
def check_parity(path: Path, model: SAGE) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for shape in SHAPES:
        assert shape != EXAMPLE
        windows = windows_of(model, *shape)
        wanted: Output = model(windows)
        parts = {"va": wanted.va, "reliability": wanted.fused.reliability, "weights": wanted.fused.weights}
        assert names == [name for name, part in parts.items() if part is not None]
        for name, tensor in zip(names, session.run(None, feed(model, windows)), strict=True):
            part = parts[name]
            assert part is not None
            assert np.isfinite(tensor).all()
            np.testing.assert_allclose(tensor, part.numpy(), atol=2e-5, rtol=1e-5, err_msg=f"{name} {shape}")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Stages from what is active: where a NaN quality signal decides something."""
    path, model = tmp_path_factory.mktemp("hidden") / "sage.onnx", model_of("sage", stage="given", tcn_blocks=1)
    export_onnx(model, path)
    return path, model


def test_the_file_gives_what_the_model_gives(exported: Given) -> None:
    check_parity(*exported)


def test_the_windows_of_the_test_tell_mistakes(exported: Given) -> None:
    path, model = exported
    windows = windows_of(model, 2, 30)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    right, inputs = session.run(None, feed(model, windows)), feed(model, windows)
    inputs["visual.quality"] = np.nan_to_num(inputs["visual.quality"])
    assert np.abs(session.run(None, inputs)[1] - right[1]).max() > 1e-3
    inputs = feed(model, windows) | {"mask": np.ones_like(windows.mask.numpy())}
    inputs |= {name: np.nan_to_num(value) for name, value in inputs.items() if name.endswith("values")}
    assert np.abs(session.run(None, inputs)[0] - right[0]).max() > 1e-3


def test_the_file_says_what_it_is(exported: Given) -> None:
    path, model = exported
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    assert [entry.name for entry in graph.graph.input] == ["visual.values", "audio.values", "visual.quality", "mask"]
    sizes = [d.dim_param or d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["windows", "steps", 8]
    assert {o.domain: o.version for o in graph.opset_import}[""] >= 18
    about = {entry.key: entry.value for entry in graph.metadata_props}
    assert [s["quality_names"] for s in json.loads(about["streams"])] == [["voice", "score"], []]
    assert [s["name"] for s in json.loads(about["streams"])] == [s.name for s in model.streams]
    assert check_config(json.loads(about["config"]), "file") == model.config
    kept = ("variant", "grid_hz", "window_steps", "smoothing_s", "licence", "restricted", "random_weights")
    assert [about[name] for name in kept] == ["sage", "25", "60", "0.5", "EULA", "true", '["visual/s0-00000000"]']


def test_the_file_tells_nothing_of_this_machine(exported: Given) -> None:
    content, package = exported[0].read_bytes(), Path(sage_va.__file__).parent.resolve()
    for place in (str(package), str(Path(torch.__file__).parent), str(exported[0].parent), 'File "'):
        assert place.encode() not in content
    assert [path.name for path in exported[0].parent.iterdir()] == ["sage.onnx"]


def test_a_model_is_left_as_it_was(exported: Given) -> None:
    model, fresh = exported[1], model_of("sage", stage="given", tcn_blocks=1)
    assert model.state_dict().keys() == fresh.state_dict().keys()
    learning = [[weight.requires_grad for weight in each.parameters()] for each in (model, fresh)]
    assert learning[0] == learning[1]
    assert any(learning[0])


def test_the_verb_writes_the_file_of_a_saved_model(tmp_path: Path) -> None:
    model_of("linear").save_pretrained(tmp_path / "m")
    arguments = ["export", str(tmp_path / "m"), "--onnx", str(tmp_path / "new" / "linear.onnx")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    first, *rest = done.stdout.splitlines()
    assert first.startswith(f"{tmp_path}/new/linear.onnx: opset ")
    assert first.endswith("; visual.values, audio.values, visual.quality, mask -> va")
    assert rest == [
        "UNTRAINED ENCODER (random weights): visual/s0-00000000",
        "Restricted data (licence: EULA): do not share without permission.",
    ]
    check_parity(tmp_path / "new" / "linear.onnx", SAGE.from_pretrained(tmp_path / "m"))


def test_without_the_packages_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PACKAGES", ("json", "no_such_package"))
    with pytest.raises(InputError, match=r'the package no_such_package, got none\. Install it: .*sage-va\[onnx\]"'):
        export_onnx(model_of("linear"), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def marked(variant: str, causal: bool) -> Any:
    """An export takes seconds: CI makes one of each kind, `make test-all` makes all."""
    often = variant == "sage" if causal else variant == "linear"
    return pytest.param(variant, causal, marks=pytest.mark.slow if often else pytest.mark.exhaustive)


@pytest.mark.parametrize(
    ("variant", "causal"), [marked(variant, causal) for variant in VARIANTS for causal in (False, True)]
)
def test_every_variant(variant: str, causal: bool, tmp_path: Path) -> None:
    model = model_of(variant, causal=causal)
    export_onnx(model, tmp_path / "x.onnx")
    check_parity(tmp_path / "x.onnx", model)


@pytest.mark.exhaustive
@pytest.mark.parametrize("switches", [{"stage": "depth"}, {"stage": "none"}, {"separate_heads": True}], ids=str)
def test_other_switches(switches: dict[str, Any], tmp_path: Path) -> None:
    model = model_of("sage", **switches)
    export_onnx(model, tmp_path / "x.onnx")
    check_parity(tmp_path / "x.onnx", model)
