"""`sage-va sweep`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import data
from .console import Bar, chosen_device, grouped, show
from .options import experiment_options, labels_option
from .stopping import ended_by_signals
from .train import chosen_preset
from .verb import verb

NUM_SHOWN = 10


if TYPE_CHECKING:  # only some commands need it
    from ..fusion.experiments.sweep_result import SweepResult, TrialRow


@verb("sage-va sweep cache.zarr --labels labels/ --space space.yaml --trials 50 --out runs/sweep")
@click.argument("cache")
@labels_option
@click.option(
    "--space",
    "space_path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML: for each key of the configuration a list of choices, or {low, high}, optionally with log or step.",
)
@click.option(
    "--trials",
    "num_trials",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Finished trials in total, including those of other processes and earlier runs.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the study; an existing one is resumed."
)
@experiment_options
def sweep(
    cache: str,
    labels: Path,
    space_path: Path,
    out: Path,
    config_path: Path | None,
    preset: str,
    assignments: tuple[str, ...],
    engine: str,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Searches for the best configuration.

    The best is that with the highest score on the validation clips; test clips are not used. Later trials follow the
    best earlier ones, and those worse than most are stopped early. Run the command again to resume, with more --trials
    to continue, or on other machines that share OUT to go faster. The run of the best trial is OUT/best, its
    configuration OUT/best.yaml. A trial that fails is listed with its reason; the exit code is then 1.
    """
    from ..fusion.config import load_config
    from ..fusion.experiments.search_space import load_space
    from ..fusion.experiments.sweep import sweep as search

    store = data.open_store(cache)
    config = load_config(config_path, assignments, chosen_preset(preset, store, labels))
    space = load_space(space_path, config)
    with ended_by_signals() as stop, Bar("trials") as bar:

        def report(num_finished: int, num_trials: int, best: float | None) -> None:
            if best is not None:
                bar.add(f"best validation CCC {best:.3f}")
            bar.count(num_finished, num_trials)

        result = search(
            store,
            labels,
            out,
            config,
            space,
            engine=engine,
            device=device if engine == "ray" else chosen_device(device),
            progress=report,
            **options,
        )
    show(result, as_json, describe_sweep)
    sys.exit(stop.code if result.interrupted else 1 if result.failures or result.best is None else 0)


def describe_sweep(result: SweepResult) -> str:
    """Returns the result of `sweep` as text."""
    from ..fusion.evaluation.report import cautions
    from ..fusion.experiments.sweep_report import CHOSEN

    states = Counter(row.state for row in result.rows)
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    lines = [
        f"{result.num_finished} trials finished, {result.num_trials} asked for ({counts or 'none begun'}); "
        f"{result.num_trained} done now, {len(result.failures)} of them failed",
        *cautions(result.random_weights),
        f"score: {result.objective}; {result.num_validation_clips} clips, {CHOSEN}",
    ]
    lines += [f"warning: left out of all trainings: {line}" for line in result.left_out]
    if result.interrupted:
        lines.append("interrupted: run the same command to resume")
    lines += [*_table(result.rows), *_importance(result.importance), *_reasons(result.rows)]
    if result.best is not None:
        lines += _outcome(result, result.best)
    rows = ((f"trial {row.trial}", str(row.reason)) for row in result.failures)
    return "\n".join([*lines, *grouped("failed", "trials", rows)])


def _table(rows: Sequence[TrialRow]) -> list[str]:
    """Returns the lines of the best complete trials, a column for each key."""
    complete = [row for row in rows if row.state == "complete"]
    complete.sort(key=lambda row: -(row.score or 0.0))
    if not complete:
        return ["no trial is complete yet"]
    keys = list(complete[0].params)
    titles = ["trial", "score", "valence", "arousal", "epoch", *keys]
    cells = [
        [str(row.trial), *(f"{getattr(row, name):.3f}" for name in ("score", "valence", "arousal")), str(row.epoch)]
        + [_short(row.params[key]) for key in keys]
        for row in complete[:NUM_SHOWN]
    ]
    widths = [max(len(line[column]) for line in (titles, *cells)) for column in range(len(titles))]
    return ["  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(line, widths, strict=True)) for line in (titles, *cells)]


def _short(value: Any) -> str:
    from ..fusion.experiments.sweep_report import plain_value

    return f"{value:.4g}" if isinstance(value, float) else str(plain_value(value))


def _importance(importance: dict[str, float] | None) -> list[str]:
    if importance is None:
        return ["importance: not estimated, too few trials are complete"]
    shares = ", ".join(f"{key} {share:.2f}" for key, share in importance.items())
    return [f"importance for a score among the best (PED-ANOVA, complete trials): {shares}"]


def _reasons(rows: Sequence[TrialRow]) -> list[str]:
    """Returns each reason for which trials could not be trained, once."""
    reasons = Counter(
        row.reason.removeprefix(f"trial {row.trial}: ") for row in rows if row.state == "pruned" and row.reason
    )
    return [f"pruned as unfit, {number} trials: {reason}" for reason, number in reasons.most_common(5)]


def _outcome(result: SweepResult, best: TrialRow) -> list[str]:
    out = result.out
    lines = [f"best: trial {best.trial}, its run {out}/best, its configuration {out}/best.yaml"]
    if not result.has_test_clips:
        return [*lines, "This split has no test clips: score the run on clips that took no part in the search."]
    return [
        *lines,
        f"No test clip was looked at. Once the search is over, score it on them once: sage-va eval {out}/best",
    ]
