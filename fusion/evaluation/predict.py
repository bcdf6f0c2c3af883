"""The protocol: predict clips from windows, then one score per target over all counted instants of a split."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.labels import Truth
from ...data.timebase import Grid
from ...data.windows.corpus import Corpus, Windows, cut, plan_windows
from ..ccc import ccc_of_moments, moments
from ..config import DataConfig
from ..models.base import Output, VAModel
from ..models.causal_cache import Memory

TARGETS = ("valence", "arousal")
CHUNK_STEPS = 300  # of a clip that a causal model is given at once; decides memory, not numbers
SMOOTHING_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """A model's estimate for one clip, on its grid of T steps.

    times_s (T,); va (T, 2); mask (T, M) which streams were valid; reliability and weights (T, M) and stage (T, K),
    each None where the variant has no gate. unimodal (T, M, 2): the estimate of each stream by itself.
    """

    clip_id: str
    times_s: Floats
    va: Floats
    mask: NDArray[np.bool_]
    reliability: Floats | None
    weights: Floats | None
    stage: Floats | None
    unimodal: Floats


@torch.inference_mode()
def predict(
    model: VAModel, corpus: Corpus, clips: Sequence[int], data: DataConfig, batch_size: int = 64
) -> list[Prediction]:
    """Estimates for clips of a corpus.

    A `live` model sees each clip once, from its beginning, as `LiveModel` does. Any other sees it in windows; where
    they overlap, the estimate is their average.
    """
    was_training = model.training
    model.eval()
    passes = (
        _in_chunks(model, corpus, clips, batch_size)
        if model.live
        else _in_windows(model, corpus, clips, data, batch_size)
    )
    sums: dict[str, torch.Tensor] = {}
    count = torch.zeros(corpus.num_steps, dtype=torch.float64)
    for windows, output in passes:
        steps = windows.steps[windows.inside].cpu()
        count.index_add_(0, steps, torch.ones(len(steps), dtype=torch.float64))
        fused = output.fused
        parts = {
            "va": output.va,
            "reliability": fused.reliability,
            "weights": fused.weights,
            "stage": fused.stage,
            "unimodal": output.unimodal.flatten(-2),
        }
        for name, part in parts.items():
            if part is not None:
                total = sums.setdefault(name, torch.zeros(corpus.num_steps, part.shape[-1], dtype=torch.float64))
                total.index_add_(0, steps, part[windows.inside].cpu().double())
    model.train(was_training)
    found = {name: (total / count.clamp(min=1)[:, None]).numpy() for name, total in sums.items()}
    return [_of_clip(corpus, index, found) for index in clips]


def _in_windows(
    model: VAModel, corpus: Corpus, clips: Sequence[int], data: DataConfig, batch_size: int
) -> Iterator[tuple[Windows, Output]]:
    plan = plan_windows(corpus, clips, data.window_steps, data.hop_steps)
    for rows in torch.from_numpy(plan).split(batch_size):
        windows = cut(corpus, rows, data.window_steps)
        yield windows, model(windows)


def _in_chunks(
    model: VAModel, corpus: Corpus, clips: Sequence[int], batch_size: int
) -> Iterator[tuple[Windows, Output]]:
    """Some clips side by side, the longest first, so that those not yet at their end are always the first rows."""
    longest_first = sorted(clips, key=lambda index: corpus.grids[index].num_steps, reverse=True)
    spans = torch.tensor([(corpus.offsets[index], corpus.offsets[index + 1]) for index in longest_first])
    for rows in spans.split(batch_size):
        memory = Memory()
        while len(rows):
            windows = cut(corpus, rows, min(CHUNK_STEPS, int(rows[0, 1] - rows[0, 0])))
            yield windows, model(windows, memory)
            rows = rows + torch.tensor([CHUNK_STEPS, 0])
            rows = rows[rows[:, 0] < rows[:, 1]]
            memory.keep(len(rows))


def averaged(predictions: Sequence[Prediction]) -> Prediction:
    """The mean of what several models, such as those of the folds, say of one clip.

    It has no stages: those of one model are not those of another.
    """
    if len(predictions) == 1:
        return predictions[0]
    means: dict[str, Floats | None] = {}
    for name in ("va", "unimodal", "reliability", "weights"):
        parts = [part for prediction in predictions if (part := getattr(prediction, name)) is not None]
        means[name] = np.mean(parts, axis=0) if len(parts) == len(predictions) else None
    return replace(predictions[0], **means, stage=None)


def _of_clip(corpus: Corpus, index: int, found: dict[str, Floats]) -> Prediction:
    steps = corpus.steps(index)
    part = {name: found[name][steps] if name in found else None for name in ("reliability", "weights", "stage")}
    mask = corpus.mask[steps].cpu().numpy()
    alone = found["unimodal"][steps].reshape(*mask.shape, len(TARGETS))
    clip, times_s = corpus.clips[index], corpus.grids[index].times_s
    return Prediction(clip.clip_id, times_s, found["va"][steps], mask, **part, unimodal=alone)


def smooth(va: Floats, width_steps: int) -> Floats:
    """Centred moving average of (T, 2) over an odd number of steps; at the ends over what there is."""
    half = width_steps // 2
    if half == 0:
        return va
    total = np.concatenate([np.zeros((1, va.shape[1])), va.cumsum(0)])
    first = np.maximum(np.arange(len(va)) - half, 0)
    end = np.minimum(np.arange(len(va)) + half + 1, len(va))
    return (total[end] - total[first]) / (end - first)[:, None]


def at_instants(values: Floats, grid: Grid, times_s: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Values (T, d) of a grid, interpolated linearly at given instants (S,); and which instants the grid covers."""
    place = times_s * grid.hz - grid.first_step
    covered = (place >= -0.5 - 1e-6) & (place <= grid.num_steps - 0.5 + 1e-6)
    place = np.clip(place, 0, grid.num_steps - 1)
    low = np.minimum(place.astype(np.int64), max(grid.num_steps - 2, 0))
    high = np.minimum(low + 1, grid.num_steps - 1)
    weight = (place - low)[:, None]
    return (1 - weight) * values[low] + weight * values[high], covered


@dataclass(frozen=True)
class ClipSums:
    """The moments of one clip, for the score: all (2, 6) over valence and arousal; face the same with a face only."""

    clip_id: str
    all: torch.Tensor
    face: torch.Tensor | None


def clip_sums(
    prediction: Prediction, grid: Grid, truth: Truth, face: NDArray[np.bool_] | None, width_s: float
) -> ClipSums:
    """Moments of one clip at the labels' own instants.

    A label counts if valence and arousal are both annotated and the grid covers its time, face or no face.

    Args:
        prediction: of the clip.
        grid: its grid.
        truth: its labels.
        face: (T,) where a visual stream is valid, or None without one.
        width_s: width of the moving average over the prediction; 0 for none.
    """
    smoothed = smooth(prediction.va, 2 * round(width_s * grid.hz / 2) + 1)
    va, covered = at_instants(smoothed, grid, truth.times_s)
    counted = truth.mask & covered
    sums = _sums(va, truth, counted)
    if face is None:
        return ClipSums(prediction.clip_id, sums, None)
    step = np.floor(truth.times_s * grid.hz + 0.5).astype(np.int64) - grid.first_step
    nearest = step.clip(0, grid.num_steps - 1)
    return ClipSums(prediction.clip_id, sums, _sums(va, truth, counted & face[nearest]))


def _sums(va: Floats, truth: Truth, counted: NDArray[np.bool_]) -> torch.Tensor:
    known = np.where(truth.mask[:, None], truth.va, 0).astype(np.float64)
    mask = torch.from_numpy(np.broadcast_to(counted, (2, len(counted))).copy())
    return moments(torch.from_numpy(va.T.copy()), torch.from_numpy(known.T.copy()), mask)


def corpus_sums(predictions: Sequence[Prediction], corpus: Corpus, width_s: float = 0.0) -> list[ClipSums]:
    """Moments of every predicted clip that has labels."""
    visual = [m for m, stream in enumerate(corpus.streams) if stream.modality == "visual"]
    found = []
    for prediction, index in zip(predictions, corpus.find([p.clip_id for p in predictions]), strict=True):
        truth = corpus.truths[index]
        if truth is not None:
            face = np.logical_or.reduce(prediction.mask[:, visual], axis=1) if visual else None
            found.append(clip_sums(prediction, corpus.grids[index], truth, face, width_s))
    return found


def pooled_ccc(sums: Sequence[torch.Tensor]) -> dict[str, float]:
    """(2, 6) moments of clips -> one CCC per target over all of them, and their mean."""
    return _named(ccc_of_moments(torch.stack(list(sums)).sum(0)))


def _named(values: torch.Tensor) -> dict[str, float]:
    found = {target: float(value) for target, value in zip(TARGETS, values, strict=True)}
    return {**found, "mean": float(values.mean())}


def score(predictions: Sequence[Prediction], corpus: Corpus) -> dict[str, float]:
    """One CCC per target over all labels of the predicted clips, and their mean; raw."""
    return pooled_ccc([clip.all for clip in corpus_sums(predictions, corpus)])


def bootstrap(sums: Sequence[torch.Tensor], draws: int = 2000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the pooled CCC, resampling clips; NaN for fewer than two clips that count."""
    counted = [clip for clip in sums if clip[0, 0] > 0]
    n = len(counted)
    if n < 2:
        return dict.fromkeys((*TARGETS, "mean"), (math.nan, math.nan))
    times_drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    scores = ccc_of_moments(torch.tensordot(torch.from_numpy(times_drawn), torch.stack(counted), dims=1)).numpy()
    scores = np.column_stack([scores, scores.mean(1)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where no draw has a score, nor has its interval
        low, high = np.nanpercentile(scores, [2.5, 97.5], axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip((*TARGETS, "mean"), low, high, strict=True)}


def best_smoothing_s(predictions: Sequence[Prediction], corpus: Corpus) -> float:
    """The width whose pooled mean CCC is highest on these predictions, which must not be the scored ones."""
    scores = [pooled_ccc([c.all for c in corpus_sums(predictions, corpus, w)])["mean"] for w in SMOOTHING_S]
    return SMOOTHING_S[int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))]


def plain(found: Any) -> Any:
    """The same nested values with None for NaN, which JSON does not know."""
    if isinstance(found, dict):
        return {key: plain(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [plain(value) for value in found]
    return None if isinstance(found, float) and math.isnan(found) else found


def summarise(raw: Sequence[ClipSums], smoothed: Sequence[ClipSums]) -> dict[str, Any]:
    """The score of a split: raw, smoothed, with intervals, on face frames only, and per clip."""
    report: dict[str, Any] = {"num_clips": len(raw), "num_labels": int(sum(c.all[0, 0].item() for c in raw))}
    for name, sums in (("raw", raw), ("smoothed", smoothed)):
        report[name] = {"ccc": pooled_ccc([c.all for c in sums]), "interval": bootstrap([c.all for c in sums])}
        faces = [c.face for c in sums if c.face is not None]
        if faces:
            report[name]["face_frames_only"] = pooled_ccc(faces)
            report["num_face_labels"] = int(sum(f[0, 0].item() for f in faces))
    report["clips"] = [{"clip_id": c.clip_id, **pooled_ccc([c.all]), "num_labels": int(c.all[0, 0])} for c in raw]
    return report
