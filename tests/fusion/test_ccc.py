"""CCC, as score and as loss: against other implementations, against Lin (1989), and where it is not defined."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_va.fusion.ccc import (
    MIN_STEPS,
    MIN_VARIANCE,
    ccc,
    ccc_loss,
    ccc_of_moments,
    losses_of_moments,
    moments,
    series_moments,
)

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


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 30))
@settings(deadline=None, max_examples=50)
def test_equals_a_second_implementation_on_what_is_counted(seed: int, num_windows: int, length: int) -> None:
    """Whatever stands where nothing counts, and each row of (..., T) for itself."""
    rng = np.random.default_rng(seed)
    x, y = (np.clip(rng.normal(0.2, 0.5, (num_windows, length)), -1, 1) for _ in range(2))
    mask = rng.random(x.shape) < 0.7
    mask[:, :2] = True
    expected = [reference(a[m], b[m]) for a, b, m in zip(x, y, mask, strict=True)]
    for dirt in (np.nan, np.inf, -5.0):
        dirty = [torch.from_numpy(np.where(mask, v, dirt)) for v in (x, y)]
        assert ccc(*dirty, torch.from_numpy(mask)).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def torchmetrics() -> Any:
    """Imported late: it takes seconds, for it looks at torchvision too."""
    return pytest.importorskip("torchmetrics.regression")


@pytest.mark.parametrize("length", [5, 50, 5000])
def test_equals_torchmetrics_which_takes_sample_moments(torchmetrics: Any, length: int) -> None:
    """torchmetrics divides variances and covariance by n - 1, not the squared difference of means: equal as n grows."""
    x, y = series(1, length)
    bessel = length / (length - 1)
    n, sx, sy, sxx, syy, sxy = moments(x, y, everything(x))
    mx, my = sx / n, sy / n
    sample = 2 * bessel * (sxy / n - mx * my) / (bessel * (sxx / n - mx**2 + syy / n - my**2) + (mx - my) ** 2)
    theirs = torchmetrics.ConcordanceCorrCoef().double()(x, y).item()
    assert theirs == pytest.approx(sample.item(), abs=1e-6)
    assert theirs == pytest.approx(ccc(x, y, everything(x)).item(), abs=0.2 / length)


@pytest.mark.parametrize("length", [5, 37, 400])
def test_equals_torchmetrics_to_1e_6_where_the_two_definitions_meet(torchmetrics: Any, length: int) -> None:
    """With equal means n / (n - 1) cancels, and with very many steps it is 1; both targets, fed batch by batch."""
    x, y = (torch.stack(pair, -1) for pair in zip(series(8, length), series(9, length), strict=True))
    whole = everything(x.T)
    level = x - x.mean(0) + y.mean(0)
    theirs = torchmetrics.ConcordanceCorrCoef(num_outputs=2).double()
    assert theirs(level, y).tolist() == pytest.approx(ccc(level.T, y.T, whole).tolist(), abs=1e-6)
    many = 2_000_000 // length
    theirs.reset()
    for _ in range(4):
        theirs.update(x.repeat(many // 4, 1), y.repeat(many // 4, 1))
    assert theirs.compute().tolist() == pytest.approx(ccc(x.T, y.T, whole).tolist(), abs=1e-6)


def test_moments_are_of_the_population() -> None:
    """Series said twice agree as before; with sample moments they would not. The values are computed by hand."""
    x = torch.arange(1.0, 6, dtype=torch.float64)
    for y, expected in ((x + 1, 4 / 5), (2 * x, 8 / 19), (-x, -4 / 40), (x, 1.0)):
        for times in (1, 2, 7):
            a, b = x.repeat(times), y.repeat(times)
            assert ccc(a, b, everything(a)).item() == pytest.approx(expected, abs=1e-12)
            assert ccc_of_moments(moments(a, b, everything(a))).item() == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(-2, 2), st.floats(0.1, 5))
@settings(deadline=None, max_examples=50)
def test_lin_is_pearson_times_the_penalty_of_shift_and_scale(seed: int, shift: float, scale: float) -> None:
    """Lin (1989): r · 2 / (v + 1/v + u²); v the ratio of spreads, u the shift over their geometric mean."""
    x, y = series(seed, 40)
    x = scale * x + shift
    v, u = (x.std() / y.std()).item(), ((x - y).mean() / (x.std(correction=0) * y.std(correction=0)).sqrt()).item()
    expected = np.corrcoef(x, y)[0, 1] * 2 / (v + 1 / v + u**2)
    assert ccc(x, y, everything(x)).item() == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.tuples(st.floats(-1, 1, width=32), st.floats(-1, 1, width=32)), min_size=2, max_size=20))
@settings(deadline=None, max_examples=150)
def test_lin_bounds_symmetry_and_one_only_for_equal_series(pairs: list[tuple[float, float]]) -> None:
    x, y = torch.tensor(pairs, dtype=torch.float64).T
    whole = everything(x)
    value = ccc(x, y, whole).item()
    assert np.isnan(value) == bool((x == y).all() and (y == y[0]).all())
    assert np.isnan(value) or abs(value) <= 1 + 1e-9
    assert value == pytest.approx(ccc(y, x, whole).item(), abs=1e-9, nan_ok=True)
    if (x - y).abs().max() > 1e-3:
        assert value < 1 - 1e-8


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


def test_a_single_step_agrees_with_nothing() -> None:
    one, other = torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    assert ccc(one, other, everything(one)).item() == pytest.approx(0, abs=1e-12)
    assert ccc(one, one, everything(one)).isnan()
    assert ccc(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]), torch.ones(2, dtype=torch.bool)).item() == -1


@pytest.mark.parametrize("num_steps", [1, 3, 7, 1000])
@pytest.mark.parametrize("level", [0.0, 0.1, 0.3, -0.7, 1 / 3])
def test_equal_constant_series_are_undefined_however_they_round(level: float, num_steps: int) -> None:
    """Not 1: the variance is what rounding left of a constant, in the pooled moments of the score as well."""
    flat = torch.full((num_steps,), level, dtype=torch.float64)
    assert ccc(flat, flat, everything(flat)).isnan()
    sums = moments(flat, flat, everything(flat))
    assert ccc_of_moments(sums).isnan()
    assert ccc_of_moments(torch.stack([sums, sums, sums]).sum(0)).isnan()


@given(st.integers(0, 2**32 - 1), st.floats(-12, 0))
@settings(deadline=None, max_examples=100)
def test_pooled_moments_never_leave_the_bounds(seed: int, exponent: float) -> None:
    """Series that barely move, down to below their rounding: a CCC within ±1, or none."""
    rng = np.random.default_rng(seed)
    level, length = rng.uniform(-1, 1), int(rng.integers(1, 12))
    x, y = (torch.from_numpy(level + 10**exponent * rng.normal(size=length)) for _ in range(2))
    value = ccc_of_moments(moments(x, y, everything(x))).item()
    assert np.isnan(value) or abs(value) <= 1.01
    assert exponent < -5 or np.isfinite(value)


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
    rows = x.reshape(3, 4).clone().requires_grad_(), y.reshape(3, 4).clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p, t: ccc(p, t, mask.reshape(3, 4)), rows)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 40), st.floats(0, 1))
@settings(deadline=None, max_examples=50)
def test_the_float32_gradient_of_the_loss_is_that_of_float64(seed: int, rows: int, length: int, share: float) -> None:
    """Against `ccc` in float64, whose gradient the finite differences above vouch for; scaled by its largest entry."""
    rng = np.random.default_rng(seed)
    y = torch.from_numpy(rng.uniform(-1, 1, (rows, length, 2)))
    x = share * y + (1 - share) * torch.from_numpy(rng.uniform(-1, 1, y.shape))
    mask = torch.from_numpy(rng.random((rows, length)) < 0.8)
    mask[0, :2] = True
    if mask.sum() < MIN_STEPS:
        return
    narrow, wide = x.float().requires_grad_(), x.clone().requires_grad_()
    ccc_loss(narrow, y.float(), mask, (0.3, 0.7)).backward()
    each = torch.stack([ccc(wide[mask][:, d], y[mask][:, d], everything(y[mask][:, d])) for d in range(2)])
    (1 - (each * torch.tensor([0.3, 0.7])).sum()).backward()
    assert narrow.grad is not None
    assert wide.grad is not None
    scale = wide.grad.abs().max().clamp(min=1e-3)
    assert ((narrow.grad - wide.grad) / scale).abs().max() < 1e-4


def plain_losses(x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(T, d) estimates and truth, (T,) mask -> (d,) 1 - CCC or the squared error, one series at a time, centred."""
    losses = []
    for a, b in zip(x[mask].T, y[mask].T, strict=True):
        if len(a) < MIN_STEPS or b.var(correction=0) <= MIN_VARIANCE:
            losses.append((a - b).square().sum() / max(1, len(a)))
            continue
        spread = a.var(correction=0) + b.var(correction=0) + (a.mean() - b.mean()).square()
        losses.append(1 - 2 * ((a - a.mean()) * (b - b.mean())).mean() / spread)
    return torch.stack(losses)


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 5), st.integers(1, 40), st.floats(0, 1), st.booleans()
)
@settings(deadline=None, max_examples=100)
def test_one_pass_over_all_series_is_the_plain_formula_of_each(
    seed: int, num_series: int, num_windows: int, length: int, share: float, still: bool
) -> None:
    """The fused estimate and those of streams, each with a mask of its own: losses, and gradients to 1e-7."""
    rng = np.random.default_rng(seed)
    y = rng.uniform(-1, 1, (num_windows, length, 2))
    y[..., 1] = 0.25 if still else y[..., 1]
    x = share * y[:, :, None] + (1 - share) * rng.uniform(-1, 1, (num_windows, length, num_series, 2))
    mask = torch.from_numpy(rng.random((num_windows, length, num_series)) < 0.7)
    narrow, truth = torch.from_numpy(x).float().requires_grad_(), torch.from_numpy(y).float()
    wide = narrow.detach().double().requires_grad_()
    weights = torch.from_numpy(rng.uniform(0.1, 1, (num_series, 2)))
    losses = losses_of_moments(series_moments(narrow, truth, mask))
    flat, rows = wide.flatten(0, 1), truth.double().flatten(0, 1)
    expected = torch.stack([plain_losses(flat[:, s], rows, mask.flatten(0, 1)[:, s]) for s in range(num_series)])
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-9)
    (losses * weights).sum().backward()
    (expected * weights).sum().backward()
    assert narrow.grad is not None
    assert wide.grad is not None
    assert (narrow.grad - wide.grad).norm() <= 1e-7 * wide.grad.norm() + 1e-12


def test_loss_is_one_minus_weighted_ccc_over_the_whole_batch() -> None:
    x = torch.stack([series(8, 40)[0], series(9, 40)[0]], -1).reshape(4, 10, 2)
    y = torch.stack([series(8, 40)[1], series(9, 40)[1]], -1).reshape(4, 10, 2)
    mask = torch.arange(40).reshape(4, 10) % 5 != 0
    each = [reference(x[mask][:, d].numpy(), y[mask][:, d].numpy()) for d in range(2)]
    assert ccc_loss(x, y, mask, (0.3, 0.7)).item() == pytest.approx(1 - 0.3 * each[0] - 0.7 * each[1], abs=1e-5)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3, 4, 6, 12]), st.integers(0, 5), st.booleans())
@settings(deadline=None, max_examples=50)
def test_loss_is_blind_to_the_grouping_of_steps_and_to_padding(
    seed: int, num_windows: int, padding: int, dirty: bool
) -> None:
    """Windows joined, split, shuffled and padded: the loss is of the batch's steps, not a mean over windows."""
    rng = np.random.default_rng(seed)
    x, y = (torch.from_numpy(rng.uniform(-1, 1, (24, 2)).astype(np.float32)) for _ in range(2))
    mask = torch.from_numpy(rng.random(24) < 0.8)
    order = torch.from_numpy(rng.permutation(24))
    split = [v[order].reshape(num_windows, -1, *v.shape[1:]) for v in (x, y, mask)]
    dirt = torch.nan if dirty else 3.0
    ends = [torch.full((num_windows, padding, 2), dirt), torch.full((num_windows, padding, 2), -5.0)]
    padded = [torch.cat(pair, 1) for pair in zip(split[:2], ends, strict=True)]
    counted = torch.cat([split[2], torch.zeros(num_windows, padding, dtype=torch.bool)], 1)
    loss, whole = ccc_loss(*padded, counted, HALVES), ccc_loss(x, y, mask, HALVES)
    torch.testing.assert_close(loss, whole, atol=1e-5, rtol=0)


def test_loss_is_not_a_mean_over_windows() -> None:
    """Windows at different levels: each agrees little within itself, and the batch much."""
    generator = torch.Generator().manual_seed(0)
    y = torch.linspace(-0.9, 0.9, 6)[:, None, None] + 0.01 * torch.randn(6, 20, 2, generator=generator)
    x = torch.linspace(-0.9, 0.9, 6)[:, None, None] + 0.01 * torch.randn(6, 20, 2, generator=generator)
    whole = torch.ones(6, 20, dtype=torch.bool)
    assert ccc_loss(x, y, whole, HALVES) < 0.01
    assert torch.stack([ccc_loss(x[i], y[i], whole[i], HALVES) for i in range(6)]).mean() > 0.8


def test_loss_is_a_ccc_from_four_steps_on_and_from_a_little_variance() -> None:
    x, y = torch.rand(1, 10, 2), torch.rand(1, 10, 2)
    four = torch.arange(10)[None] < 4
    each = [reference(x[four][:, d].numpy(), y[four][:, d].numpy()) for d in range(2)]
    assert ccc_loss(x, y, four, HALVES).item() == pytest.approx(1 - sum(each) / 2, abs=1e-5)
    still = (0.1 + 1e-3 * (y - y.mean(1, keepdim=True))).double()
    each = [reference(x[0, :, d].numpy(), still[0, :, d].numpy()) for d in range(2)]
    loss = ccc_loss(x, still, torch.ones(1, 10, dtype=torch.bool), HALVES)
    assert loss.item() == pytest.approx(1 - sum(each) / 2, abs=1e-5)


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
    loss = ccc_loss(x.bfloat16(), y, whole, HALVES)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(ccc_loss(x.bfloat16().float(), y, whole, HALVES).item(), abs=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        inside = ccc_loss(x, y, whole, HALVES)
    assert torch.equal(inside, ccc_loss(x, y, whole, HALVES))


values = st.sampled_from([-1.0, -0.5, 0.0, 1e-5, 0.5, 1.0])


@given(st.lists(st.tuples(values, values, values, values, st.booleans()), min_size=1, max_size=8), st.booleans())
@settings(deadline=None, max_examples=150)
def test_loss_and_gradient_are_never_nan(rows: list[tuple[float, ...]], dirty: bool) -> None:
    """Constants, ties, single steps, x == y, nothing counted, NaN where nothing counts: all finite."""
    table = torch.tensor(rows, dtype=torch.float32)[None]
    x, y, mask = table[..., :2].clone(), table[..., 2:4].clone(), table[..., 4] > 0
    if dirty:
        x[~mask], y[~mask] = torch.nan, torch.nan
    x.requires_grad_()
    loss = ccc_loss(x, y, mask, HALVES)
    loss.backward()
    assert x.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()
    assert (x.grad[~mask] == 0).all()
