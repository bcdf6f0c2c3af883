"""The picture of one clip of a run: what `sage-va plot` draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...data.errors import InputError, did_you_mean
from ...data.labels import LabelFolder
from ...data.store.base import Store, open_store
from ...data.windows.corpus import Corpus
from ...data.windows.load import load_corpus
from ..evaluation.clip_picture import draw_clip
from ..evaluation.metrics import corpus_moments, pooled_ccc
from ..evaluation.predict import TARGETS, Prediction, averaged, predict
from ..evaluation.report import cautions
from ..run_folder import Run, fold_runs, load_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = {
    "train": "a training clip: its fit is no measure of quality",
    "val": "a validation clip",
    "test": "a test clip",
}


def plot_run(
    place: Path,
    clip_id: str,
    *,
    cache: str | None = None,
    labels: Path | None = None,
    device: str = "cpu",
) -> Figure:
    """Returns the picture of one clip of a run: estimates, gold standard, reliability, weights, masks and stages.

    Of a cross-validation run, the fold is taken that held the clip out; the mean of all folds where none had it.

    Args:
        place: of the run, or of the folder of its folds.
        clip_id: any clip of the cache; one without labels has no gold standard.
        cache, labels: other ones than the run was trained with.
        device: where to compute.

    Raises:
        InputError: if the run is unfinished, or the cache has no such clip.
    """
    runs = [load_run(path, device) for path in fold_runs(place)] or [load_run(place, device)]
    chosen = [run for run in runs if run.roles.get(clip_id) == "test"] or runs
    first, store = chosen[0], open_store(cache or chosen[0].cache)
    corpus = _corpus(first, store, clip_id, labels or Path(first.labels))
    corpus_there = corpus.to(next(first.model.parameters()).device)
    prediction = averaged([predict(run.model, corpus_there, [0], run.config.data)[0] for run in chosen])
    part = first.roles.get(clip_id) if len(chosen) == 1 or len(runs) == 1 else None
    variant = first.config.model.variant
    about = f"{clip_id}: {variant}, {PARTS[part] if part else 'a clip that was in no part of the split'}"
    return draw_clip(
        prediction,
        [stream.label for stream in first.streams],
        name=variant,
        truth=corpus.truths[0],
        title="\n".join([about, *cautions(first.random_weights)]),
        notes=_scores(prediction, corpus),
    )


def _corpus(run: Run, store: Store, clip_id: str, labels: Path) -> Corpus:
    """Loads one clip, with its labels where it has some."""
    _check_clip(store, clip_id)
    joined = LabelFolder(labels).join([clip_id], others=store.clip_ids()) if labels.is_dir() else None
    truths = joined.truths([store.clip(clip_id)]) if joined else None
    return load_corpus(store, run.streams, [clip_id], grid_hz=run.config.data.hz, truths=truths, keep=False)


def _check_clip(store: Store, clip_id: str) -> None:
    clip_ids: Sequence[str] = store.clip_ids()
    if clip_id not in clip_ids:
        todo = did_you_mean(clip_id, clip_ids, f"See `sage-va cache ls {store.url}`.")
        raise InputError(clip_id, f"{store.url} has no clip of that name", todo=todo)


def _scores(prediction: Prediction, corpus: Corpus) -> dict[str, str]:
    """Returns the CCC of each target as text; nothing for a clip without labels that count."""
    sums = [clip.all for clip in corpus_moments([prediction], corpus) if clip.all[0, 0] > 0]
    scores = pooled_ccc(sums) if sums else {}
    return {name: f"CCC {scores[name]:.3f}" for name in TARGETS if scores and scores[name] == scores[name]}


def recorded_path(place: Path, clip_id: str, cache: str | None = None) -> str | None:
    """Returns the path of a clip's medium as the cache of a run has it, relative to the root of its media.

    Raises:
        InputError: if the run is unfinished, or the cache has no such clip.
    """
    first = next(iter(fold_runs(place)), place)
    store = open_store(cache or load_run(first).cache)
    _check_clip(store, clip_id)
    return (store.clip(clip_id).media or {}).get("path")
