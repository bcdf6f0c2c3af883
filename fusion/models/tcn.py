"""Temporal convolutional network (Bai et al., arXiv 1803.01271): one per stream."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.nn.utils.parametrizations import weight_norm

from .causal_cache import Memory


class FixedConv(nn.Module):
    """A convolution with fixed weights, as one matrix product per step.

    For single steps this is several times faster than torch's dilated convolution, and weight norm is applied once.
    """

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.dilation, self.span = conv.dilation[0], conv.dilation[0] * (conv.kernel_size[0] - 1)
        width, kept = conv.in_channels * conv.kernel_size[0], {"device": conv.weight.device, "dtype": conv.weight.dtype}
        self.linear = skip_init(nn.Linear, width, conv.out_channels, **kept)  # draws no random numbers
        self.linear.load_state_dict({"weight": conv.weight.flatten(1), "bias": conv.bias})
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L + span, d) -> (B, L, d)."""
        taps = x.unfold(1, self.span + 1, 1)[..., :: self.dilation].flatten(2)  # (B, L, d taps)
        return self.linear(taps)


def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """Returns the convolution over time of (B, L + span, d): (B, L, d).

    For torch it is one of images of height 1 whose channels lie last in memory, as those of x do. So nothing is copied
    to (B, d, L) and back, which took a third of a TCN's step at 32 channels on a CPU.
    """
    if not isinstance(conv, nn.Conv1d):
        return conv(x)
    image, weight = x.transpose(1, 2).unsqueeze(2), conv.weight.unsqueeze(2)
    y = F.conv2d(image, weight, conv.bias, dilation=(1, conv.dilation[0]))
    return y.squeeze(2).transpose(1, 2)


class TCNBlock(nn.Module):
    """Equation (2), one block: two weight-normed dilated convolutions, LayerNorm, channel dropout, residual.

    Steps outside the clip are zero before and after, like the convolution's own padding, so that the padding of a
    window never changes its valid steps.
    """

    def __init__(self, dim: int, kernel: int, dilation: int, causal: bool, dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv1d(dim, dim, kernel, dilation=dilation, bias=True)) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.dropout = nn.Dropout1d(dropout)
        span = (kernel - 1) * dilation
        self.padding = (span, 0) if causal else (span // 2, span - span // 2)

    def forward(self, x: Tensor, inside: Tensor, memory: Memory | None = None) -> Tensor:
        """x (B, L, d) and inside (B, L) -> (B, L, d)."""
        keep = inside[..., None].to(x.dtype)
        h = x
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = F.gelu(norm(convolve(conv, self._padded(h, memory))))
            h = self.dropout(h.transpose(1, 2)).transpose(1, 2) * keep
        return x + h

    def _padded(self, h: Tensor, memory: Memory | None) -> Tensor:
        """(B, L, d) -> (B, L + span, d), with the steps that the convolution reads around, zero outside the clip."""
        if memory is None:
            return F.pad(h, (0, 0, *self.padding))
        extended, span = memory.extend(h, self.padding[0]), self.padding[0]
        return F.pad(extended, (0, 0, span + h.shape[1] - extended.shape[1], 0))

    def fix_weights(self) -> None:
        """Replaces the convolutions by `FixedConv`, for inference a few steps at a time."""
        for place, conv in enumerate(self.convs):
            assert isinstance(conv, nn.Conv1d)
            self.convs[place] = FixedConv(conv)


def receptive_steps(num_blocks: int, kernel: int) -> int:
    """Returns how many steps one output step of a TCN reads."""
    return 1 + 2 * (kernel - 1) * (2**num_blocks - 1)


class TCN(nn.Module):
    """Equation (2): blocks with dilation 1, 2, 4 and so on.

    Args:
        dim: channels d.
        num_blocks: residual blocks.
        kernel: taps of each convolution.
        causal: a step reads only itself and the past; otherwise both sides alike.
        dropout: probability that a channel is dropped.
    """

    def __init__(
        self, dim: int, num_blocks: int = 4, kernel: int = 5, causal: bool = False, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TCNBlock(dim, kernel, 2**b, causal, dropout) for b in range(num_blocks))
        self.receptive_steps = receptive_steps(num_blocks, kernel)

    def forward(self, x: Tensor, inside: Tensor, memory: Memory | None = None) -> Tensor:
        """x (B, L, d), zero where `inside` (B, L) is False -> (B, L, d), likewise."""
        for block in self.blocks:
            x = block(x, inside, memory)
        return x
