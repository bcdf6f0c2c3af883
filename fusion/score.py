"""`sage-va eval`: a run, or the folds of one, scored by the protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..data.errors import InputError
from ..data.labels import join_labels, read_labels
from ..data.store import Store, open_store
from ..data.windows import Corpus, load_corpus
from .checkpoint import Run, fold_runs, load_run
from .evaluate import ClipSums, corpus_sums, plain, predict, summarise


def score_run(
    path: Path, *, cache: str | None = None, labels: Path | None = None, split: str | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """The score of a run's test clips (or of another part), pooled over folds where there are folds.

    Fit for JSON: a number that is not defined, such as the interval of a single clip, is None.

    Raises:
        InputError: if the run is unfinished, or no clip of that part is in the cache with labels.
    """
    raw: list[ClipSums] = []
    smoothed: list[ClipSums] = []
    runs = [load_run(fold, device) for fold in fold_runs(path)] or [load_run(path, device)]
    wanted = runs[0].config.split.folds if fold_runs(path) else None
    if wanted and (len(runs) != wanted or split == "train"):
        got = f"{len(runs)} of {wanted} folds, split {split or 'test'}"
        todo = "Train all folds; a clip is trained on in several of them, so only held-out clips are pooled."
        raise InputError(path, expected="all folds, and held-out clips", got=got, todo=todo)
    chosen = split or ("test" if "test" in runs[0].roles.values() else "val")
    for run in runs:
        corpus = load_part(run, open_store(cache or run.cache), labels or Path(run.labels), chosen)
        predictions = predict(run.model, corpus.to(torch.device(device)), range(len(corpus.clips)), run.config.data)
        raw += corpus_sums(predictions, corpus)
        smoothed += corpus_sums(predictions, corpus, run.smoothing_s)
    if not sum(clip.all[0, 0] for clip in raw):
        todo = "Check that labels and features cover the same seconds."
        raise InputError(path, expected=f"labels that fall on the {chosen} clips", got="none", todo=todo)
    found = {
        "run": str(path),
        "variant": runs[0].config.model.variant,
        "split": chosen,
        "num_folds": len(runs) if fold_runs(path) else None,
        "smoothing_s": [run.smoothing_s for run in runs],
        "random_weights": runs[0].random_weights,
        **summarise(raw, smoothed),
    }
    return plain(found)


def load_part(run: Run, store: Store, labels: Path, split: str) -> Corpus:
    """The clips of one part of a run's split, with labels, on the run's grid."""
    wanted = sorted(clip_id for clip_id, role in run.roles.items() if role == split)
    found, missing, _ = join_labels(read_labels(labels), wanted)
    if missing or not wanted:
        got = f"no labels for {missing[0]}" if missing else "none"
        raise InputError(run.path, expected=f"labelled {split} clips", got=got, todo="Check --labels and --split.")
    truths = {clip_id: label.timed(store.clip(clip_id)) for clip_id, label in found.items()}
    return load_corpus(store, run.streams, wanted, grid_hz=run.config.data.grid_hz, truths=truths)
