"""`sage-va predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .console import Bar, chosen_device, failures, show
from .options import extraction_options, json_option
from .verb import verb


@verb("sage-va predict runs/first videos/ --out predictions/")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("media", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for one CSV per clip.")
@click.option("--visual-weights", metavar="FILE", help="Weights of the visual encoder, if they were a local file.")
@click.option("--audio", metavar="DIRECTORY", help="The audio encoder, if it was a local directory.")
@click.option("--face-weights", metavar="FILE", help="Weights of the face detector, if they were a local file.")
@extraction_options
@json_option
def predict(run: Path, media: tuple[str, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Writes predictions of a trained model.

    MEDIA is a cache (*.zarr, *.h5, an address), or recordings, which are first extracted with the encoders of RUN. OUT
    gets one CSV per clip: time, valence, arousal, and reliability and mask of each modality.
    """
    from ..api import predict_to_csv

    with Bar("clips") as bar:
        summary = predict_to_csv(
            run, media, out, progress=bar, **{**options, "device": chosen_device(options["device"])}
        )
    show(summary, as_json, describe_prediction)
    sys.exit(1 if summary["failures"] else 0)


def describe_prediction(result: dict[str, Any]) -> str:
    """The result of `predict_to_csv` as text."""
    lines = [f"{len(result['clips'])} clips -> {result['out']}"]
    if result["random_weights"]:
        lines.append(f"Untrained encoder (random weights): {', '.join(result['random_weights'])}")
    return "\n".join([*lines, *failures(result["failures"])])
