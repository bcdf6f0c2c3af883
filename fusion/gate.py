"""Reliability-guided fusion: how far each modality can be trusted, per step and stage, and what follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_TEMPERATURE = 0.05


@dataclass(frozen=True)
class Fused:
    """What a fusion makes of M streams.

    features: (B, L, d). weights: (B, L, M) share of each stream, summing to 1 over valid streams; None for a fusion
    that weighs nothing. reliability: (B, L, M) calibrated trust in 0 … 1; None without a gate. stage: (B, L, K).
    """

    features: Tensor
    weights: Tensor | None = None
    reliability: Tensor | None = None
    stage: Tensor | None = None


def context(h: list[Tensor]) -> Tensor:
    """Equation (3): every stream, and for each pair their product and absolute difference, side by side."""
    pairs = [part for x, y in combinations(h, 2) for part in (x * y, (x - y).abs())]
    return torch.cat([*h, *pairs], dim=-1)


def floored_weights(reliability: Tensor, mask: Tensor, floor: float) -> Tensor:
    """Equation (8): reliabilities (B, L, M) -> shares that sum to 1 over valid streams, each at least `floor`.

    All zero where no stream is valid.
    """
    trusted = torch.where(mask, reliability + 1e-6, 0)  # shares still sum to 1 where no valid stream is trusted at all
    share = trusted / trusted.sum(-1, keepdim=True).clamp(min=1e-9)
    num_valid = mask.sum(-1, keepdim=True)
    return torch.where(mask, floor + (1 - floor * num_valid) * share, 0)


class ReliabilityGate(nn.Module):
    """Equations (4) to (7): reliability per stream and step, as a mixture over stages.

    Args:
        dim: width d of each stream's features.
        num_quality: Q of each of the M streams.
        num_stages: K; 1 is the plain gate.
        separate: stop gradients from the gate into the features, so that estimating trust cannot bend them.
        calibrated: learn an offset and temperature per stream; otherwise a plain sigmoid.
        hidden: width inside.
    """

    def __init__(
        self, dim: int, num_quality: list[int], num_stages: int, separate: bool, calibrated: bool, hidden: int = 64
    ) -> None:
        super().__init__()
        num_streams = len(num_quality)
        context_dim = dim * (num_streams + num_streams * (num_streams - 1))
        self.separate = separate
        self.summary = nn.Sequential(nn.LayerNorm(context_dim), nn.Linear(context_dim, hidden), nn.GELU())
        self.stage = nn.Linear(hidden, num_stages)
        self.score = nn.ModuleList(
            nn.Sequential(nn.Linear(dim + hidden + q + num_streams, hidden), nn.GELU(), nn.Linear(hidden, num_stages))
            for q in num_quality
        )
        self.offset = nn.Parameter(torch.zeros(num_streams), requires_grad=calibrated)
        start = math.log(math.expm1(1 - MIN_TEMPERATURE))
        self.raw_temperature = nn.Parameter(torch.full((num_streams,), start), requires_grad=calibrated)

    @property
    def temperature(self) -> Tensor:
        """(M,) tau_m, 1 at first."""
        return F.softplus(self.raw_temperature) + MIN_TEMPERATURE

    def forward(self, h: list[Tensor], quality: list[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        """h M × (B, L, d), quality M × (B, L, Q), mask (B, L, M) -> reliability (B, L, M) and stage (B, L, K)."""
        seen = [x.detach() for x in h] if self.separate else h
        summary = self.summary(context(seen))
        stage = self.stage(summary).softmax(-1)  # (4)
        present = mask.to(summary.dtype)
        scores = [  # (5)
            score(torch.cat([x, summary, q.to(x.dtype), present], dim=-1))
            for score, x, q in zip(self.score, seen, quality, strict=True)
        ]
        logits = (torch.stack(scores, dim=-2) - self.offset[:, None]) / self.temperature[:, None]
        return (logits.sigmoid() * stage[..., None, :]).sum(-1), stage  # (6), (7)


class ReliabilityFusion(nn.Module):
    """Equations (4) to (9): weighs each stream's features by its reliability and sums them."""

    def __init__(
        self,
        dim: int,
        num_quality: list[int],
        *,
        num_stages: int,
        separate: bool = True,
        calibrated: bool = True,
        floor: float = 0.02,
    ) -> None:
        super().__init__()
        self.floor = floor
        self.gate = ReliabilityGate(dim, num_quality, num_stages, separate, calibrated)
        self.project = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in num_quality)
        self.together = nn.Linear(dim * len(num_quality), dim)
        self.null = nn.Parameter(torch.zeros(dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, h: list[Tensor], quality: list[Tensor], mask: Tensor) -> Fused:
        """h M × (B, L, d), quality M × (B, L, Q), mask (B, L, M) -> Fused."""
        reliability, stage = self.gate(h, quality, mask)
        weights = floored_weights(reliability, mask, self.floor)  # (8)
        weighted = [x * weights[..., m, None] for m, x in enumerate(h)]
        own = torch.stack([u(x) for u, x in zip(self.project, weighted, strict=True)]).sum(0)
        mixed = own + self.together(torch.cat(weighted, dim=-1))
        mixed = torch.where(mask.any(-1, keepdim=True), mixed, self.null.to(mixed.dtype))
        return Fused(self.norm(mixed), weights, reliability, stage)  # (9)


class ConcatFusion(nn.Module):
    """Streams side by side through one linear layer: the usual baseline."""

    def __init__(self, dim: int, num_streams: int) -> None:
        super().__init__()
        self.together = nn.Linear(dim * num_streams, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, h: list[Tensor], quality: list[Tensor], mask: Tensor) -> Fused:
        """h M × (B, L, d) -> Fused without weights."""
        return Fused(self.norm(self.together(torch.cat(h, dim=-1))))
