"""`sage-va predict`."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import Bar, chosen_device, failures, show
from .options import extraction_options, json_option
from .verb import verb

if TYPE_CHECKING:
    from ..api import PredictedFiles


@verb("sage-va predict runs/first videos/ --out predictions/")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("media", nargs=-1, required=True, metavar="[RUN]... MEDIA...")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for one CSV per clip.")
@click.option("--visual-weights", metavar="FILE", help="Weights of the visual encoder, if they were a local file.")
@click.option("--audio", metavar="DIRECTORY", help="The audio encoder, if it was a local directory.")
@click.option("--face-weights", metavar="FILE", help="Weights of the face detector, if they were a local file.")
@extraction_options
@json_option
def predict(run: Path, media: tuple[str, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Writes predictions of a trained model.

    MEDIA is a cache (*.zarr, *.h5, an address), or recordings, which are first extracted with the encoders of RUN. OUT
    gets one CSV per clip: time, valence, arousal, and reliability and mask of each modality. Predictions of several
    runs (seeds, folds, variants) on the same streams are averaged: sage-va predict runs/sage runs/late videos/ --out
    predictions/
    """
    from ..extract.heap import keep_freed_memory

    keep_freed_memory()  # before torch is loaded
    from ..api import predict_to_csv

    more = list(itertools.takewhile(_is_model, media))
    if len(more) == len(media):
        raise click.UsageError(f"Missing argument 'MEDIA...': {media[-1]} is a run.")
    runs, media = [run, *more], media[len(more) :]
    with Bar("clips") as bar:
        files = predict_to_csv(
            runs, media, out, progress=bar, **{**options, "device": chosen_device(options["device"])}
        )
    show(files, as_json, describe_prediction)
    sys.exit(1 if files.failures else 0)


def _is_model(place: str) -> bool:
    """True for a finished run, a saved model, or a folder of folds."""
    from ..fusion.run_folder import CONFIG, fold_runs

    return (Path(place) / CONFIG).is_file() or bool(fold_runs(Path(place)))


def describe_prediction(files: PredictedFiles) -> str:
    """Returns the result of `predict_to_csv` as text."""
    several = f", mean of {files.num_models} models" if files.num_models > 1 else ""
    lines = [f"{len(files.clips)} clips -> {files.out}{several}"]
    if files.random_weights:
        lines.append(f"Untrained encoder (random weights): {', '.join(files.random_weights)}")
    return "\n".join([*lines, *failures(files.failures)])
