"""`sage-va sweep`: parse, call, print. No logic lives here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .cli_fusion import _preset, config_option, labels_option, preset_option, set_option
from .data import open_store
from .terminal import Bar, chosen_device, device_option, json_option, show


@click.command()
@click.argument("cache")
@labels_option
@click.option(
    "--space",
    "space_path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML: for each key of the configuration a list of choices, or {low, high}, with log or step if wanted.",
)
@click.option(
    "--trials",
    "num_trials",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Finished trials in all, those of other processes and of before included.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the study; one to go on with.")
@config_option
@preset_option
@set_option
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Trials at a time, on one core each. Default: the number of cores; 1 on a GPU.",
)
@device_option
@json_option
def sweep(
    cache: str,
    labels: Path,
    space_path: Path,
    out: Path,
    config_path: Path | None,
    preset: str,
    assignments: tuple[str, ...],
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Searches for the configuration with the best score on the validation clips; the test clips are not looked at.

    Trials are chosen by what was good before, and stopped early where they are worse than most. Run it again to go on,
    with more --trials to go further, and on other machines that share OUT to be faster. The best trial's run is
    OUT/best, its configuration OUT/best.yaml. A trial that fails is listed with its reason; exit code 1.
    """
    from .fusion.config import load_config
    from .fusion.evaluation.predict import plain
    from .fusion.experiments.search_space import load_space
    from .fusion.experiments.sweep import sweep as search
    from .fusion.experiments.sweep_report import describe_sweep

    store = open_store(cache)
    config = load_config(config_path, assignments, _preset(preset, store, labels))
    space = load_space(space_path, config)
    with Bar("trials") as bar:

        def told(num_finished: int, num_trials: int, best: float | None) -> None:
            if best is not None:
                bar.bar.set_postfix_str(f"best validation CCC {best:.3f}", refresh=False)
            bar.count(num_finished, num_trials)

        found = search(store, labels, out, config, space, device=chosen_device(device), progress=told, **options)
    show(plain(found), as_json, describe_sweep)
    sys.exit(130 if found["interrupted"] else 1 if found["failures"] or found["best"] is None else 0)
