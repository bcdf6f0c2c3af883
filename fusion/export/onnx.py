"""A trained model as one ONNX file, for programs without torch: any number of windows of any length."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...data.atomic import replacing
from ...data.errors import InputError
from ...data.windows.corpus import Stream, Windows
from ..models.base import QualityNorm, VAModel
from ..models.tcn import TCNBlock
from ..result import Result
from .metadata import PublishedScore
from .pretrained import SAGE

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OUTPUTS = ("va", "reliability", "weights")
EXAMPLE = (2, 24)  # windows and steps that the network is traced with; both are free in the file


@dataclass(frozen=True)
class OnnxFile(Result):
    """An exported network: its path, opset, and the names of its inputs and outputs."""

    path: str
    opset: int
    inputs: list[str]
    outputs: list[str]


@dataclass(frozen=True)
class ExportedModel(Result):
    """The result of `export_run`: the model, its terms and score, and where it was written; None where it was not."""

    run: str
    variant: str
    licence: str | None
    restricted: bool
    scores: PublishedScore | None
    random_weights: list[str]
    out: str | None
    onnx: OnnxFile | None


def export_run(
    run: Path, out: Path | None, onnx: Path | None, *, cache: str | None = None, labels: Path | None = None
) -> ExportedModel:
    """Writes a run, or a saved model, as a self-contained folder, as an ONNX file, or both.

    Args:
        run: its place, as `SAGE.load` takes it.
        out: the folder; a run is scored for it, if cache and labels are at hand.
        onnx: the file.
        cache, labels: of a run, where they are now.
    """
    sage = SAGE.load(run, scored=out is not None, cache=cache, labels=labels)
    if out is not None:
        sage.save_pretrained(out)
    return ExportedModel(
        str(run),
        sage.config.model.variant,
        sage.licence,
        sage.restricted,
        sage.scores,
        sage.random_weights,
        str(out) if out else None,
        export_onnx(sage, onnx) if onnx else None,
    )


def export_onnx(model: SAGE | str | Path, path: str | Path) -> OnnxFile:
    """Writes a model as ONNX.

    Inputs: for each stream `<label>.values` (B, L, D) float32 and, if it has quality signals, `<label>.quality`
    (B, L, Q) float32, NaN = not measured; `mask` (B, L, M) bool, True = valid. Values of a masked step are ignored. All
    steps lie inside their clips: windows of one batch are of one length, and none is padded. Outputs: `va` (B, L, 2),
    and `reliability` and `weights` (B, L, M) where the variant has them. The file's metadata hold streams, grid,
    configuration and terms.

    Args:
        model: or the place of one, as `SAGE.load` takes it.
        path: of the .onnx file; an existing one is replaced.

    Raises:
        InputError: if the packages for it are absent, or the model cannot be loaded.
    """
    _check_packages()
    sage = model if isinstance(model, SAGE) else SAGE.load(model)
    kinds = {stream.normalise for stream in sage.streams} - {"training"}
    if kinds:
        todo = "Train with data.normalise=training: a graph of windows does not see the whole clip."
        raise InputError(path, expected="data.normalise=training", got=kinds.pop(), todo=todo)
    flat = Flat(_exportable(sage.model)).eval()
    example = flat.example(*EXAMPLE)
    outputs = [name for name, part in zip(OUTPUTS, flat.parts(*example), strict=True) if part is not None]
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            flat, example, input_names=flat.names(), output_names=outputs, dynamic_shapes=flat.free(), dynamo=True
        )
    assert program is not None
    graph = program.model
    for node in graph.graph.all_nodes():
        node.metadata_props.clear()  # they hold paths of the author's disk
    graph.metadata_props.update(_metadata(sage))
    with replacing(Path(path)) as part:
        program.save(part, external_data=False)
    return OnnxFile(str(path), graph.opset_imports[""], flat.names(), outputs)


class Flat(nn.Module):
    """A model as a function of tensors alone.

    Args:
        model: in evaluation mode, on the CPU.
    """

    def __init__(self, model: VAModel) -> None:
        super().__init__()
        self.model = model
        self.measured = [m for m, stream in enumerate(model.streams) if stream.quality_names]

    def forward(self, values: list[Tensor], quality: list[Tensor], mask: Tensor) -> tuple[Tensor, ...]:
        """Returns the parts that are not None."""
        return tuple(part for part in self.parts(values, quality, mask) if part is not None)

    def parts(self, values: list[Tensor], quality: list[Tensor], mask: Tensor) -> tuple[Tensor | None, ...]:
        """values M × (B, L, D), quality of those streams that have it, mask -> `OUTPUTS`, None for what is absent."""
        signals = dict(zip(self.measured, quality, strict=True))
        every = [signals.get(m, x[..., :0]) for m, x in enumerate(values)]
        inside = torch.ones_like(mask[..., 0])
        va = torch.zeros_like(values[0][..., :1]).expand(-1, -1, 2)
        steps = torch.zeros_like(mask[..., 0], dtype=torch.int64)
        output = self.model(Windows(values, every, mask, inside, va, inside, steps))
        return output.va, output.fused.reliability, output.fused.weights

    def example(self, num_windows: int, num_steps: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Returns arguments of `forward`, with some steps masked."""
        shape, streams = (num_windows, num_steps), self.model.streams
        generator = torch.Generator().manual_seed(0)
        values = [torch.randn(*shape, stream.dim, generator=generator) for stream in streams]
        quality = [torch.randn(*shape, len(streams[m].quality_names), generator=generator) for m in self.measured]
        mask = torch.rand(*shape, len(streams), generator=generator) < 0.8
        return values, quality, mask

    def names(self) -> list[str]:
        """Returns the names of the inputs, in the order of `forward`."""
        labels = [stream.label for stream in self.model.streams]
        return [*(f"{label}.values" for label in labels), *(f"{labels[m]}.quality" for m in self.measured), "mask"]

    def free(self) -> tuple[Any, ...]:
        """Returns the sizes of the arguments of `forward` that are free."""
        sizes = {0: torch.export.Dim("windows"), 1: torch.export.Dim("steps")}
        return [sizes] * len(self.model.streams), [sizes] * len(self.measured), sizes


class ExactQualityNorm(nn.Module):
    """A `QualityNorm` that replaces NaN first: ONNX does not define the clipping of NaN."""

    def __init__(self, norm: QualityNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, values: Tensor) -> Tensor:
        """(..., Q), NaN = not measured -> (..., Q)."""
        known = torch.where(values.isnan(), self.norm.mean, values)
        return self.norm(known)


def _exportable(model: VAModel) -> VAModel:
    """A copy on the CPU whose convolutions hold their weights as they are."""
    exportable = copy.deepcopy(model).cpu().eval()
    for module in exportable.modules():
        if isinstance(module, TCNBlock):
            module.fix_weights()
    norms = [ExactQualityNorm(norm) for norm in exportable.quality_norms if isinstance(norm, QualityNorm)]
    exportable.quality_norms = nn.ModuleList(norms)
    return exportable.requires_grad_(False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Makes torch's exporter use the common operators, not its fused layers, and silences its output."""
    fused, disabled = torch.backends.mha.get_fastpath_enabled(), logging.root.manager.disable
    torch.backends.mha.set_fastpath_enabled(False)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        logging.disable(disabled)


def _metadata(sage: SAGE) -> dict[str, str]:
    """The metadata of the file: texts; all but plain words as JSON."""
    data = sage.config.data
    return {
        "variant": sage.config.model.variant,
        "streams": json.dumps([_described(stream) for stream in sage.streams]),
        "grid_hz": f"{data.hz:g}",
        "window_steps": str(data.steps(data.hz)[0]),
        "smoothing_s": f"{sage.smoothing_s:g}",
        "random_weights": json.dumps(sage.random_weights),
        "licence": sage.licence or "not stated",
        "restricted": json.dumps(sage.restricted),
        "config": json.dumps(sage.config.model_dump(mode="json")),
    }


def _described(stream: Stream) -> dict[str, Any]:
    return {
        "name": stream.name,
        "label": stream.label,
        "dim": stream.dim,
        "quality_names": list(stream.quality_names),
        "fingerprint": dict(stream.fingerprint),
    }


def _check_packages() -> None:
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            todo = 'Install it: pip install "sage-va[onnx]".'
            raise InputError("export to ONNX", expected=f"the package {name}", got="none", todo=todo)
