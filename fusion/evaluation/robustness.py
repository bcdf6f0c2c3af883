"""Robustness of a run: its score as its inputs are corrupted more and more (`sage-va eval --robustness`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.errors import InputError
from ...data.windows.corpus import Corpus
from ..result import Result
from ..run_folder import Run
from .corruption import CORRUPTIONS, corrupted, corruptions_of
from .metrics import NAMES, ClipMoments, corpus_moments, num_labels, pooled_ccc
from .paired import Gain, draw_clips, drawn_areas, intervals_of, undefined
from .predict import Floats, Prediction, predict
from .score import ScoredModel, load_scored

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
RunsWithClips = Sequence[tuple[Run, Corpus]]
Predictions = list[tuple[Corpus, list[Prediction]]]


@dataclass(frozen=True)
class RobustnessCurve(Result):
    """The score by strength of one kind of corruption.

    taken: the run takes the corrupted modality; else there is no curve. ccc: for each target the score by strength.
    area: for each target the mean height of that curve, between straight lines: the score to be expected if all
    strengths are alike. weight, reliability: means of the corrupted modality by strength; None without a gate.
    """

    modality: str
    means: str
    taken: bool
    ccc: dict[str, list[float]] | None = None
    area: dict[str, float] | None = None
    weight: list[float | None] | None = None
    reliability: list[float | None] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as plain values; `modality`, `means` and `taken` alone where there is no curve."""
        values = super().to_json()
        return values if self.taken else {name: values[name] for name in ("modality", "means", "taken")}


_NO_CURVE: dict[str, Any] = dict.fromkeys(("ccc", "area", "weight", "reliability"))


@dataclass(frozen=True)
class Robustness(ScoredModel, Result):
    """The curves of a run, by kind of corruption; `clean` is its score without any.

    run_seed: the seed that it was trained with. moments: for each kind (strengths, C, 2, 6) of its clips, in the order
    of `clip_ids`; not in the JSON.
    """

    clip_ids: list[str]
    num_labels: int
    strengths: list[float]
    seed: int
    clean: dict[str, float]
    kinds: dict[str, RobustnessCurve]
    run_seed: int
    moments: dict[str, Tensor] = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as plain values, without the moments."""
        return {name: value for name, value in super().to_json().items() if name != "moments"}


@dataclass(frozen=True)
class AreaDifference(Result):
    """The gain in area of a variant over another, for each kind and target, averaged over the seeds that both have."""

    variant: str
    base: str
    seeds: list[int]
    kinds: dict[str, dict[str, Gain]]


@dataclass(frozen=True)
class RobustnessReport(Result):
    """The robustness of one run or several; differences: of each variant to the base, where there are several."""

    runs: list[Robustness]
    differences: list[AreaDifference]

    @classmethod
    def of(cls, runs: Sequence[Robustness]) -> RobustnessReport:
        """Compares the variants of some runs with `concat`, or the first where that is none of them.

        Runs of one seed and the same clips are compared with each other, unless a variant has several of them. A run
        that does not take a modality of another has the kinds of that modality too: there its score does not change.
        """
        runs = _of_the_same_kinds(runs)
        variants = list(dict.fromkeys(run.variant for run in runs))
        base = "concat" if "concat" in variants else variants[0]
        each = (_difference(runs, variant, base) for variant in variants if variant != base)
        return cls(runs, [difference for difference in each if difference.seeds])


@dataclass(frozen=True)
class _Point:
    """The score at one strength, and the mean weight and reliability of the corrupted modality.

    moments: (C, 2, 6) of the clips, sorted by name.
    """

    ccc: dict[str, float]
    weight: float | None
    reliability: float | None
    moments: Tensor


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
) -> Robustness:
    """Returns the score of a run (pooled over folds where there are folds) by kind and strength of corruption.

    Args:
        path: the run, or the folder of its folds.
        cache, labels, split, device: as in `score_run`.
        strengths: rising, from 0 to at most 1.
        seed: of the corruptions, which are the same for every run.
        tick: called at each strength of each kind.

    Raises:
        InputError: as `score_run`, and for strengths that make no curve.
    """
    if len(strengths) < 2 or strengths[0] != 0 or strengths[-1] > 1 or min(np.diff(strengths)) <= 0:
        todo = "Begin with the clean score: 0, 0.5, 1."
        raise InputError("strengths", expected="numbers rising from 0 to 1", got=str(list(strengths)), todo=todo)
    scored = load_scored(path, cache=cache, labels=labels, split=split, device=device)
    runs = list(scored.parts())
    clean = _predicted(runs)
    clips = _moments(clean)
    scored.check(clips)
    curves: dict[str, RobustnessCurve] = {}
    moments: dict[str, Tensor] = {}
    streams = scored.runs[0].streams
    for name, kind in (CORRUPTIONS | corruptions_of(stream.modality for stream in streams)).items():
        curves[name] = RobustnessCurve(kind.modality, kind.means, taken=False)
        moments[name] = _sorted(clips).expand(len(strengths), -1, -1, -1)
        if any(stream.modality == kind.modality for stream in streams):
            points = [_point(clean, kind.modality)]
            for strength in strengths[1:]:
                points.append(_point(_predicted(runs, name, strength, seed), kind.modality))
                tick()
            curves[name] = _curve(kind.modality, kind.means, strengths, points)
            moments[name] = torch.stack([point.moments for point in points])
    return Robustness(
        **vars(scored.model),
        clip_ids=sorted(clip.clip_id for clip in clips),
        num_labels=num_labels(clips),
        strengths=list(strengths),
        seed=seed,
        clean=pooled_ccc([clip.all for clip in clips]),
        kinds=curves,
        run_seed=scored.runs[0].config.seed,
        moments=moments,
    )


def _predicted(runs: RunsWithClips, kind: str = "", strength: float = 0.0, seed: int = 0) -> Predictions:
    """The estimates of every run for its own clips, clean or corrupted."""
    clip_ids = [clip.clip_id for _, corpus in runs for clip in corpus.clips]
    predictions: Predictions = []
    for run, clean in runs:
        corpus = clean
        if strength:
            corpus = corrupted(clean, kind, strength, run.model.feature_scales, clip_ids=clip_ids, seed=seed)
        predictions.append((corpus, predict(run.model, corpus, range(len(corpus.clips)), run.config.data)))
    return predictions


def _moments(pooled: Predictions) -> list[ClipMoments]:
    return [clip for corpus, predictions in pooled for clip in corpus_moments(predictions, corpus)]


def _sorted(clips: Sequence[ClipMoments]) -> Tensor:
    return torch.stack([clip.all for clip in sorted(clips, key=lambda clip: clip.clip_id)])


def _point(pooled: Predictions, modality: str) -> _Point:
    streams = [m for m, stream in enumerate(pooled[0][0].streams) if stream.modality == modality]
    predictions = [prediction for _, of_run in pooled for prediction in of_run]
    clips = _moments(pooled)
    weight, reliability = _mean_weight(predictions, streams), _mean_reliability(predictions, streams)
    return _Point(pooled_ccc([clip.all for clip in clips]), weight, reliability, _sorted(clips))


def _mean_weight(predictions: Sequence[Prediction], streams: Sequence[int]) -> float | None:
    """The share of these streams together, over all steps; None without weights."""
    weights = [p.weights[:, streams].sum(1) for p in predictions if p.weights is not None]
    return float(np.concatenate(weights).mean()) if weights else None


def _mean_reliability(predictions: Sequence[Prediction], streams: Sequence[int]) -> float | None:
    """Mean over the steps where these streams are valid; None where none is, and without a gate."""
    values = [p.reliability[:, streams][p.mask[:, streams]] for p in predictions if p.reliability is not None]
    return float(np.concatenate(values).mean()) if sum(map(len, values)) else None


def _curve(modality: str, means: str, strengths: Sequence[float], points: Sequence[_Point]) -> RobustnessCurve:
    ccc = {name: [point.ccc[name] for point in points] for name in NAMES}
    width = strengths[-1] - strengths[0]
    area = {name: float(np.trapezoid(np.array(heights, float), strengths)) / width for name, heights in ccc.items()}
    weight, reliability = [point.weight for point in points], [point.reliability for point in points]
    return RobustnessCurve(
        modality,
        means,
        True,
        ccc,
        area,
        weight if weight[0] is not None else None,
        reliability if reliability[0] is not None else None,
    )


def _of_the_same_kinds(runs: Sequence[Robustness]) -> list[Robustness]:
    """Adds the kinds of the other runs to each, as those of a modality that it does not take."""
    every = {name: replace(kind, taken=False, **_NO_CURVE) for run in runs for name, kind in run.kinds.items()}
    completed = list[Robustness]()
    for run in runs:
        clean = next(iter(run.moments.values()))[:1].expand(len(run.strengths), -1, -1, -1)  # of the first strength, 0
        moments = {name: run.moments.get(name, clean) for name in every}
        completed.append(replace(run, kinds=every | run.kinds, moments=moments))
    return completed


def _difference(runs: Sequence[Robustness], variant: str, base: str) -> AreaDifference:
    """Compares the runs of a variant with those of the base that have the same seed and clips."""
    sides = [_by_seed_and_clips([run for run in runs if run.variant == name]) for name in (variant, base)]
    both = [(sides[0][key], sides[1][key]) for key in sides[0] if key in sides[1]]
    seeds = [run.run_seed for run, _ in both]
    kinds = {kind: _gains(both, kind) for kind in both[0][0].kinds} if both else {}
    return AreaDifference(variant, base, seeds, kinds)


def _by_seed_and_clips(runs: Sequence[Robustness]) -> dict[tuple[Any, ...], Robustness]:
    """Returns runs by what makes them comparable; those that share it are left out, since none of them is the one."""
    keys = [(run.run_seed, *run.clip_ids) for run in runs]
    return {key: run for key, run in zip(keys, runs, strict=True) if keys.count(key) == 1}


def _gains(pairs: Sequence[tuple[Robustness, Robustness]], kind: str) -> dict[str, Gain]:
    """The gain in the area of one kind, for each target: clips are drawn by name, the same for all seeds."""
    names = sorted({clip_id for run, _ in pairs for clip_id in _labelled(run, kind)})
    ours, theirs = ([_placed(pair[side], kind, names) for pair in pairs] for side in (0, 1))
    strengths = pairs[0][0].strengths

    def gained(times_drawn: Floats) -> Floats:
        one, other = (drawn_areas(torch.stack(side, 1), strengths, times_drawn) for side in (ours, theirs))
        return one - other

    point = gained(np.ones((1, len(names))))[0].tolist()
    intervals = intervals_of(gained(draw_clips(len(names)))) if len(names) > 1 else undefined()
    return {name: Gain(mean, intervals[name]) for name, mean in zip(NAMES, point, strict=True)}


def _labelled(run: Robustness, kind: str) -> list[str]:
    """The clips of which a label counts, as in all intervals: the others would only widen them."""
    counts = run.moments[kind][0, :, 0, 0].tolist()
    return [clip_id for clip_id, count in zip(run.clip_ids, counts, strict=True) if count > 0]


def _placed(run: Robustness, kind: str, names: Sequence[str]) -> Tensor:
    """(strengths, C, 2, 6) moments of the named clips; 0 for those that the run does not score."""
    moments = run.moments[kind].cpu().double()
    placed = torch.zeros(len(moments), len(names), *moments.shape[2:], dtype=torch.float64)
    places = {name: k for k, name in enumerate(names)}
    scored = [k for k, clip_id in enumerate(run.clip_ids) if clip_id in places]
    placed[:, [places[run.clip_ids[k]] for k in scored]] = moments[:, scored]
    return placed
