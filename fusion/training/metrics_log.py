"""The course of a run, written down: metrics.jsonl and metrics.csv in its folder, and in trackers if asked for."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...data.atomic import append_text, replacing, write_text
from ...data.errors import InputError, first_line
from ..config import Config
from ..result import plain
from ..run_folder import METRICS, TABLE, TRACKERS, write_json
from .fit import Log
from .trackers import KINDS, End, Told, Tracker, check_trackers


@contextlib.contextmanager
def open_record(
    names: Sequence[str], out: Path, config: Config, facts: Mapping[str, Any], num_epochs: int, log: Log
) -> Iterator[Log]:
    """Gives the log of one run: `epoch` and `done` are written down, and every event is passed on to `log`.

    A run that goes on keeps its first lines in metrics.jsonl, and its runs in the trackers, whose ids trackers.json
    holds. A tracker is first told of epochs that it has not heard of.

    Args:
        names: of the trackers.
        out: folder of the run.
        config: of the run.
        facts: as of `provenance` and `described`.
        num_epochs: how many epochs the run has behind it; what is written down of later ones is forgotten.
        log: also told, as `tracker`, of a tracker that failed; the training goes on without it.

    Raises:
        InputError: if a tracker is not installed or does not start.
    """
    check_trackers(names)
    rows = keep_rows(out, num_epochs)
    with contextlib.ExitStack() as stack:
        trackers = _start(names, Told(out, config, facts, None, num_epochs), log, stack)
        for row in rows:
            for tracker in trackers:
                tracker.tell(row)

        def record(event: dict[str, Any]) -> None:
            if event["event"] == "epoch":
                add_row(out, event)
            for tracker in trackers:
                tracker.tell(event)
            _note(out, trackers)
            log(event)

        yield record


def _start(names: Sequence[str], told: Told, log: Log, stack: contextlib.ExitStack) -> list[Guarded]:
    """Starts trackers, or goes on with those of before; the stack lets go of them, also where a later one fails."""
    known = _noted(told.out)
    trackers: list[Guarded] = []
    stack.callback(_note, told.out, trackers)  # when all are closed
    for name in dict.fromkeys(names):
        before = known.get(name, {"run_id": None, "num_epochs": 0})
        tracker = Guarded(name, replace(told, run_id=before["run_id"]), before["num_epochs"], log)
        stack.push(lambda kind, error, trace, tracker=tracker: tracker.close(_end_of(error)))
        trackers.append(tracker)
    _note(told.out, trackers)
    return trackers


def _end_of(error: BaseException | None) -> End:
    if error is None:
        return "FINISHED"
    return "FAILED" if isinstance(error, Exception) else "KILLED"


def _noted(out: Path) -> dict[str, dict[str, Any]]:
    """Of each tracker the `run_id`, and `num_epochs` that it was told and keeps."""
    path = out / TRACKERS
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError:
        todo = "Remove the file: the trackers then begin new runs."
        raise InputError(path, expected="JSON", got="something else", todo=todo) from None


def _note(out: Path, trackers: Sequence[Guarded]) -> None:
    before = _noted(out)
    now = {tracker.name: {"run_id": tracker.run_id, "num_epochs": tracker.kept_epochs} for tracker in trackers}
    if before != before | now:
        write_json(out / TRACKERS, before | now)


class Guarded:
    """A tracker whose failures never end a training: the first is logged as `tracker`, and is the end of it.

    Args:
        name: of the tracker.
        told: the run.
        told_epochs: how many epochs the tracker has been told in an earlier session.
        log: where a failure goes.

    Raises:
        InputError: if it does not start.
    """

    def __init__(self, name: str, told: Told, told_epochs: int, log: Log) -> None:
        self.name, self.log = name, log
        try:
            self.tracker: Tracker | None = KINDS[name].tracker(told)
        except Exception as error:
            got, todo = first_line(error).rstrip(".")[:200], KINDS[name].todo
            raise InputError(f"--track {name}", expected="a tracker that starts", got=got, todo=todo) from error
        self.run_id, self.settles_s = self.tracker.run_id, self.tracker.settles_s
        before = min(told_epochs, told.num_epochs) if self.tracker.replaces else told_epochs
        self._told = [(-math.inf, before)]  # when it had been told so many epochs

    @property
    def told_epochs(self) -> int:
        """How many epochs it was told."""
        return self._told[-1][1]

    @property
    def kept_epochs(self) -> int:
        """How many of them it would still know if this process were killed now."""
        return max(number for at_s, number in self._told if time.monotonic() - at_s >= self.settles_s)

    def tell(self, event: Mapping[str, Any]) -> None:
        """Tells an `epoch`, unless it was told before, and what the run came to when it is `done`."""
        if event["event"] == "done":
            self._try(lambda tracker: tracker.final(self.told_epochs - 1, numbers({"final": event})))
        elif event["event"] == "epoch" and event["epoch"] >= self.told_epochs:
            told = self._try(lambda tracker: tracker.epoch(event["epoch"], numbers(event)))
            self._told += [(time.monotonic(), event["epoch"] + 1)] * told

    def close(self, end: End) -> None:
        """Lets go of the tracker, which then keeps all that it was told."""
        if self._try(lambda tracker: tracker.close(end)):
            self.settles_s = 0.0

    def _try(self, action: Callable[[Tracker], None]) -> bool:
        if self.tracker is None:
            return False
        try:
            action(self.tracker)
        except Exception as error:
            self.tracker = None
            self.log({"event": "tracker", "name": self.name, "reason": first_line(error)[:200]})
        return self.tracker is not None


def add_row(out: Path, event: Mapping[str, Any]) -> None:
    """Adds an epoch to both; NaN is null in one and an empty cell in the other."""
    append_text(out / METRICS, json.dumps(plain(dict(event))) + "\n")
    write_table(out)


def keep_rows(out: Path, num_epochs: int) -> list[dict[str, Any]]:
    """The lines of the first epochs; all others are removed from metrics.jsonl and metrics.csv."""
    path = out / METRICS
    kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:num_epochs] if path.exists() else []
    write_text(path, "".join(kept))
    write_table(out)
    return [json.loads(line) for line in kept]


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
    """The numbers of an event but its epoch, under names such as `val/mean`; None for NaN and infinity."""
    found: dict[str, float | None] = {}
    for key, value in event.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{key}/")
        elif value is None or isinstance(value, int | float):
            found[above + key] = None if value is None or not math.isfinite(value) else float(value)
    found.pop("epoch", None)
    return found


def numbers(event: Mapping[str, Any]) -> dict[str, float]:
    """The same without what is None, which no tracker can hold: some would draw it as 0."""
    return {key: value for key, value in flat(event).items() if value is not None}
