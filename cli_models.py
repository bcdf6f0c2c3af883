"""The verbs of `sage-va` on trained models: parse, call, print. No logic lives here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .terminal import json_option, show


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of weights, configuration and model card."
)
@click.option("--onnx", type=click.Path(dir_okay=False, path_type=Path), help="The network as a FILE.onnx.")
@click.option("--cache", help="Where the run's cache is now, if it has moved; its score stands in the model card.")
@click.option(
    "--labels", type=click.Path(exists=True, file_okay=False, path_type=Path), help="The same for its labels."
)
@json_option
def export(
    run: Path, out: Path | None, onnx: Path | None, cache: str | None, labels: Path | None, as_json: bool
) -> None:
    """Writes a trained model to give away, without names of clips or persons and without places on this disk.

    RUN is a finished run, or a folder that --out wrote. `predict` takes such a folder in place of a run.
    """
    from .fusion.export.onnx import export_run

    if not (out or onnx):
        raise click.UsageError("Say what to write: --out FOLDER, --onnx FILE, or both.")
    show(export_run(run, out, onnx, cache=cache, labels=labels), as_json, _describe_export)


def _describe_export(found: dict[str, Any]) -> str:
    lines = []
    if found["out"]:
        lines.append(f"{found['out']}: model.safetensors, config.json, README.md ({_score(found['scores'])})")
    if found["onnx"]:
        onnx = found["onnx"]
        takes, gives = ", ".join(onnx["inputs"]), ", ".join(onnx["outputs"])
        lines.append(f"{onnx['path']}: opset {onnx['opset']}; {takes} -> {gives}")
    if found["random_weights"]:
        lines.append(f"UNTRAINED ENCODER (random weights): {', '.join(found['random_weights'])}")
    if found["restricted"]:
        licence = found["licence"] or "not stated"
        lines.append(f"Restricted data (licence: {licence}): do not pass it on without permission.")
    return "\n".join(lines)


def _score(scores: dict[str, Any] | None) -> str:
    if scores is None:
        return "not scored: cache or labels are not at hand; name them by --cache and --labels"
    mean = scores["raw"]["ccc"]["mean"]
    return f"{scores['split']} CCC {'not defined' if mean is None else f'{mean:.3f}'}"
