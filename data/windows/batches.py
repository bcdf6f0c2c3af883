"""Windows in batches: usual ones of one length, many very short clips in shorter windows of their own.

A clip shorter than a window is padded to its length. That is cheap for a few, but 10,000 clips of one step would be
10,000 windows of padding, in batches of 32 labels beside others of 9,600. Where a batch or more of windows is at most
an eighth full, these are cut to 8, 16, 32 … steps, and so many of them form a batch that it has the steps of a usual
one: the weight of a step in an epoch does not depend on the length of its clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHORTEST_STEPS = 8
SHORT_SHARE = 8  # a window that is at most one in so many parts full is very short


@dataclass(frozen=True)
class Batch:
    """Windows that are cut together: rows (B, 2) of first step and end step of the clip, `length` steps each."""

    rows: NDArray[np.int64]
    length: int


def in_batches(plan: NDArray[np.int64], window_steps: int, batch_size: int) -> list[Batch]:
    """Returns a plan in batches of equally many steps, in the order of their first windows.

    Batches of one length are full but for the last, so that jitter, which makes more windows or fewer, does not change
    their sizes; a rest of less than half a batch is evened out with the batch before it.

    Args:
        plan: (W, 2) of first step and end step of the clip, as `plan_windows` makes it.
        window_steps: length of a usual window.
        batch_size: most windows of that length in a batch; of shorter ones there are as many more as they are shorter.
    """
    lengths = _window_lengths(plan, window_steps, batch_size)
    batches: list[tuple[int, Batch]] = []
    for length in np.unique(lengths).tolist():
        places = np.flatnonzero(lengths == length)
        size = batch_size * (window_steps // length)
        batches += [(part[0], Batch(plan[part], length)) for part in np.split(places, _ends(len(places), size))]
    return [batch for _, batch in sorted(batches, key=lambda pair: pair[0])]


def _ends(num_windows: int, size: int) -> list[int]:
    """The ends of all batches but the last: one every `size`, the last two batches alike where the rest is small."""
    ends = list(range(size, num_windows, size))
    if ends and num_windows - ends[-1] < size / 2:
        ends[-1] = (num_windows + (ends[-2] if len(ends) > 1 else 0) + 1) // 2
    return ends


def _window_lengths(plan: NDArray[np.int64], window_steps: int, batch_size: int) -> NDArray[np.int64]:
    """(W,) the length that each window is cut to; a class of fewer than `batch_size` windows joins the next one."""
    num_steps = plan[:, 1] - plan[:, 0]
    lengths = np.full(len(plan), window_steps)
    left = np.ones(len(plan), bool)
    for length in _short_lengths(window_steps):
        short = left & (num_steps <= length)
        if short.sum() >= batch_size:
            lengths[short] = length
            left &= ~short
    return lengths


def _short_lengths(window_steps: int) -> Iterator[int]:
    length = SHORTEST_STEPS
    while length * SHORT_SHARE <= window_steps:
        yield length
        length *= 2
