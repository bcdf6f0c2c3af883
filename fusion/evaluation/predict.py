"""The protocol of predictions: clips cut into windows or chunks, and one estimate per step of their grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.windows.corpus import Corpus, Windows, cut, plan_windows
from ..config import DataConfig
from ..models.base import Output, VAModel
from ..models.causal_cache import Memory
from ..result import plain as plain  # until the commands import it from there

TARGETS = ("valence", "arousal")
CHUNK_STEPS = 300  # of a clip that a causal model is given at once; decides memory, not numbers
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
