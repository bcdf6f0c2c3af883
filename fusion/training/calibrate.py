"""Calibration: offset and temperature of each stream's reliability, refitted on the validation clips."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...data.errors import InputError
from ...data.store.base import open_store
from ...data.windows.batches import in_batches
from ...data.windows.corpus import Corpus, Windows, cut, plan_windows
from ..config import load_config
from ..evaluation.predict import predict
from ..evaluation.reliability import ReliabilityReport, reliability_report
from ..evaluation.score import load_part
from ..models.base import FusionModel
from ..models.sage import Encoded, ReliabilityFusion
from ..result import Result
from ..run_folder import METRICS, ORIGIN, RESOLVED, Run, check_new, finish_run, fold_runs, load_run, start_run
from .losses import calibration_loss
from .metrics_log import write_table

NUM_STEPS, STEP_SIZE, BATCH_SIZE = 200, 0.05, 32


@dataclass(frozen=True)
class CalibratedRun(Result):
    """A calibrated run: its folder, and the reliability of the validation clips before and after."""

    run: str
    before: ReliabilityReport
    after: ReliabilityReport


@dataclass(frozen=True)
class CalibrationReport(Result):
    """The calibrated runs: one, or one for each fold."""

    runs: list[CalibratedRun]


def calibrate(
    path: Path, out: Path, *, cache: str | None = None, labels: Path | None = None, device: str = "cpu"
) -> CalibrationReport:
    """Refits (tau_m, b_m) of equation (6) on the validation clips, all else frozen, into a new run.

    The target is that of equation (15), from the errors of the model's own unimodal estimates.

    Args:
        path: a finished run with a gate, or the folder of its folds, each of which is calibrated.
        out: folder of the new run, which must be new.
        cache, labels: other ones than the run was trained with.
        device: where to compute.

    Raises:
        InputError: if the run has no trained gate, or no validation clip is labelled.
    """
    check_new(out)
    folds = fold_runs(path)
    places = [(fold, out / fold.name) for fold in folds] or [(path, out)]
    runs = [(load_run(source, device), place) for source, place in places]
    for run, _ in runs:
        _fusion_of(run)
    return CalibrationReport([_calibrate(run, place, cache, labels, device) for run, place in runs])


def _fusion_of(run: Run) -> ReliabilityFusion:
    fusion = run.model.fusion if isinstance(run.model, FusionModel) else None
    if not isinstance(fusion, ReliabilityFusion) or run.sigma is None:
        todo = "Train `sage` with loss.calibration or loss.ordinal above 0."
        raise InputError(run.path, expected="a trained gate", got=run.config.model.variant, todo=todo)
    return fusion


def _calibrate(run: Run, out: Path, cache: str | None, labels: Path | None, device: str) -> CalibratedRun:
    corpus = load_part(run, open_store(cache or run.cache), labels or Path(run.labels), "val").to(torch.device(device))
    before = _report(run, corpus)
    refit(run, corpus.with_earlier_labels(round(run.model.lag_s * corpus.hz)))
    start_run(out, load_config(run.path / RESOLVED), run.roles)
    shutil.copy(run.path / METRICS, out / METRICS)
    write_table(out)
    origin = {name: getattr(run, name) for name in ORIGIN}
    finish_run(out, run.model, run.config, {**origin, "calibrated_from": str(run.path)})
    return CalibratedRun(str(out), before, _report(run, corpus))


def _report(run: Run, corpus: Corpus) -> ReliabilityReport:
    assert run.sigma is not None, "checked"
    predictions = predict(run.model, corpus, range(len(corpus.clips)), run.config.data)
    return reliability_report(predictions, corpus, run.sigma)


def refit(run: Run, corpus: Corpus) -> None:
    """Moves offsets and temperatures of the run's gate to the least cross-entropy on the labelled steps of a corpus."""
    fusion, batches = _fusion_of(run), list(_batches(run, corpus))
    counts = [int((windows.mask & error.isfinite()).sum()) for _, error, windows in batches]
    if not sum(counts):
        raise InputError(run.path, expected="validation labels that count", got="none", todo="Check --labels.")
    parameters = [fusion.gate.offset, fusion.gate.raw_temperature]
    fusion.gate.uncalibrate()
    run.model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.Adam(parameters, lr=STEP_SIZE)
    factors = [fusion.factor(encoded) for encoded, _, _ in batches]
    sigma = torch.tensor(run.sigma)
    for _ in range(NUM_STEPS):
        optimiser.zero_grad()
        for count, factor, (encoded, error, windows) in zip(counts, factors, batches, strict=True):
            loss = calibration_loss(fusion.estimate(encoded, factor)[-1], error, sigma, windows)
            (loss * (count / sum(counts))).backward()
        optimiser.step()
    run.model.requires_grad_(False)


@torch.no_grad()
def _batches(run: Run, corpus: Corpus) -> Iterator[tuple[Encoded, Tensor, Windows]]:
    """Yields the input of the gate for every clip, and the error (B, L, M) of each stream, NaN where unlabelled."""
    assert isinstance(run.model, FusionModel)
    length, _ = run.config.data.steps_on(corpus)
    plan = plan_windows(corpus, range(len(corpus.clips)), length, length)
    for batch in in_batches(plan, length, BATCH_SIZE):
        windows = cut(corpus, batch.rows, batch.length)
        encoded = run.model.encode(windows)
        error = (run.model.unimodal_estimates(encoded) - windows.va[..., None, :]).abs().sum(-1)
        yield encoded, torch.where(windows.va_mask[..., None], error, torch.nan), windows
