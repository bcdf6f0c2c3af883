"""The curves of a report: learning, and tests of robustness that lie in the folders of runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data.errors import InputError
from ..run_folder import METRICS
from .members import ReportModel

MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # of JSON that is not what was written
ROBUSTNESS, MEDIA = "robustness.json", "media.json"


def robustness_curves(models: Sequence[ReportModel]) -> list[dict[str, Any]]:
    """Returns the curves that `sage-va eval --robustness --out` wrote into the folders of these runs.

    Raises:
        InputError: if such a file cannot be read.
    """
    return [curves for path in _files(models, ROBUSTNESS) for curves in _curves_of(path)]


def _files(models: Sequence[ReportModel], name: str) -> Iterator[Path]:
    """The files of a test of robustness in the folders of runs, or in `robustness/` there."""
    for member in (member for model in models for member in model.members):
        places = (member.scored.path / name, member.scored.path / "robustness" / name)
        yield from (path for path in places if path.is_file())


def _curves_of(path: Path) -> list[dict[str, Any]]:
    try:
        return _plain(
            {
                "title": f"{Path(run['run']).name} ({run['variant']})",
                "strengths": run["strengths"],
                "kinds": {
                    name: {"means": kind["means"], "ccc": kind["ccc"]["mean"] if kind["taken"] else None}
                    for name, kind in run["kinds"].items()
                },
            }
            for run in json.loads(path.read_text(encoding="utf-8"))["runs"]
        )
    except MALFORMED:
        raise _unreadable(path) from None


def media_scores(models: Sequence[ReportModel]) -> list[dict[str, Any]]:
    """Returns the scores on corrupted recordings that `sage-va eval --robustness --media` wrote beside these runs.

    Raises:
        InputError: if such a file cannot be read.
    """
    return [scores for path in _files(models, MEDIA) for scores in _media_of(path)]


def _media_of(path: Path) -> list[dict[str, Any]]:
    try:
        return _plain(
            {
                "title": f"{Path(run['run']).name} ({run['variant']})",
                "clean": run["clean"],
                "kinds": [
                    {"name": name, "means": kind["means"], **kind["score"], "loss": _loss(kind["difference"]["mean"])}
                    for name, kind in run["kinds"].items()
                ],
            }
            for run in json.loads(path.read_text(encoding="utf-8"))["runs"]
        )
    except MALFORMED:
        raise _unreadable(path) from None


def _plain(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns rows that a page can hold; raises ValueError for numbers that JSON has no word for."""
    listed = list(rows)
    json.dumps(listed, allow_nan=False)
    return listed


def _loss(gain: Mapping[str, Any]) -> dict[str, Any]:
    low, high = gain["interval"]
    return {"value": gain["mean"], "low": low, "high": high}


def _unreadable(path: Path) -> InputError:
    todo = "Run `sage-va eval --robustness` again, or remove the file."
    return InputError(path, "this is not the result of a robustness test", todo=todo)


def learning_curves(models: Sequence[ReportModel]) -> list[dict[str, Any]]:
    """Returns the loss and the validation CCC by epoch, of every run and fold whose metrics log is there."""
    return [
        {"model": model.title, "run": run.path.name, **rows}
        for model in models
        for member in model.members
        for run in member.scored.runs
        if (rows := _epochs(run.path / METRICS))
    ]


def _epochs(path: Path) -> dict[str, Any]:
    """The columns of a metrics log; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {
            "epoch": [row["epoch"] for row in rows],
            "loss": [_rounded(row["loss"]["loss"]) for row in rows],
            "val": [_rounded(row["val"]["mean"]) for row in rows],
        }
    except (ValueError, KeyError, TypeError):
        raise InputError(path, "this metrics log cannot be read", todo="Train again, or remove the file.") from None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
