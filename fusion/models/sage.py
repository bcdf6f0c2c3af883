"""Reliability-guided fusion: a reliability per stream, step and stage, and the weights that follow from it.

Equations (3) to (9) of docs/model.md, after Lee et al., arXiv 2603.11468.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from .attention import CrossAttention, reach_of
from .causal_cache import Memory
from .novelty import Veto

MIN_TEMPERATURE = 0.05


@dataclass(frozen=True)
class Encoded:
    """Input of a fusion: M streams in B windows of L steps.

    h: M × (B, L, d) features; where a stream is not valid, they reflect only steps nearby. values: M × (B, L, D)
    standardised features, as they came in. quality: M × (B, L, Q) standardised signals, the last of them the strength
    of the features. mask: (B, L, M) True where a stream is valid, False outside the clip. inside: (B, L) False outside
    the clip. active: (B, L, M) True where it is valid and, if it has a voice detector's signal, holds
    speech. memory: source of earlier steps where the windows are chunks of clips, else None.
    """

    h: list[Tensor]
    values: list[Tensor]
    quality: list[Tensor]
    mask: Tensor
    inside: Tensor
    active: Tensor
    memory: Memory | None = None


@dataclass(frozen=True)
class Fused:
    """Output of a fusion of M streams.

    features: (B, L, d). weights: (B, L, M) shares that sum to 1, or are all 0; None for a fusion without weights.
    reliability: (B, L, M) calibrated reliability in 0 … 1; None without a gate. stage: (B, L, K) posterior of stages.
    """

    features: Tensor
    weights: Tensor | None = None
    reliability: Tensor | None = None
    stage: Tensor | None = None


def context(h: list[Tensor]) -> Tensor:
    """Equation (3): all streams, and for each pair their product and absolute difference, concatenated."""
    pairs = [part for x, y in combinations(h, 2) for part in (x * y, (x - y).abs())]
    return torch.cat([*h, *pairs], dim=-1)


def inverse_variance(reliability: Tensor) -> Tensor:
    """Returns 1 / (log r)²: as r = exp(-error / sigma), that is the inverse of the squared error, in units of sigma.

    Estimates with independent errors are best weighed by it. An error below a twentieth of sigma counts as that.
    """
    return reliability.float().clamp(min=1e-6).log().clamp(max=-0.05).square().reciprocal()


def floored_weights(evidence: Tensor, mask: Tensor, floor: float) -> Tensor:
    """Equation (8): evidence (B, L, M) -> shares that sum to 1 over the streams of the mask, each at least `floor`.

    All zero where the mask holds no stream.
    """
    positive = torch.where(mask, evidence + 1e-6, 0)  # shares sum to 1 even where all evidence is 0
    share = positive / positive.sum(-1, keepdim=True).clamp(min=1e-9)
    num_valid = mask.sum(-1, keepdim=True)
    return torch.where(mask, floor + (1 - floor * num_valid) * share, 0)


def given_stage(active: Tensor, modalities: Sequence[str]) -> Tensor:
    """Stages from the data: the set of modalities of which a stream is active.

    With face and voice: neither, face only (listening), voice only (speaking, turned away), both.

    Args:
        active: (B, L, M) True where a stream is active.
        modalities: of each stream, G different ones.

    Returns:
        (B, L, 2^G) one-hot.
    """
    names = list(dict.fromkeys(modalities))
    place = torch.zeros_like(active[..., 0], dtype=torch.long)
    for m, modality in enumerate(modalities):
        place = place | active[..., m] * 2 ** names.index(modality)
    return F.one_hot(place, 2 ** len(names))


class ReliabilityGate(nn.Module):
    """Equations (4) to (7): reliability per stream and step, as a mixture over stages.

    Args:
        num_quality: Q of each of the M streams.
        config: width, stages and switches. `separate` stops gradients from the gate into the features, so that
            estimating reliability cannot change them; `calibrated` learns an offset and temperature per stream.
        num_stages: K; 1 is the plain gate.
        hidden: width inside.
    """

    def __init__(self, num_quality: list[int], config: ModelConfig, num_stages: int, hidden: int = 64) -> None:
        super().__init__()
        num_streams, dim = len(num_quality), config.dim
        context_dim = dim * (num_streams + num_streams * (num_streams - 1))
        self.separate = config.separate
        self.summary = nn.Sequential(nn.LayerNorm(context_dim), nn.Linear(context_dim, hidden), nn.GELU())
        self.stage = nn.Linear(hidden, num_stages).requires_grad_(config.stage != "given")
        self.score = nn.ModuleList(
            nn.Sequential(nn.Linear(dim + hidden + q + num_streams, hidden), nn.GELU(), nn.Linear(hidden, num_stages))
            for q in num_quality
        )
        self.offset = nn.Parameter(torch.zeros(num_streams), requires_grad=config.calibrated)
        self.raw_temperature = nn.Parameter(torch.zeros(num_streams), requires_grad=config.calibrated)
        self.uncalibrate()

    @torch.no_grad()
    def uncalibrate(self) -> None:
        """Resets (6) to b_m = 0 and tau_m = 1, where no sigmoid is saturated."""
        self.offset.zero_()
        self.raw_temperature.fill_(math.log(math.expm1(1 - MIN_TEMPERATURE)))

    @property
    def temperature(self) -> Tensor:
        """Temperatures tau_m of (6): (M,), initially 1."""
        return F.softplus(self.raw_temperature) + MIN_TEMPERATURE

    def forward(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """Encoded -> reliability at each stage (B, L, M, K) and stage (B, L, K)."""
        features = [x.detach() for x in encoded.h] if self.separate else encoded.h
        summary = self.summary(context(features))
        stage = self.stage(summary).softmax(-1)  # (4)
        present = encoded.mask.to(summary.dtype)
        scores = [  # (5)
            score(torch.cat([x, summary, q.to(x.dtype), present], dim=-1))
            for score, x, q in zip(self.score, features, encoded.quality, strict=True)
        ]
        logits = (torch.stack(scores, dim=-2) - self.offset[:, None]) / self.temperature[:, None]
        return logits.sigmoid(), stage  # (6)


class ReliabilityFusion(nn.Module):
    """Equations (4) to (9): weighs each stream's features by its reliability and sums them.

    Args:
        num_quality: Q of each of the M streams.
        config: `stage` selects the stages: a single one ("none"), soft phases that are learnt ("latent"), the set of
            active modalities ("given"), or rounds of attention between streams ("depth"). `weighting` selects what (8)
            takes shares of: inverse variances ("precision") or the reliabilities themselves ("shares").
        veto: factors of the reliabilities, from evidence that is not learnt.
        modalities: of each stream.
    """

    learns_reliability = True
    can_stream = True

    def __init__(self, num_quality: list[int], config: ModelConfig, veto: Veto, modalities: Sequence[str]) -> None:
        super().__init__()
        num_streams, dim = len(num_quality), config.dim
        self.modalities = list(modalities)
        self.floor, self.kind, self.weighting = config.floor, config.stage, config.weighting
        self.veto = veto
        num_stages = {"none": 1, "given": 2 ** len(set(modalities))}.get(config.stage, config.num_stages)
        self.gate = ReliabilityGate(num_quality, config, num_stages)
        self.interact = (
            CrossAttention(num_streams, dim, config.heads, reach_of(config)) if config.stage == "depth" else None
        )
        self.project = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in num_quality)
        self.together = nn.Linear(dim * num_streams, dim)
        self.null = nn.Parameter(torch.zeros(dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, encoded: Encoded) -> Fused:
        """Encoded -> Fused, with reliability, weights and stages."""
        mask = encoded.mask
        factor = self.factor(encoded)
        each, stage, reliability = self.estimate(encoded, factor)
        usable = factor > 0
        if self.interact is None:
            weights = self._weights(reliability, usable)
            mixed = self._mix(encoded.h, weights)
        else:
            depths = self._weights(each.movedim(-1, 0), usable)  # at each depth
            shares = stage.movedim(-1, 0)[..., None]
            weights, h, parts = (shares * depths).sum(0), encoded.h, []
            for k, (depth, share) in enumerate(zip(depths, shares, strict=True)):
                h = self.interact(h, mask, encoded.memory) if k else h
                parts.append(share * self._mix(h, depth))
            mixed = torch.stack(parts).sum(0)
        mixed = torch.where(usable.any(-1, keepdim=True), mixed, self.null.to(mixed.dtype))
        return Fused(self.norm(mixed), weights, reliability, stage)  # (9)

    def estimate(self, encoded: Encoded, factor: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Equations (4) to (7): reliability at each stage (B, L, M, K), stage (B, L, K), and reliability (B, L, M).

        Args:
            factor: that of `factor`, where it is known already.
        """
        each, stage = self.gate(encoded)
        each = each * (self.factor(encoded) if factor is None else factor)[..., None]  # (6a)
        if self.kind == "given":
            stage = given_stage(encoded.active, self.modalities).to(each.dtype)
        return each, stage, (each * stage[..., None, :]).sum(-1)  # (7)

    def factor(self, encoded: Encoded) -> Tensor:
        """Returns v g of equation (6a): (B, L, M), which no learnt number changes."""
        return self.veto(encoded.values, encoded.mask, encoded.inside, encoded.memory)

    def _weights(self, reliability: Tensor, usable: Tensor) -> Tensor:
        """Equation (8)."""
        evidence = inverse_variance(reliability) if self.weighting == "precision" else reliability
        return floored_weights(evidence, usable, self.floor)

    def _mix(self, h: list[Tensor], weights: Tensor) -> Tensor:
        weighted = [x * weights[..., m, None] for m, x in enumerate(h)]
        own = torch.stack([u(x) for u, x in zip(self.project, weighted, strict=True)]).sum(0)
        return own + self.together(torch.cat(weighted, dim=-1))
