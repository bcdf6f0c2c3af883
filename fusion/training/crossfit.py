"""What the gate is taught by: the error of each stream on clips that its estimator has not seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...data.errors import InputError
from ...data.windows.corpus import Corpus
from ..config import Config, ModelConfig
from ..evaluation.predict import predict
from ..models.variants import build_model
from .labelled import groups_of
from .trainer import Log, fit


def out_of_fold_errors(corpus: Corpus, training: Sequence[int], config: Config, log: Log) -> Tensor:
    """(N, M) absolute error (valence + arousal) of each stream, NaN where it is not valid or not labelled.

    The training clips are parted into folds, along the same groups as the split; for each stream a TCN with a head is
    trained on all but one and tried on that one. On the clips that it was trained on, a stream that only memorises
    looks as good as one that generalises, and a gate taught there trusts both alike.

    Raises:
        InputError: if all training clips belong together, so that none can be held out.
    """
    folds = crossfit_folds(corpus, training, config)
    errors = torch.full_like(corpus.mask, torch.nan, dtype=torch.float32)
    devices = [corpus.device] if corpus.device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # errors are equal for all variants, and leave their random numbers alone
        torch.manual_seed(config.seed)
        for m, stream in enumerate(corpus.streams):
            for fold, unseen in enumerate(folds):
                _try_on(unseen, corpus, m, [index for index in training if index not in unseen], config, errors)
                log({"event": "crossfit", "stream": stream.name, "fold": fold, "num_folds": len(folds)})
    return errors.to(corpus.device)


def _try_on(unseen: list[int], corpus: Corpus, m: int, seen: list[int], config: Config, errors: Tensor) -> None:
    """Fills in the errors that stream m, learnt on some clips, makes on others."""
    alone, probe_config = corpus.only([m]), crossfit_config(config)
    probe = build_model(alone.streams, probe_config.model).to(corpus.device)
    fit(probe, alone, seen, [], probe_config)
    for index, prediction in zip(unseen, predict(probe, alone, unseen, config.data), strict=True):
        steps = corpus.steps(index)
        error = (torch.from_numpy(prediction.va).to(errors) - corpus.va[steps]).abs().sum(-1)
        counted = corpus.va_mask[steps] & corpus.mask[steps, m]
        errors[steps, m] = torch.where(counted, error, torch.nan)


def crossfit_folds(corpus: Corpus, training: Sequence[int], config: Config) -> list[list[int]]:
    """The training clips in parts that share no group.

    Raises:
        InputError: if all belong together.
    """
    group_of_clip = groups_of(corpus.clips, config.split)
    groups = {index: group_of_clip[corpus.clips[index].clip_id] for index in training}
    names = sorted(set(groups.values()))
    num_folds = min(config.train.crossfit_folds, len(names))
    if num_folds < 2:
        todo = "Add recordings, or set loss.calibration and loss.ordinal to 0."
        expected = "at least 2 subjects or recordings to estimate reliability"
        raise InputError("training clips", expected=expected, got=str(len(names)), todo=todo)
    order = np.random.default_rng(config.seed).permutation(len(names))
    fold_of = {names[place]: k % num_folds for k, place in enumerate(order)}
    return [[index for index in training if fold_of[groups[index]] == fold] for fold in range(num_folds)]


def crossfit_config(config: Config) -> Config:
    """What of a configuration decides the errors: of the model nothing but the TCN."""
    kept = ("dim", "tcn_blocks", "tcn_kernel", "causal", "dropout", "input_dropout")
    small = ModelConfig(variant="concat", layers=0, **{name: getattr(config.model, name) for name in kept})
    short = config.train.model_copy(update={"epochs": config.train.crossfit_epochs, "modality_dropout": 0.0})
    return config.model_copy(update={"model": small, "train": short})
