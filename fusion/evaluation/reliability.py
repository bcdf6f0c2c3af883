"""How far estimated reliability can be believed: rank correlation, calibration error, reliability diagram."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...data.atomic import replacing
from ...data.windows.corpus import Corpus
from .predict import Prediction
from .report import COLOURS

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Diagram:
    """A reliability diagram of E equal bins over 0 … 1.

    reliability and target (E,): means of what fell into each bin, NaN where nothing did; count (E,).
    """

    reliability: Floats
    target: Floats
    count: NDArray[np.int64]


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


def diagram(reliability: ArrayLike, target: ArrayLike, num_bins: int = 10) -> Diagram:
    """Estimates in 0 … 1 and what each should have been, by bins of the estimate; 1 falls into the last bin."""
    found, wanted = np.asarray(reliability, np.float64), np.asarray(target, np.float64)
    assert found.shape == wanted.shape
    assert ((found > -1e-6) & (found < 1 + 1e-6)).all()  # a softmax sums to 1 but for its rounding
    place = np.clip((found * num_bins).astype(np.int64), 0, num_bins - 1)
    count = np.bincount(place, minlength=num_bins)
    divisor = np.where(count, count, np.nan)
    sums = (np.bincount(place, weights=values, minlength=num_bins) for values in (found, wanted))
    means = [total / divisor for total in sums]
    return Diagram(means[0], means[1], count)


def ece(reliability: ArrayLike, target: ArrayLike, num_bins: int = 10) -> float:
    """Expected calibration error: mean distance between estimate and target of a bin, weighted by count.

    NaN for no values. Source: Naeini et al. (2015), for a target in 0 … 1 instead of right or wrong.
    """
    bins = diagram(reliability, target, num_bins)
    total = int(bins.count.sum())
    return float(np.nansum(np.abs(bins.reliability - bins.target) * bins.count) / total) if total else math.nan


def trust_report(predictions: Sequence[Prediction], corpus: Corpus, sigma: float) -> dict[str, Any]:
    """What became of each stream's reliability r on labelled clips, over the steps where it is valid and labelled.

    Args:
        predictions: of a model with a gate, for clips that it was not trained on.
        corpus: holds the clips with their labels.
        sigma: the error at which a stream deserves a trust of 1 / e.

    Returns:
        `{"sigma", "streams": {label: {"num_steps", "spearman", "ece", "diagram"}}}`: Spearman of 1 - r with the error
        |err| = |y^m - y|_1 of the stream's own estimate; ECE of r against exp(-|err| / sigma).
    """
    found: dict[str, Any] = {}
    for m, stream in enumerate(corpus.streams):
        trust, error = _trust_and_error(predictions, corpus, m)
        target = np.exp(-error / sigma)
        found[stream.label] = {
            "num_steps": len(trust),
            "spearman": spearman(1 - trust, error),
            "ece": ece(trust, target),
            "diagram": {name: values.tolist() for name, values in vars(diagram(trust, target)).items()},
        }
    return {"sigma": sigma, "streams": found}


def _trust_and_error(predictions: Sequence[Prediction], corpus: Corpus, m: int) -> tuple[Floats, Floats]:
    trusts, errors = [np.zeros(0)], [np.zeros(0)]
    for prediction, index in zip(predictions, corpus.find([p.clip_id for p in predictions]), strict=True):
        assert prediction.reliability is not None, "the variant has no gate"
        assert prediction.unimodal is not None
        steps = corpus.steps(index)
        va, labelled = corpus.va[steps].cpu().numpy(), corpus.va_mask[steps].cpu().numpy()
        counted = prediction.mask[:, m] & labelled
        trusts.append(prediction.reliability[counted, m])
        errors.append(np.abs(prediction.unimodal[counted, m] - va[counted]).sum(-1))
    return np.concatenate(trusts), np.concatenate(errors)


def plot_diagram(path: Path, report: Mapping[str, Any], title: str = "") -> None:
    """The reliability diagram of a `trust_report`: a line per stream against the diagonal, counts below.

    Args:
        path: .png, .svg or .pdf.
        report: of `trust_report`.
        title: above the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(5, 6), height_ratios=(3, 1), sharex=True, layout="constrained")
    above.plot([0, 1], [0, 1], ":", color="grey")
    for m, (label, found) in enumerate(report["streams"].items()):
        bins, colour = found["diagram"], COLOURS[m % len(COLOURS)]
        text = f"{label}: ECE {found['ece']:.3f}, Spearman {found['spearman']:.2f}"
        above.plot(bins["reliability"], bins["target"], "o-", color=colour, label=text)
        edges = np.linspace(0, 1, len(bins["count"]) + 1)
        below.stairs(bins["count"], edges, color=colour)
    above.set(ylabel=f"mean exp(-|err| / {report['sigma']:.2f})", ylim=(0, 1), xlim=(0, 1))
    above.legend(loc="upper left", fontsize="small")
    below.set(xlabel="reliability", ylabel="steps")
    figure.suptitle(title, fontsize="medium")
    with replacing(path) as part:
        figure.savefig(part, dpi=110)
    plt.close(figure)
