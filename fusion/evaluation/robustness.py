"""`sage-va eval --robustness`: how the score of a run falls as its inputs go wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data.errors import InputError
from ...data.windows.corpus import Corpus
from ..result import plain
from ..run_folder import Run
from .corruption import KINDS, corrupted
from .metrics import ClipSums, corpus_sums, pooled_ccc
from .predict import TARGETS, Prediction, predict
from .score import load_scored

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
Parts = Sequence[tuple[Run, Corpus]]
Pooled = list[tuple[Corpus, list[Prediction]]]


def robustness(
    path: Path,
    *,
    cache: str | None = None,
    labels: Path | None = None,
    split: str | None = None,
    device: str = "cpu",
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """For each kind of corruption, the score of a run (pooled over folds where there are folds) by strength.

    Args:
        path: the run, or the folder of its folds.
        cache, labels, split, device: as in `score_run`.
        strengths: rising, from 0 to at most 1.
        seed: of the corruptions, which are the same for every run.
        tick: called at each strength of each kind.

    Returns:
        `{"run", "variant", "split", "num_folds", "random_weights", "clip_ids", "num_labels", "strengths", "seed",
        "clean", "kinds"}`: `clean` is the plain score; `kinds` says of each kind `{"modality", "means", "taken"}` and,
        where the run takes that modality, what `_curve` says. Fit for JSON: a number that is not defined is None.

    Raises:
        InputError: as `score_run`, and for strengths that make no curve.
    """
    if len(strengths) < 2 or strengths[0] != 0 or strengths[-1] > 1 or min(np.diff(strengths)) <= 0:
        todo = "Begin with the clean score: 0, 0.5, 1."
        raise InputError("strengths", expected="numbers rising from 0 to 1", got=str(list(strengths)), todo=todo)
    scored = load_scored(path, cache=cache, labels=labels, split=split, device=device)
    parts = list(scored.parts())
    clean = _predicted(parts)
    sums = _sums(clean)
    scored.check(sums)
    kinds: dict[str, Any] = {}
    for name, kind in KINDS.items():
        taken = any(stream.modality == kind.modality for stream in scored.runs[0].streams)
        kinds[name] = {"modality": kind.modality, "means": kind.means, "taken": taken}
        if taken:
            points = [_point(clean, kind.modality)]
            for strength in strengths[1:]:
                points.append(_point(_predicted(parts, name, strength, seed), kind.modality))
                tick()
            kinds[name] |= _curve(strengths, points)
    found = {
        **scored.about,
        "clip_ids": sorted(clip.clip_id for clip in sums),
        "num_labels": int(sum(clip.all[0, 0] for clip in sums)),
        "strengths": list(strengths),
        "seed": seed,
        "clean": pooled_ccc([clip.all for clip in sums]),
        "kinds": kinds,
    }
    return plain(found)


def _predicted(parts: Parts, kind: str = "", strength: float = 0.0, seed: int = 0) -> Pooled:
    """The estimates of every run for its own clips, clean or corrupted."""
    clip_ids = [clip.clip_id for _, corpus in parts for clip in corpus.clips]
    found: Pooled = []
    for run, corpus in parts:
        seen = corpus
        if strength:
            seen = corrupted(corpus, kind, strength, run.model.feature_scales, clip_ids=clip_ids, seed=seed)
        found.append((seen, predict(run.model, seen, range(len(seen.clips)), run.config.data)))
    return found


def _sums(pooled: Pooled) -> list[ClipSums]:
    return [clip for corpus, predictions in pooled for clip in corpus_sums(predictions, corpus)]


def _point(pooled: Pooled, modality: str) -> dict[str, float | None]:
    """One strength: the score, and how far the streams of the corrupted modality are trusted."""
    ccc = pooled_ccc([clip.all for clip in _sums(pooled)])
    streams = [m for m, stream in enumerate(pooled[0][0].streams) if stream.modality == modality]
    predictions = [prediction for _, found in pooled for prediction in found]
    return {**ccc, "weight": _mean_weight(predictions, streams), "reliability": _mean_reliability(predictions, streams)}


def _mean_weight(predictions: Sequence[Prediction], streams: Sequence[int]) -> float | None:
    """Over all steps, what these streams together get; None without weights."""
    found = [p.weights[:, streams].sum(1) for p in predictions if p.weights is not None]
    return float(np.concatenate(found).mean()) if found else None


def _mean_reliability(predictions: Sequence[Prediction], streams: Sequence[int]) -> float | None:
    """Over the steps where these streams are valid; None where none is, and without a gate."""
    found = [p.reliability[:, streams][p.mask[:, streams]] for p in predictions if p.reliability is not None]
    return float(np.concatenate(found).mean()) if sum(map(len, found)) else None


def _curve(strengths: Sequence[float], points: Sequence[dict[str, float | None]]) -> dict[str, Any]:
    """`{"ccc": {target: score by strength}, "area": {target: mean height of that curve}, "weight", "reliability"}`.

    The area lies under straight lines between the strengths and is divided by their range: the score that is to be
    expected if all strengths are alike. weight and reliability: see `_point`; None for a variant without them.
    """
    ccc = {name: [point[name] for point in points] for name in (*TARGETS, "mean")}
    width = strengths[-1] - strengths[0]
    area = {name: float(np.trapezoid(np.array(found, float), strengths)) / width for name, found in ccc.items()}
    trust = {name: [point[name] for point in points] for name in ("weight", "reliability")}
    return {
        "ccc": ccc,
        "area": area,
        **{name: found if found[0] is not None else None for name, found in trust.items()},
    }
