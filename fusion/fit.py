"""Finding the weights of one model: epochs of corrupted windows, early stopping on validation clips."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.errors import InputError
from ..data.windows import Corpus, Windows, cut, plan_windows
from .config import Config, TrainConfig
from .evaluate import predict, score
from .losses import total_loss, typical_error
from .model import VAModel

Log = Callable[[dict[str, Any]], None]


def fit(
    model: VAModel,
    corpus: Corpus,
    training: Sequence[int],
    validation: Sequence[int],
    config: Config,
    *,
    errors: Tensor | None = None,
    log: Log = lambda event: None,
) -> None:
    """Trains a model in place and leaves it with the weights of its best epoch on the validation clips, if any.

    Args:
        errors: (N, M) unseen errors of each stream, NaN where unknown, for a model that learns trust.
        log: called once per epoch with losses, score and speed.
    """
    trainer = Trainer(model, corpus, training, config, errors)
    best, best_epoch, kept = -math.inf, 0, None
    for epoch in range(config.train.epochs):
        event = {"event": "epoch", "epoch": epoch, **trainer.epoch(epoch)}
        if validation:
            event["val"] = score(predict(model, corpus, validation, config.data), corpus)
            reached = -1.0 if math.isnan(event["val"]["mean"]) else event["val"]["mean"]
            if reached > best:
                best, best_epoch, kept = reached, epoch, copy.deepcopy(model.state_dict())
        log(event)
        if validation and epoch - best_epoch >= config.train.patience:
            break
    if kept is not None:
        model.load_state_dict(kept)


class Trainer:
    """A model with all that its training carries from step to step.

    Args:
        model: trained in place; its normalisation is fitted to the training clips.
        corpus: holds the training clips.
        training: their positions.
        config: decides everything, its seed the order of windows and the corruptions.
        errors: see `fit`.
    """

    def __init__(
        self, model: VAModel, corpus: Corpus, training: Sequence[int], config: Config, errors: Tensor | None
    ) -> None:
        self.model, self.corpus, self.training, self.config = model, corpus, training, config
        model.fit_normalisation(corpus, training)
        self.errors = torch.full_like(corpus.mask, torch.nan, dtype=torch.float32) if errors is None else errors
        self.sigma = typical_error(self.errors)
        self.rng = np.random.default_rng(config.seed)
        self.optimiser = torch.optim.AdamW(
            model.parameters(), lr=config.train.learning_rate, weight_decay=config.train.weight_decay, fused=True
        )

    def epoch(self, number: int) -> dict[str, Any]:
        """Every training window once: `{"lr", "loss": each term's mean, "windows_per_s"}`.

        Raises:
            InputError: if the loss is no longer finite.
        """
        started, data, train = time.perf_counter(), self.config.data, self.config.train
        plan = plan_windows(self.corpus, self.training, data.window_steps, data.hop_steps, self.rng)
        self.rng.shuffle(plan)
        batches = np.array_split(plan, -(-len(plan) // train.batch_size))
        self.model.train()
        sums: dict[str, Tensor] = {}
        for b, rows in enumerate(batches):
            rate = learning_rate(train, (number + (b + 0.5) / len(batches)) / train.epochs)
            for name, value in self.step(cut(self.corpus, rows, data.window_steps), rate).items():
                sums[name] = sums.get(name, 0) + value / len(batches)
        losses = {name: value.item() for name, value in sums.items()}  # the only wait for the device
        if not math.isfinite(losses["loss"]):
            todo = "Lower train.learning_rate."
            raise InputError("training", expected="a finite loss", got=str(losses["loss"]), todo=todo)
        speed = len(plan) / (time.perf_counter() - started)
        return {"lr": self.optimiser.param_groups[0]["lr"], "loss": losses, "windows_per_s": round(speed, 1)}

    def step(self, windows: Windows, rate: float) -> dict[str, Tensor]:
        """One update at a learning rate; returns the terms of the loss."""
        windows = corrupt(windows, self.config, self.rng, self.model.feature_scales)
        terms = total_loss(self.model(windows), windows, self.errors[windows.steps], self.sigma, self.config.loss)
        self.optimiser.zero_grad(set_to_none=True)
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        return {name: value.detach() for name, value in terms.items()}


def learning_rate(config: TrainConfig, progress: float) -> float:
    """Linear warm-up, then a half cosine towards 0; `progress` runs from 0 to 1 over all epochs.

    By progress and not by step: the jitter of windows makes some epochs longer than others.
    """
    rising = progress / config.warmup if config.warmup else 1.0
    return config.learning_rate * min(rising, 0.5 * (1 + math.cos(math.pi * progress)))


def corrupt(windows: Windows, config: Config, rng: np.random.Generator, scales: Sequence[Tensor]) -> Windows:
    """Hides streams for a whole window or for spans of 0.5 to 3 s, and adds noise; a step never loses every stream.

    Labels, and which steps count, stay as they are.

    Args:
        windows: clean.
        config: how often and how strongly.
        rng: decides what is hidden; the noise comes from torch's own generator.
        scales: for each stream (D,) the standard deviation of its features, the unit of `train.noise`.
    """
    hidden = torch.from_numpy(_hidden(windows.mask.shape, config, rng)).to(windows.mask.device)
    kept = windows.mask & ~hidden
    mask = torch.where(kept.any(-1, keepdim=True), kept, windows.mask)
    values = windows.values
    if noise := config.train.noise:
        pairs = zip(values, scales, strict=True)
        values = [v + noise * scale * torch.randn(v.shape, device=v.device) for v, scale in pairs]
    return replace(windows, values=values, mask=mask)


def _hidden(shape: Sequence[int], config: Config, rng: np.random.Generator) -> NDArray[np.bool_]:
    num_windows, length, num_streams = shape
    hidden = np.zeros(shape, bool)
    if num_streams > 1:
        dropped = rng.random(num_windows) < config.train.modality_dropout
        hidden[dropped, :, rng.integers(num_streams, size=num_windows)[dropped]] = True
    for b, m in np.argwhere(rng.random((num_windows, num_streams)) < config.train.span_dropout):
        span = max(1, round(rng.uniform(0.5, 3.0) * config.data.grid_hz))
        start = int(rng.integers(max(1, length - span + 1)))
        hidden[b, start : start + span, m] = True
    return hidden
