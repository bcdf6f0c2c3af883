"""The contents of a report as plain values: what the page's script reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...data.clip_preview import ClipPreview
from ..evaluation.report import cautions
from ..provenance import versions
from ..result import plain
from ..run_folder import CONFIG, Run
from .curves import learning_curves, media_scores, robustness_curves
from .members import ReportModel
from .standing import calibration, clip_rows, standing
from .traces import traces

FEW_CLIPS = 20
LIMITS = (
    "Valence and arousal are what annotators perceived in a recording, not what a person felt.",
    "An interval shows how far the score depends on the choice of clips, not how it varies between trainings.",
    "The scores hold for people and recordings like these; differences between groups of people were not measured.",
    "Reliability is an estimate of the model: which modality errs less at a moment. It says nothing about the labels.",
    "Do not use the estimates to decide about people.",
)


def contents(models: Sequence[ReportModel], previews: Mapping[str, ClipPreview]) -> dict[str, Any]:
    """Returns everything that the page shows.

    Args:
        models: the first is the one that the report is about.
        previews: pictures and loudness of recordings, by clip_id.
    """
    runs = [run for model in models for member in model.members for run in member.scored.runs]
    random_weights = sorted({name for run in runs for name in run.random_weights})
    splits = sorted({member.scored.split for model in models for member in model.members})
    return plain(
        {
            "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "version": versions()["sage-va"],
            "split": ", ".join(splits),
            "num_folds": models[0].members[0].scored.num_folds,
            "cautions": cautions([], ", ".join(splits)),
            "random_weights": random_weights,
            "restricted": any(run.restricted for run in runs),
            "streams": [{"label": stream.label, "modality": stream.modality} for stream in models[0].streams],
            "standing": standing(models),
            "clips": clip_rows(models[0]),
            "traces": traces(models, previews),
            "calibration": calibration(models[0]),
            "robustness": robustness_curves(models),
            "recordings": media_scores(models),
            "learning": learning_curves(models),
            "provenance": [_origin(model) for model in models],
            "limits": [*_own_limits(models), *LIMITS],
        }
    )


def _own_limits(models: Sequence[ReportModel]) -> list[str]:
    """The limits that follow from these runs."""
    num_clips, num_runs = len(models[0].clip_ids), len(models[0].members)
    lines = []
    if num_clips < FEW_CLIPS:
        lines.append(f"The score rests on {num_clips} clips; with so few, its interval is itself rough.")
    if num_runs == 1:
        lines.append("One training stands for the model: another seed gives another score.")
    return lines


def _origin(model: ReportModel) -> dict[str, Any]:
    """Facts about the runs of a model: data, terms of use, streams, settings, versions; the last part of each path."""
    run = model.members[0].first
    described = json.loads((run.path / CONFIG).read_text(encoding="utf-8"))
    return {
        "title": model.title,
        "runs": [member.scored.path.name for member in model.members],
        "seeds": [member.seed for member in model.members],
        "cache": _last(run.cache),
        "labels": _last(run.labels),
        "licence": run.licence,
        "restricted": run.restricted,
        "clips": _roles(run),
        "smoothing_s": sorted({one.smoothing_s for member in model.members for one in member.scored.runs}),
        "labels_sha256": described.get("labels_sha256"),
        "git": described.get("git"),
        "versions": described.get("versions", {}),
        "streams": [_stream(stream) for stream in described["streams"]],
        "config": {key: str(value) for key, value in run.config.without_places().flat().items()},
    }


def _last(place: str) -> str:
    return Path(place.rstrip("/")).name or place


def _roles(run: Run) -> dict[str, int]:
    roles = list(run.roles.values())
    return {role: roles.count(role) for role in ("train", "val", "test") if role in roles}


def _stream(stream: Mapping[str, Any]) -> dict[str, Any]:
    encoder = stream["fingerprint"].get("encoder", {})
    return {
        "name": stream["name"],
        "encoder": encoder.get("name"),
        "weights": encoder.get("weights"),
        "weights_sha256": encoder.get("weights_sha256"),
        "dim": stream["dim"],
    }
