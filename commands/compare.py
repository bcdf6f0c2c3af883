"""`sage-va compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import data
from .console import Bar, chosen_device, grouped, show
from .options import experiment_options, labels_option, shard_option
from .stopping import ended_by_signals
from .train import chosen_preset
from .verb import verb

if TYPE_CHECKING:  # these import torch
    from ..fusion.experiments.compare import Comparison
    from ..fusion.experiments.table import ComparisonTable


@verb("sage-va compare cache.zarr --labels labels/ --variants sage,concat --seeds 5 --out runs/compare")
@click.argument("cache")
@labels_option
@click.option(
    "--variants", required=True, metavar="NAME,NAME,…", help="Variants to compare, e.g. sage,concat,late,visual."
)
@click.option("--seeds", "num_seeds", type=click.IntRange(1), default=5, show_default=True, help="Seeds 0, 1, ….")
@click.option(
    "--folds",
    type=click.IntRange(3),
    help="Cross-validate: every clip is tested once. Default: as configured.",
)
@click.option(
    "--base",
    metavar="NAME",
    help="Variant that the others are compared with. Default: concat if listed, else the first.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the runs and the table; an existing one is resumed.",
)
@shard_option
@experiment_options
def compare(
    cache: str,
    labels: Path,
    variants: str,
    out: Path,
    config_path: Path | None,
    preset: str,
    assignments: tuple[str, ...],
    engine: str,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Trains several variants and prints one table.

    The table holds the CCC over seeds, and the differences to a base with their intervals.

    Runs lie in OUT/VARIANT/seed-S/fold-K, the table in OUT as table.csv, .md, .tex and .json, and as a picture. A seed
    sets the split and the weights, the same for all variants. Run the command again to resume, or with more variants or
    seeds: runs that are done are skipped. A run that fails is listed with its reason, and the others continue; the exit
    code is then 1.

    With --shard K/N, each of N commands trains its part of the runs, and the last one to end prints the table.
    """
    from ..fusion.config import load_config
    from ..fusion.experiments.compare import compare as compare_all

    store = data.open_store(cache)
    config = load_config(config_path, assignments, chosen_preset(preset, store, labels))
    names = [name.strip() for name in variants.split(",") if name.strip()]
    if not names:
        raise click.UsageError("Name variants with --variants, such as sage,concat.")
    with ended_by_signals() as stop, Bar("runs") as bar:
        result = compare_all(
            store,
            labels,
            out,
            config,
            names,
            engine=engine,
            device=device if engine == "ray" else chosen_device(device),
            progress=bar.count,
            **options,
        )
    show(result, as_json, describe_comparison)
    sys.exit(stop.code if result.interrupted else 1 if result.failures else 0)


def describe_comparison(result: Comparison) -> str:
    """Returns the result of `compare` as text."""
    lines = [f"{result.num_trained} runs done, {result.num_skipped} there already, "
             f"{len(result.failures)} failed, of {result.num_cells}"]  # fmt: skip
    lines += [f"warning: left out of all trainings: {line}" for line in result.left_out]
    if result.unlabelled:
        lines.append(f"{len(result.unlabelled)} clips without labels")
    if result.interrupted:
        lines.append("interrupted: run the same command to resume")
    elif result.table is None:
        lines.append("no table yet: the last part to end makes it, or the same command without --shard")
    else:
        lines += [describe_table(result.table), f"table.csv, .md, .tex, .json, .png, .svg and .pdf: {result.out}"]
    rows = ((failure.cell, failure.reason) for failure in result.failures)
    return "\n".join([*lines, *grouped("failed", "runs", rows)])


def describe_table(table: ComparisonTable) -> str:
    """Returns the table as text."""
    from ..fusion.evaluation.metrics import NAMES
    from ..fusion.experiments.table_files import cost, gain, heading, spread, title

    width = max(len(title(row, table)) for row in table.rows)
    head = "  ".join(f"{name:<14}" for name in (*NAMES, "mean, smoothed"))
    lines = [
        *heading(table),
        "CCC, mean ± std over seeds; seconds: median of the trainings (the first gate cross-fits for all)",
    ]
    lines.append(f"  {'':<{width}}  {head}  parameters  seconds")
    for row in table.rows:
        cells = [spread(row.raw[name]) for name in NAMES] + [spread(row.smoothed["mean"])]
        lines.append(f"  {title(row, table):<{width}}  " + "  ".join(f"{cell:<14}" for cell in cells) + cost(row))
    differences = {title(row, table): row.raw_difference for row in table.rows if row.raw_difference}
    if differences:
        lines.append(f"difference to {table.base}, with 95 % interval (paired bootstrap over clips; *: p < 0.05, Holm)")
        lines.append(f"  {'':<{width}}  " + "  ".join(f"{name:<24}" for name in NAMES).rstrip())
    for name_of_row, difference in differences.items():
        cells = [f"{gain(difference[name]):<24}" for name in NAMES]
        lines.append(f"  {name_of_row:<{width}}  " + "  ".join(cells).rstrip())
    return "\n".join(lines)
