"""`sage-va submission`: a file for Aff-Wild2's challenge, made and checked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import Bar, chosen_device, show
from .options import device_option, json_option, smooth_option
from .predict import describe_values, divide_models
from .verb import VerbGroup, example_of, verb

if TYPE_CHECKING:
    from ..data.submission import SubmissionReport
    from ..fusion.export.submission import SubmissionFile

sample_option = click.option(
    "--sample",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The sample file of the challenge: it lists all rows in their order.",
)


@click.group(
    "submission",
    cls=VerbGroup,
    epilog=example_of("sage-va submission check submission.txt --sample test_set_sample.txt"),
)
def submission_group() -> None:
    """Makes and checks submissions to a challenge."""


@verb("sage-va submission make runs/first --sample test_set_sample.txt --out submission.txt", "make", submission_group)
@click.argument("runs", nargs=-1, required=True, metavar="RUN... [CACHE]")
@sample_option
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
@smooth_option
@device_option
@json_option
def make(runs: tuple[str, ...], sample: Path, out: Path, smooth: str | float, device: str, as_json: bool) -> None:
    """Writes the predictions for every row of a sample file.

    Row NAME/00001.jpg gets the estimate at the time of frame 1 of clip NAME, whether that frame has a crop or not.
    CACHE holds the clips of the test set; without it, the cache of the first RUN. Several runs are averaged.
    """
    from ..data.store.base import open_store
    from ..fusion.export.ensemble import cache_of, load_models
    from ..fusion.export.submission import make_submission

    models, places = divide_models(runs)
    if not models:
        raise click.UsageError(f"{runs[0]} is neither a finished run nor a saved model.")
    if len(places) > 1:
        raise click.UsageError(f"Name runs, and then at most one cache: {places[0]} is no run.")
    store = open_store(places[0] if places else cache_of(models[0]))
    loaded = load_models(models, chosen_device(device))
    with Bar("clips") as bar:
        result = make_submission(loaded, store, sample, out, smooth=smooth, tick=bar.count)
    show(result, as_json, describe_submission)


@verb("sage-va submission check submission.txt --sample test_set_sample.txt", "check", submission_group)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@sample_option
@json_option
def check(file: Path, sample: Path, as_json: bool) -> None:
    """Compares a submission with the sample file, line by line.

    Missing, extra, repeated and misplaced rows, values that are no numbers from -1 to 1, and faults of header, columns,
    line ends and encoding are named with their lines; the exit code is then 1.
    """
    from ..data.submission import check_submission, read_sample

    report = check_submission(file, read_sample(sample))
    show(report, as_json, describe_check)
    sys.exit(0 if report.right else 1)


def describe_submission(result: SubmissionFile) -> str:
    """Returns the result of `make_submission` as text."""
    several = f", mean of {result.num_models} models" if result.num_models > 1 else ""
    lines = [f"{result.num_rows} rows of {result.num_clips} clips -> {result.out}{several}", *describe_values(result)]
    if result.num_beyond:
        clips = ", ".join(result.clips_beyond)
        lines.append(
            f"{result.num_beyond} rows of frames behind the last one of their recording have its value: {clips}"
        )
    if result.random_weights:
        lines.append(f"Untrained encoder (random weights): {', '.join(result.random_weights)}")
    return "\n".join(lines)


def describe_check(report: SubmissionReport) -> str:
    """Returns the result of `check_submission` as text."""
    if report.right:
        return f"{report.path}: right, {report.num_rows} rows"
    num_faults = sum(report.counts.values())
    lines = [f"{report.path}: {num_faults} faults, {report.num_rows} rows, {report.num_expected} in the sample"]
    for kind, num in report.counts.items():
        shown = [fault for fault in report.faults if fault.kind == kind]
        lines.append(f"{kind}: {num}")
        lines += [f"  {'' if kind == 'missing' else f'line {fault.line}: '}{fault.text}" for fault in shown]
        if len(shown) < num and kind != "missing":
            lines.append(f"  and {num - len(shown)} more")
    return "\n".join(lines)
