"""The convolution of a TCN: torch's, with channels last."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from sage_va.fusion.models.tcn import convolve


@pytest.mark.parametrize(("channels", "dilation"), [(6, 1), (32, 4)])
def test_channels_last_changes_nothing_but_the_rounding(channels: int, dilation: int) -> None:
    torch.manual_seed(0)
    conv = weight_norm(nn.Conv1d(channels, channels, 5, dilation=dilation, dtype=torch.float64))
    x = torch.randn(3, 40, channels, dtype=torch.float64, requires_grad=True)
    inputs = [x, *conv.parameters()]
    ours, torch_s = convolve(conv, x), conv(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(ours, torch_s, rtol=0, atol=1e-12)
    weights = torch.randn_like(ours)
    gradients = (torch.autograd.grad((y * weights).sum(), inputs, retain_graph=True) for y in (ours, torch_s))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_nothing_is_copied_to_another_layout() -> None:
    conv, x = nn.Conv1d(32, 32, 5), torch.randn(4, 60, 32)
    assert convolve(conv, x).is_contiguous()
