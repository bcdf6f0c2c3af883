"""Ceilings of benchmarks/shift.py: what a fusion reaches that is given the true ratio of signal to noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sage_va.benchmarks.synthetic import snr_on_grid
from sage_va.data.store.fingerprint import stream_alias
from sage_va.data.windows.corpus import Corpus
from sage_va.fusion.config import DataConfig
from sage_va.fusion.evaluation.predict import predict
from sage_va.fusion.models.base import VAModel

Floats = NDArray[np.float64]
CLARITY = 0  # the quality signal that the true ratio replaces
USUAL_DB = 10.0


def true_ratio(corpus: Corpus, folder: Path, index: int) -> Floats:
    """(T, M) true ratio of one clip in decibels on its grid; at its ends that of the nearest instant."""
    aliases = [stream_alias(stream.name) for stream in corpus.streams]
    truth = np.load(folder / "truth.npz")
    end_s = truth["times_s"][-1]
    return snr_on_grid(truth, corpus.clips[index].clip_id, aliases, corpus.grids[index].times_s.clip(0, end_s))


def with_true_ratio(corpus: Corpus, folder: Path) -> Corpus:
    """Returns drawn clips whose first quality signal is the true ratio, in tens of decibels."""
    ratios = np.concatenate([true_ratio(corpus, folder, index) for index in range(len(corpus.clips))])
    quality = [signals.clone() for signals in corpus.quality]
    for m, signals in enumerate(quality):
        signals[:, CLARITY] = torch.from_numpy(ratios[:, m] / USUAL_DB).to(signals)
    return replace(corpus, quality=quality)


def true_ratio_estimates(
    model: VAModel,
    data: DataConfig,
    known: tuple[Corpus, Path, Sequence[int]],
    tests: Mapping[str, tuple[Corpus, Path]],
) -> dict[str, list[Floats]]:
    """Returns for each condition the (T, 2) average of the streams' own estimates, weighed by the true ratio.

    The weight is the inverse of the mean squared error that the stream has at that ratio on the validation clips,
    interpolated over decibels; beyond them that of the nearest ratio.

    Args:
        model: trained.
        data: its windows.
        known: drawn clips, their folder, and which of them are the validation clips.
        tests: condition -> drawn clips and their folder.
    """
    corpus, folder, clips = known
    errors = [dict[float, list[Floats]]() for _ in corpus.streams]
    for prediction, index in zip(predict(model, corpus, clips, data), clips, strict=True):
        ratios, steps = true_ratio(corpus, folder, index), corpus.steps(index)
        va, counted = corpus.va[steps].numpy(), corpus.va_mask[steps].numpy()
        for m, of_stream in enumerate(errors):
            squares = np.square(prediction.unimodal[:, m] - va).mean(-1)
            for ratio in np.unique(ratios[:, m]):
                chosen = counted & prediction.mask[:, m] & (ratios[:, m] == ratio)
                of_stream.setdefault(float(ratio), []).append(squares[chosen])
    tables = [sorted((ratio, float(np.concatenate(e).mean())) for ratio, e in of.items()) for of in errors]
    return {name: _weighed(model, data, *test, tables) for name, test in tests.items()}


def _weighed(
    model: VAModel, data: DataConfig, corpus: Corpus, folder: Path, tables: Sequence[Sequence[tuple[float, float]]]
) -> list[Floats]:
    estimates = []
    for index, prediction in enumerate(predict(model, corpus, range(len(corpus.clips)), data)):
        ratios = true_ratio(corpus, folder, index)
        errors = [np.exp(np.interp(ratios[:, m], *_logs(table))) for m, table in enumerate(tables)]
        weights = prediction.mask / np.stack(errors, axis=1)
        total = weights.sum(1, keepdims=True)
        mean = (weights[..., None] * prediction.unimodal).sum(1) / np.where(total > 0, total, 1)
        estimates.append(np.where(total > 0, mean, prediction.va))
    return estimates


def _logs(table: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [ratio for ratio, _ in table], [float(np.log(error)) for _, error in table]
