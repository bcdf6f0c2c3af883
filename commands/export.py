"""`sage-va export`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import show
from .options import json_option
from .verb import verb

if TYPE_CHECKING:  # these import torch
    from ..fusion.export.metadata import PublishedScore
    from ..fusion.export.onnx import ExportedModel


@verb("sage-va export runs/first --out model/ --onnx model.onnx")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of weights, configuration and model card."
)
@click.option("--onnx", type=click.Path(dir_okay=False, path_type=Path), help="The network as a FILE.onnx.")
@click.option("--cache", help="Cache of the run, if it has moved; the model card reports the score on it.")
@click.option(
    "--labels",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The labels of the run, if they have moved.",
)
@json_option
def export(
    run: Path, out: Path | None, onnx: Path | None, cache: str | None, labels: Path | None, as_json: bool
) -> None:
    """Writes a self-contained model folder to share.

    It holds no names of clips or persons and no local paths. RUN is a finished run, or a folder that --out wrote;
    `predict` accepts such a folder in place of a run.
    """
    from ..fusion.export.onnx import export_run

    if not (out or onnx):
        raise click.UsageError("Name what to write: --out FOLDER, --onnx FILE, or both.")
    show(export_run(run, out, onnx, cache=cache, labels=labels), as_json, describe_export)


def describe_export(result: ExportedModel) -> str:
    """Returns the result of `export_run` as text."""
    from ..data.terms import untrained_mark

    lines = []
    if result.out:
        lines.append(f"{result.out}: model.safetensors, config.json, README.md ({_score(result.scores)})")
    if result.onnx:
        inputs, outputs = ", ".join(result.onnx.inputs), ", ".join(result.onnx.outputs)
        lines.append(f"{result.onnx.path}: opset {result.onnx.opset}; {inputs} -> {outputs}")
    if result.random_weights:
        lines.append(untrained_mark(result.random_weights))
    if result.restricted:
        licence = result.licence or "not stated"
        lines.append(f"Restricted data (licence: {licence}): do not share without permission.")
    return "\n".join(lines)


def _score(scores: PublishedScore | None) -> str:
    if scores is None:
        return "not scored: cache or labels not found; name them with --cache and --labels"
    mean = scores.raw.ccc["mean"]
    return f"{scores.split} CCC {'not defined' if math.isnan(mean) else f'{mean:.3f}'}"
