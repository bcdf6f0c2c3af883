"""`sage-va export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .console import show
from .options import json_option
from .verb import verb


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


def describe_export(result: dict[str, Any]) -> str:
    """Returns the result of `export_run` as text."""
    lines = []
    if result["out"]:
        lines.append(f"{result['out']}: model.safetensors, config.json, README.md ({_score(result['scores'])})")
    if result["onnx"]:
        onnx = result["onnx"]
        takes, gives = ", ".join(onnx["inputs"]), ", ".join(onnx["outputs"])
        lines.append(f"{onnx['path']}: opset {onnx['opset']}; {takes} -> {gives}")
    if result["random_weights"]:
        lines.append(f"UNTRAINED ENCODER (random weights): {', '.join(result['random_weights'])}")
    if result["restricted"]:
        licence = result["licence"] or "not stated"
        lines.append(f"Restricted data (licence: {licence}): do not share without permission.")
    return "\n".join(lines)


def _score(scores: dict[str, Any] | None) -> str:
    if scores is None:
        return "not scored: cache or labels not found; name them with --cache and --labels"
    mean = scores["raw"]["ccc"]["mean"]
    return f"{scores['split']} CCC {'not defined' if mean is None else f'{mean:.3f}'}"
