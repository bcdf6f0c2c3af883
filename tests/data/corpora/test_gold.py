"""Gold standards of several annotators: known traces are recovered, agreement is what its definition says."""

import numpy as np
import pytest

from sage_va.data import InputError
from sage_va.data.corpora.gold import (
    AnnotatorAgreement,
    Traces,
    agreement_of,
    aligned,
    evaluator_weights,
    gold_standard,
    mean_agreement,
)

TIMES = np.arange(500) / 10
PHASES = np.random.default_rng(5).uniform(0, 7, 12)
SMOOTH = sum(0.15 * np.sin(0.13 * (k + 1) * TIMES + phase) for k, phase in enumerate(PHASES))


def traces(*columns: np.ndarray) -> Traces:
    return Traces(TIMES, np.stack(columns, axis=1))


def test_agreement_by_its_definition() -> None:
    x, y = SMOOTH, 0.8 * SMOOTH + 0.1
    agreement = agreement_of(traces(x, y))
    ccc = 2 * np.cov(x, y, bias=True)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert agreement.ccc == pytest.approx(ccc)
    assert agreement.alpha == pytest.approx(2 * (1 - (x.var() + y.var()) / (x + y).var()))
    assert agreement_of(traces(x)) is None
    same = agreement_of(traces(x, x, x))
    assert (same.num_annotators, same.ccc, same.alpha) == (3, pytest.approx(1), pytest.approx(1))


def test_agreement_of_a_trace_that_never_moves_is_not_defined() -> None:
    flat = np.zeros(500)
    assert np.isnan(agreement_of(traces(flat, flat)).ccc)
    assert np.isnan(agreement_of(traces(flat, flat)).alpha)
    nowhere = np.full(500, np.nan)
    assert np.isnan(agreement_of(traces(SMOOTH, nowhere)).ccc)


def test_the_mean_over_clips_counts_those_in_which_it_is_defined() -> None:
    clips = [
        AnnotatorAgreement(2, 0.4, np.nan),
        AnnotatorAgreement(3, np.nan, np.nan),
        AnnotatorAgreement(2, 0.6, np.nan),
    ]
    mean = mean_agreement(clips)
    assert (mean.num_annotators, mean.ccc) == (3, pytest.approx(0.5))
    assert np.isnan(mean.alpha)


def test_the_mean_takes_whoever_has_annotated() -> None:
    x, y = SMOOTH.copy(), SMOOTH + 0.2
    x[:10], y[5:20] = np.nan, np.nan
    gold = gold_standard(traces(x, y), "mean")
    assert np.isnan(gold[5:10]).all()
    assert np.allclose(gold[:5], y[:5])
    assert np.allclose(gold[10:20], x[10:20])
    assert np.allclose(gold[20:], SMOOTH[20:] + 0.1)


def test_weights_follow_agreement() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((500, 6)) * [0.02, 0.02, 0.02, 0.02, 0.5, 0]
    columns = SMOOTH[:, None] * [1, 1, 1, 1, 1, -1] + noise
    weights = evaluator_weights(columns)
    assert weights.sum() == pytest.approx(1)
    assert weights[0] > weights[4] > weights[5] == 0
    means = columns.mean(axis=1)
    correlations = [np.corrcoef(columns[:, k], means)[0, 1] for k in range(6)]
    assert weights == pytest.approx(np.clip(correlations, 0, None) / np.clip(correlations, 0, None).sum())
    gold = gold_standard(Traces(TIMES, columns), "ewe")
    assert np.corrcoef(gold, SMOOTH)[0, 1] > np.corrcoef(means, SMOOTH)[0, 1]


def test_lags_between_annotators_are_undone() -> None:
    def late(lag_s: float) -> np.ndarray:
        return np.interp(TIMES - lag_s, TIMES, SMOOTH)

    delayed = traces(late(1), late(2), late(3))
    together = aligned(delayed)
    inside = np.isfinite(together.values).all(axis=1) & (TIMES > 4) & (TIMES < 46)
    assert inside.sum() > 300
    for k in range(3):  # the delay of two seconds that all have in common stays
        assert np.allclose(together.values[inside, k], late(2)[inside], atol=0.02), k
    assert agreement_of(Traces(TIMES[inside], together.values[inside])).ccc > 0.99 > agreement_of(delayed).ccc
    gold = gold_standard(delayed, "aligned")
    assert np.allclose(gold[inside], late(2)[inside], atol=0.02)


@pytest.mark.parametrize("rows", ["empty", "absent"])
def test_alignment_invents_nothing_in_a_gap(rows: str) -> None:
    x, y = np.interp(TIMES - 1, TIMES, SMOOTH), np.interp(TIMES + 1, TIMES, SMOOTH)
    gap = (TIMES >= 20) & (TIMES < 30)
    kept = ~gap if rows == "absent" else np.ones(500, bool)
    values = np.where(gap[:, None], np.nan, np.stack([x, y], axis=1))[kept]
    together = aligned(Traces(TIMES[kept], values))
    missing = np.isnan(together.values)
    times = TIMES[kept]
    assert missing[(times >= 21.1) & (times < 28.9)].all()
    assert missing[(times > 18.95) & (times < 20), 0].all()  # x is one second earlier there
    assert not missing[(times >= 19) & (times < 20), 1].any()
    assert not missing[(times > 5) & (times < 18.9)].any()
    assert np.allclose(together.values[~missing.any(axis=1)], SMOOTH[kept][~missing.any(axis=1), None], atol=0.03)


def test_alignment_keeps_an_annotator_of_a_lower_rate() -> None:
    slow = np.where(np.arange(500) % 5 == 0, np.interp(TIMES - 1, TIMES, SMOOTH), np.nan)
    moved = aligned(traces(SMOOTH, slow)).values[:, 1]
    assert np.isfinite(moved[(TIMES > 3) & (TIMES < 46)]).all()


def test_a_single_instant_cannot_be_aligned() -> None:
    one = Traces(TIMES[:1], np.array([[0.1, 0.2]]))
    assert aligned(one) is one


def test_annotators_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InputError, match=r"annotators: none of them agrees with the mean of all\. Leave the clip out"):
        gold_standard(traces(np.full(500, 0.1), np.full(500, 0.3)), "ewe")
    with pytest.raises(InputError, match=r"gold: expected mean \| ewe \| aligned, got 'median'"):
        gold_standard(traces(SMOOTH, SMOOTH), "median")


def test_one_annotator_is_the_gold_standard() -> None:
    assert np.array_equal(gold_standard(traces(SMOOTH), "ewe"), SMOOTH)
