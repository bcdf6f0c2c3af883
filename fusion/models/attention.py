"""Attention between streams and along time, for any window length and for clips that come in chunks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from .causal_cache import Memory, with_past


def reach_of(config: ModelConfig) -> int | None:
    """Returns the number of steps that attention reads, the current one included; None for the whole window."""
    return config.memory_steps if config.causal else None


def band(num_steps: int, num_keys: int, reach_steps: int, device: torch.device) -> Tensor:
    """Returns (L, K), True where a key is the querying step or one of the reach_steps - 1 before.

    The last L keys are those of the steps themselves.
    """
    keys = torch.arange(num_keys, device=device)
    steps = keys[num_keys - num_steps :, None]
    return (keys <= steps) & (keys > steps - reach_steps)


def _queries(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """(B, L, d) -> queries (B, L, d)."""
    dim = attention.embed_dim
    return F.linear(x, attention.in_proj_weight[:dim], attention.in_proj_bias[:dim])


def _keys_values(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """(B, L, d) -> keys and values side by side (B, L, 2 d), which a causal model keeps of a step."""
    dim = attention.embed_dim
    return F.linear(x, attention.in_proj_weight[dim:], attention.in_proj_bias[dim:])


def _attend(attention: nn.MultiheadAttention, queries: Tensor, keys_values: Tensor, allowed: Tensor) -> Tensor:
    """(B, L, d) and (B, K, 2 d), where `allowed` (L, K) or (B, 1, L, K) is True -> (B, L, d)."""
    q, k, v = (
        x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for x in (queries, *keys_values.chunk(2, dim=-1))
    )
    read = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    return attention.out_proj(read.transpose(1, 2).flatten(-2))


def causal_transformer(
    transformer: nn.TransformerEncoder, z: Tensor, reach_steps: int, memory: Memory | None
) -> Tensor:
    """Equation (10) for steps that read themselves and the reach_steps - 1 before: (B, L, d) -> (B, L, d).

    Runs torch's pre-LN layers by hand, because torch has no call for keys that lie before the queries.
    """
    for layer in transformer.layers:
        assert isinstance(layer, nn.TransformerEncoderLayer)
        attention, normed = layer.self_attn, layer.norm1(z)
        keys_values = with_past(_keys_values(attention, normed), reach_steps - 1, memory)
        near = band(z.shape[1], keys_values.shape[1], reach_steps, z.device)
        z = z + layer.dropout1(_attend(attention, _queries(attention, normed), keys_values, near))
        z = z + layer.dropout2(layer.linear2(layer.dropout(F.gelu(layer.linear1(layer.norm2(z))))))
    return z if transformer.norm is None else transformer.norm(z)


class CrossAttention(nn.Module):
    """Each stream attends to all others and adds the result (after MulT, arXiv 1906.00295).

    A zero key is always present, so that a stream can attend to nothing, as where no other is valid.

    Args:
        num_streams: M.
        dim: width d.
        heads: of the attention.
        reach_steps: number of steps that a step attends to, itself included; None for the whole window.
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
        outputs = []
        for m, (x, attention) in enumerate(zip(h, self.attention, strict=True)):
            others = [n for n in range(len(h)) if n != m]
            keys = torch.cat([normed[n] for n in others], dim=1)
            absent = torch.cat([~mask[..., n] for n in others], dim=1)
            read, _ = attention(normed[m], keys, keys, key_padding_mask=absent, need_weights=False)
            outputs.append(x + read)
        return outputs

    def _causal(
        self, h: list[Tensor], normed: list[Tensor], mask: Tensor, reach_steps: int, memory: Memory | None
    ) -> list[Tensor]:
        present = with_past(mask, reach_steps - 1, memory)
        near = band(mask.shape[1], present.shape[1], reach_steps, mask.device)
        allowed = [near & present[:, None, None, :, n] for n in range(len(h))]
        outputs = []
        for m, (x, attention) in enumerate(zip(h, self.attention, strict=True)):
            assert isinstance(attention, nn.MultiheadAttention)
            others = [n for n in range(len(h)) if n != m]
            parts = [with_past(_keys_values(attention, normed[n]), reach_steps - 1, memory) for n in others]
            keys_values = F.pad(torch.cat(parts, dim=1), (0, 0, 0, 1))  # the zero key
            allowed_keys = F.pad(torch.cat([allowed[n] for n in others], dim=-1), (0, 1), value=True)
            outputs.append(x + _attend(attention, _queries(attention, normed[m]), keys_values, allowed_keys))
        return outputs


class JointCrossAttention(nn.Module):
    """Each stream is correlated with all of them joined (Praveen et al., arXiv 2209.09068).

    C_m = tanh(X_m W_m J^T / sqrt(M d)), L × L; H_m = ReLU(X_m U_m + C_m J V_m); X_m + H_m S_m. The paper multiplies C_m
    by a matrix over time, which fixes the window's length; here it averages J over the valid steps instead.

    Args:
        num_streams: M.
        dim: width d.
        reach_steps: number of steps that a step is correlated with, itself included; None for the whole window.
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
        counted = mask.any(-1)
        if self.reach_steps is not None:
            joint, counted = (with_past(x, self.reach_steps - 1, memory) for x in (joint, counted))
        counted = counted[:, None].expand(-1, mask.shape[1], -1)
        if self.reach_steps is not None:
            counted = counted & band(*counted.shape[1:], self.reach_steps, mask.device)
        count = counted.sum(-1, keepdim=True).clamp(min=1)
        outputs = []
        for x, correlate, own, others, out in zip(h, self.correlate, self.own, self.others, self.out, strict=True):
            correlation = torch.tanh(correlate(x) @ joint.mT / math.sqrt(joint.shape[-1])) * counted
            read = others(correlation @ joint / count)
            outputs.append(x + out(F.relu(own(x) + read)))
        return outputs
