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

    Prints counts, rates, offsets, gaps and drift of each clip. The exit code is 1 if one exceeds the tolerance.
    """
    from ..data.sync_check import align as check

    result = check(data.open_store(cache), labels, tolerance_s)
    show(result, as_json, describe_align)
    sys.exit(1 if result["num_flagged"] else 0)


def describe_align(result: dict[str, Any]) -> str:
    """`align` as text: a table, and under each clip what is off (!) or odd (-)."""
    head = ("clip", "seconds", "frames", "promised", "labels", "fps", "frame 0 s", "sound s", "gap s", "drift s")
    keys = ("num_frames", "num_frames_promised", "num_label_rows")
    rows: list[tuple[str, ...]] = [head]
    for clip in result["clips"]:
        seconds = (clip["first_frame_s"], clip["audio_first_s"], clip["largest_gap_s"], clip["drift_s"])
        counts = ("-" if clip[key] is None else str(clip[key]) for key in keys)
        rows.append((clip["clip_id"], _s(clip["duration_s"]), *counts, _s(clip["fps"]), *map(_s, seconds)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for row, clip in zip(rows, [None, *result["clips"]], strict=True):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells))
        if clip:
            lines += [f"  ! {what}" for what in clip["problems"]] + [f"  - {what}" for what in clip["notes"]]
    lines += [f"  ! no clip for {path}" for path in result["unused_labels"]]
    total = len(result["clips"])
    lines.append(f"{result['num_flagged']} of {total} clips are off by more than {result['tolerance_s']:g} s")
    return "\n".join(lines)


def _s(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
