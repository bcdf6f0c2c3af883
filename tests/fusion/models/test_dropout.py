"""Dropout of features, and the first projection without weights of its LayerNorm."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sage_va.fusion.config import ModelConfig
from sage_va.fusion.models.base import StreamEncoder
from sage_va.fusion.models.dropout import Dropout
from sage_va.tests.host_cuda import CUDA, on_host_cuda
from sage_va.tests.synthetic import streams_of

torch.set_num_threads(1)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.9])
def test_each_value_is_dropped_by_itself_with_the_probability(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(60, 50, 40)
    dropped = Dropout(p)(x) == 0
    share, bound = dropped.double().mean().item(), 4 * (p * (1 - p) / x.numel()) ** 0.5
    assert share == pytest.approx(p, abs=bound + 1 / 65536)
    for dim in range(3):  # neighbours in windows, steps and features, and the four values of one draw
        pairs = torch.stack([dropped.narrow(dim, 0, x.shape[dim] - 1), dropped.narrow(dim, 1, x.shape[dim] - 1)])
        assert abs(torch.corrcoef(pairs.flatten(1).double())[0, 1].item()) < 0.02
    for lag in (2, 3):
        flat = dropped.flatten().double()
        assert abs(torch.corrcoef(torch.stack([flat[:-lag], flat[lag:]]))[0, 1].item()) < 0.02


@given(st.lists(st.integers(1, 7), min_size=1, max_size=3), st.sampled_from([1e-5, 0.25, 0.3, 0.75]))
def test_kept_values_are_scaled_and_the_gradient_is_theirs(shape: list[int], p: float) -> None:
    x = torch.rand(shape, dtype=torch.float64).add(1).requires_grad_()
    y = Dropout(p)(x)
    assert y.shape == x.shape
    kept = y.detach() != 0
    scale = 65536 / (65536 - round(p * 65536))
    assert scale == pytest.approx(1 / (1 - p), rel=1e-4)
    torch.testing.assert_close(y.detach(), x.detach() * kept * scale)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, kept.double() * scale)


def test_it_repeats_itself_and_sleeps_outside_training() -> None:
    x, dropout = torch.rand(3, 5), Dropout(0.5)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(dropout(x))
    assert torch.equal(*results)
    state = torch.get_rng_state()
    assert Dropout(0.0)(x) is x
    assert dropout.eval()(x) is x
    assert torch.equal(torch.get_rng_state(), state)
    assert not Dropout(1.0)(x).any()


def test_on_a_gpu_torch_drops() -> None:
    with on_host_cuda() as device:
        y = Dropout(0.5)(torch.ones(4000, device=device))
        assert y.device == CUDA
        assert set(y.cpu().unique().tolist()) == {0.0, 2.0}
        assert 0.4 < (y.cpu() == 0).float().mean() < 0.6


def test_weights_of_the_norm_of_earlier_models_go_into_the_projection() -> None:
    torch.manual_seed(0)
    encoder = StreamEncoder(streams_of()[0], ModelConfig(dim=16, heads=2, tcn_blocks=1)).eval()
    linear = encoder.get_submodule("project.2")
    assert isinstance(linear, nn.Linear)
    gain, shift, x = torch.rand(8) + 0.5, torch.randn(8), torch.randn(3, 10, 8)
    mask = torch.ones(3, 10, dtype=torch.bool)
    earlier = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16))
    earlier.load_state_dict({"0.weight": gain, "0.bias": shift, "1.weight": linear.weight, "1.bias": linear.bias})
    expected = encoder.tcn(earlier(x), mask)
    state = {**copy.deepcopy(encoder.state_dict()), "project.0.weight": gain, "project.0.bias": shift}
    names = set(state)
    encoder.load_state_dict(state)
    assert set(state) == names  # the caller's own
    torch.testing.assert_close(encoder(x, mask, mask), expected)
