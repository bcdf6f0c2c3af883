"""`sage-va report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import Bar, chosen_device, show
from .options import device_option, json_option, moved_cache_option, moved_labels_option, split_option
from .verb import verb

if TYPE_CHECKING:  # this imports torch
    from ..fusion.report.write import ReportPage


@verb("sage-va report runs/sage runs/concat --media videos/ --out report.html")
@click.argument(
    "runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The page, an .html.")
@click.option(
    "--media",
    type=click.Path(exists=True, path_type=Path),
    help="Folder or manifest of the recordings: adds small pictures and the waveform of each clip.",
)
@moved_cache_option
@moved_labels_option
@split_option
@device_option
@json_option
def report(runs: tuple[Path, ...], out: Path, device: str, as_json: bool, **options: Any) -> None:
    """Writes one page about runs: scores, clips, traces.

    The page needs no network and holds its data: scores with intervals and paired differences, a table of clips, the
    traces of each clip, calibration, robustness, learning curves, provenance and limits.

    It is about the first RUN and compares it with the others. Runs that differ in their seed alone count as one model,
    whose range is drawn. A folder of `compare` stands for all of its runs.
    """
    from ..api import report as write

    with Bar("runs") as bar:
        result = write(runs, out, device=chosen_device(device), tick=bar.tick, **options)
    show(result, as_json, describe_report)


def describe_report(page: ReportPage) -> str:
    """Returns the result of `report` as text."""
    lines = [f"{', '.join(page.models)}: {_number_of(page.num_runs, 'run')}, {_number_of(page.num_clips, 'clip')}"]
    if page.without_recording:
        missing = ", ".join(page.without_recording[:3])
        lines.append(f"no recording for {_number_of(len(page.without_recording), 'clip')}: {missing}")
    if page.random_weights:
        lines.append(f"Untrained encoder (random weights): {', '.join(page.random_weights)}")
    if page.restricted:
        lines.append("The page shows data under terms of use: do not pass it on.")
    return "\n".join([*lines, f"{page.out}: {page.num_bytes / 1e6:.2f} MB. Open it in a browser."])


def _number_of(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
