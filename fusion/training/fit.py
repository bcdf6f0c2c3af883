"""Finding the weights of one model: epochs of corrupted windows, early stopping on validation clips."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ...data.windows.corpus import Corpus
from ..config import Config
from ..models.base import VAModel
from .resume_state import StateFile
from .trainer import Trainer

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
    file: StateFile | None = None,
) -> None:
    """Trains a model in place and leaves it with the weights of its best epoch on the validation clips, if any.

    Args:
        errors: (N, M) unseen errors of each stream, NaN where unknown, for a model that learns trust.
        log: called once per epoch with losses, score and speed.
        file: where the state is left, and found by a training that goes on. The same weights come out, bit for bit on
            a CPU, however often it was stopped.
    """
    trainer = Trainer(model, corpus, training, config, errors)
    if file is not None and (found := file.load()):
        trainer.restore(*found)
    course = trainer.course
    while course.epoch < config.train.epochs and not _over(trainer):
        event = {"event": "epoch", "epoch": course.epoch}
        event |= trainer.epoch(lambda: file.offer_within(trainer.state) if file is not None else None)
        if validation:
            event["val"] = trainer.validate(validation)
            reached = -1.0 if math.isnan(event["val"]["mean"]) else event["val"]["mean"]
            if course.note(reached, config.train):
                trainer.keep()
        log(event)
        course.epoch += 1
        if file is not None:
            file.offer(trainer.state)
    trainer.finish()


def _over(trainer: Trainer) -> bool:
    """Whether validation has not become better for too long."""
    course = trainer.course
    return bool(trainer.best) and course.epoch - 1 - course.best_epoch >= trainer.config.train.patience
