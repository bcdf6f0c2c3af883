"""The memory of a causal model: the earlier steps of a clip that it looks back at, so that clips can come in chunks."""

from __future__ import annotations

import torch
from torch import Tensor


class Memory:
    """The steps that a causal model still looks back at, one tensor for each module that mixes time.

    One memory goes with one batch of clips, which come in order, in chunks of any length. Modules call `extend` in the
    same order in every chunk, so the n-th call of a chunk continues the n-th call of the chunk before:

        chunk 1   begin   extend -> kept[0]           extend -> kept[1]           …      (made by the first chunk)
        chunk 2   begin   kept[0] + x -> kept[0]      kept[1] + x -> kept[1]      …
                          keep(n): some clips have ended; the first n go on
        chunk 3   begin   kept[0] + x -> kept[0]      …

    Each tensor holds (B, P, …) with P at most `num_steps` of that module, however long the clips are.
    """

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._turn = 0

    @property
    def num_values(self) -> int:
        """Returns how many numbers it holds; bounded, however long the clips are."""
        return sum(kept.numel() for kept in self._kept)

    def begin(self) -> None:
        """Starts a chunk: the next call of `extend` is the first again."""
        assert self._turn == len(self._kept), "as many calls in each chunk"
        self._turn = 0

    def extend(self, x: Tensor, num_steps: int) -> Tensor:
        """Returns the steps before x, then x: (B, L, …) -> (B, P + L, …); P is num_steps, or fewer near the beginning.

        The last num_steps are kept for the next chunk.
        """
        if self._turn < len(self._kept):
            x = torch.cat([self._kept.pop(self._turn), x], dim=1)
        self._kept.insert(self._turn, x[:, max(0, x.shape[1] - num_steps) :].clone())  # a view would hold all of x
        self._turn += 1
        return x

    def keep(self, num_clips: int) -> None:
        """Drops all clips of the batch but the first ones."""
        self._kept = [kept[:num_clips] for kept in self._kept]


def with_past(x: Tensor, num_steps: int, memory: Memory | None) -> Tensor:
    """Returns `Memory.extend`, or x itself, (B, L, …), where that is the whole clip or window."""
    return x if memory is None else memory.extend(x, num_steps)
