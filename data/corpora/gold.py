"""Several annotators: how far they agree, and the one trace that stands for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..timebase import usual_gap_s

Floats = NDArray[np.float64]
MAX_LAG_S = 4.0  # between an annotator and the others
ROUNDS = 5


@dataclass(frozen=True)
class Traces:
    """The annotations of one target of one clip.

    times_s: (S,) seconds on the recording's clock, strictly increasing. values: (S, A), NaN where not annotated.
    """

    times_s: Floats
    values: Floats

    @property
    def num_annotators(self) -> int:
        """A."""
        return self.values.shape[1]


@dataclass(frozen=True)
class AnnotatorAgreement:
    """AnnotatorAgreement of the annotators of one target.

    num_annotators: A. ccc: mean over all pairs of their concordance correlation. alpha: Cronbach's. Both are NaN where
    they are not defined: a trace that never moves, or fewer than two instants that all have annotated.
    """

    num_annotators: int
    ccc: float
    alpha: float


def agreement_of(traces: Traces) -> AnnotatorAgreement | None:
    """Returns the agreement of the annotators, over the instants that all have annotated; None for a single one."""
    if traces.num_annotators < 2:
        return None
    whole = traces.values[np.isfinite(traces.values).all(axis=1)]
    pairs = [_ccc(whole[:, i], whole[:, j]) for i, j in combinations(range(traces.num_annotators), 2)]
    return AnnotatorAgreement(traces.num_annotators, float(np.mean(pairs)), _alpha(whole))


def mean_agreement(agreements: Sequence[AnnotatorAgreement]) -> AnnotatorAgreement:
    """Returns the mean over clips, of those in which it is defined."""
    num = max(agreement.num_annotators for agreement in agreements)
    means = []
    for values in ([one.ccc for one in agreements], [one.alpha for one in agreements]):
        defined = [value for value in values if np.isfinite(value)]
        means.append(float(np.mean(defined)) if defined else float("nan"))
    return AnnotatorAgreement(num, *means)


def gold_standard(traces: Traces, method: str) -> Floats:
    """Returns one value per instant (S,), NaN where no annotator has one.

    Args:
        traces: of one or more annotators; a single one is returned as it is.
        method: a key of `GOLD_STANDARDS`.

    Raises:
        InputError: for an unknown method, or if the annotators disagree so far that none can be weighted.
    """
    if method not in GOLD_STANDARDS:
        raise InputError("gold", expected=" | ".join(GOLD_STANDARDS), got=repr(method), todo="Name one of them.")
    return traces.values[:, 0] if traces.num_annotators == 1 else GOLD_STANDARDS[method](traces)


def evaluator_weights(values: Floats) -> Floats:
    """Returns the weights (A,) of the evaluator-weighted estimator (Grimm and Kroschel, ASRU 2005).

    An annotator's weight is the correlation with the mean of all; where it is negative or undefined, 0.

    Raises:
        InputError: if no weight is above 0.
    """
    mean = _mean(values)
    weights = np.array([max(0.0, np.nan_to_num(_correlation(values[:, k], mean))) for k in range(values.shape[1])])
    if not weights.any():
        todo = "Leave the clip out, or take --gold mean."
        raise InputError("annotators", "none of them agrees with the mean of all", todo=todo)
    return weights / weights.sum()


def aligned(traces: Traces) -> Traces:
    """Returns the traces shifted in time onto each other, as far as annotators differ in their delay.

    Each is compared with the mean of the others, which gives its lag, at most 4 s; the lags are refined with the traces
    that they shift until they no longer change. The delay that all have in common stays.
    """
    gap_s, num = usual_gap_s(traces.times_s), traces.num_annotators
    if not gap_s:
        return traces
    lags = gap_s * np.arange(-round(MAX_LAG_S / gap_s), round(MAX_LAG_S / gap_s) + 1, dtype=np.float64)
    total, moved = np.zeros(num), traces
    for _ in range(ROUNDS):
        steps = np.array([_lag(moved, k, lags) for k in range(num)]) * (num - 1) / num  # the others do not hold it
        total = np.clip(total + steps - steps.mean(), -MAX_LAG_S, MAX_LAG_S)
        columns = [_moved(traces.times_s, traces.values[:, k], lag_s) for k, lag_s in enumerate(total)]
        moved = Traces(traces.times_s, np.stack(columns, axis=1))
        if np.abs(steps).max() < gap_s:
            break
    return moved


def _lag(traces: Traces, annotator: int, lags: Floats) -> float:
    others = _mean(np.delete(traces.values, annotator, axis=1))
    moved = (_moved(traces.times_s, traces.values[:, annotator], lag_s) for lag_s in lags)
    scores = np.nan_to_num([_correlation(trace, others) for trace in moved], nan=-1.0)
    return float(lags[scores == scores.max()][np.abs(lags[scores == scores.max()]).argmin()])


def _moved(times_s: Floats, values: Floats, lag_s: float) -> Floats:
    """A trace that is `lag_s` earlier; NaN where it has not begun or has ended, and in its gaps.

    As on a grid, samples that are more than 1.5 of its usual gaps apart have nothing between them.
    """
    valid = np.isfinite(values)
    if valid.sum() < 2 or not lag_s:
        return values
    known_s, instants = times_s[valid], times_s + lag_s
    right = np.searchsorted(known_s, instants).clip(1, len(known_s) - 1)
    near = np.diff(known_s)[right - 1] <= 1.5 * usual_gap_s(known_s)
    on_sample = np.minimum(np.abs(instants - known_s[right - 1]), np.abs(known_s[right] - instants)) < 1e-6
    moved = np.interp(instants, known_s, values[valid], left=np.nan, right=np.nan)
    return np.where(near | on_sample, moved, np.nan)


def _weighted(values: Floats) -> Floats:
    weights, valid = evaluator_weights(values), np.isfinite(values)
    shares = np.where(valid, weights, 0.0)
    total = shares.sum(axis=1)
    sums = (np.where(valid, values, 0.0) * shares).sum(axis=1)
    return np.where(total > 0, sums / np.where(total > 0, total, 1.0), np.nan)


def _mean(values: Floats) -> Floats:
    valid = np.isfinite(values)
    count = valid.sum(axis=1)
    return np.where(count > 0, np.where(valid, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


GOLD_STANDARDS: Mapping[str, Callable[[Traces], Floats]] = {
    "mean": lambda traces: _mean(traces.values),
    "ewe": lambda traces: _weighted(traces.values),
    "aligned": lambda traces: _weighted(aligned(traces).values),
}


def _correlation(x: Floats, y: Floats) -> float:
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < 2:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else float("nan")


def _ccc(x: Floats, y: Floats) -> float:
    """Lin's concordance correlation coefficient."""
    if len(x) < 2:
        return float("nan")
    size = x.var() + y.var() + (x.mean() - y.mean()) ** 2
    return float(2 * np.mean((x - x.mean()) * (y - y.mean())) / size) if size else float("nan")


def _alpha(values: Floats) -> float:
    """Cronbach's alpha of annotators (columns)."""
    num, total = values.shape[1], values.sum(axis=1).var() if len(values) else 0.0
    return float(num / (num - 1) * (1 - values.var(axis=0).sum() / total)) if total else float("nan")
