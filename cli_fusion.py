"""The verbs of `sage-va` on cached features: parse, call, print. No logic lives here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .data import open_store
from .terminal import Bar, TrainLog, chosen_device, device_option, interruptible, json_option, show

labels_option = click.option(
    "--labels",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of Aff-Wild2 .txt files (row k = frame k) or .csv files with time_s, valence, arousal.",
)
config_option = click.option(
    "--config", "config_path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="YAML file."
)
set_option = click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any key, e.g. --set train.epochs=20."
)
preset_option = click.option(
    "--preset",
    type=click.Choice(["auto", "tiny", "base", "large"]),
    default="auto",
    show_default=True,
    help="Size and strength of regularisation, below --config and --set; auto is tiny under 5 h of labelled "
    "recordings, else base.",
)


track_option = click.option(
    "--track",
    multiple=True,
    type=click.Choice(["tensorboard", "wandb", "mlflow"]),
    help="Tell a tracker of each run; may be given several times. metrics.jsonl and metrics.csv are always written.",
)


@click.command()
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
@click.option("--resume", is_flag=True, help="Go on with what --out holds, if anything; the result is the same.")
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

    `--set split.folds=8` trains one run per fold; `eval` then pools their held-out clips into one score. Ctrl-C (or
    SIGTERM) saves the state and stops, exit code 130; `--resume` goes on from there, also after a crash.
    """
    from .fusion.config import load_config
    from .fusion.distributed import is_main
    from .fusion.evaluation.predict import plain
    from .fusion.models.variants import resolve
    from .fusion.training.train import train as fit

    short = [f"model.variant={variant}"] * bool(variant) + [f"seed={seed}"] * (seed is not None)
    store = open_store(cache)
    config = resolve(load_config(config_path, [*short, *assignments], _preset(preset, store, labels)))
    if show_config:
        click.echo(config.to_yaml(), nl=False)
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
            click.echo("interrupted: run the same command with --resume to go on", err=True)
            sys.exit(130)
    if not is_main():
        return
    show(
        plain({"runs": [str(path) for path in runs], "val": log.scores, "random_weights": log.random_weights}),
        as_json,
        _describe_training,
    )


@click.command("eval")
@click.argument(
    "runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--cache", help="Another cache than the run was trained on.")
@click.option("--labels", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Other labels.")
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), help="Default: test, or val where there is no test."
)
@click.option(
    "--robustness", "robust", is_flag=True, help="Corrupt the cached streams: curves and areas, for any number of runs."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="With --robustness: folder for JSON, CSV and picture.",
)
@device_option
@json_option
def evaluate(runs: tuple[Path, ...], robust: bool, out: Path | None, device: str, as_json: bool, **places: Any) -> None:
    """Scores a run: one CCC per target over all labelled instants of a split, raw and smoothed.

    For a cross-validation run, the held-out clips of all folds are pooled.
    """
    from .fusion.evaluation.report import describe_robustness, describe_score, write_robustness
    from .fusion.evaluation.robustness import robustness
    from .fusion.evaluation.score import score_run

    first, *others = runs
    if not robust and (others or out):
        raise click.UsageError("Several runs, and --out, go with --robustness.")
    places["device"] = chosen_device(device)
    if not robust:
        show(score_run(first, **places), as_json, describe_score)
        return
    with Bar("corruptions") as bar:
        found = {"runs": [robustness(run, **places, tick=bar.tick) for run in runs]}
    if out:
        write_robustness(out, found)
    show(found, as_json, describe_robustness)


@click.command()
@click.argument("cache")
@labels_option
@click.option("--variants", required=True, metavar="NAME,NAME,…", help="What to compare, e.g. sage,concat,late,visual.")
@click.option("--seeds", "num_seeds", type=click.IntRange(1), default=5, show_default=True, help="Seeds 0, 1, ….")
@click.option(
    "--folds", type=click.IntRange(3), help="Cross-validate: every clip is tested once. Default: the split as set."
)
@click.option(
    "--base", metavar="NAME", help="What the others are held against. Default: concat if it takes part, else the first."
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the runs and the table; one to go on with."
)
@config_option
@preset_option
@set_option
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Runs at a time, on one core each. Default: the number of cores; 1 on a GPU.",
)
@device_option
@json_option
def compare(
    cache: str,
    labels: Path,
    variants: str,
    out: Path,
    config_path: Path | None,
    preset: str,
    assignments: tuple[str, ...],
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Trains variants side by side and prints one table: CCC over seeds, and differences with their intervals.

    Runs lie in OUT/VARIANT/seed-S/fold-K, the table in OUT as table.csv, .md, .json and .png. A seed decides the split
    as well as the weights, the same for all variants. Run it again to resume, or with more variants or seeds: what is
    done is skipped. A run that fails is listed with its reason; the others are done; exit code 1.
    """
    from .fusion.config import load_config
    from .fusion.experiments.compare import compare as compare_all

    store = open_store(cache)
    config = load_config(config_path, assignments, _preset(preset, store, labels))
    names = [name.strip() for name in variants.split(",") if name.strip()]
    if not names:
        raise click.UsageError("Name variants with --variants, such as sage,concat.")
    with Bar("runs") as bar:
        found = compare_all(
            store, labels, out, config, names, device=chosen_device(device), progress=bar.count, **options
        )
    show(found, as_json, _describe_comparison)
    sys.exit(130 if found["interrupted"] else 1 if found["failures"] else 0)


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the new run.")
@click.option("--cache", help="Another cache than the run was trained on.")
@click.option("--labels", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Other labels.")
@device_option
@json_option
def calibrate(run: Path, out: Path, cache: str | None, labels: Path | None, device: str, as_json: bool) -> None:
    """Refits how a run's gate turns evidence into reliability, on its validation clips; all else stays as it is."""
    from .fusion.evaluation.report import describe_calibration
    from .fusion.training.calibrate import calibrate as refit

    show(refit(run, out, cache=cache, labels=labels, device=chosen_device(device)), as_json, describe_calibration)


@click.command()
@json_option
def variants(as_json: bool) -> None:
    """Lists the fusion variants, also those that packages add, and where each comes from."""
    from .fusion.models.variants import find_variant, variant_names

    found = {name: find_variant(name).source for name in variant_names()}
    show(found, as_json, lambda found: "\n".join(f"{name:<20} {source}" for name, source in found.items()))


def _preset(name: str, store: Any, labels: Path) -> str:
    """The preset that is meant."""
    from .fusion.config import suited_preset
    from .fusion.training.labelled import labelled_hours

    if name == "auto":
        hours = labelled_hours(store, labels)
        name = suited_preset(hours)
        click.echo(f"preset {name}: {hours:.1f} h of labelled recordings", err=True)
    return name


def _describe_training(found: dict[str, Any]) -> str:
    return "\n".join(f"done: {path}" for path in found["runs"]) + "\nScore it with `sage-va eval`."


def _describe_comparison(found: dict[str, Any]) -> str:
    from .fusion.experiments.table import describe_table

    lines = [f"{found['num_trained']} runs done, {found['num_skipped']} there already, "
             f"{len(found['failures'])} failed, of {found['num_cells']}"]  # fmt: skip
    if found["unlabelled"]:
        lines.append(f"{len(found['unlabelled'])} clips without labels")
    if found["interrupted"]:
        lines.append("interrupted: run the same command to go on")
    else:
        lines += [describe_table(found), f"table.csv, .md, .json and .png: {found['out']}"]
    return "\n".join([*lines, *(f"failed: {row['cell']}: {row['reason']}" for row in found["failures"])])
