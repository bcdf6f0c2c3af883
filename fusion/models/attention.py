"""Attention over time for any window length, and over a clip that comes in chunks: between streams, and along time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from .causal_cache import Memory, with_past


def reach_of(config: ModelConfig) -> int | None:
    """How many steps attention sees, the present one and those before; None for the whole window, ahead too."""
    return config.memory_steps if config.causal else None


def band(num_steps: int, num_keys: int, reach_steps: int, device: torch.device) -> Tensor:
    """(L, K) True where a key is the step that asks or one of the reach_steps - 1 before.

    The last L keys are those of the steps themselves.
    """
    keys = torch.arange(num_keys, device=device)
    steps = keys[num_keys - num_steps :, None]
    return (keys <= steps) & (keys > steps - reach_steps)


def _asked(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """(B, L, d) -> queries (B, L, d)."""
    dim = attention.embed_dim
    return F.linear(x, attention.in_proj_weight[:dim], attention.in_proj_bias[:dim])


def _offered(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """(B, L, d) -> keys and values side by side (B, L, 2 d): what is worth keeping of a step."""
    dim = attention.embed_dim
    return F.linear(x, attention.in_proj_weight[dim:], attention.in_proj_bias[dim:])


def _heard(attention: nn.MultiheadAttention, asked: Tensor, offered: Tensor, allowed: Tensor) -> Tensor:
    """(B, L, d) and (B, K, 2 d), where `allowed` (L, K) or (B, 1, L, K) is True -> (B, L, d)."""
    q, k, v = (x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for x in (asked, *offered.chunk(2, dim=-1)))
    heard = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    return attention.out_proj(heard.transpose(1, 2).flatten(-2))


def causal_transformer(
    transformer: nn.TransformerEncoder, z: Tensor, reach_steps: int, memory: Memory | None
) -> Tensor:
    """Equation (10) for steps that see themselves and the reach_steps - 1 before: (B, L, d) -> (B, L, d).

    torch's own pre-LN layers with their own weights; it has no call for keys that lie before the steps.
    """
    for layer in transformer.layers:
        assert isinstance(layer, nn.TransformerEncoderLayer)
        attention, normed = layer.self_attn, layer.norm1(z)
        offered = with_past(_offered(attention, normed), reach_steps - 1, memory)
        near = band(z.shape[1], offered.shape[1], reach_steps, z.device)
        z = z + layer.dropout1(_heard(attention, _asked(attention, normed), offered, near))
        z = z + layer.dropout2(layer.linear2(layer.dropout(F.gelu(layer.linear1(layer.norm2(z))))))
    return z if transformer.norm is None else transformer.norm(z)


class CrossAttention(nn.Module):
    """Each stream asks all others, step by step, and adds what it hears (after MulT, arXiv 1906.00295).

    A zero key that is always there lets a stream hear nothing, as where no other is valid.

    Args:
        num_streams: M.
        dim: width d.
        heads: of the attention.
        reach_steps: how many steps a step hears, itself and those before; None for all of the window.
    """

    def __init__(self, num_streams: int, dim: int, heads: int, reach_steps: int | None) -> None:
        super().__init__()
        self.reach_steps = reach_steps
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(num_streams))
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(dim, heads, batch_first=True, add_zero_attn=True) for _ in range(num_streams)
        )

    def forward(self, h: list[Tensor], mask: Tensor, memory: Memory | None = None) -> list[Tensor]:
        """M × (B, L, d) and (B, L, M) -> M × (B, L, d)."""
        normed = [norm(x) for norm, x in zip(self.norms, h, strict=True)]
        if self.reach_steps is not None:
            return self._causal(h, normed, mask, self.reach_steps, memory)
        found = []
        for m, (x, attention) in enumerate(zip(h, self.attention, strict=True)):
            others = [n for n in range(len(h)) if n != m]
            keys = torch.cat([normed[n] for n in others], dim=1)
            absent = torch.cat([~mask[..., n] for n in others], dim=1)
            heard, _ = attention(normed[m], keys, keys, key_padding_mask=absent, need_weights=False)
            found.append(x + heard)
        return found

    def _causal(
        self, h: list[Tensor], normed: list[Tensor], mask: Tensor, reach_steps: int, memory: Memory | None
    ) -> list[Tensor]:
        present = with_past(mask, reach_steps - 1, memory)
        near = band(mask.shape[1], present.shape[1], reach_steps, mask.device)
        allowed = [near & present[:, None, None, :, n] for n in range(len(h))]
        found = []
        for m, (x, attention) in enumerate(zip(h, self.attention, strict=True)):
            assert isinstance(attention, nn.MultiheadAttention)
            others = [n for n in range(len(h)) if n != m]
            parts = [with_past(_offered(attention, normed[n]), reach_steps - 1, memory) for n in others]
            offered = F.pad(torch.cat(parts, dim=1), (0, 0, 0, 1))  # the zero key
            known = F.pad(torch.cat([allowed[n] for n in others], dim=-1), (0, 1), value=True)
            found.append(x + _heard(attention, _asked(attention, normed[m]), offered, known))
        return found


class JointCrossAttention(nn.Module):
    """Each stream is correlated with all of them joined (Praveen et al., arXiv 2209.09068).

    C_m = tanh(X_m W_m J^T / sqrt(M d)), L × L; H_m = ReLU(X_m U_m + C_m J V_m); X_m + H_m S_m. The paper multiplies C_m
    by a matrix over time, which fixes the window's length; here it averages J over the valid steps instead.

    Args:
        num_streams: M.
        dim: width d.
        reach_steps: how many steps a step is correlated with, itself and those before; None for all of the window.
    """

    def __init__(self, num_streams: int, dim: int, reach_steps: int | None) -> None:
        super().__init__()
        self.reach_steps = reach_steps
        joint = num_streams * dim
        self.correlate = nn.ModuleList(nn.Linear(dim, joint, bias=False) for _ in range(num_streams))
        self.own = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(num_streams))
        self.others = nn.ModuleList(nn.Linear(joint, dim, bias=False) for _ in range(num_streams))
        self.out = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(num_streams))

    def forward(self, h: list[Tensor], mask: Tensor, memory: Memory | None = None) -> list[Tensor]:
        """M × (B, L, d) and (B, L, M) -> M × (B, L, d)."""
        joint = torch.cat([x * mask[..., m, None] for m, x in enumerate(h)], dim=-1)
        seen = mask.any(-1)
        if self.reach_steps is not None:
            joint, seen = (with_past(x, self.reach_steps - 1, memory) for x in (joint, seen))
        seen = seen[:, None].expand(-1, mask.shape[1], -1)
        if self.reach_steps is not None:
            seen = seen & band(*seen.shape[1:], self.reach_steps, mask.device)
        count = seen.sum(-1, keepdim=True).clamp(min=1)
        found = []
        for x, correlate, own, others, out in zip(h, self.correlate, self.own, self.others, self.out, strict=True):
            correlation = torch.tanh(correlate(x) @ joint.mT / math.sqrt(joint.shape[-1])) * seen
            heard = others(correlation @ joint / count)
            found.append(x + out(F.relu(own(x) + heard)))
        return found
