"""What a causal model keeps of a clip's earlier steps, so that it can be given a clip in chunks."""

from __future__ import annotations

import torch
from torch import Tensor


class Memory:
    """The steps that a causal model still looks back at: every module that mixes time keeps its own here.

    One memory goes with one batch of clips, given to the model in order, in chunks of any length. Modules ask in the
    same order in each chunk, so the n-th question goes on where the n-th of the chunk before ended.
    """

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._turn = 0

    @property
    def num_values(self) -> int:
        """How many numbers it holds; bounded, however long the clips are."""
        return sum(kept.numel() for kept in self._kept)

    def begin(self) -> None:
        """A new chunk: the next question is the first again."""
        assert self._turn == len(self._kept), "a model asks as often in each chunk"
        self._turn = 0

    def extend(self, x: Tensor, num_steps: int) -> Tensor:
        """What came before, then x: (B, L, …) -> (B, P + L, …), where P is num_steps, or fewer near the beginning.

        Its last num_steps are kept for the next chunk.
        """
        if self._turn < len(self._kept):
            x = torch.cat([self._kept.pop(self._turn), x], dim=1)
        self._kept.insert(self._turn, x[:, max(0, x.shape[1] - num_steps) :].clone())  # a view would hold all of x
        self._turn += 1
        return x

    def keep(self, num_clips: int) -> None:
        """Forgets all clips of the batch but the first ones."""
        self._kept = [kept[:num_clips] for kept in self._kept]


def with_past(x: Tensor, num_steps: int, memory: Memory | None) -> Tensor:
    """`Memory.extend`, or x itself, (B, L, …), where it is the whole clip or window."""
    return x if memory is None else memory.extend(x, num_steps)
