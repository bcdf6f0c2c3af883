"""Mean and variance of a stream's columns over any choice of clips, from sums of each clip that are taken once.

Normalisation is fitted again for every fold, probe and model of a comparison, each time on other clips of one corpus.
Reading the features costs seconds; adding rows of a small table does not:

    (C, 3, D) float64 of each clip: n, Σ (x - s), Σ (x - s)²         s: (D,) about the mean, so that nothing cancels
    any clips -> their rows added -> mean = s + Σ / n, variance = Σ² / n - (Σ / n)²
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .corpus import Corpus

BLOCK_VALUES = 1 << 22  # values that are converted to float64 at a time
SHIFT_STEPS = 1024  # valid steps whose mean is the shift
KEPT_SHARE = 0.5  # of the stream's bytes that a table may take; corpora of very short clips are summed each time


class ColumnMoments(NamedTuple):
    """Mean and variance of columns, (D,) float64 on the CPU; both 0 for a column without values."""

    mean: Tensor
    variance: Tensor


def value_moments(corpus: Corpus, m: int, clips: Sequence[int]) -> ColumnMoments:
    """Returns the moments of the features of stream m over its valid steps of some clips."""
    return _moments(corpus, f"values {corpus.streams[m].name}", corpus.values[m], corpus.mask[:, m], clips)


def quality_moments(corpus: Corpus, m: int, clips: Sequence[int]) -> ColumnMoments:
    """Returns the moments of the quality signals of stream m over its valid steps of some clips, where measured."""
    return _moments(corpus, f"quality {corpus.streams[m].name}", corpus.quality[m], corpus.mask[:, m], clips)


def _moments(corpus: Corpus, key: str, columns: Tensor, mask: Tensor, clips: Sequence[int]) -> ColumnMoments:
    every = range(len(corpus.clips))
    if key not in corpus.kept:
        shift = _shift(columns, mask)
        small = 24 * len(every) * columns.shape[1] <= KEPT_SHARE * columns.numel() * columns.element_size()
        corpus.kept[key] = shift, _clip_sums(corpus, columns, mask, shift, every) if small else None
    shift, table = corpus.kept[key]
    chosen = list(dict.fromkeys(clips))
    rows = _clip_sums(corpus, columns, mask, shift, chosen) if table is None else table[chosen]
    n, total, squares = rows.sum(0)
    mean = total / n.clamp(min=1)
    variance = (squares / n.clamp(min=1) - mean.square()).clamp(min=0)
    return ColumnMoments(torch.where(n > 0, shift + mean, 0), variance)


def _shift(columns: Tensor, mask: Tensor) -> Tensor:
    """(D,) mean of the first valid steps, 0 for columns without values there: near the mean of all of them."""
    steps = mask.nonzero()[:SHIFT_STEPS, 0]
    return _wide(columns[steps]).nanmean(0).nan_to_num(0.0).cpu()


def _clip_sums(corpus: Corpus, columns: Tensor, mask: Tensor, shift: Tensor, clips: Sequence[int]) -> Tensor:
    """(C, 3, D) sums of clips, read in blocks that bound memory; the device is asked for all of them at once."""
    size = max(1, BLOCK_VALUES // max(1, columns.shape[1]))
    sums = []
    for index in clips:
        steps = corpus.steps(index)
        blocks = zip(columns[steps].split(size), mask[steps].split(size), strict=True)
        sums.append(torch.stack([_block_sums(block, valid, shift) for block, valid in blocks]).sum(0))
    return torch.stack(sums).cpu() if sums else torch.zeros(0, 3, columns.shape[1], dtype=torch.float64)


def _block_sums(block: Tensor, valid: Tensor, shift: Tensor) -> Tensor:
    """(3, D): count, sum and sum of squares of the finite values at valid steps, less the shift."""
    x = _wide(block)
    x -= shift.to(x.device)
    counted = x.isfinite() & valid.to(x.device)[:, None]
    x.masked_fill_(~counted, 0)
    return torch.stack([counted.sum(0).double(), x.sum(0), x.square().sum(0)])


def _wide(block: Tensor) -> Tensor:
    """Copies to float64; Apple's GPUs have none, so theirs goes to the CPU."""
    return (block.cpu() if block.device.type == "mps" else block).to(torch.float64, copy=True)
