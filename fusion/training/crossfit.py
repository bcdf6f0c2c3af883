"""Cross-fitting: out-of-fold errors of each stream, the target of the gate in equation (15)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...data.windows.corpus import Corpus
from ..config import Config, ModelConfig
from ..evaluation.predict import Floats, predict_va
from ..models.variants import build_model
from .labelled import crossfit_folds
from .trainer import Log, fit

OF_THE_MODEL = ("dim", "tcn_blocks", "tcn_kernel", "causal", "dropout", "input_dropout")
OF_A_GATE = ("calibration", "ordinal", "stage_usage")  # terms of the loss that a probe does not have


def out_of_fold_errors(corpus: Corpus, training: Sequence[int], config: Config, log: Log) -> Tensor:
    """Returns (N, M) absolute errors, |valence| + |arousal|, of each stream; NaN where not valid or not labelled.

    They are those of `out_of_fold_estimates`. On clips that it was trained on, a stream that only memorises looks as
    good as one that generalises, and the gate would find both equally reliable.

    Raises:
        InputError: if all training clips belong together, so that none can be held out.
    """
    estimates = out_of_fold_estimates(corpus, training, config, log)
    errors = (estimates - corpus.va[:, None].to(estimates)).abs().sum(-1)
    counted = (corpus.va_mask[:, None] & corpus.mask).to(errors.device)
    return torch.where(counted, errors, torch.nan).to(corpus.device)


def out_of_fold_estimates(corpus: Corpus, training: Sequence[int], config: Config, log: Log) -> Tensor:
    """Returns (N, M, 2) valence and arousal by each stream alone; NaN outside of the training clips.

    The training clips are divided into folds along the groups of the split. For each stream, a TCN with a head is
    trained on all folds but one and evaluated on that one.

    Raises:
        InputError: if all training clips belong together, so that none can be held out.
    """
    folds = crossfit_folds(corpus, training, config)
    estimates = torch.full((*corpus.mask.shape, 2), torch.nan, device=corpus.mask.device)
    devices = [corpus.device] if corpus.device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # estimates are equal for all variants, and leave their random numbers alone
        torch.manual_seed(config.seed)
        for m, stream in enumerate(corpus.streams):
            for fold, held_out in enumerate(folds):
                left_out = set(held_out)
                rest = [index for index in training if index not in left_out]
                for index, va in zip(held_out, _estimates(corpus.only([m]), rest, held_out, config), strict=True):
                    estimates[corpus.steps(index), m] = torch.from_numpy(va).to(estimates)
                log({"event": "crossfit", "stream": stream.name, "fold": fold, "num_folds": len(folds)})
    return estimates


def _estimates(corpus: Corpus, rest: list[int], held_out: list[int], config: Config) -> list[Floats]:
    """Returns (T, 2) of each held-out clip of one stream, by a probe trained on the rest."""
    probe_config = crossfit_config(config)
    probe = build_model(corpus.streams, probe_config.model).to(corpus.device)
    fit(probe, corpus, rest, [], probe_config)
    return predict_va(probe, corpus, held_out, config.data)


def crossfit_config(config: Config) -> Config:
    """Returns the configuration of the probes: of the model only the TCN, so that all variants share errors."""
    small = ModelConfig(variant="concat", layers=0, **{name: getattr(config.model, name) for name in OF_THE_MODEL})
    short = config.train.model_copy(update={"epochs": config.train.crossfit_epochs, "modality_dropout": 0.0})
    plain = config.loss.model_copy(update=dict.fromkeys(OF_A_GATE, 0.0))
    return config.model_copy(update={"model": small, "train": short, "loss": plain})


def decides_errors(key: str) -> bool:
    """Returns True if a key of the configuration, such as `train.learning_rate`, changes out-of-fold errors."""
    section, _, name = key.partition(".")
    if section == "model":
        return name in OF_THE_MODEL
    return name not in {"loss": OF_A_GATE, "train": ("epochs", "modality_dropout")}.get(section, ())
