"""`sage-va predict`."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import Bar, chosen_device, echo, failures, notes, show, show_json
from .options import NumberOr, clips_option, encoder_place_options, extraction_options, json_option, smooth_option
from .stopping import interruptible
from .verb import verb

if TYPE_CHECKING:
    from ..api import PredictedFiles
    from ..fusion.export.submission import SubmissionFile
    from .watch import WatchedRecording


@verb("sage-va predict runs/first videos/ --out predictions/")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("media", nargs=-1, metavar="[RUN]... MEDIA...")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the files of each clip.")
@click.option(
    "--watch",
    "watched",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Predict each recording in DIR, in place of MEDIA, as soon as it is complete, until Ctrl-C or SIGTERM.",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["csv", "txt", "eaf", "vtt"]),
    default=["csv"],
    show_default=True,
    help="csv, txt (Aff-Wild2, a row per frame), eaf (ELAN) or vtt (WebVTT); may be repeated.",
)
@click.option(
    "--at",
    type=NumberOr("frames", "grid"),
    metavar="frames|grid|HZ",
    help="Instants of the values: each frame's own time, the steps of the model, or HZ per second; interpolated "
    "linearly. Default: grid; frames with txt.",
)
@smooth_option
@clips_option
@encoder_place_options
@click.option(
    "--person",
    type=click.Choice(["largest", "left", "right", "all"]),
    default="largest",
    show_default=True,
    help="Whom to follow where faces are detected; left, right and all make clips CLIP#left, CLIP#right, CLIP#0 …",
)
@click.option(
    "--face-detector",
    help="For a RUN that was trained on ready-made crops: yunet (default), retinaface, retinaface-openvino, or one "
    "that a package adds.",
)
@extraction_options
@json_option
def predict(run: Path, media: tuple[str, ...], out: Path, watched: Path | None, as_json: bool, **options: Any) -> None:
    """Writes predictions of a trained model.

    MEDIA is a cache (*.zarr, *.h5, an address), or recordings, which are first extracted with the encoders of RUN. OUT
    gets one CSV per clip: time, valence, arousal, and reliability and mask of each modality. Predictions of several
    runs (seeds, folds, variants) on the same streams are averaged: sage-va predict runs/sage runs/late videos/ --out
    predictions/

    A RUN that was trained on ready-made face crops takes recordings too: faces are detected, followed and aligned to
    the template of its crops, and the difference is stated.

    With --watch DIR, each recording in DIR (and below it) is predicted once its size has been the same for five
    seconds; what is done or has failed is noted in OUT/watch.jsonl and not done again, also after a restart. Ctrl-C or
    SIGTERM ends after the recording in work. With --json, each recording is a JSON object on a line of its own.
    """
    from ..extract.heap import keep_freed_memory

    keep_freed_memory()  # before torch is loaded
    from ..api import predict_to_files

    more, places = divide_models(media)
    if watched:
        if places:
            raise click.UsageError(f"Name recordings or --watch, not both: {places[0]} is no run.")
        _watch([str(run), *more], watched, out, as_json, options)
        return
    if not places:
        reason = f": {media[-1]} is a run" if media else ""
        raise click.UsageError(f"Missing argument 'MEDIA...'{reason}. Name recordings or a cache, or --watch a folder.")
    with Bar("clips") as bar:
        files = predict_to_files(
            [run, *more], places, out, progress=bar, **{**options, "device": chosen_device(options["device"])}
        )
    show(files, as_json, describe_prediction)
    sys.exit(1 if files.failures else 0)


def _watch(runs: Sequence[str], folder: Path, out: Path, as_json: bool, options: dict[str, Any]) -> None:
    from ..api import sampling_of
    from ..data.terms import untrained_mark
    from ..fusion.export.ensemble import load_models
    from .watch import Watch

    formats, clips = options.pop("formats"), options.pop("clips")
    sampling = sampling_of(formats, options.pop("at"), options.pop("smooth"))
    models = load_models(runs, chosen_device(options.pop("device")))
    watch = Watch(models, folder, out, formats, sampling, clips, options)
    if models[0].random_weights:
        echo(untrained_mark(models[0].random_weights), err=True)

    def begin(num_done: int) -> None:
        echo(f"watching {folder}: {num_done} recordings are done; Ctrl-C ends", err=True)

    def report(outcome: WatchedRecording) -> None:
        if as_json:
            show_json(outcome.to_json(), indent=None)
        else:
            show(outcome, False, describe_watched)

    with interruptible("Finishing the recording in work") as stop:
        watch.run(report, stop, begin)


def describe_watched(outcome: WatchedRecording) -> str:
    """Returns the outcome of a watched recording as text."""
    places = ", ".join(outcome.files)
    lines = [f"{outcome.recording} -> {places} ({outcome.seconds:.1f} s)"] if outcome.files else []
    return "\n".join([*lines, *notes(outcome.notes), *failures(outcome.failures.items())])


def divide_models(places: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the runs and saved models at the beginning of a list of places, and the other places."""
    models = list(itertools.takewhile(_is_model, places))
    return models, list(places[len(models) :])


def _is_model(place: str) -> bool:
    """True for a finished run, a saved model, or a folder of folds."""
    from ..fusion.run_folder import CONFIG, fold_runs

    return (Path(place) / CONFIG).is_file() or bool(fold_runs(Path(place)))


def describe_prediction(files: PredictedFiles) -> str:
    """Returns the result of `predict_to_files` as text."""
    several = f", mean of {files.num_models} models" if files.num_models > 1 else ""
    lines = [f"{len(files.clips)} clips -> {files.out}{several}", *describe_values(files)]
    if files.preparation:
        lines.append(files.preparation)
    lines += notes(files.notes)
    if files.random_weights:
        lines.append(f"Untrained encoder (random weights): {', '.join(files.random_weights)}")
    return "\n".join([*lines, *failures((row["clip_id"], row["reason"]) for row in files.failures)])


def describe_values(files: PredictedFiles | SubmissionFile) -> list[str]:
    """Returns the lines about instants and smoothing that differ from the plain estimates of the grid."""
    lines = []
    if files.at != "grid":
        instants = "the time of each frame" if files.at == "frames" else f"{files.at:g} Hz"
        lines.append(f"values at {instants}, interpolated linearly between the steps of {files.grid_hz:g} Hz")
    if any(files.smoothing_s):
        widths = "/".join(f"{width:g}" for width in files.smoothing_s)
        lines.append(f"smoothed by a centred moving average over {widths} s")
    return lines
