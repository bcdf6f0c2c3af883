"""CCC, as score and as loss: against other implementations, against Lin (1989), and where it is not defined."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.regression import concordance_corrcoef

from sage_va.fusion.ccc import MIN_STEPS, ccc, ccc_loss, ccc_of_moments, moments

torch.set_num_threads(1)
HALVES = (0.5, 0.5)


def reference(x: np.ndarray, y: np.ndarray) -> float:
    """Lin's formula, population moments, written out."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    return 2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


def series(seed: int, length: int, share: float = 0.7) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    y = rng.uniform(-1, 1, length)
    return torch.from_numpy(share * y + (1 - share) * rng.uniform(-1, 1, length) + 0.1), torch.from_numpy(y)


def everything(x: torch.Tensor) -> torch.Tensor:
    return torch.ones(x.shape, dtype=torch.bool)


@given(st.integers(0, 2**32 - 1), st.integers(2, 200), st.floats(-1, 1))
@settings(deadline=None, max_examples=50)
def test_equals_a_second_implementation(seed: int, length: int, share: float) -> None:
    x, y = series(seed, length, share)
    assert ccc(x, y, everything(x)).item() == pytest.approx(reference(x.numpy(), y.numpy()), abs=1e-6)


@pytest.mark.parametrize("length", [5, 50, 5000])
def test_equals_torchmetrics_which_takes_sample_moments(length: int) -> None:
    """torchmetrics divides variances and covariance by n - 1, not the squared difference of means: equal as n grows."""
    x, y = series(1, length)
    bessel = length / (length - 1)
    n, sx, sy, sxx, syy, sxy = moments(x, y, everything(x))
    mx, my = sx / n, sy / n
    sample = 2 * bessel * (sxy / n - mx * my) / (bessel * (sxx / n - mx**2 + syy / n - my**2) + (mx - my) ** 2)
    theirs = concordance_corrcoef(x, y).item()
    assert theirs == pytest.approx(sample.item(), abs=1e-6)
    assert theirs == pytest.approx(ccc(x, y, everything(x)).item(), abs=0.2 / length)


def test_lin_identity_is_one_and_mirror_about_the_mean_is_minus_one() -> None:
    _, y = series(2, 100)
    assert ccc(y, y, everything(y)).item() == pytest.approx(1, abs=1e-12)
    assert ccc(2 * y.mean() - y, y, everything(y)).item() == pytest.approx(-1, abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 3))
@settings(deadline=None, max_examples=30)
def test_lin_shift_and_scale_are_penalised_and_pearson_is_the_bound(seed: int, amount: float) -> None:
    x, y = series(seed, 60)
    whole = everything(x)
    assert ccc(y + amount, y, whole) < 1 - 1e-3
    assert ccc((1 + amount) * (y - y.mean()) + y.mean(), y, whole) < 1 - 1e-3
    for prediction in (x, x + amount, amount * x):
        pearson = np.corrcoef(prediction, y)[0, 1]
        assert abs(ccc(prediction, y, whole).item()) <= abs(pearson) + 1e-12


def test_lin_is_symmetric_and_blind_to_a_common_shift_and_scale() -> None:
    x, y = series(3, 80)
    whole = everything(x)
    assert ccc(x, y, whole).item() == pytest.approx(ccc(y, x, whole).item(), abs=1e-12)
    assert ccc(3 * x - 7, 3 * y - 7, whole).item() == pytest.approx(ccc(x, y, whole).item(), abs=1e-12)


def test_masked_steps_do_not_count_even_if_they_are_nan() -> None:
    x, y = series(4, 50)
    mask = torch.arange(50) % 3 != 0
    expected = reference(x[mask].numpy(), y[mask].numpy())
    x[~mask], y[~mask] = torch.nan, torch.nan
    assert ccc(x, y, mask).item() == pytest.approx(expected, abs=1e-12)


def test_undefined_cases_are_nan_or_zero() -> None:
    flat, (x, y) = torch.full((10,), 0.25, dtype=torch.float64), series(5, 10)
    whole = everything(x)
    assert ccc(x, y, ~whole).isnan()
    assert ccc(flat, flat, whole).isnan()
    assert ccc(flat, flat + 1, whole).item() == 0
    assert ccc(x, flat, whole).item() == pytest.approx(0, abs=1e-12)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_pooled_moments_of_clips_equal_the_ccc_of_all_steps_together(lengths: list[int], seed: int) -> None:
    x, y = series(seed, sum(lengths) + 2)
    parts = zip(x.split([*lengths, 2]), y.split([*lengths, 2]), strict=True)
    pooled = ccc_of_moments(torch.stack([moments(a, b, everything(a)) for a, b in parts]).sum(0))
    assert pooled.item() == pytest.approx(ccc(x, y, everything(x)).item(), abs=1e-9)


@pytest.mark.parametrize(("dtype", "offset", "tolerance"), [(torch.float64, 1e6, 1e-6), (torch.float32, 1e2, 1e-3)])
def test_a_large_offset_costs_no_digits(dtype: torch.dtype, offset: float, tolerance: float) -> None:
    x, y = series(6, 500)
    expected = reference(x.numpy(), y.numpy())
    assert ccc((x + offset).to(dtype), (y + offset).to(dtype), everything(x)).item() == pytest.approx(
        expected, abs=tolerance
    )


def test_gradient_is_right() -> None:
    x, y = series(7, 12)
    mask = torch.arange(12) != 4
    assert torch.autograd.gradcheck(lambda p: ccc(p, y, mask), x.clone().requires_grad_())


def test_loss_is_one_minus_weighted_ccc_over_the_whole_batch() -> None:
    x = torch.stack([series(8, 40)[0], series(9, 40)[0]], -1).reshape(4, 10, 2)
    y = torch.stack([series(8, 40)[1], series(9, 40)[1]], -1).reshape(4, 10, 2)
    mask = torch.arange(40).reshape(4, 10) % 5 != 0
    each = [reference(x[mask][:, d].numpy(), y[mask][:, d].numpy()) for d in range(2)]
    assert ccc_loss(x, y, mask, (0.3, 0.7)).item() == pytest.approx(1 - 0.3 * each[0] - 0.7 * each[1], abs=1e-5)


def test_loss_falls_back_to_squared_error_per_target() -> None:
    x, y = torch.rand(1, 20, 2), torch.rand(1, 20, 2)
    whole = torch.ones(1, 20, dtype=torch.bool)
    y[..., 1] = 0.5
    agreement = ccc(x[..., 0], y[..., 0], whole).item()
    expected = 0.5 * (1 - agreement) + 0.5 * (x[..., 1] - 0.5).square().mean().item()
    assert ccc_loss(x, y, whole, HALVES).item() == pytest.approx(expected, abs=1e-5)
    few = torch.arange(20)[None] < MIN_STEPS - 1
    mse = (x - y)[few].square().mean().item()
    assert ccc_loss(x, y, few, HALVES).item() == pytest.approx(mse, abs=1e-6)
    assert ccc_loss(x, y, torch.zeros_like(whole), HALVES).item() == 0


def test_loss_is_float32_for_half_precision() -> None:
    x, y = torch.rand(1, 300, 2), torch.rand(1, 300, 2)
    whole = torch.ones(1, 300, dtype=torch.bool)
    found = ccc_loss(x.bfloat16(), y, whole, HALVES)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(ccc_loss(x.bfloat16().float(), y, whole, HALVES).item(), abs=1e-6)


values = st.sampled_from([-1.0, -0.5, 0.0, 1e-5, 0.5, 1.0])


@given(st.lists(st.tuples(values, values, values, values, st.booleans()), min_size=1, max_size=8), st.booleans())
@settings(deadline=None, max_examples=150)
def test_loss_and_gradient_are_never_nan(rows: list[tuple[float, ...]], dirty: bool) -> None:
    """Constants, ties, single steps, x == y, nothing counted, NaN where nothing counts: all finite."""
    table = torch.tensor(rows, dtype=torch.float32)[None]
    x, y, mask = table[..., :2].clone(), table[..., 2:4].clone(), table[..., 4] > 0
    if dirty:
        y[~mask] = torch.nan
    x.requires_grad_()
    loss = ccc_loss(x, y, mask, HALVES)
    loss.backward()
    assert x.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()
    assert (x.grad[~mask] == 0).all()
