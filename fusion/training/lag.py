"""The reaction lag of annotators: a label at t describes the face and voice at t - lag.

Labels are moved earlier for training, by whole steps of the grid. The model keeps the lag, and `predict` delays its
estimates by it, so that they are compared with the labels as they were published, all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...data.errors import InputError
from ...data.windows.corpus import Corpus
from ..config import MAX_LAG_S, Config, LabelsConfig

BLOCK_HZ = 5.0  # rate at which lags are compared
NUM_COMPONENTS = 16
SAMPLED_STEPS = 20_000  # for the components
RIDGE = 1e-3
Floats = NDArray[np.float64]


def settle_lag(corpus: Corpus, training: Sequence[int], config: Config) -> Config:
    """Returns the configuration with `labels.lag_s: estimate` replaced by the estimate from the training clips.

    Raises:
        InputError: if they are too short, or have too few labels.
    """
    if config.labels.lag_s != "estimate":
        return config
    return config.model_copy(update={"labels": LabelsConfig(lag_s=estimate_lag_s(corpus, training))})


def estimate_lag_s(corpus: Corpus, training: Sequence[int]) -> float:
    """Returns the lag, to a fifth of a second, at which the features explain most of the labels' variance.

    For each lag up to 8 s, a ridge regression maps the features at t - lag, reduced to 16 principal components, to the
    labels at t; both are centred in each clip, and the same labels count for every lag. The lag with the largest share
    of explained variance, mean of valence and arousal, is taken (compare Mariooryad and Busso, 2015, who maximise
    mutual information).

    Args:
        corpus: the clips, with labels as published.
        training: positions of the clips that may be looked at.

    Raises:
        InputError: if they are too short, or have too few labels.
    """
    block = max(1, round(corpus.hz / BLOCK_HZ))
    num_lags = int(MAX_LAG_S * corpus.hz / block) + 1
    components = _components(corpus, training)
    sums: list[_Sums] = [_Sums() for _ in range(num_lags)]
    for index in training:
        features, labels = _blocks(corpus, index, block, components)
        later = labels[num_lags - 1 :]
        counted = np.isfinite(later).all(axis=1)
        if counted.sum() < 2:
            continue
        for lag, each in enumerate(sums):
            each.add(features[num_lags - 1 - lag :][: len(later)][counted], later[counted])
    if sums[0].count < 10 * NUM_COMPONENTS:
        seconds = sums[0].count * block / corpus.hz
        got = f"{seconds:.0f} s of labels later than {MAX_LAG_S:g} s after the start of their clip"
        todo = "Set a number of seconds."
        raise InputError("labels.lag_s", f"too little to estimate it from: {got}", todo=todo)
    shares = [each.explained() for each in sums]
    return round(float(np.argmax(shares)) * block / corpus.hz, 3)


class _Sums:
    """Second moments of features (S, K) and labels (S, 2), each centred in its clip."""

    def __init__(self) -> None:
        self.count = 0
        self.features = np.zeros((NUM_COMPONENTS, NUM_COMPONENTS))
        self.both, self.labels = np.zeros((NUM_COMPONENTS, 2)), np.zeros(2)

    def add(self, features: Floats, labels: Floats) -> None:
        x, y = features - features.mean(axis=0), labels - labels.mean(axis=0)
        self.count += len(x)
        self.features += x.T @ x
        self.both += x.T @ y
        self.labels += (y * y).sum(axis=0)

    def explained(self) -> float:
        """The share of the labels' variance that the regression explains, mean of both targets."""
        level = RIDGE * max(np.trace(self.features), 1e-12) / NUM_COMPONENTS
        weights = np.linalg.solve(self.features + level * np.eye(NUM_COMPONENTS), self.both)
        return float(np.mean((self.both * weights).sum(axis=0) / np.maximum(self.labels, 1e-12)))


def _components(corpus: Corpus, training: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mean (D,), scale (D,) and the main directions (D, 16) of the features of all streams, side by side."""
    steps = np.concatenate([np.arange(corpus.offsets[index], corpus.offsets[index + 1]) for index in training])
    sample = _features(corpus, torch.from_numpy(steps[:: max(1, len(steps) // SAMPLED_STEPS)]))
    mean, scale = sample.mean(0), sample.std(0).clamp(min=1e-6)
    scaled = (sample - mean) / scale
    _, directions = torch.linalg.eigh(scaled.T @ scaled)
    main = directions[:, -NUM_COMPONENTS:]
    return mean, scale, torch.nn.functional.pad(main, (0, NUM_COMPONENTS - main.shape[1]))


def _features(corpus: Corpus, steps: Tensor | slice) -> Tensor:
    """The features of all streams at steps, side by side, on the CPU; 0 where a stream is masked."""
    return torch.cat([values[steps].cpu().double() for values in corpus.values], dim=1)


def _blocks(corpus: Corpus, index: int, block: int, components: tuple[Tensor, Tensor, Tensor]) -> tuple[Floats, Floats]:
    """Returns means over blocks of steps of a clip: components (B, 16) and labels (B, 2), NaN where none counts."""
    mean, scale, directions = components
    steps = corpus.steps(index)
    num = (steps.stop - steps.start) // block
    steps = slice(steps.start, steps.start + num * block)
    features = ((_features(corpus, steps) - mean) / scale @ directions).numpy().reshape(num, block, -1).mean(axis=1)
    va, counted = corpus.va[steps].cpu().double().numpy(), corpus.va_mask[steps].cpu().numpy()
    count = counted.reshape(num, block).sum(axis=1)[:, None]
    sums = np.where(counted[:, None], va, 0).reshape(num, block, 2).sum(axis=1)
    return features, np.where(count > 0, sums / np.maximum(count, 1), np.nan)
