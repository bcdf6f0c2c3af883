"""Robustness of a run to corrupted recordings: its score, and what its gate makes of each stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...data.store.base import Store
from ..result import Result
from .metrics import NAMES, ClipMoments, corpus_moments, num_labels, pooled_ccc
from .paired import Gain, draw_clips, drawn_scores, intervals_of, undefined
from .predict import Floats, Prediction, predict
from .score import ScoredModel, ScoredRuns


@dataclass(frozen=True)
class MediaScore(Result):
    """The score of a run on recordings, and means over steps for each stream, by its label.

    valid: share of the steps where it is valid. weight: over all steps; reliability: over valid ones; both None without
    a gate.
    """

    ccc: dict[str, float]
    valid: dict[str, float]
    weight: dict[str, float] | None
    reliability: dict[str, float] | None


@dataclass(frozen=True)
class MediaKind(Result):
    """The score under one kind of corruption; difference: to the clean score, for each target."""

    modality: str
    means: str
    score: MediaScore
    difference: dict[str, Gain]


@dataclass(frozen=True)
class MediaRobustness(ScoredModel, Result):
    """The score of a run on recordings, clean and under each kind of corruption of a modality that it takes."""

    clip_ids: list[str]
    num_labels: int
    seed: int
    clean: MediaScore
    kinds: dict[str, MediaKind]


@dataclass(frozen=True)
class MediaReport(Result):
    """The robustness of one run or several to corrupted recordings."""

    runs: list[MediaRobustness]


class MediaScoring:
    """Scores one run, or all folds of one, on clean features and then on those of corrupted recordings.

    Args:
        scored: the run.
        seed: of the corruptions, for the record.
    """

    def __init__(self, scored: ScoredRuns, seed: int) -> None:
        self.scored, self.seed = scored, seed
        self.kinds: dict[str, MediaKind] = {}
        self.clean, self.clips = self._score(None)
        scored.check(self.clips)

    def add(self, kind: str, modality: str, means: str, store: Store) -> None:
        """Scores the run on a cache that holds its scored clips, with its streams, from corrupted recordings."""
        score, clips = self._score(store)
        self.kinds[kind] = MediaKind(modality, means, score, _difference(clips, self.clips, score.ccc, self.clean.ccc))

    def result(self) -> MediaRobustness:
        """Returns the scores so far."""
        return MediaRobustness(
            **vars(self.scored.model),
            clip_ids=[clip.clip_id for clip in self.clips],
            num_labels=num_labels(self.clips),
            seed=self.seed,
            clean=self.clean,
            kinds=self.kinds,
        )

    def _score(self, store: Store | None) -> tuple[MediaScore, list[ClipMoments]]:
        clips, predictions = list[ClipMoments](), list[Prediction]()
        for run, corpus in self.scored.parts(store):
            predicted = predict(run.model, corpus, range(len(corpus.clips)), run.config.data)
            clips += corpus_moments(predicted, corpus)
            predictions += predicted
        labels = [stream.label for stream in self.scored.runs[0].streams]
        masks = np.concatenate([p.mask for p in predictions])
        weights = [p.weights for p in predictions if p.weights is not None]
        reliability = [p.reliability for p in predictions if p.reliability is not None]
        score = MediaScore(
            pooled_ccc([clip.all for clip in clips]),
            _means(labels, masks.astype(np.float64), np.ones_like(masks)),
            _means(labels, np.concatenate(weights), np.ones_like(masks)) if weights else None,
            _means(labels, np.concatenate(reliability), masks) if reliability else None,
        )
        return score, sorted(clips, key=lambda clip: clip.clip_id)


def _means(labels: Sequence[str], values: Floats, counted: np.ndarray) -> dict[str, float]:
    """Returns the mean of each column over the rows that count in it; NaN over none."""
    sums, counts = np.where(counted, values, 0).sum(0), counted.sum(0)
    return {name: float(s / n) if n else float("nan") for name, s, n in zip(labels, sums, counts, strict=True)}


def _difference(
    clips: Sequence[ClipMoments], base: Sequence[ClipMoments], ccc: Mapping[str, float], clean: Mapping[str, float]
) -> dict[str, Gain]:
    """The gain over the clean score, for each target, with its interval by paired bootstrap over clips."""
    labelled = [k for k, clip in enumerate(base) if clip.all[0, 0] > 0]
    intervals = undefined()
    if len(labelled) > 1:
        sides = [torch.stack([side[k].all for k in labelled])[None].cpu().double() for side in (clips, base)]
        times_drawn = draw_clips(len(labelled))
        intervals = intervals_of(drawn_scores(sides[0], times_drawn) - drawn_scores(sides[1], times_drawn))
    return {name: Gain(ccc[name] - clean[name], intervals[name]) for name in NAMES}
