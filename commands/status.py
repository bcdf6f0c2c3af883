"""`sage-va status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .. import data
from .console import failures, show
from .options import json_option
from .verb import verb

if TYPE_CHECKING:
    from ..data.store.status import Status


@verb("sage-va status cache.zarr")
@click.argument("cache")
@json_option
def status(cache: str, as_json: bool) -> None:
    """Shows the progress of a running extraction.

    Prints whether the extraction into CACHE is starting, running, stopped or finished, clips done and failed, the rate
    and the time left.
    """
    from ..data.store.status import status as look

    try:
        store = data.open_store(cache)
    except data.InputError as error:
        todo = f"If an extraction has just begun, it is loading its encoders: wait. {error.todo}"
        raise data.InputError(error.place, error.problem, todo=todo) from error
    show(look(store), as_json, describe_status)


def describe_status(result: Status) -> str:
    """Returns the result of `status` as text."""
    wanted = "?" if result.clips is None else result.clips
    return "\n".join(
        [
            _headline(result),
            *(f"{stream}: {count} of {wanted} clips" for stream, count in result.done.items()),
            *failures((row.clip_id, row.reason) for row in result.failures),
        ]
    )


def _headline(result: Status) -> str:
    """Returns the line that states how far it is."""
    left = "" if result.left_s is None else f", about {result.left_s / 60:.0f} min left"
    texts = {
        "idle": "no extraction has begun",
        "starting": "starting: no clip has ended yet",
        "running": f"running: {result.clips_per_hour:.0f} clips/h in the last ten minutes{left}",
        "quiet": "quiet: a long clip is at work, or the extraction has ended",
        "stopped": "stopped: run the same command to resume, unless other shards are at work",
        "finished": f"finished, {len(result.failures)} failed",
    }
    quiet = "" if result.quiet_s is None else f"; last event {_duration(result.quiet_s)} ago"
    return texts[result.state] + quiet


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )
