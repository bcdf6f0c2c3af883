"""`sage-va status`: how far an extraction is, read from the cache while others write it."""

from __future__ import annotations

import calendar
import time
from typing import Any

from .base import Store, failures_in

_RECENT_S = 600


def status(store: Store) -> dict[str, Any]:
    """Clips done and failed, the rate of the last ten minutes, and what is left by the last run's own count.

    Returns:
        clips wanted (None where no run has said), done by stream, failures, clips_per_hour, left_s (None = unknown),
        quiet_s since the last event, writing = temporary places of writers that work or were killed.
    """
    lines = list(store.journal())
    starts = [line for line in lines if line["event"] == "start"]
    last = starts[-1] if starts else None
    streams = last["streams"] if last else store.streams()
    done = {stream: len(store.clip_ids(stream)) for stream in streams}
    failures = failures_in(lines)
    recent = {line["clip_id"] for line in lines if line["event"] == "commit" and _age_s(line) < _RECENT_S}
    span_s = min(_RECENT_S, max(1.0, _age_s(last))) if last else _RECENT_S
    per_hour = 3600 * len(recent) / span_s
    listed = [line["clips"] for line in lines if line["event"] == "list"]
    wanted = (
        listed[-1] if listed else max((line["clips"] for line in starts if line["streams"] == streams), default=None)
    )
    left = max(0, wanted - min(done.values(), default=0) - len(failures)) if wanted is not None else None
    return {
        "url": store.url,
        "clips": wanted,
        "done": done,
        "failures": [{"clip_id": clip_id, "reason": line["reason"]} for clip_id, line in failures.items()],
        "clips_per_hour": per_hour,
        "left_s": 3600 * left / per_hour if left is not None and per_hour else 0.0 if left == 0 else None,
        "quiet_s": _age_s(lines[-1]) if lines else None,
        "writing": store.leftovers(),
    }


def _age_s(line: dict[str, Any]) -> float:
    return time.time() - calendar.timegm(time.strptime(line["time"], "%Y-%m-%dT%H:%M:%SZ"))
