"""Streams that attend to each other, for any window length: the parts of the cross-attention fusions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Each stream asks all others, step by step, and adds what it hears (after MulT, arXiv 1906.00295).

    A zero key that is always there lets a stream hear nothing, as where no other is valid.

    Args:
        num_streams: M.
        dim: width d.
        heads: of the attention.
        causal: whether a step hears only itself and the past.
    """

    def __init__(self, num_streams: int, dim: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(num_streams))
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(dim, heads, batch_first=True, add_zero_attn=True) for _ in range(num_streams)
        )

    def forward(self, h: list[Tensor], mask: Tensor) -> list[Tensor]:
        """M × (B, L, d) and (B, L, M) -> M × (B, L, d)."""
        normed = [norm(x) for norm, x in zip(self.norms, h, strict=True)]
        future = _future(mask.shape[1], mask.device, len(h) - 1) if self.causal else None
        found = []
        for m, (x, attention) in enumerate(zip(h, self.attention, strict=True)):
            others = [n for n in range(len(h)) if n != m]
            keys = torch.cat([normed[n] for n in others], dim=1)
            absent = torch.cat([~mask[..., n] for n in others], dim=1)
            heard, _ = attention(normed[m], keys, keys, key_padding_mask=absent, attn_mask=future, need_weights=False)
            found.append(x + heard)
        return found


def _future(length: int, device: torch.device, copies: int) -> Tensor:
    """(L, copies L) True where a key lies after the step that asks."""
    return torch.ones(length, length, dtype=torch.bool, device=device).triu(1).repeat(1, copies)


class JointCrossAttention(nn.Module):
    """Each stream is correlated with all of them joined (Praveen et al., arXiv 2209.09068).

    C_m = tanh(X_m W_m J^T / sqrt(M d)), L × L; H_m = ReLU(X_m U_m + C_m J V_m); X_m + H_m S_m. The paper multiplies C_m
    by a matrix over time, which fixes the window's length; here it averages J over the valid steps instead.

    Args:
        num_streams: M.
        dim: width d.
        causal: whether a step is correlated only with itself and the past.
    """

    def __init__(self, num_streams: int, dim: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        joint = num_streams * dim
        self.correlate = nn.ModuleList(nn.Linear(dim, joint, bias=False) for _ in range(num_streams))
        self.own = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(num_streams))
        self.others = nn.ModuleList(nn.Linear(joint, dim, bias=False) for _ in range(num_streams))
        self.out = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(num_streams))

    def forward(self, h: list[Tensor], mask: Tensor) -> list[Tensor]:
        """M × (B, L, d) and (B, L, M) -> M × (B, L, d)."""
        joint = torch.cat([x * mask[..., m, None] for m, x in enumerate(h)], dim=-1)
        seen = mask.any(-1)[:, None].expand(-1, mask.shape[1], -1)
        seen = seen.tril() if self.causal else seen
        count = seen.sum(-1, keepdim=True).clamp(min=1)
        found = []
        for x, correlate, own, others, out in zip(h, self.correlate, self.own, self.others, self.out, strict=True):
            correlation = torch.tanh(correlate(x) @ joint.mT / math.sqrt(joint.shape[-1])) * seen
            heard = others(correlation @ joint / count)
            found.append(x + out(F.relu(own(x) + heard)))
        return found
