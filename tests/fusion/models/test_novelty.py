"""The veto: 1 on what training held, lower the further a step lies outside, and the other stream where one is lost."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sage_va.fusion.models.novelty import STILL_VETO, Novelty, Veto
from sage_va.fusion.models.sage import floored_weights, inverse_variance

NUM_CLIPS, LENGTH, DIM = 8, 300, 40
FOLDS = [[0, 1, 2], [3, 4, 5], [6, 7]]


def clip(number: int, dim: int = DIM) -> tuple[Tensor, Tensor]:
    """Correlated features of variance 1: five slow causes, mixed, and a little noise of their own."""
    rng = np.random.default_rng(number)
    mixing = np.random.default_rng(99).standard_normal((5, dim))
    rates, phases = rng.uniform(0.02, 0.2, (5, 1)), rng.uniform(0, 6.3, (5, 1))
    causes = np.sin(rates * np.arange(LENGTH) + phases).T * 2**0.5
    values = (causes @ mixing + 0.5 * rng.standard_normal((LENGTH, dim))) / np.sqrt((mixing**2).sum(0) + 0.25)
    mask = np.ones(LENGTH, bool)
    mask[100:120] = number % 2 == 0
    return torch.from_numpy(values).float(), torch.from_numpy(mask)


def fitted(folds: Sequence[Sequence[int]] = FOLDS, dim: int = DIM, causal: bool = False) -> Novelty:
    novelty = Novelty(dim, 4.0, causal)
    novelty.fit(lambda number: clip(number, dim), [LENGTH] * NUM_CLIPS, folds)
    return novelty


def veto_of(novelty: Novelty, values: Tensor, mask: Tensor) -> Tensor:
    return novelty(values[None], mask[None])[0]


@pytest.mark.parametrize("dim", [3, 40, 200])
def test_usual_features_are_let_through_and_foreign_ones_are_not(dim: int) -> None:
    novelty = fitted(dim=dim)
    values, mask = clip(50, dim)  # never seen
    assert 0.3 < novelty.distance(values).mean() < 1.2
    assert veto_of(novelty, values, mask)[mask].mean() > 0.95
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    assert veto_of(novelty, values + 3 * noise, mask)[mask].mean() < 0.3
    assert veto_of(novelty, 3 * values, mask)[mask].median() < 0.4


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 100), st.floats(0, 10), st.floats(0, 10))
def test_the_further_outside_the_lower(seed: int, size: float, more: float) -> None:
    novelty = fitted()
    direction = torch.randn(1, 1, DIM, generator=torch.Generator().manual_seed(seed))
    jitter = torch.randn(1, 60, 1, generator=torch.Generator().manual_seed(seed)) * 0.1
    mask = torch.ones(1, 60, dtype=torch.bool)
    near, far = (novelty(direction * (scale + jitter), mask) for scale in (size, size + more + 0.5))
    assert (far <= near + 1e-6).all()


def test_unseen_clips_set_what_is_usual() -> None:
    """With hundreds of dimensions and few clips, a covariance fits its own clips too well."""
    held_out, own = fitted(dim=200), fitted(folds=[], dim=200)
    assert held_out.usual > own.usual
    torch.testing.assert_close(held_out.axes, own.axes)  # the covariance is that of all clips


@pytest.mark.parametrize("value", ["zeros", "held"])
def test_a_stream_that_stands_still(value: str) -> None:
    novelty, (values, mask) = fitted(), clip(51)
    values = values.clone()
    values[150:] = 0 if value == "zeros" else values[150]
    veto = veto_of(novelty, values, mask)
    assert veto[160:].max() == pytest.approx(STILL_VETO)
    assert veto[:145][mask[:145]].mean() > 0.95


def test_standing_still_is_usual_where_training_clips_do() -> None:
    def read(number: int) -> tuple[Tensor, Tensor]:
        values, mask = clip(number)
        values = values.clone()
        values[200:260] = values[200]
        return values, mask

    novelty = Novelty(DIM, 4.0, causal=False)
    novelty.fit(read, [LENGTH] * NUM_CLIPS, FOLDS)
    values, mask = read(52)
    assert veto_of(novelty, values, mask)[210:250].min() > 0.5


def test_steps_that_are_not_valid_count_for_nothing() -> None:
    novelty, (values, mask) = fitted(), clip(53)
    other = torch.where(mask[:, None], values, 1e4)
    torch.testing.assert_close(veto_of(novelty, other, mask), veto_of(novelty, values, mask))


def test_without_any_valid_step_nothing_is_vetoed() -> None:
    novelty = Novelty(DIM, 4.0, causal=False)
    novelty.fit(lambda number: (torch.zeros(5, DIM), torch.zeros(5, dtype=torch.bool)), [5, 5], [[0], [1]])
    values, mask = clip(1)
    assert veto_of(novelty, values, mask).eq(1).all()


def gap_factors(mask: Tensor, *, causal: bool, reach: int = 4) -> Tensor:
    veto = Veto([3], 0.0, True, reach, causal)
    veto.drift.copy_(torch.arange(reach + 1.0))
    return veto([], mask[None, :, None], torch.ones(1, len(mask), dtype=torch.bool))[0, :, 0]


def test_a_gap_lowers_reliability_with_its_distance() -> None:
    mask = torch.tensor([1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], dtype=torch.bool)
    expected = torch.tensor([0, 0, 1, 2, 2, 1, 0, 1, 2, 3, 4, torch.inf, torch.inf])
    torch.testing.assert_close(gap_factors(mask, causal=False), torch.exp(-expected))
    expected = torch.tensor([0, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, torch.inf, torch.inf])
    torch.testing.assert_close(gap_factors(mask, causal=True), torch.exp(-expected))
    assert gap_factors(torch.zeros(9, dtype=torch.bool), causal=False).eq(0).all()


def test_the_cost_of_a_gap_is_the_change_of_the_labels() -> None:
    ramp = torch.arange(50.0)[:, None] * torch.tensor([[0.01, 0.02]])
    counted = torch.ones(50, dtype=torch.bool)
    counted[20:30] = False
    veto = Veto([3], 0.0, True, 6, False)
    veto.fit([], [(ramp, counted)], [], torch.tensor(0.3))
    torch.testing.assert_close(veto.drift, torch.arange(7.0) * 0.03 / 0.3)


def test_weights_are_inverse_variances() -> None:
    error = torch.tensor([[0.2, 0.4]])
    weights = floored_weights(inverse_variance(torch.exp(-error)), torch.ones(1, 2, dtype=torch.bool), 0.0)
    torch.testing.assert_close(weights, torch.tensor([[0.8, 0.2]]), rtol=1e-3, atol=1e-3)
    assert inverse_variance(torch.tensor([0.0, 1.0])).isfinite().all()


@pytest.mark.parametrize("causal", [False, True])
def test_a_click_silences_no_neighbour_and_noise_that_lasts_is_seen(causal: bool) -> None:
    """The median over five steps: the mean gave up five steps for each click of one."""
    novelty = fitted(causal=causal)
    values, mask = clip(50)
    usual = veto_of(novelty, values, mask)
    clicked = values.clone()
    clicked[40:280:12] += 10
    assert (veto_of(novelty, clicked, mask) - usual).abs().max() < 0.1
    lasting = values.clone()
    lasting[200:260] += 10 * torch.randn(60, DIM, generator=torch.Generator().manual_seed(0))
    assert veto_of(novelty, lasting, mask)[205:255].max() < 0.3
