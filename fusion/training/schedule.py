"""How far a training has come, and how large its next step is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..config import TrainConfig


@dataclass
class Course:
    """How far a training has come: the epoch and the batch in it, the best epoch, and how often the rate was halved."""

    epoch: int = 0
    batch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    num_cuts: int = 0
    last_cut: int = 0

    def note(self, reached: float, train: TrainConfig) -> bool:
        """Takes note of the score of the epoch; returns whether it is the best so far."""
        better = reached > self.best
        if better:
            self.best, self.best_epoch = reached, self.epoch
        if self.epoch - max(self.best_epoch, self.last_cut) >= train.plateau_epochs:
            self.num_cuts, self.last_cut = self.num_cuts + 1, self.epoch
        return better


def learning_rate(config: TrainConfig, progress: float, num_cuts: int = 0) -> float:
    """Linear warm-up, then as `schedule` says: a half cosine towards 0, halved at each plateau, or constant.

    `progress` runs from 0 to 1 over all epochs: by progress and not by step, as the jitter of windows makes some
    epochs longer than others.
    """
    rising = min(1.0, progress / config.warmup) if config.warmup else 1.0
    falling = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "plateau": 0.5**num_cuts, "constant": 1.0}
    return config.learning_rate * min(rising, falling[config.schedule])
