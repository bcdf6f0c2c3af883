"""Several trained models of the same streams as one: their predictions of a clip are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...data.clip import Clip
from ...data.errors import InputError
from ...data.store.base import Store
from ...data.windows.load import load_corpus
from ...data.windows.normalise import Normaliser
from ..evaluation.predict import Prediction, averaged
from ..evaluation.sampling import PLAIN, Sampling
from ..run_folder import SPLIT, fold_runs, load_run
from .pretrained import SAGE


def load_models(places: str | Path | Sequence[str | Path], device: str = "cpu") -> list[SAGE]:
    """Returns the models of all places: of runs, of all folds below a folder, of saved folders or from the hub.

    Raises:
        InputError: if there is none, not all folds are there, or the models take other streams or another grid.
    """
    listed = [places] if isinstance(places, str | Path) else places
    models = _models_at(listed[0], device)
    inputs = _inputs(models[0])
    for place in listed[1:]:
        others = _models_at(place, device)
        if _inputs(others[0]) != inputs:
            todo = "Predict with them one by one, or train them on the same streams and grid."
            raise InputError(place, expected=f"a model of {inputs}, as {listed[0]}", got=_inputs(others[0]), todo=todo)
        models += others
    return models


def cache_of(place: str | Path) -> str:
    """Returns the cache that a run, or the first of its folds, was trained with.

    Raises:
        InputError: for a saved model, which does not keep it.
    """
    folder = next(iter(fold_runs(Path(place))), Path(place))
    if not (folder / SPLIT).exists():
        raise InputError(place, expected="a run, which knows its cache", got="a saved model", todo="Name the cache.")
    return load_run(folder).cache


def _inputs(model: SAGE) -> str:
    kinds = {stream.normalise for stream in model.streams} - {"training"}
    normalised = f", normalised by {' and '.join(sorted(kinds))}" if kinds else ""
    return f"{', '.join(stream.name for stream in model.streams)} at {model.config.data.hz:g} Hz{normalised}"


def _models_at(place: str | Path, device: str) -> list[SAGE]:
    folds = fold_runs(Path(place))
    models = [SAGE.load(path, device) for path in folds or [place]]
    num_folds = models[0].config.split.folds
    if folds and len(folds) != num_folds:
        got, todo = f"{len(folds)} of them", "Train all folds, or name one of them."
        raise InputError(place, expected=f"all {num_folds} folds", got=got, todo=todo)
    return models


def predict_clip(
    models: Sequence[SAGE],
    store: Store,
    clip_id: str,
    sampling: Sampling = PLAIN,
    normaliser: Normaliser | None = None,
) -> tuple[Clip, Prediction]:
    """Reads a clip once; returns it with the mean of what all models predict, each smoothed as `sampling` says.

    `normaliser` is `models[0].normaliser(store)`, shared by the clips of a store.

    Raises:
        InputError: if the clip lacks a stream, or has no instants of that kind.
    """
    first = models[0]
    corpus = load_corpus(
        store, first.streams, [clip_id], grid_hz=first.config.data.hz, keep=False, normaliser=normaliser
    )
    (clip,), (grid,) = corpus.clips, corpus.grids
    each = [sampling.smooth(model.predict(corpus)[0], grid.hz, model.smoothing_s) for model in models]
    return clip, sampling.sample(averaged(each), clip, grid)


def smoothing_widths(models: Sequence[SAGE], sampling: Sampling) -> list[float]:
    """Returns the widths in seconds, each once, of the moving averages over the predictions of models."""
    return sorted({sampling.width_s(model.smoothing_s) for model in models})
