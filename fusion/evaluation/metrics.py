"""The score of predictions: one CCC per target over all counted instants of a split, with intervals over clips."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.labels import Truth
from ...data.timebase import Grid
from ...data.windows.corpus import Corpus
from ..ccc import ccc_of_moments, moments
from ..result import Result, number_of, plain
from .predict import TARGETS, Floats, Prediction

SMOOTHING_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
NAMES = (*TARGETS, "mean")


class Interval(NamedTuple):
    """A 95 % interval; NaN where it is not defined."""

    low: float
    high: float


@dataclass(frozen=True)
class Agreement(Result):
    """Agreement of estimates with the gold standard: for valence, arousal and their mean, CCC and interval.

    face_frames_only: the CCC over instants with a face; None without a visual stream.
    """

    OPTIONAL = frozenset({"face_frames_only"})
    ccc: dict[str, float]
    interval: dict[str, Interval]
    face_frames_only: dict[str, float] | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Agreement:
        """Returns what `to_json` wrote."""
        ccc, face = values["ccc"], values.get("face_frames_only")
        interval = {name: Interval(*map(number_of, ends)) for name, ends in values["interval"].items()}
        return cls(_numbers(ccc), interval, None if face is None else _numbers(face))


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: number_of(value) for name, value in values.items()}


@dataclass(frozen=True)
class ClipScore(Result):
    """The raw CCC of one clip, and how many labels count in it."""

    clip_id: str
    ccc: dict[str, float]
    num_labels: int

    def to_json(self) -> dict[str, Any]:
        """Returns `clip_id`, the CCC of each target and `num_labels` side by side."""
        return {"clip_id": self.clip_id, **plain(self.ccc), "num_labels": self.num_labels}


@dataclass(frozen=True)
class SplitScore(Result):
    """The score of a split: raw and smoothed, pooled over its clips, and raw for each clip.

    num_face_labels: labels with a face; None without a visual stream.
    """

    OPTIONAL = frozenset({"num_face_labels"})
    num_clips: int
    num_labels: int
    raw: Agreement
    num_face_labels: int | None
    smoothed: Agreement
    clips: list[ClipScore]


def smooth(va: Floats, width_steps: int) -> Floats:
    """Centred moving average of (T, 2) over an odd number of steps; at the ends over the steps that exist."""
    half = width_steps // 2
    if half == 0:
        return va
    total = np.concatenate([np.zeros((1, va.shape[1])), va.cumsum(0)])
    first = np.maximum(np.arange(len(va)) - half, 0)
    end = np.minimum(np.arange(len(va)) + half + 1, len(va))
    return (total[end] - total[first]) / (end - first)[:, None]


def smoothed(va: Floats, hz: float, width_s: float) -> Floats:
    """Centred moving average of (T, 2) over a width in seconds: 2 round(width_s hz / 2) + 1 steps."""
    return smooth(va, 2 * round(width_s * hz / 2) + 1)


def at_instants(values: Floats, grid: Grid, times_s: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Values (T, d) of a grid, interpolated linearly at instants (S,); and which instants the grid covers."""
    place = times_s * grid.hz - grid.first_step
    covered = (place >= -0.5 - 1e-6) & (place <= grid.num_steps - 0.5 + 1e-6)
    place = np.clip(place, 0, grid.num_steps - 1)
    low = np.minimum(place.astype(np.int64), max(grid.num_steps - 2, 0))
    high = np.minimum(low + 1, grid.num_steps - 1)
    weight = (place - low)[:, None]
    return (1 - weight) * values[low] + weight * values[high], covered


@dataclass(frozen=True)
class ClipMoments:
    """Moments (2, 6) of valence and arousal over the labels of one clip: all of them, and those with a face."""

    clip_id: str
    all: torch.Tensor
    face: torch.Tensor | None


def clip_moments(
    prediction: Prediction, grid: Grid, truth: Truth, face: NDArray[np.bool_] | None, width_s: float
) -> ClipMoments:
    """Moments of one clip at the instants of its labels.

    A label counts if valence and arousal are both annotated and the grid covers its time, face or no face.

    Args:
        prediction: of the clip.
        grid: of the clip.
        truth: labels of the clip.
        face: (T,) True where a visual stream is valid; None without one.
        width_s: width of the moving average over the prediction; 0 for none.
    """
    sums, va, counted = _moments_at_labels(smoothed(prediction.va, grid.hz, width_s), grid, truth)
    if face is None:
        return ClipMoments(prediction.clip_id, sums, None)
    step = np.floor(truth.times_s * grid.hz + 0.5).astype(np.int64) - grid.first_step
    nearest = step.clip(0, grid.num_steps - 1)
    return ClipMoments(prediction.clip_id, sums, _sums(va, truth, counted & face[nearest]))


def _moments_at_labels(va: Floats, grid: Grid, truth: Truth) -> tuple[torch.Tensor, Floats, NDArray[np.bool_]]:
    """Moments (2, 6) of a grid's values at the labels' instants, these values (S, 2), and which instants count (S,)."""
    at_labels, covered = at_instants(va, grid, truth.times_s)
    counted = truth.mask & covered
    return _sums(at_labels, truth, counted), at_labels, counted


def _sums(va: Floats, truth: Truth, counted: NDArray[np.bool_]) -> torch.Tensor:
    known = np.where(truth.mask[:, None], truth.va, 0).astype(np.float64)
    mask = torch.from_numpy(np.broadcast_to(counted, (2, len(counted))).copy())
    return moments(torch.from_numpy(va.T.copy()), torch.from_numpy(known.T.copy()), mask)


def corpus_moments(predictions: Sequence[Prediction], corpus: Corpus, width_s: float = 0.0) -> list[ClipMoments]:
    """Moments of every predicted clip that has labels, smoothed by a moving average of `width_s`."""
    visual = [m for m, stream in enumerate(corpus.streams) if stream.modality == "visual"]
    clips = []
    for prediction, index in zip(predictions, corpus.find([p.clip_id for p in predictions]), strict=True):
        truth = corpus.truths[index]
        if truth is not None:
            face = np.logical_or.reduce(prediction.mask[:, visual], axis=1) if visual else None
            clips.append(clip_moments(prediction, corpus.grids[index], truth, face, width_s))
    return clips


def va_moments(estimates: Sequence[Floats], corpus: Corpus, clips: Sequence[int]) -> list[torch.Tensor]:
    """Returns `ClipMoments.all`, unsmoothed, of every clip that has labels, from its (T, 2) valence and arousal."""
    return [
        _moments_at_labels(va, corpus.grids[index], truth)[0]
        for va, index in zip(estimates, clips, strict=True)
        if (truth := corpus.truths[index]) is not None
    ]


def pooled_ccc(sums: Sequence[torch.Tensor]) -> dict[str, float]:
    """(2, 6) moments of clips -> one CCC per target over all of them, and their mean."""
    values = ccc_of_moments(torch.stack(list(sums)).sum(0))
    return dict(zip(NAMES, [*map(float, values), float(values.mean())], strict=True))


def score(predictions: Sequence[Prediction], corpus: Corpus) -> dict[str, float]:
    """Returns one CCC per target over all labels of the predicted clips, and their mean; raw."""
    return pooled_ccc([clip.all for clip in corpus_moments(predictions, corpus)])


def bootstrap(sums: Sequence[torch.Tensor], draws: int = 2000, seed: int = 0) -> dict[str, Interval]:
    """95 % percentile intervals of the pooled CCC, resampling clips; NaN for fewer than two clips that count."""
    counted = [clip for clip in sums if clip[0, 0] > 0]
    n = len(counted)
    if n < 2:
        return dict.fromkeys(NAMES, Interval(math.nan, math.nan))
    times_drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    scores = ccc_of_moments(torch.tensordot(torch.from_numpy(times_drawn), torch.stack(counted), dims=1)).numpy()
    scores = np.column_stack([scores, scores.mean(1)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where no draw has a score, nor has its interval
        ends = np.nanpercentile(scores, [2.5, 97.5], axis=0)
    return {name: Interval(low, high) for name, (low, high) in zip(NAMES, ends.T.tolist(), strict=True)}


def best_smoothing_s(predictions: Sequence[Prediction], corpus: Corpus) -> float:
    """Returns the width whose pooled mean CCC is highest on these predictions, which must not be the scored ones."""
    scores = [pooled_ccc([c.all for c in corpus_moments(predictions, corpus, w)])["mean"] for w in SMOOTHING_S]
    return SMOOTHING_S[int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))]


def summarise(raw: Sequence[ClipMoments], smoothed: Sequence[ClipMoments]) -> SplitScore:
    """Returns the score of a split from the moments of its clips: raw, smoothed, on face frames only, and per clip."""
    faces = [clip.face for clip in raw if clip.face is not None]
    return SplitScore(
        num_clips=len(raw),
        num_labels=num_labels(raw),
        raw=_agreement(raw),
        num_face_labels=int(sum(face[0, 0].item() for face in faces)) if faces else None,
        smoothed=_agreement(smoothed),
        clips=[ClipScore(clip.clip_id, pooled_ccc([clip.all]), int(clip.all[0, 0])) for clip in raw],
    )


def num_labels(clips: Sequence[ClipMoments]) -> int:
    """Returns how many labels count in these clips."""
    return int(sum(clip.all[0, 0].item() for clip in clips))


def _agreement(clips: Sequence[ClipMoments]) -> Agreement:
    sums, faces = [clip.all for clip in clips], [clip.face for clip in clips if clip.face is not None]
    return Agreement(pooled_ccc(sums), bootstrap(sums), pooled_ccc(faces) if faces else None)
