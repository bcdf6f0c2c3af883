"""The trainer: cached features and labels in, a run (or one per fold) out. Everything is resident in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.errors import InputError
from ..data.splits import Role
from ..data.store import Store
from ..data.windows import Corpus, cut, plan_windows
from .checkpoint import METRICS, check_new, finish_run, origin_of, start_run
from .config import Config
from .crossfit import crossfit_folds, unseen_errors
from .dataset import assign_roles, load_labelled
from .evaluate import best_smoothing_s, plain, predict, score
from .fit import Log, fit
from .losses import typical_error
from .model import VAModel
from .variants import build_model, resolve


def train(
    store: Store, labels: Path, out: Path, config: Config, *, device: str = "cpu", log: Log = lambda event: None
) -> list[Path]:
    """Trains one run, or one run per fold, and writes them.

    Args:
        store: the feature cache.
        labels: folder of label files.
        out: folder of the run, which must be new. With `split.folds` and no `split.fold`, it holds `fold-0`, ….
        config: what changes the numbers.
        device: where to compute.
        log: called with one dictionary per event (`loaded`, `run`, `model`, `crossfit`, `epoch`, `done`).

    Returns:
        Folders of the finished runs.

    Raises:
        InputError: if clips, labels, streams and split do not go together, or the loss is no longer finite.
    """
    check_new(out)
    config = resolve(config)
    found = load_labelled(store, labels, config)
    untrained = [stream.name for stream in found.corpus.streams if stream.random_weights]
    nameless = sum(not clip.subject_id for clip in found.corpus.clips)
    counts = {
        "num_clips": len(found.corpus.clips),
        "num_without_subject": nameless,
        "unlabelled": found.unlabelled,
        "unused": found.unused,
    }
    log({"event": "loaded", **counts, "random_weights": untrained})
    corpus = found.corpus.to(torch.device(device))
    origin = origin_of(store, labels)
    runs = _runs(config, out)
    parted = [assign_roles(corpus.clips, found.parts, run_config.split, config.seed) for run_config, _ in runs]
    for (run_config, _), roles in zip(runs, parted, strict=True):  # refused before anything is written
        _check(corpus, roles, run_config)
    for (run_config, place), roles in zip(runs, parted, strict=True):
        start_run(place, run_config, roles)
        log({"event": "run", "path": str(place), "fold": run_config.split.fold})
        train_one(corpus, roles, run_config, place, origin, log)
    return [place for _, place in runs]


def _runs(config: Config, out: Path) -> list[tuple[Config, Path]]:
    split = config.split
    if split.folds is None or split.fold is not None:
        return [(config, out)]
    each = [config.model_copy(update={"split": split.model_copy(update={"fold": k})}) for k in range(split.folds)]
    return [(fold_config, out / f"fold-{k}") for k, fold_config in enumerate(each)]


def train_one(
    corpus: Corpus,
    roles: Mapping[str, Role],
    config: Config,
    out: Path,
    origin: Mapping[str, Any],
    log: Log,
    unseen: Callable[[Corpus, list[int], Config, Log], Tensor] = unseen_errors,
) -> VAModel:
    """Trains one run on clips that are loaded already, and writes it into its folder, which `start_run` made.

    Args:
        origin: as `origin_of` gives it, written beside the weights.
        unseen: where a gate's errors come from; a comparison remembers them.
    """
    training, validation = (_counted(corpus, roles, role) for role in ("train", "val"))
    torch.manual_seed(config.seed)
    model = build_model(corpus.streams, config.model).to(corpus.mask.device)
    num_parameters = sum(weight.numel() for weight in model.parameters())
    log({"event": "model", "num_parameters": num_parameters, "receptive_steps": model.receptive_steps})
    errors = None
    if _learns_trust(model, config):
        errors = unseen(corpus, training, config, log)
    with (out / METRICS).open("a", encoding="utf-8") as file:

        def record(event: dict[str, Any]) -> None:
            file.write(json.dumps(plain(event)) + "\n")
            file.flush()
            log(event)

        fit(model, corpus, training, validation, config, errors=errors, log=record)
    predictions = predict(model, corpus, validation, config.data)
    smoothing_s = best_smoothing_s(predictions, corpus)
    sigma = None if errors is None else typical_error(errors).item()
    finish_run(out, model, config, {**origin, "smoothing_s": smoothing_s, "sigma": sigma})
    log({"event": "done", "path": str(out), "val": score(predictions, corpus), "smoothing_s": smoothing_s})
    return model


def _check(corpus: Corpus, roles: Mapping[str, Role], config: Config) -> None:
    training, _ = (_counted(corpus, roles, role) for role in ("train", "val"))
    model = build_model(corpus.streams, config.model).to(corpus.mask.device)
    _check_gate(model, corpus)
    if _learns_trust(model, config):
        crossfit_folds(corpus, training, config)


def _check_gate(model: VAModel, corpus: Corpus) -> None:
    """Refuses a fusion that says it has a gate and returns no reliability."""
    with torch.inference_mode():
        made = model.eval()(cut(corpus, plan_windows(corpus, [0], 8, 8)[:1], 8))
    if model.learns_trust and made.fused.reliability is None:
        todo = "Return it in Fused, or leave learns_trust out."
        raise InputError(f"variant {model.config.variant}", expected="a reliability", got="none", todo=todo)


def _learns_trust(model: VAModel, config: Config) -> bool:
    return model.learns_trust and bool(config.loss.calibration or config.loss.ordinal)


def _counted(corpus: Corpus, roles: Mapping[str, Role], role: Role) -> list[int]:
    clips = [index for index, clip in enumerate(corpus.clips) if roles.get(clip.clip_id) == role]
    if not any(corpus.va_mask[corpus.steps(index)].any() for index in clips):
        todo = "Check that labels and features cover the same seconds, and the split."
        raise InputError(f"split {role}", expected="clips with labels that count", got="none", todo=todo)
    return clips
