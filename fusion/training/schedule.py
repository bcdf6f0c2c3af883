"""Progress of a training, and its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..config import TrainConfig


@dataclass
class Course:
    """Progress of a training: epoch and batch in it, best score and epoch, and halvings of the learning rate."""

    epoch: int = 0
    batch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    num_cuts: int = 0
    last_cut: int = 0

    def note(self, reached: float, train: TrainConfig) -> bool:
        """Records the score of the epoch; returns True if it is the best so far."""
        better = reached > self.best
        if better:
            self.best, self.best_epoch = reached, self.epoch
        if self.epoch - max(self.best_epoch, self.last_cut) >= train.plateau_epochs:
            self.num_cuts, self.last_cut = self.num_cuts + 1, self.epoch
        return better


def learning_rate(config: TrainConfig, progress: float, num_cuts: int = 0) -> float:
    """Returns the learning rate: linear warm-up, then a half cosine towards 0, halved at each plateau, or constant.

    `progress` runs from 0 to 1 over all epochs. Steps would not do, as jitter makes some epochs longer than others.
    """
    rising = min(1.0, progress / config.warmup) if config.warmup else 1.0
    falling = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "plateau": 0.5**num_cuts, "constant": 1.0}
    return config.learning_rate * min(rising, falling[config.schedule])
