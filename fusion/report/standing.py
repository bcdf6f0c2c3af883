"""The numbers of a report: scores with intervals, paired differences, clips, calibration."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..evaluation.groups import MIN_CLIPS
from ..evaluation.metrics import NAMES, ClipMoments, pooled_ccc
from ..evaluation.reliability import ReliabilityReport
from ..experiments.runs import CellClip, CellScore
from ..experiments.table import Difference, VariantRow, tabulate
from ..result import plain
from .members import ReportMember, ReportModel

Sums = dict[str, torch.Tensor]  # clip -> moments (2, 6)


def standing(models: Sequence[ReportModel]) -> dict[str, Any]:
    """Returns the scores of all models, raw and smoothed, and the differences of the first to each of the others.

    The streams of the first model count as models too: the estimates that its gate learns from, each of one stream.
    `too_few` is True where there are too few clips to decide whether a difference is one.
    """
    base = models[0]
    heads = [
        (f"{base.title}, {stream.label} only", m) for m, stream in enumerate(base.streams) if base.members[0].heads
    ]
    scores = [_cell(model.title, member, member.raw) for model in models for member in model.members]
    scores += [_cell(title, member, member.heads[m]) for title, m in heads for member in base.members]
    titles = [*(model.title for model in models), *(title for title, _ in heads)]
    unequal = {model.title: reason for model in models[1:] if (reason := _unequal(base, model))}
    compared = [title for title in titles if title not in unequal]
    tables = [tabulate(scores, names, names[0], None) for names in (compared, *([title] for title in unequal))]
    rows = {row.variant: row for table in tables for row in table.rows}  # Holm's family: the shown differences alone
    return {
        "base": base.title,
        "num_clips": len(base.clip_ids),
        "num_labels": _num_labels(base),
        "too_few": len(base.clip_ids) < MIN_CLIPS,
        "rows": [_row(rows[title], k, models, unequal) for k, title in enumerate(titles)],
    }


def _cell(title: str, member: ReportMember, raw: Sequence[ClipMoments]) -> CellScore:
    """Returns a run as a cell of a comparison, with the clips of all its folds."""
    of_smoothed = {clip.clip_id: clip.all.tolist() for clip in member.smoothed}
    run = member.first
    return CellScore(
        title,
        member.seed,
        None,
        member.scored.split,
        run.smoothing_s,
        num_parameters=sum(weight.numel() for weight in run.model.parameters()),
        seconds=0.0,
        random_weights=run.random_weights,
        clips=[CellClip(clip.clip_id, clip.all.tolist(), of_smoothed[clip.clip_id]) for clip in raw],
    )


def _row(row: VariantRow, k: int, models: Sequence[ReportModel], unequal: Mapping[str, str]) -> dict[str, Any]:
    gains, is_model = row.raw_difference, k < len(models)
    return plain(
        {
            "title": row.variant,
            "is_model": is_model,
            "num_runs": len(row.seeds),
            "num_parameters": row.num_parameters if is_model else None,
            "raw": {name: _shown(row.raw[name]) for name in NAMES},
            "smoothed": {name: _shown(row.smoothed[name]) for name in NAMES} if is_model else None,
            "face_only": _face_only(models[k]) if is_model else None,
            "lead": gains and {name: _lead(gains[name]) for name in NAMES},
            "not_compared": unequal.get(row.variant),
        }
    )


def _shown(scores: Any) -> dict[str, Any]:
    return {"value": scores.mean, "std": scores.std, "low": scores.interval.low, "high": scores.interval.high}


def _lead(difference: Difference) -> dict[str, float]:
    """The lead of the first model: the difference to the base of the table with its sign turned."""
    low, high = difference.interval
    return {"value": -difference.mean, "low": -high, "high": -low, "p": difference.p, "p_holm": difference.p_holm}


def _face_only(model: ReportModel) -> dict[str, float] | None:
    """The CCC over labels with a face, mean over runs; None without a visual stream."""
    each = [[clip.face for clip in member.raw if clip.face is not None] for member in model.members]
    scores = [pooled_ccc(faces) for faces in each if faces]
    return {name: float(np.mean([score[name] for score in scores])) for name in NAMES} if scores else None


def _num_labels(model: ReportModel) -> int:
    counts = {clip.clip_id: int(clip.all[0, 0]) for member in model.members for clip in member.raw}
    return sum(counts.values())


def _unequal(base: ReportModel, other: ReportModel) -> str | None:
    """Returns the reason why two models do not compare: other clips or labels, or no seed in common."""
    by_seed = {member.seed: _counts(member) for member in base.members}
    common = [member for member in other.members if member.seed in by_seed]
    if not common:
        return "no seed in common"
    if any(_counts(member) != by_seed[member.seed] for member in common):
        return "scored on other clips or labels"
    return None


def _counts(member: ReportMember) -> dict[str, int]:
    return {clip.clip_id: int(clip.all[0, 0]) for clip in member.raw if clip.all[0, 0] > 0}


def clip_rows(model: ReportModel) -> list[dict[str, Any]]:
    """Returns a row per clip: CCC and root mean squared error of each target, mean over its runs; labels, seconds."""
    rows, by_clip = [], defaultdict[str, list[torch.Tensor]](list)
    for clip in (clip for member in model.members for clip in member.raw):
        by_clip[clip.clip_id].append(clip.all)
    for clip_id in model.clip_ids:
        sums = by_clip[clip_id]
        scores, errors = [pooled_ccc([one]) for one in sums], [_rmse(one) for one in sums]
        first = model.of_clip(clip_id)[0]
        mask = first.prediction.mask
        rows.append(
            {
                "id": clip_id,
                "seconds": len(mask) / first.hz,
                "labels": int(sums[0][0, 0]) if sums else 0,
                "ccc": {name: _mean(score[name] for score in scores) for name in NAMES},
                "rmse": {name: _mean(error[name] for error in errors) for name in NAMES},
                "valid": mask.mean(axis=0).tolist(),
            }
        )
    return plain(rows)


def _rmse(sums: torch.Tensor) -> dict[str, float]:
    """(2, 6) moments n, Σx, Σy, Σx², Σy², Σxy -> root mean squared error of each target, and their mean."""
    n, _, _, xx, yy, xy = sums.double().T
    errors = ((xx + yy - 2 * xy).clamp(min=0) / n).sqrt().tolist()
    return dict(zip(NAMES, [*errors, float(np.mean(errors))], strict=True))


def _mean(values: Iterator[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def calibration(model: ReportModel) -> list[dict[str, Any]]:
    """Returns the reliability diagram of each stream; with several runs, bins are pooled and figures averaged."""
    reports = [report for member in model.members for report in member.reliability]
    labels = list(reports[0].streams) if reports else []
    return [plain(_diagram(label, reports)) for label in labels]


def _diagram(label: str, reports: Sequence[ReliabilityReport]) -> dict[str, Any]:
    streams = [report.streams[label] for report in reports]
    counts = np.stack([stream.diagram.count for stream in streams])
    total = counts.sum(axis=0)
    means = {
        name: np.nansum(np.stack([getattr(stream.diagram, name) for stream in streams]) * counts, axis=0)
        / np.where(total, total, np.nan)
        for name in ("reliability", "target")
    }
    return {
        "label": label,
        "sigma": float(np.mean([report.sigma for report in reports])),
        "ece": _mean(stream.ece for stream in streams),
        "spearman": _mean(stream.spearman for stream in streams),
        "count": total,
        **means,
    }
