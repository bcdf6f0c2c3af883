"""Progress of an extraction, read from the cache while others write it."""

from __future__ import annotations

import calendar
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .base import FailedClip, Store, failures_in

_RECENT_S = 600
State = Literal["idle", "starting", "running", "quiet", "stopped", "finished"]


@dataclass(frozen=True)
class Status:
    """Progress of an extraction.

    Args:
        url: of the cache.
        state: "idle", no extraction has begun; "starting", and no clip has ended yet; "running"; "quiet", without an
            event for ten minutes; "stopped" before all was done; "finished".
        clips: clips that are to be done; None where no run has noted how many.
        done: clips that are done, by stream.
        failures: clips that failed and have not been made since.
        clips_per_hour: over the last ten minutes.
        left_s: seconds until all is done at that rate; None = unknown.
        quiet_s: seconds since the last event; None = there was none.
        writing: temporary places of writers that work or were killed.
    """

    url: str
    state: State
    clips: int | None
    done: Mapping[str, int]
    failures: list[FailedClip]
    clips_per_hour: float
    left_s: float | None
    quiet_s: float | None
    writing: list[str]

    def to_json(self) -> dict[str, Any]:
        """Returns all fields as plain values."""
        return asdict(self)


def status(store: Store) -> Status:
    """Reads the progress of the last run from the journal and the entries."""
    lines = list(store.journal())
    starts = [line for line in lines if line["event"] == "start"]
    last = starts[-1] if starts else None
    streams = last["streams"] if last else store.streams()
    done = {stream: len(store.clip_ids(stream)) for stream in streams}
    failures = failures_in(lines)
    recent = {line["clip_id"] for line in lines if line["event"] == "commit" and 0 <= _age_s(line) < _RECENT_S}
    span_s = min(_RECENT_S, max(1.0, _age_s(last))) if last else _RECENT_S
    per_hour = 3600 * len(recent) / span_s
    wanted = _num_wanted(lines, streams)
    left = max(0, wanted - min(done.values(), default=0) - len(failures)) if wanted is not None else None
    quiet_s = max(0.0, _age_s(lines[-1])) if lines else None
    return Status(
        url=store.url,
        state=_state([line["event"] for line in lines], left, quiet_s or 0.0),
        clips=wanted,
        done=done,
        failures=[FailedClip(clip_id, line["reason"]) for clip_id, line in failures.items()],
        clips_per_hour=per_hour,
        left_s=3600 * left / per_hour if left is not None and per_hour else 0.0 if left == 0 else None,
        quiet_s=quiet_s,
        writing=store.leftovers(),
    )


def _state(events: list[str], left: int | None, quiet_s: float) -> State:
    begun = max((number for number, event in enumerate(events) if event in ("list", "start")), default=None)
    if begun is None:
        return "idle"
    if left == 0:
        return "finished"
    if events[-1] == "end":
        return "stopped"
    if quiet_s > _RECENT_S:
        return "quiet"
    return "running" if {"commit", "failure"} & set(events[begun:]) else "starting"


def _num_wanted(lines: list[dict[str, Any]], streams: list[str]) -> int | None:
    """Returns the clips of the last list, or of the largest run of these streams where there is no list."""
    listed = [line["clips"] for line in lines if line["event"] == "list"]
    begun = [line["clips"] for line in lines if line["event"] == "start" and line["streams"] == streams]
    return listed[-1] if listed else max(begun, default=None)


def _age_s(line: Mapping[str, Any]) -> float:
    """Returns the seconds since a line; below 0 where another machine's clock is ahead, or this one's was set back."""
    return time.time() - calendar.timegm(time.strptime(line["time"], "%Y-%m-%dT%H:%M:%SZ"))
