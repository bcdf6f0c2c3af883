"""The traces of clips for the page: fewer points where there are many clips, as small integers in base64."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.clip_preview import ClipPreview
from ...data.labels import Truth
from ...data.timebase import usual_gap_s
from ..evaluation.predict import TARGETS, Floats, Prediction
from .members import ReportModel

NUM_BYTES = 1_400_000  # of all traces of a page
FEWEST, MOST = 120, 4000  # points per clip
MISSING = -32768
MISSING_SHARE = 255
MOST_OTHERS = 3  # further models in the traces


@dataclass(frozen=True)
class _Bins:
    """Equal parts of a clip's T steps: `width` steps each, the last perhaps fewer."""

    num_steps: int
    width: int

    @property
    def starts(self) -> NDArray[np.int64]:
        return np.arange(0, self.num_steps, self.width)

    def means(self, values: Floats, mask: NDArray[np.bool_] | None = None) -> Floats:
        """Means (P,) of (T,) values where the mask is True; NaN in a part without any."""
        kept = np.ones(len(values), bool) if mask is None else mask
        count = np.add.reduceat(kept, self.starts, dtype=np.float64)
        total = np.add.reduceat(np.where(kept, values, 0.0), self.starts)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def num_points(num_clips: int, num_columns: int) -> int:
    """Returns the points per clip that the page has room for."""
    return int(np.clip(NUM_BYTES * 0.75 / (2 * num_clips * num_columns), FEWEST, MOST))


def trace(models: Sequence[ReportModel], clip_id: str, most_points: int, preview: ClipPreview | None) -> dict[str, Any]:
    """Returns the traces of one clip: gold standard, estimate and range over runs, other models, gate, masks, stages.

    Args:
        models: the first of which is shown with all of its parts.
        clip_id: a clip of the first.
        most_points: see `num_points`.
        preview: pictures and loudness of the recording.
    """
    each = models[0].of_clip(clip_id)
    prediction, hz = models[0].prediction(clip_id), each[0].hz
    assert prediction is not None
    bins = _bins(prediction, most_points)
    columns: dict[str, Any] = {
        "start_s": round(float(prediction.times_s[0]) + (bins.width - 1) / 2 / hz, 4),
        "step_s": bins.width / hz,
        "width": bins.width,
        "num": len(bins.starts),
        "truth": _truth(each[0].truth, prediction, bins, hz),
        "va": _pair([bins.means(prediction.va[:, target]) for target in range(2)]),
        "others": _others(models[1 : 1 + MOST_OTHERS], clip_id, bins),
        "mask": [
            _spans(bins.means(prediction.mask[:, m].astype(float)) < 0.5) for m in range(prediction.mask.shape[1])
        ],
        "stage": None if prediction.stage is None else _stages(prediction.stage, bins),
    }
    if len(each) > 1:
        values = np.stack([one.prediction.va for one in each])
        for name, ends in (("low", values.min(axis=0)), ("high", values.max(axis=0))):
            columns[name] = _pair([bins.means(ends[:, target]) for target in range(2)])
    for name in ("reliability", "weights"):
        part = getattr(prediction, name)
        columns[name] = None if part is None else [
            _shares(bins.means(part[:, m], prediction.mask[:, m])) for m in range(part.shape[1])
        ]  # fmt: skip
    return {**columns, **_media(preview)}


def gold_standard(model: ReportModel, clip_id: str, most_points: int, truth: Truth) -> list[str] | None:
    """Returns other labels of a clip on the steps of `trace`; None where none is annotated."""
    prediction, hz = model.prediction(clip_id), model.of_clip(clip_id)[0].hz
    assert prediction is not None
    return _truth(truth, prediction, _bins(prediction, most_points), hz)


def _bins(prediction: Prediction, most_points: int) -> _Bins:
    num_steps = len(prediction.times_s)
    return _Bins(num_steps, max(1, math.ceil(num_steps / most_points)))


def _others(models: Sequence[ReportModel], clip_id: str, bins: _Bins) -> list[dict[str, Any]]:
    """The estimates of other models, where they lie on the same steps."""
    shown = []
    for model in models:
        other = model.prediction(clip_id)
        if other is not None and len(other.times_s) == bins.num_steps:
            shown.append({"title": model.title, "va": _pair([bins.means(other.va[:, target]) for target in range(2)])})
    return shown


def _truth(truth: Truth | None, prediction: Prediction, bins: _Bins, hz: float) -> list[str] | None:
    """The gold standard: means of the labels in each part; between sparse labels, straight lines."""
    if truth is None or not truth.mask.any():
        return None
    step = np.floor((truth.times_s - prediction.times_s[0]) * hz + 0.5).astype(np.int64)
    kept = truth.mask & (step >= 0) & (step < bins.num_steps)
    times_s, va = truth.times_s[truth.mask], truth.va[truth.mask].astype(np.float64)
    centres_s = prediction.times_s[bins.starts] + (bins.width - 1) / 2 / hz
    nearest_s = np.abs(centres_s[:, None] - times_s[_around(times_s, centres_s)]).min(axis=1)
    near = nearest_s <= 0.75 * max(usual_gap_s(truth.times_s), 1 / hz)
    places = step[kept] // bins.width
    count = np.bincount(places, minlength=len(bins.starts))
    columns = []
    for target in range(len(TARGETS)):
        total = np.bincount(places, truth.va[kept, target], minlength=len(bins.starts))
        between = np.where(near, np.interp(centres_s, times_s, va[:, target]), np.nan)
        columns.append(np.where(count > 0, total / np.maximum(count, 1), between))
    return _pair(columns)


def _around(times_s: Floats, instants_s: Floats) -> NDArray[np.int64]:
    """(P, 2) places of the labels before and after each instant."""
    after = np.searchsorted(times_s, instants_s).clip(0, len(times_s) - 1)
    return np.stack([(after - 1).clip(0), after], axis=1)


def _pair(columns: Sequence[Floats]) -> list[str]:
    """Valence and arousal as int16 of ten-thousandths, little-endian; `MISSING` for NaN."""
    known = [np.where(np.isnan(values), MISSING, np.clip(np.nan_to_num(values), -3, 3) * 10_000) for values in columns]
    return [_base64(np.round(values).astype("<i2")) for values in known]


def _shares(values: Floats) -> str:
    """Values in 0 … 1 as bytes of 1 / 250; `MISSING_SHARE` for NaN."""
    scaled = np.where(np.isnan(values), MISSING_SHARE, np.round(np.clip(np.nan_to_num(values), 0, 1) * 250))
    return _base64(scaled.astype(np.uint8))


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _spans(flags: NDArray[np.bool_]) -> list[int]:
    """Begin and end of each run of True, one after the other."""
    return np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))).tolist()


def _stages(posterior: Floats, bins: _Bins) -> dict[str, Any]:
    """The most probable stage: its number in each run of equal ones, and where each run begins."""
    likeliest = np.stack([bins.means(column) for column in posterior.T], axis=1).argmax(axis=1)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(likeliest)) + 1])
    return {"num": posterior.shape[1], "starts": starts.tolist(), "stages": likeliest[starts].tolist()}


def _media(preview: ClipPreview | None) -> dict[str, Any]:
    if preview is None:
        return {}
    media: dict[str, Any] = {}
    if preview.jpeg:
        times_s = [round(time_s, 2) for time_s in preview.times_s.tolist()]
        jpeg = base64.b64encode(preview.jpeg).decode("ascii")
        media["pictures"] = {"times_s": times_s, "jpeg": jpeg, "size": preview.size}
    if preview.peaks is not None:
        media["wave"] = {"peaks": _base64(preview.peaks), "span_s": [round(end, 3) for end in preview.audio_s]}
    return media


def traces(models: Sequence[ReportModel], previews: Mapping[str, ClipPreview]) -> dict[str, Any]:
    """Returns the traces of every clip of the first model, by clip_id."""
    clip_ids = models[0].clip_ids
    band = 4 if len(models[0].members) > 1 else 0
    num_columns = 4 + band + 2 * min(len(models) - 1, MOST_OTHERS) + len(models[0].streams)
    most_points = num_points(len(clip_ids), num_columns)
    return {clip_id: trace(models, clip_id, most_points, previews.get(clip_id)) for clip_id in clip_ids}
