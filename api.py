"""The road in Python: `train` a run, `evaluate` it, `predict` with it. Each takes what the one before gave."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .data import InputError, Store, open_store
from .fusion.config import PRESETS, Config, check_config, suited_preset
from .fusion.evaluation.predict import Prediction
from .fusion.evaluation.score import score_run
from .fusion.export.pretrained import SAGE
from .fusion.run_folder import SPLIT, fold_runs
from .fusion.training.fit import Log
from .fusion.training.labelled import labelled_hours
from .fusion.training.train import train as train_runs


def train(
    cache: Store | str | Path,
    labels: str | Path,
    out: str | Path,
    config: Config | Mapping[str, Any] | str = "auto",
    *,
    device: str = "cpu",
    resume: bool = False,
    log: Log = lambda event: None,
) -> Path:
    """Trains a model on cached features and returns `out`, which `evaluate`, `predict` and `SAGE.from_run` take.

    Args:
        cache: a feature cache or its address.
        labels: folder of label files.
        out: folder of the run, which must be new. With `split.folds` it holds a run for each fold.
        config: a whole configuration; or a preset, "auto" (by the hours of labelled recordings), "tiny", "base" or
            "large"; or sections such as `{"train": {"epochs": 20}}`, which go over the preset "auto".
        device, resume, log: as for `fusion.train.train`.

    Raises:
        InputError: if clips, labels, streams and configuration do not go together.
    """
    store = open_store(cache) if isinstance(cache, str | Path) else cache
    chosen = config if isinstance(config, Config) else _configured(config, store, Path(labels))
    train_runs(store, Path(labels), Path(out), chosen, device=device, resume=resume, log=log)
    return Path(out)


def _configured(config: Mapping[str, Any] | str, store: Store, labels: Path) -> Config:
    name, said = (config, {}) if isinstance(config, str) else ("auto", dict(config))
    if name == "auto":
        name = suited_preset(labelled_hours(store, labels))
    if name not in PRESETS:
        todo = f"Known: auto, {', '.join(PRESETS)}."
        raise InputError("config", expected="a known preset", got=repr(name), todo=todo)
    for section, keys in PRESETS[name].items():
        if isinstance(said.get(section, {}), Mapping):
            said[section] = {**keys, **said.get(section, {})}
    return check_config(said, "config")


def evaluate(
    model: SAGE | str | Path,
    *,
    cache: str | Path | None = None,
    labels: str | Path | None = None,
    split: str | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """The score of a run on its test clips (validation clips where there are none), or of a model on clips of yours.

    Args:
        model: a run, or all folds of one, as `score_run` takes it. Or a SAGE or the place of one, which knows no clips:
            it is scored on every clip of `cache` that has labels.
        cache, labels: for a run, where they are now; default: where they were.
        split: the part of a run's clips: "train", "val" or "test".
        device: where to compute; a SAGE stays where it is.

    Raises:
        InputError: if a run is unfinished, or there are no labels to score on.
    """
    folder = None if isinstance(model, SAGE) else Path(model)
    if folder is not None and ((folder / SPLIT).exists() or fold_runs(folder)):
        told, truths = str(cache) if cache else None, Path(labels) if labels else None
        return score_run(folder, cache=told, labels=truths, split=split, device=device)
    sage = model if isinstance(model, SAGE) else SAGE.load(model, device)
    if cache is None or labels is None or split:
        todo = "Say which clips: evaluate(model, cache=…, labels=…)."
        raise InputError("evaluate", expected="a cache and labels, and no split", got="a model by itself", todo=todo)
    return sage.score(cache, labels)


def predict(
    model: SAGE | str | Path,
    media: Store | str | Path | Sequence[str | Path],
    *,
    device: str = "cpu",
    **extraction: Any,
) -> list[Prediction]:
    """Estimates for every clip of a cache, or of recordings after extracting them with the model's own encoders.

    A clip that fails gives a warning and no prediction.

    Args:
        model: a SAGE, or the place of one, of a run, or of a run's folds, whose predictions are averaged.
        media: a cache or its address; or files, folders, globs and manifests.
        device: where to compute; a SAGE stays where it is.
        extraction: options of the extractor, as for `prediction.predict_to_csv`.

    Raises:
        InputError: if there is nothing to predict, or recordings cannot be extracted with the model's encoders.
    """
    from .prediction import load_models, predict_each

    models = [model] if isinstance(model, SAGE) else load_models(model, device)
    listed = [media] if isinstance(media, str | Path) else media
    places = listed if isinstance(listed, Store) else [str(place) for place in listed]
    found: list[Prediction] = []
    for failure in predict_each(models, places, found.append, **extraction):
        warnings.warn(f"no prediction for {failure['clip_id']}: {failure['reason']}", stacklevel=2)
    return found
