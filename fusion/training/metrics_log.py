"""The metrics log of a run: metrics.jsonl and metrics.csv in its folder, and experiment trackers if asked for.

Waiting for the disk after every epoch took as long as the epochs of a small run. So a row of metrics.jsonl is handed to
the system at once, which keeps it if the process dies, and is on disk before a state that counts it (`StateFile`) and
when the log is closed. metrics.csv, which follows from it, is made anew every TABLE_EVERY_S and when the log is closed.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data.atomic import naming, replacing, sync, write_text
from ...data.errors import InputError, first_line
from ..config import Config, load_config
from ..result import plain
from ..run_folder import METRICS, RESOLVED, TABLE, TRACKERS, write_json
from .trackers import TRACKER_KINDS, End, TrackedRun, Tracker, check_trackers
from .trainer import Log

TABLE_EVERY_S = 10.0


@contextlib.contextmanager
def open_metrics_log(
    names: Sequence[str], out: Path, config: Config, metadata: Mapping[str, Any], num_epochs: int, log: Log
) -> Iterator[Log]:
    """Opens the metrics log of a run: `epoch` and `done` are written to it, and every event is passed on to `log`.

    The event `trained`, before a run is marked as finished, completes both files and goes no further.

    A resumed run keeps its first rows. Trackers continue the runs whose ids trackers.json holds; epochs that are
    trained once more after a kill are sent to them once more, and nothing else is sent again.

    Args:
        names: trackers.
        out: folder of the run.
        config: of the run.
        metadata: as of `provenance` and `described`.
        num_epochs: finished epochs of the run; rows of later ones are removed.
        log: also receives the event `tracker` for a tracker that failed; training continues without it.

    Raises:
        InputError: if a tracker is not installed or does not start.
    """
    check_trackers(names)
    keep_rows(out, num_epochs)
    rows = Rows(out)
    with contextlib.ExitStack() as stack:
        stack.callback(rows.close)
        trackers = _start_trackers(names, out, config, metadata, num_epochs, log, stack)

        def record(event: dict[str, Any]) -> None:
            if event["event"] == "trained":
                rows.close()
                return
            if event["event"] == "epoch":
                rows.add(event)
            for tracker in trackers:
                tracker.send(event)
            log(event)

        yield record


def _start_trackers(
    names: Sequence[str],
    out: Path,
    config: Config,
    metadata: Mapping[str, Any],
    num_epochs: int,
    log: Log,
    stack: contextlib.ExitStack,
) -> list[GuardedTracker]:
    """Starts trackers, or continues their runs; the stack closes them, also if a later one does not start."""
    run_ids = _read_run_ids(out)
    trackers: list[GuardedTracker] = []
    for name in dict.fromkeys(names):
        run = TrackedRun(out, config.without_places(), metadata, run_ids.get(name), num_epochs)
        tracker = GuardedTracker(name, run, log)
        stack.push(lambda kind, error, trace, tracker=tracker: tracker.close(_end_of(error)))
        trackers.append(tracker)
        run_ids[name] = tracker.run_id
    if trackers:
        write_json(out / TRACKERS, run_ids)
    return trackers


def _end_of(error: BaseException | None) -> End:
    if error is None:
        return "FINISHED"
    return "FAILED" if isinstance(error, Exception) else "KILLED"


def _read_run_ids(out: Path) -> dict[str, str]:
    """Returns the id of the run in each tracker."""
    path = out / TRACKERS
    if not path.exists():
        return {}
    with contextlib.suppress(ValueError):
        run_ids = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(run_ids, dict) and all(isinstance(run_id, str) for run_id in run_ids.values()):
            return run_ids
    todo = "Remove the file; the trackers then begin new runs."
    raise InputError(path, "the file does not hold the ids of tracked runs", todo=todo)


class GuardedTracker:
    """A tracker whose failures never end a training: the first is logged as `tracker`, and ends the tracker.

    Args:
        name: of the tracker.
        run: to be tracked.
        log: receives the event of a failure.

    Raises:
        InputError: if the tracker does not start.
    """

    def __init__(self, name: str, run: TrackedRun, log: Log) -> None:
        self.name, self.log, self.last_epoch = name, log, run.num_epochs - 1
        kind = TRACKER_KINDS[name]
        try:
            self.tracker: Tracker | None = kind.tracker(run)
        except Exception as error:
            reason = first_line(error).rstrip(".")[:200]
            raise InputError("track", f"{name} did not start: {reason}", todo=kind.todo) from error
        self.run_id = self.tracker.run_id

    def send(self, event: Mapping[str, Any]) -> None:
        """Sends the numbers of an `epoch`, and the final ones of the event `done`; other events are ignored."""
        if event["event"] == "epoch":
            self.last_epoch = event["epoch"]
            self._try(lambda tracker: tracker.epoch(self.last_epoch, numbers(event)))
        elif event["event"] == "done":
            self._try(lambda tracker: tracker.final(self.last_epoch, numbers({"final": event})))

    def close(self, end: End) -> None:
        """Ends the run in the tracker."""
        self._try(lambda tracker: tracker.close(end))

    def _try(self, action: Callable[[Tracker], None]) -> None:
        if self.tracker is None:
            return
        try:
            action(self.tracker)
        except Exception as error:
            self.tracker = None
            self.log({"event": "tracker", "name": self.name, "reason": first_line(error)[:200]})


class Rows:
    """The rows of epochs in both files of a run; NaN is null in one and an empty cell in the other."""

    def __init__(self, out: Path) -> None:
        self.out, self.table_s, self.complete = out, time.monotonic(), False

    def add(self, event: dict[str, Any]) -> None:
        """Adds the row of an epoch."""
        path = self.out / METRICS
        with naming(path), path.open("a", encoding="utf-8", newline="") as file:
            file.write(json.dumps(plain(event)) + "\n")
        self.complete = False
        if time.monotonic() - self.table_s >= TABLE_EVERY_S:
            write_table(self.out)
            self.table_s = time.monotonic()

    def close(self) -> None:
        """Completes the table, and returns when the disk has both files."""
        if not self.complete:
            sync(self.out / METRICS)
            write_table(self.out)
        self.complete = True


def keep_rows(out: Path, num_epochs: int) -> None:
    """Removes all rows but those of the first epochs from metrics.jsonl and metrics.csv."""
    path = out / METRICS
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True)[:num_epochs] if path.exists() else []
    write_text(path, "".join(rows))


def kept_score(out: Path) -> dict[str, float | None] | None:
    """Returns the validation score of the epoch that a run keeps, as its metrics log has it; None without a log."""
    path = out / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    scores = [json.loads(line)["val"] for line in lines]
    if load_config(out / RESOLVED).train.keep == "last":
        return scores[-1] if scores else None
    return max(scores, key=lambda score: -1.0 if score["mean"] is None else score["mean"], default=None)


def write_table(out: Path) -> None:
    """Makes metrics.csv from metrics.jsonl: a row per epoch, a column per number, empty where there is none."""
    lines = (out / METRICS).read_text(encoding="utf-8").splitlines()
    rows = [{"epoch": row["epoch"], **flat(row)} for row in map(json.loads, lines)]
    columns = dict.fromkeys(key for row in rows for key in row)
    with replacing(out / TABLE) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns) or ["epoch"])
        writer.writeheader()
        writer.writerows(rows)


def flat(event: Mapping[str, Any], above: str = "") -> dict[str, float | None]:
    """Returns the numbers of an event but its epoch, under names such as `val/mean`; None for NaN and infinity."""
    values: dict[str, float | None] = {}
    for key, value in event.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{above}{key}/")
        elif value is None or isinstance(value, int | float):
            values[above + key] = None if value is None or not math.isfinite(value) else float(value)
    values.pop("epoch", None)
    return values


def numbers(event: Mapping[str, Any]) -> dict[str, float]:
    """Returns `flat` without None, which no tracker can hold: some would draw it as 0."""
    return {key: value for key, value in flat(event).items() if value is not None}
