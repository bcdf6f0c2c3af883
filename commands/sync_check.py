"""`sage-va sync-check`: frames, audio and labels of a cache, compared in time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .. import data
from .console import show
from .options import json_option
from .verb import verb


@verb("sage-va sync-check cache.zarr --labels labels/", name="sync-check")
@click.argument("cache")
@click.option("--labels", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Labels to compare with.")
@click.option(
    "--tolerance-s",
    type=click.FloatRange(0),
    default=0.2,
    show_default=True,
    help="Largest difference between two ends, in seconds.",
)
@json_option
def sync_check(cache: str, labels: Path | None, tolerance_s: float, as_json: bool) -> None:
    """Checks that frames, audio and labels agree in time.

    Prints counts, rates, offsets, gaps and drift of each clip. The exit code is 1 if one exceeds the tolerance; clips
    without labels are listed and do not count.
    """
    from ..data.sync_check import check_sync

    report = check_sync(data.open_store(cache), labels, tolerance_s)
    show(report.to_json(), as_json, describe_sync)
    sys.exit(1 if report.num_flagged else 0)


def describe_sync(report: dict[str, Any]) -> str:
    """Returns a sync check as text: a table, and under each clip what is off (!) or odd (-)."""
    rows = [("clip", "seconds", "frames", "promised", "labels", "fps", "frame 0 s", "audio 0 s", "gap s", "drift s")]
    rows += [_cells(clip) for clip in report["clips"]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for row, clip in zip(rows, [None, *report["clips"]], strict=True):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells))
        if clip:
            lines += [f"  ! {problem}" for problem in clip["problems"]] + [f"  - {note}" for note in clip["notes"]]
            lines += ["  - no labels"] * (clip["clip_id"] in report["unlabelled"])
    lines += [f"  - no clip for {path}" for path in report["unused_labels"]]
    num_flagged, num_clips = report["num_flagged"], len(report["clips"])
    lines.append(f"{num_flagged} of {num_clips} clips are off by more than {report['tolerance_s']:g} s")
    if report["unlabelled"]:
        lines[-1] += f"; {len(report['unlabelled'])} have no labels"
    return "\n".join(lines)


def _cells(clip: dict[str, Any]) -> tuple[str, ...]:
    seconds = (clip["first_frame_s"], clip["audio_first_s"], clip["largest_gap_s"], clip["drift_s"])
    keys = ("num_frames", "num_frames_promised", "num_label_rows")
    counts = ("-" if clip[key] is None else str(clip[key]) for key in keys)
    return (clip["clip_id"], _s(clip["duration_s"]), *counts, _s(clip["fps"]), *map(_s, seconds))


def _s(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
