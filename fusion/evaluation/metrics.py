"""The score of predictions: one CCC per target over all counted instants of a split, with intervals over clips."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.labels import Truth
from ...data.timebase import Grid
from ...data.windows.corpus import Corpus
from ..ccc import ccc_of_moments, moments
from .predict import TARGETS, Floats, Prediction

SMOOTHING_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)


def smooth(va: Floats, width_steps: int) -> Floats:
    """Centred moving average of (T, 2) over an odd number of steps; at the ends over what there is."""
    half = width_steps // 2
    if half == 0:
        return va
    total = np.concatenate([np.zeros((1, va.shape[1])), va.cumsum(0)])
    first = np.maximum(np.arange(len(va)) - half, 0)
    end = np.minimum(np.arange(len(va)) + half + 1, len(va))
    return (total[end] - total[first]) / (end - first)[:, None]


def at_instants(values: Floats, grid: Grid, times_s: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Values (T, d) of a grid, interpolated linearly at given instants (S,); and which instants the grid covers."""
    place = times_s * grid.hz - grid.first_step
    covered = (place >= -0.5 - 1e-6) & (place <= grid.num_steps - 0.5 + 1e-6)
    place = np.clip(place, 0, grid.num_steps - 1)
    low = np.minimum(place.astype(np.int64), max(grid.num_steps - 2, 0))
    high = np.minimum(low + 1, grid.num_steps - 1)
    weight = (place - low)[:, None]
    return (1 - weight) * values[low] + weight * values[high], covered


@dataclass(frozen=True)
class ClipSums:
    """The moments of one clip, for the score: all (2, 6) over valence and arousal; face the same with a face only."""

    clip_id: str
    all: torch.Tensor
    face: torch.Tensor | None


def clip_sums(
    prediction: Prediction, grid: Grid, truth: Truth, face: NDArray[np.bool_] | None, width_s: float
) -> ClipSums:
    """Moments of one clip at the labels' own instants.

    A label counts if valence and arousal are both annotated and the grid covers its time, face or no face.

    Args:
        prediction: of the clip.
        grid: its grid.
        truth: its labels.
        face: (T,) where a visual stream is valid, or None without one.
        width_s: width of the moving average over the prediction; 0 for none.
    """
    smoothed = smooth(prediction.va, 2 * round(width_s * grid.hz / 2) + 1)
    sums, va, counted = _sums_at_labels(smoothed, grid, truth)
    if face is None:
        return ClipSums(prediction.clip_id, sums, None)
    step = np.floor(truth.times_s * grid.hz + 0.5).astype(np.int64) - grid.first_step
    nearest = step.clip(0, grid.num_steps - 1)
    return ClipSums(prediction.clip_id, sums, _sums(va, truth, counted & face[nearest]))


def _sums_at_labels(va: Floats, grid: Grid, truth: Truth) -> tuple[torch.Tensor, Floats, NDArray[np.bool_]]:
    """Moments (2, 6) of a grid's values at the labels' instants, these values (S, 2), and which instants count (S,)."""
    at_labels, covered = at_instants(va, grid, truth.times_s)
    counted = truth.mask & covered
    return _sums(at_labels, truth, counted), at_labels, counted


def _sums(va: Floats, truth: Truth, counted: NDArray[np.bool_]) -> torch.Tensor:
    known = np.where(truth.mask[:, None], truth.va, 0).astype(np.float64)
    mask = torch.from_numpy(np.broadcast_to(counted, (2, len(counted))).copy())
    return moments(torch.from_numpy(va.T.copy()), torch.from_numpy(known.T.copy()), mask)


def corpus_sums(predictions: Sequence[Prediction], corpus: Corpus, width_s: float = 0.0) -> list[ClipSums]:
    """Moments of every predicted clip that has labels."""
    visual = [m for m, stream in enumerate(corpus.streams) if stream.modality == "visual"]
    found = []
    for prediction, index in zip(predictions, corpus.find([p.clip_id for p in predictions]), strict=True):
        truth = corpus.truths[index]
        if truth is not None:
            face = np.logical_or.reduce(prediction.mask[:, visual], axis=1) if visual else None
            found.append(clip_sums(prediction, corpus.grids[index], truth, face, width_s))
    return found


def va_sums(estimates: Sequence[Floats], corpus: Corpus, clips: Sequence[int]) -> list[torch.Tensor]:
    """Returns `ClipSums.all`, unsmoothed, of every clip that has labels, from its (T, 2) valence and arousal."""
    return [
        _sums_at_labels(va, corpus.grids[index], truth)[0]
        for va, index in zip(estimates, clips, strict=True)
        if (truth := corpus.truths[index]) is not None
    ]


def pooled_ccc(sums: Sequence[torch.Tensor]) -> dict[str, float]:
    """(2, 6) moments of clips -> one CCC per target over all of them, and their mean."""
    return _named(ccc_of_moments(torch.stack(list(sums)).sum(0)))


def _named(values: torch.Tensor) -> dict[str, float]:
    found = {target: float(value) for target, value in zip(TARGETS, values, strict=True)}
    return {**found, "mean": float(values.mean())}


def score(predictions: Sequence[Prediction], corpus: Corpus) -> dict[str, float]:
    """One CCC per target over all labels of the predicted clips, and their mean; raw."""
    return pooled_ccc([clip.all for clip in corpus_sums(predictions, corpus)])


def bootstrap(sums: Sequence[torch.Tensor], draws: int = 2000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the pooled CCC, resampling clips; NaN for fewer than two clips that count."""
    counted = [clip for clip in sums if clip[0, 0] > 0]
    n = len(counted)
    if n < 2:
        return dict.fromkeys((*TARGETS, "mean"), (math.nan, math.nan))
    times_drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    scores = ccc_of_moments(torch.tensordot(torch.from_numpy(times_drawn), torch.stack(counted), dims=1)).numpy()
    scores = np.column_stack([scores, scores.mean(1)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where no draw has a score, nor has its interval
        low, high = np.nanpercentile(scores, [2.5, 97.5], axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip((*TARGETS, "mean"), low, high, strict=True)}


def best_smoothing_s(predictions: Sequence[Prediction], corpus: Corpus) -> float:
    """The width whose pooled mean CCC is highest on these predictions, which must not be the scored ones."""
    scores = [pooled_ccc([c.all for c in corpus_sums(predictions, corpus, w)])["mean"] for w in SMOOTHING_S]
    return SMOOTHING_S[int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))]


def summarise(raw: Sequence[ClipSums], smoothed: Sequence[ClipSums]) -> dict[str, Any]:
    """The score of a split: raw, smoothed, with intervals, on face frames only, and per clip."""
    report: dict[str, Any] = {"num_clips": len(raw), "num_labels": int(sum(c.all[0, 0].item() for c in raw))}
    for name, sums in (("raw", raw), ("smoothed", smoothed)):
        report[name] = {"ccc": pooled_ccc([c.all for c in sums]), "interval": bootstrap([c.all for c in sums])}
        faces = [c.face for c in sums if c.face is not None]
        if faces:
            report[name]["face_frames_only"] = pooled_ccc(faces)
            report["num_face_labels"] = int(sum(f[0, 0].item() for f in faces))
    report["clips"] = [{"clip_id": c.clip_id, **pooled_ccc([c.all]), "num_labels": int(c.all[0, 0])} for c in raw]
    return report
