"""The files of a sweep: `trials.csv`, `best.yaml`, `importance.json` and a picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.atomic import replacing, write_text
from ..config import Config
from ..evaluation.report import cautions
from ..evaluation.style import COLOURS, house_style, legend_above, save_pictures
from .sweep_result import SweepResult, TrialRow

if TYPE_CHECKING:  # it takes half a second to import
    from matplotlib.figure import Figure

ABOUT = ("trial", "state", "score", "valence", "arousal", "epoch", "num_epochs", "seconds", "reason")
CHOSEN = "which chose the configuration: too good for unseen ones"


def write_sweep(out: Path, result: SweepResult, best: Config | None) -> None:
    """Writes the result of `sweep` into its folder; each file is replaced whole, as other processes may write it too.

    Args:
        out: the folder.
        result: of the sweep.
        best: the configuration of the best trial; None without one.
    """
    with replacing(out / "trials.csv") as part:
        _write_csv(part, result.rows)
    if best is not None:
        write_text(out / "best.yaml", best.to_yaml())
    if result.importance is not None:
        write_text(out / "importance.json", json.dumps(result.importance, indent=2))
    if best is not None:
        save_pictures(draw_sweep(result), out / "sweep")


def _write_csv(path: Path, rows: Sequence[TrialRow]) -> None:
    keys = sorted({key for row in rows for key in row.params})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow((*ABOUT, *keys))
        for row in rows:
            about = [getattr(row, name) for name in ABOUT]
            writer.writerow([*about, *(plain_value(row.params.get(key)) for key in keys)])


def plain_value(value: Any) -> Any:
    """Returns a value of a key as the cell of a table: lists as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


@house_style()
def draw_sweep(result: SweepResult) -> Figure:
    """Returns the score of each trial in their order with the best so far, and the importance of the keys.

    Args:
        result: of a sweep with at least one complete trial.
    """
    from matplotlib.figure import Figure

    importance = result.importance or {}
    figure = Figure(figsize=(11, max(4.0, 1.5 + 0.3 * len(importance))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    marks = (("complete", "o", COLOURS[0]), ("pruned", "x", COLOURS[1]))
    for state, mark, colour in marks:
        rows = [row for row in result.rows if row.state == state]
        scored = [(row.trial, row.score) for row in rows if row.score is not None]
        unscored = f", {len(rows) - len(scored)} without a score" if len(rows) > len(scored) else ""
        left.plot(*np.array(scored).reshape(-1, 2).T, mark, color=colour, label=f"{state} ({len(rows)}{unscored})")
    complete = [(row.trial, row.score) for row in result.rows if row.state == "complete"]
    numbers, scores = np.array(complete).T
    left.step(numbers, np.maximum.accumulate(scores), where="post", color="grey", label="best so far")
    left.set(xlabel="trial", ylabel="validation CCC")
    legend_above(left)
    left.grid()
    right.barh(list(importance), list(importance.values()), color=COLOURS[2])
    right.invert_yaxis()
    none = "" if importance else ": too few complete trials"
    right.set(title=f"importance (PED-ANOVA){none}", xlabel="share")
    figure.suptitle(
        "\n".join([*cautions(result.random_weights), f"scored on the validation clips, {CHOSEN}"]), fontsize="medium"
    )
    return figure
