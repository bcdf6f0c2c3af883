"""The quality of estimated reliability: rank correlation, calibration error, reliability diagram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...data.windows.corpus import Corpus
from ..result import Result
from .predict import Prediction

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ReliabilityDiagram(Result):
    """A reliability diagram of E equal bins over 0 … 1.

    reliability and target (E,): means of the values in each bin, NaN in an empty one; count (E,).
    """

    reliability: Floats
    target: Floats
    count: NDArray[np.int64]


@dataclass(frozen=True)
class StreamReliability(Result):
    """The quality of one stream's reliability r, over the steps where the stream is valid and labelled.

    spearman: rank correlation of 1 - r with the error |err| = |y^m - y|_1 of the stream's own estimate. ece: expected
    calibration error of r against exp(-|err| / sigma), with its diagram.
    """

    num_steps: int
    spearman: float
    ece: float
    diagram: ReliabilityDiagram


@dataclass(frozen=True)
class ReliabilityReport(Result):
    """The quality of the reliability of every stream, by label; sigma is the error at which r should be 1 / e."""

    sigma: float
    streams: dict[str, StreamReliability]


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation of two series, ties sharing their mean rank.

    NaN for fewer than two values or a constant series.
    """
    a, b = (_ranks(np.asarray(series, np.float64)) for series in (x, y))
    assert len(a) == len(b)
    a, b = a - a.mean() if len(a) else a, b - b.mean() if len(b) else b
    spread = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / spread if spread else math.nan


def _ranks(series: Floats) -> Floats:
    assert np.isfinite(series).all()
    _, place, count = np.unique(series, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def diagram(reliability: ArrayLike, target: ArrayLike, num_bins: int = 10) -> ReliabilityDiagram:
    """Bins estimates in 0 … 1, with their targets, by the estimate; 1 falls into the last bin."""
    estimates, targets = np.asarray(reliability, np.float64), np.asarray(target, np.float64)
    assert estimates.shape == targets.shape
    assert ((estimates > -1e-6) & (estimates < 1 + 1e-6)).all()  # a softmax sums to 1 but for its rounding
    place = np.clip((estimates * num_bins).astype(np.int64), 0, num_bins - 1)
    count = np.bincount(place, minlength=num_bins)
    divisor = np.where(count, count, np.nan)
    means = [np.bincount(place, weights=values, minlength=num_bins) / divisor for values in (estimates, targets)]
    return ReliabilityDiagram(means[0], means[1], count)


def ece(reliability: ArrayLike, target: ArrayLike, num_bins: int = 10) -> float:
    """Expected calibration error: mean distance between estimate and target of a bin, weighted by count.

    NaN for no values. Source: Naeini et al. (2015), for a target in 0 … 1 instead of right or wrong.
    """
    bins = diagram(reliability, target, num_bins)
    total = int(bins.count.sum())
    return float(np.nansum(np.abs(bins.reliability - bins.target) * bins.count) / total) if total else math.nan


def reliability_report(predictions: Sequence[Prediction], corpus: Corpus, sigma: float) -> ReliabilityReport:
    """Compares each stream's reliability with the errors of its own estimates on labelled clips.

    Args:
        predictions: of a model with a gate, for clips that it was not trained on.
        corpus: holds the clips with their labels.
        sigma: the error at which a stream deserves a reliability of 1 / e.
    """
    streams: dict[str, StreamReliability] = {}
    for m, stream in enumerate(corpus.streams):
        reliability, error = _reliability_and_error(predictions, corpus, m)
        target = np.exp(-error / sigma)
        streams[stream.label] = StreamReliability(
            len(reliability), spearman(1 - reliability, error), ece(reliability, target), diagram(reliability, target)
        )
    return ReliabilityReport(sigma, streams)


def _reliability_and_error(predictions: Sequence[Prediction], corpus: Corpus, m: int) -> tuple[Floats, Floats]:
    reliabilities, errors = [np.zeros(0)], [np.zeros(0)]
    for prediction, index in zip(predictions, corpus.find([p.clip_id for p in predictions]), strict=True):
        assert prediction.reliability is not None, "the variant has no gate"
        assert prediction.unimodal is not None
        steps = corpus.steps(index)
        va, labelled = corpus.va[steps].cpu().numpy(), corpus.va_mask[steps].cpu().numpy()
        counted = prediction.mask[:, m] & labelled
        reliabilities.append(prediction.reliability[counted, m])
        errors.append(np.abs(prediction.unimodal[counted, m] - va[counted]).sum(-1))
    return np.concatenate(reliabilities), np.concatenate(errors)
