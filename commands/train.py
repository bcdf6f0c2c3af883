"""`sage-va train`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .. import data
from .console import chosen_device, echo, show, show_json
from .options import (
    config_option,
    device_option,
    json_option,
    labels_option,
    preset_option,
    set_option,
    track_option,
)
from .stopping import interruptible
from .verb import verb


@verb("sage-va train cache.zarr --labels labels/ --out runs/first --variant sage")
@click.argument("cache")
@labels_option
@click.option(
    "--out", "run", required=True, type=click.Path(path_type=Path), help="Folder of the run, which must be new."
)
@config_option
@click.option(
    "--variant", metavar="NAME", help="Short for --set model.variant=…: sage, concat, gmu … (`sage-va variants`)."
)
@click.option("--seed", type=int, help="Short for --set seed=….")
@preset_option
@set_option
@device_option
@track_option
@click.option("--resume", is_flag=True, help="Resume the training in --out, if there is one; the result is the same.")
@click.option("--show-config", is_flag=True, help="Print the resolved configuration and stop.")
@json_option
def train(
    cache: str,
    labels: Path,
    run: Path,
    config_path: Path | None,
    variant: str | None,
    seed: int | None,
    preset: str,
    assignments: tuple[str, ...],
    device: str,
    track: tuple[str, ...],
    resume: bool,
    show_config: bool,
    as_json: bool,
) -> None:
    """Trains a fusion model on cached features.

    Clips of one recording are never divided between train, val and test. `--set split.by=subject` also keeps each
    subject whole, `clip` does not, `official` follows the folders Train_Set and Validation_Set, and `file` a CSV
    (`split.file`, columns clip_id,split); `auto`, the default, is official where both folders hold labels, else
    subject. `--set split.folds=8` trains one run per fold; `eval` then pools their held-out clips into one score.

    Ctrl-C saves the state and stops, as SIGTERM, SIGHUP and SIGUSR1 do; the exit code is 128 plus the signal's number.
    `--resume` continues from there, also after a crash.
    """
    from ..fusion.config import load_config
    from ..fusion.distributed import is_main
    from ..fusion.models.variants import resolve
    from ..fusion.result import plain
    from ..fusion.training.labelled import settle_grid, settle_split
    from ..fusion.training.metrics_log import kept_score
    from ..fusion.training.train import train as fit

    short = [f"model.variant={variant}"] * bool(variant) + [f"seed={seed}"] * (seed is not None)
    store = data.open_store(cache)
    config = resolve(load_config(config_path, [*short, *assignments], chosen_preset(preset, store, labels)))
    config = settle_split(config, store, labels)
    if show_config:
        config, _ = settle_grid(config, store, labels)
        if as_json:
            show_json(config.model_dump(mode="json"))
        else:
            echo(config.to_yaml(), nl=False)
        return
    with TrainLog(config, quiet=as_json) as log, interruptible("Saving the state") as stop:
        try:
            runs = fit(
                store,
                labels,
                run,
                config,
                device=chosen_device(device),
                resume=resume,
                stop=stop.is_set,
                track=track,
                log=log,
            )
        except KeyboardInterrupt:
            echo("interrupted: run the same command with --resume to continue", err=True)
            sys.exit(stop.code)
    if not is_main():
        return
    scores = [log.scores.get(str(path)) or kept_score(path) for path in runs]  # of now, or of an earlier call
    result = {"runs": [str(path) for path in runs], "val": scores, "random_weights": log.random_weights}
    show(plain(result), as_json, describe_training)


def chosen_preset(name: str, store: Any, labels: Path) -> str:
    """Returns the name of the preset; `auto` is chosen by the hours of labelled recordings."""
    from ..fusion.config import suited_preset
    from ..fusion.training.labelled import labelled_hours

    if name == "auto":
        hours = labelled_hours(store, labels)
        name = suited_preset(hours)
        echo(f"preset {name}: {hours:.1f} h of labelled recordings", err=True)
    return name


class TrainLog:
    """Prints the events of the trainer: a bar of epochs per run or a line each, warnings, scores."""

    def __init__(self, config: Any, quiet: bool) -> None:
        self.config, self.quiet = config, quiet
        self.scores: dict[str, dict[str, float]] = {}
        self.random_weights: list[str] = []
        self.bar: Any = None
        self.in_terminal = False
        self.name = ""
        self.hz = 0.0
        self.speed = ""

    def __enter__(self) -> TrainLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def __call__(self, event: dict[str, Any]) -> None:
        getattr(self, f"_{event['event']}")(event)

    def _loaded(self, event: dict[str, Any]) -> None:
        self._say(f"{event['num_clips']} labelled clips, {event['placement']}")
        if event["normalise"] != "training":
            self._say(f"features normalised by {event['normalise']}{describe_alone(event)}")
        for name, places in (("without labels", event["unlabelled"]), ("labels without a clip", event["unused"])):
            if places:
                self._say(f"{len(places)} {name}: {_some(places)}")
        for line in event["left_out"]:
            echo(f"warning: left out of the training: {line}", err=True)
        self.random_weights = event["random_weights"]
        if event["random_weights"]:
            self._say(f"Untrained encoder (random weights): {', '.join(event['random_weights'])}")

    def _grid(self, event: dict[str, Any]) -> None:
        self.hz = event["hz"]
        self._say(describe_grid(event))

    def _split(self, event: dict[str, Any]) -> None:
        for line in describe_split(event):
            self._say(line)

    def _run(self, event: dict[str, Any]) -> None:
        from tqdm import tqdm

        self._close()
        self.bar = tqdm(
            total=self.config.train.epochs, unit=" epochs", disable=True if self.quiet else None, leave=True
        )
        self.name = Path(event["path"]).name
        self.bar.set_description(self.name)
        self.in_terminal = not self.bar.disable

    def _model(self, event: dict[str, Any]) -> None:
        model = self.config.model
        sees = f"its TCN sees {event['receptive_steps']} steps ({event['receptive_steps'] / self.hz:.1f} s)"
        if not self.scores:
            self._say(f"{model.variant}: {event['num_parameters']:,} parameters, {sees}")
        if event["lag_s"]:
            origin = "estimated from the training clips" if self.config.labels.lag_s == "estimate" else "labels.lag_s"
            self._say(f"reaction lag {event['lag_s']:g} s ({origin})")

    def _crossfit(self, event: dict[str, Any]) -> None:
        text = f"cross-fitting {event['stream']} {event['fold'] + 1}/{event['num_folds']}"
        if self.in_terminal:
            self.bar.set_postfix_str(text)
        else:
            self._say(text)

    def _epoch(self, event: dict[str, Any]) -> None:
        val = event.get("val", {}).get("mean", float("nan"))
        text, number = f"val CCC {val:.3f}, {event['windows_per_s']:.0f} windows/s", event["epoch"] + 1
        if self.in_terminal:
            self.bar.set_postfix_str(text)
            self.bar.update(number - self.bar.n)
        else:
            self._say(f"{self.name}: epoch {number} of {self.config.train.epochs}, {text}")
        self.speed = describe_speed(event)

    def _tracker(self, event: dict[str, Any]) -> None:
        echo(f"tracker {event['name']} failed, the training goes on without it: {event['reason']}", err=True)

    def _done(self, event: dict[str, Any]) -> None:
        self._close()
        val = event["val"]
        self.scores[event["path"]] = val
        self._say(f"{event['path']}: validation CCC {val['mean']:.3f} (V {val['valence']:.3f}, A {val['arousal']:.3f})")
        if self.speed:
            self._say(self.speed)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def _say(self, text: str) -> None:
        if not self.quiet:
            echo(text, err=True)


def describe_alone(loaded: dict[str, Any]) -> str:
    """Returns the end of the line about normalisation: clips that have no subject to be normalised by."""
    alone = loaded["num_without_subject"] if loaded["normalise"] == "subject" else 0
    return f"; {alone} clips without subject_id by themselves" if alone else ""


def describe_grid(grid: dict[str, Any]) -> str:
    """Returns the line of the log that states the grid and its windows."""
    hz, window_steps, hop_steps = grid["hz"], grid["window_steps"], grid["hop_steps"]
    origin = "data.grid_hz" if grid["slowest_stream"] is None else f"slowest stream: {grid['slowest_stream']}"
    whole = ", the longest clip" if window_steps / hz >= grid["longest_clip_s"] else ""
    windows = f"windows {window_steps / hz:g} s = {window_steps} steps{whole}"
    return f"grid {hz:g} Hz ({origin}), {windows}, hop {hop_steps / hz:g} s"


def describe_speed(epoch: dict[str, Any]) -> str:
    """Returns the line of the log that states the speed of an epoch, and what limited it."""
    share = f"{100 * epoch['data_share']:.1f} % of the time"
    return f"{epoch['windows_per_s']:.0f} windows/s, limited by the {epoch['limited_by']}; cutting windows took {share}"


def describe_split(split: dict[str, Any]) -> list[str]:
    """Returns the lines of the log that state how clips were divided."""
    counts = ", ".join(f"{count} {role}" for role, count in split["num_clips"].items())
    origin = {
        "official": "the official one, by the folders Train_Set and Validation_Set; split.by=subject draws another",
        "file": "as listed in split.file",
        "clip": f"drawn from {split['num_groups']} recordings; a subject may be in several parts",
        "subject": f"drawn from {split['num_groups']} groups of clips that share a subject or recording",
    }
    anew = f"dealt anew from {split['num_groups']} groups of clips, as many to each part as in the {split['by']} split"
    lines = [f"split: {counts} ({anew if split['resampled'] else origin[split['by']]})"]
    if split["num_without_subject"] and split["by"] == "subject":
        lines.append(f"{split['num_without_subject']} clips without subject_id: each recording counts as a subject")
    if split["divided"]:
        example = " and ".join(split["divided"][0][:2])
        lines.append(f"warning: this split divides {len(split['divided'])} recordings, such as {example}")
    return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


def describe_training(result: dict[str, Any]) -> str:
    """Returns the runs of a training as text."""
    return "\n".join(f"done: {path}" for path in result["runs"]) + "\nScore it with `sage-va eval`."
