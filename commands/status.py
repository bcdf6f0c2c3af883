"""`sage-va status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .. import data
from .console import show
from .options import json_option
from .verb import verb

if TYPE_CHECKING:
    from ..data.store.status import Status


@verb("sage-va status cache.zarr")
@click.argument("cache")
@json_option
def status(cache: str, as_json: bool) -> None:
    """Shows the progress of a running extraction.

    Prints clips done and failed, the rate and the time left of the extraction into CACHE.
    """
    from ..data.store.status import status as look

    show(look(data.open_store(cache)), as_json, describe_status)


def describe_status(result: Status) -> str:
    """Returns the result of `status` as text."""
    wanted = "?" if result.clips is None else result.clips
    lines = [f"{stream}: {count} of {wanted} clips" for stream, count in result.done.items()]
    left = "" if result.left_s is None else f", about {result.left_s / 60:.0f} min left"
    quiet = "no event yet" if result.quiet_s is None else f"last event {result.quiet_s:.0f} s ago"
    lines.append(f"{result.clips_per_hour:.0f} clips/h in the last ten minutes{left}; {quiet}")
    lines += [f"failed: {row.clip_id}: {row.reason}" for row in result.failures]
    return "\n".join(lines)
