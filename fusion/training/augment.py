"""Augmentation of training windows, on their device: streams masked as a whole or for spans, and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...data.windows.corpus import Windows
from ..config import Config

SPAN_S = (0.5, 3.0)


def corrupt(windows: Windows, config: Config, generator: torch.Generator, scales: Sequence[Tensor]) -> Windows:
    """Masks streams for a whole window or for spans of 0.5 to 3 s, and adds noise; a step never loses all streams.

    Labels, and which steps count, stay as they are.

    Args:
        windows: clean.
        config: how often and how strongly.
        generator: of random numbers, on the windows' device.
        scales: for each stream (D,) the standard deviation of its features, the unit of `train.noise`.
    """
    kept = windows.mask & ~_masked(windows.mask, config, generator)
    mask = torch.where(kept.any(-1, keepdim=True), kept, windows.mask)
    values = windows.values
    if noise := config.train.noise:
        pairs = zip(values, scales, strict=True)
        values = [v + noise * scale * torch.randn(v.shape, generator=generator, device=v.device) for v, scale in pairs]
    return replace(windows, values=values, mask=mask)


def _masked(mask: Tensor, config: Config, generator: torch.Generator) -> Tensor:
    """(B, L, M) True where a stream is masked."""
    num_windows, length, num_streams = mask.shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=mask.device)

    masked = torch.zeros(num_windows, 1, num_streams, dtype=torch.bool, device=mask.device)
    if num_streams > 1:
        dropped = draw(num_windows, 1, 1) < config.train.modality_dropout
        chosen = (draw(num_windows, 1, 1) * num_streams).floor()
        masked = dropped & (chosen == torch.arange(num_streams, device=mask.device))
    shortest, longest = (seconds * config.data.hz for seconds in SPAN_S)
    hit, place, size = (draw(num_windows, 1, num_streams) for _ in range(3))
    span = (shortest + size * (longest - shortest)).round().clamp(min=1)
    start = (place * (length - span + 1).clamp(min=1)).floor()
    step = torch.arange(length, device=mask.device)[:, None]
    return masked | ((hit < config.train.span_dropout) & (step >= start) & (step < start + span))
