"""Fusions to compare SAGE with, each after its paper, for any number of streams and any window length."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.windows.corpus import Stream, Windows
from ..config import ModelConfig
from .attention import band
from .base import EncodedModel, Output, VAModel, in_float32
from .causal_cache import Memory, with_past
from .dropout import Dropout
from .sage import Encoded, Fused

ITERATIONS = 3  # of the recursive fusions
CHOICE_TEMPERATURE = 0.1  # of DCA's gate
FOLLOWER_DIM = 32  # of LFAN's attention
NUM_LATENTS = 8  # that RAAV keeps of each stream beside the leader
LEADER_PRIOR = 0.7  # RAAV's weight of the leader before training


def shares(logits: Tensor, mask: Tensor) -> Tensor:
    """Returns the softmax over the valid entries of the last axis; all zero where none is valid."""
    weights = torch.where(mask, logits, -torch.inf).softmax(-1)
    return torch.where(mask.any(-1, keepdim=True), weights, 0)


def leader_of(streams: Sequence[Stream]) -> int:
    """Returns the position of the leader: the first visual stream, else the first."""
    return next((m for m, stream in enumerate(streams) if stream.modality == "visual"), 0)


class Concat(nn.Module):
    """Concatenated streams through one linear layer: the usual baseline."""

    can_stream = True

    def __init__(self, num_streams: int, dim: int) -> None:
        super().__init__()
        self.together = nn.Linear(dim * num_streams, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, encoded: Encoded) -> Fused:
        """Encoded -> Fused without weights."""
        return Fused(self.join(encoded.h))

    def join(self, h: list[Tensor]) -> Tensor:
        """M × (B, L, d) -> (B, L, d)."""
        return self.norm(self.together(torch.cat(h, dim=-1)))


class GMU(nn.Module):
    """Gated multimodal unit (Arevalo et al., arXiv 1702.01992): shares of streams per dimension.

    Softmax over streams; for two this is the paper's z and 1 - z. Weights are the shares averaged over dimensions.
    """

    can_stream = True

    def __init__(self, num_streams: int, dim: int) -> None:
        super().__init__()
        self.transform = nn.ModuleList(nn.Linear(dim, dim) for _ in range(num_streams))
        self.gate = nn.ModuleList(nn.Linear(dim * num_streams, dim) for _ in range(num_streams))
        self.null = nn.Parameter(torch.zeros(dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, encoded: Encoded) -> Fused:
        """Encoded -> Fused with weights."""
        side = torch.cat(encoded.h, dim=-1)
        logits = torch.stack([gate(side) for gate in self.gate], dim=-1)
        z = shares(logits, encoded.mask[..., None, :])
        each = torch.stack([torch.tanh(f(x)) for f, x in zip(self.transform, encoded.h, strict=True)], dim=-1)
        mixed = torch.where(encoded.mask.any(-1, keepdim=True), (z * each).sum(-1), self.null)
        return Fused(self.norm(mixed), z.mean(-2))


class Attended(Concat):
    """Streams that attend to each other, one or more times with the same weights, then are concatenated."""

    def __init__(self, num_streams: int, dim: int, attention: nn.Module, iterations: int = 1) -> None:
        super().__init__(num_streams, dim)
        self.attention, self.iterations = attention, iterations

    def forward(self, encoded: Encoded) -> Fused:
        """Encoded -> Fused without weights."""
        return Fused(self.join(self.depths(encoded)[-1]))

    def depths(self, encoded: Encoded) -> list[list[Tensor]]:
        """Returns the streams before the first iteration and after each."""
        depths = [encoded.h]
        for _ in range(self.iterations):
            depths.append(self.attention(depths[-1], encoded.mask, encoded.memory))
        return depths


class DCA(Attended):
    """Dynamic cross-attention (Praveen and Alam, arXiv 2403.19554): a gate per step between raw and attended."""

    def __init__(self, num_streams: int, dim: int, attention: nn.Module) -> None:
        super().__init__(num_streams, dim, attention)
        self.choose = nn.ModuleList(nn.Linear(dim, 2) for _ in range(num_streams))

    def forward(self, encoded: Encoded) -> Fused:
        """Encoded -> Fused without weights."""
        raw, attended = self.depths(encoded)
        chosen = []
        for x, y, choose in zip(raw, attended, self.choose, strict=True):
            keep = (choose(y) / CHOICE_TEMPERATURE).softmax(-1)
            chosen.append(F.relu(keep[..., :1] * x + keep[..., 1:] * y))
        return Fused(self.join(chosen))


class TAGF(Attended):
    """Time-aware gated fusion (Lee et al., arXiv 2507.02080): the depths of recursive attention as a sequence.

    A BiLSTM reads the depths at each step and weighs them.
    """

    def __init__(self, num_streams: int, dim: int, attention: nn.Module) -> None:
        super().__init__(num_streams, dim, attention, ITERATIONS)
        half = max(1, dim // 2)
        self.read = nn.LSTM(dim, half, batch_first=True, bidirectional=True)
        self.score = nn.Linear(2 * half, 1)

    def forward(self, encoded: Encoded) -> Fused:
        """Encoded -> Fused without weights."""
        sequence = torch.stack([self.join(h) for h in self.depths(encoded)], dim=-2)
        read, _ = self.read(sequence.flatten(0, 1))
        taken = self.score(read).unflatten(0, sequence.shape[:2]).softmax(-2)
        return Fused((taken * sequence).sum(-2))


class LFAN(nn.Module):
    """Leader-follower attention (Zhang et al., arXiv 2107.01175).

    At each step, streams attend to each other in a narrow space; the leader's own features are appended unweighted.
    """

    can_stream = True

    def __init__(self, num_streams: int, dim: int, leader: int) -> None:
        super().__init__()
        self.leader = leader
        self.query = nn.ModuleList(nn.Linear(dim, FOLLOWER_DIM) for _ in range(num_streams))
        self.key = nn.ModuleList(nn.Linear(dim, FOLLOWER_DIM) for _ in range(num_streams))
        self.value = nn.ModuleList(nn.Linear(dim, FOLLOWER_DIM) for _ in range(num_streams))
        self.together = nn.Linear(dim + num_streams * FOLLOWER_DIM, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, encoded: Encoded) -> Fused:
        """Encoded -> Fused without weights."""
        q, k, v = (
            torch.stack([f(x) for f, x in zip(part, encoded.h, strict=True)], dim=-2)
            for part in (self.query, self.key, self.value)
        )
        attention = shares(q @ k.mT / math.sqrt(FOLLOWER_DIM), encoded.mask[..., None, :])
        read = (attention @ v).flatten(-2)
        return Fused(self.norm(self.together(torch.cat([encoded.h[self.leader], read], dim=-1))))


class RAAV(nn.Module):
    """Reliability-aware audio-visual fusion (team RAS, arXiv 2603.13056), built from its summary.

    Every stream but the leader is pooled into a few latents, which each step of the leader attends to. A masked gate
    that starts from a prior in favour of the leader weighs the sum.

    Args:
        num_streams: M.
        dim: width d.
        leader: position of the leader.
        reach_steps: number of steps that the latents pool, the current one included; None for the whole window.
    """

    can_stream = True

    def __init__(self, num_streams: int, dim: int, leader: int, reach_steps: int | None) -> None:
        super().__init__()
        self.leader, self.reach_steps = leader, reach_steps
        self.latents = nn.Parameter(torch.randn(num_streams, NUM_LATENTS, dim) / math.sqrt(dim))
        self.ask = nn.Linear(dim, dim)
        self.value = nn.ModuleList(nn.Linear(dim, dim) for _ in range(num_streams))
        self.score = nn.Linear(dim * num_streams, num_streams)
        rest = (1 - LEADER_PRIOR) / max(1, num_streams - 1)
        prior = torch.tensor([LEADER_PRIOR if m == leader else rest for m in range(num_streams)])
        self.log_prior = nn.Parameter(prior.log())
        self.null = nn.Parameter(torch.zeros(dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, encoded: Encoded) -> Fused:
        """Encoded -> Fused with weights."""
        values = [
            value(x if m == self.leader else self._context(m, encoded))
            for m, (x, value) in enumerate(zip(encoded.h, self.value, strict=True))
        ]
        present = self._pooled_any(encoded).clone()
        present[..., self.leader] = encoded.mask[..., self.leader]
        weights = shares(self.score(torch.cat(values, dim=-1)) + self.log_prior, present)
        mixed = (torch.stack(values, dim=-1) * weights[..., None, :]).sum(-1)
        mixed = torch.where(present.any(-1, keepdim=True), mixed, self.null)
        return Fused(self.norm(mixed), weights)

    def _pooled_any(self, encoded: Encoded) -> Tensor:
        """Returns (B, L, M), True where a stream is valid at some step that the latents pool."""
        mask = encoded.mask
        if self.reach_steps is None:
            return mask.any(1, keepdim=True).expand_as(mask)
        extended = with_past(mask, self.reach_steps - 1, encoded.memory)
        near = band(mask.shape[1], extended.shape[1], self.reach_steps, mask.device)
        return near.float() @ extended.float() > 0

    def _context(self, m: int, encoded: Encoded) -> Tensor:
        """Returns the leader's attention to the latents of stream m: (B, L, d)."""
        x, leading = encoded.h[m], encoded.h[self.leader]
        pull = (x @ self.latents[m].mT).clamp(max=30).exp() * encoded.mask[..., m, None]
        total, weight = self._sums(x, pull, encoded.memory)
        latents = total / weight[..., None].clamp(min=1e-9)
        asked = (self.ask(leading)[..., None, :] * latents).sum(-1) / math.sqrt(x.shape[-1])
        return (asked.softmax(-1)[..., None] * latents).sum(-2)

    def _sums(self, x: Tensor, pull: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor]:
        """Returns sums over steps of pull × x, (B, L or 1, latents, d), and of pull, (B, L or 1, latents)."""
        if self.reach_steps is None:
            return (pull[..., None] * x[..., None, :]).sum(1, keepdim=True), pull.sum(1, keepdim=True)
        length, past = x.shape[1], self.reach_steps - 1
        x, pull = with_past(x, past, memory), with_past(pull, past, memory)
        each = pull.mT[:, :, None] * band(length, x.shape[1], self.reach_steps, x.device)  # (B, latents, L, K)
        return (each @ x[:, None]).transpose(1, 2), each.sum(-1).mT


class LateModel(EncodedModel):
    """Decision-level fusion: the average of the unimodal estimates of valid streams."""

    def __init__(self, streams: Sequence[Stream], config: ModelConfig) -> None:
        super().__init__(streams, config)
        self.null = nn.Parameter(torch.zeros(2))

    def forward(self, windows: Windows, memory: Memory | None = None) -> Output:
        """Windows -> Output."""
        unimodal = self.unimodal_estimates(self.encode(windows, memory))
        each = windows.mask[..., None] / windows.mask.sum(-1)[..., None, None].clamp(min=1)
        va = torch.where(windows.mask.any(-1, keepdim=True), (unimodal * each).sum(-2), self.null.tanh())
        return Output(va, unimodal, Fused(va))


class LinearModel(VAModel):
    """One linear layer on each step's features, bounded by tanh. A masked stream counts as average.

    It starts at zero, as a convex problem may: a random start is noise in each of thousands of inputs, which a training
    of usual length does not remove. Its learning rate is ten times that of a deep network, at which it converges.
    """

    rate_factor = 10.0

    def __init__(self, streams: Sequence[Stream], config: ModelConfig) -> None:
        super().__init__(streams, config)
        self.dropout = Dropout(config.input_dropout)
        self.together = nn.ModuleList(nn.Linear(stream.dim, 2, bias=False) for stream in streams)
        self.unimodal = nn.ModuleList(nn.Linear(stream.dim, 2) for stream in streams)
        self.bias = nn.Parameter(torch.zeros(2))
        for weight in self.parameters():
            nn.init.zeros_(weight)

    def forward(self, windows: Windows, memory: Memory | None = None) -> Output:
        """Windows -> Output; no step depends on another."""
        x = [
            self.dropout(torch.where(windows.mask[..., m, None], norm(values), 0))
            for m, (norm, values) in enumerate(zip(self.norms, windows.values, strict=True))
        ]
        parts = torch.stack([in_float32(layer, part) for layer, part in zip(self.together, x, strict=True)])
        va = torch.tanh(parts.sum(0) + self.bias)
        each = [torch.tanh(in_float32(head, part)) for head, part in zip(self.unimodal, x, strict=True)]
        return Output(va, torch.stack(each, dim=-2), Fused(va))
