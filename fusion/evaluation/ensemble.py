"""The score of several runs together, such as seeds, variants and folds: that of their averaged predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...data.errors import InputError
from ...data.windows.corpus import Corpus
from .groups import Grouping
from .metrics import Floats, corpus_moments, smoothed, summarise
from .predict import Prediction, predict
from .score import Score, ScoredModel, ScoredRuns, load_scored


@dataclass(frozen=True)
class _Scored:
    """One run's prediction of one clip, the same smoothed as the run's validation clips chose, and the labels."""

    prediction: Prediction
    smoothed: Floats
    corpus: Corpus


def score_ensemble(
    paths: Sequence[Path],
    *,
    cache: str | None = None,
    labels: Path | None = None,
    split: str | None = None,
    device: str = "cpu",
    grouping: Grouping | None = None,
) -> Score:
    """Returns the score of the mean of several runs' predictions, clip by clip.

    A clip of a cross-validation is predicted by the fold that it was held out from. Each prediction is smoothed by its
    own run's width before the smoothed ones are averaged.

    Args:
        paths: of runs, or of the folders of their folds.
        cache, labels, split, device: as for `load_scored`.
        grouping: divides the clips into groups that are scored too.

    Raises:
        InputError: as for `load_scored`, or if the runs are scored on other clips or on other grids.
    """
    runs = [load_scored(path, cache=cache, labels=labels, split=split, device=device) for path in paths]
    members = [_scored(each) for each in runs]
    for path, member in zip(paths[1:], members[1:], strict=True):
        _check(path, paths[0], member, members[0])
    raw, smooth = [], []
    for clip_id, first in members[0].items():
        parts = [member[clip_id] for member in members]
        for sums, each in (
            (raw, [part.prediction.va for part in parts]),
            (smooth, [part.smoothed for part in parts]),
        ):
            sums += corpus_moments([replace(first.prediction, va=np.mean(each, axis=0))], first.corpus)
    runs[0].check(raw)
    widths = [run.smoothing_s for each in runs for run in each.runs]
    clips = {clip.clip_id: clip for scored in members[0].values() for clip in scored.corpus.clips}
    groups = grouping.score(list(clips.values()), raw) if grouping else None
    return Score.of(_model(runs), summarise(raw, smooth), widths, [], groups)


def _scored(runs: ScoredRuns) -> dict[str, _Scored]:
    """Returns the prediction of each clip that a run, or one of its folds, is scored on."""
    scored: dict[str, _Scored] = {}
    for run, corpus in runs.parts():
        for prediction in predict(run.model, corpus, range(len(corpus.clips)), run.config.data):
            scored[prediction.clip_id] = _Scored(
                prediction, smoothed(prediction.va, corpus.hz, run.smoothing_s), corpus
            )
    return scored


def _check(path: Path, first: Path, member: dict[str, _Scored], other: dict[str, _Scored]) -> None:
    if odd := sorted(member.keys() ^ other.keys()):
        todo = "Train them with one split (one seed, split.file or split.folds), or score them one by one."
        raise InputError(path, expected=f"the scored clips of {first}", got=f"others, such as {odd[0]}", todo=todo)
    for clip_id, scored in member.items():
        if not np.array_equal(scored.prediction.times_s, other[clip_id].prediction.times_s):
            todo = "Train them with one data.grid_hz on the same clips."
            raise InputError(path, expected=f"the grid of {first}", got=f"another for {clip_id}", todo=todo)


def _model(runs: Sequence[ScoredRuns]) -> ScoredModel:
    """The facts of all runs together."""
    models = [each.model for each in runs]
    random_weights = sorted({name for model in models for name in model.random_weights})
    variants = "mean of " + ", ".join(model.variant for model in models)
    places = ", ".join(str(model.run) for model in models)
    return ScoredModel(places, variants, models[0].split, models[0].num_folds, random_weights)
