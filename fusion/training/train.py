"""Training: from cached features and labels to a run, or one run per fold; both can be stopped and resumed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data.atomic import lock_if_free, make_folder
from ...data.errors import InputError
from ...data.hashing import json_sha256
from ...data.labels import LabelFolder
from ...data.store.base import Store
from ...data.tensor_file import DamagedTensorsError, load_tensors, save_tensors
from ...data.windows.corpus import Corpus, cut, plan_windows
from ...data.windows.placement import place
from ...data.windows.splits import Role, read_split
from ..config import Config
from ..distributed import gathered, is_main, join, num_processes
from ..evaluation.metrics import best_smoothing_s, score
from ..evaluation.predict import predict
from ..models.base import VAModel
from ..models.variants import build_model, resolve
from ..provenance import described, provenance
from ..run_folder import CONFIG, ERRORS, LAST, METRICS, SPLIT, begun, check_new, finish_run, origin_of, start_run
from .crossfit import out_of_fold_errors
from .labelled import (
    Labelled,
    assign_roles,
    check_subjects,
    crossfit_folds,
    labels_sha256,
    load_labelled,
    settle_grid,
    settle_split,
    summarise_split,
)
from .lag import settle_lag
from .losses import typical_error
from .metrics_log import open_metrics_log
from .resume_state import StateFile
from .trackers import check_trackers
from .trainer import Log, fit, settled


def train(
    store: Store,
    labels: Path,
    out: Path,
    config: Config,
    *,
    device: str = "cpu",
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
    track: Sequence[str] = (),
    log: Log = lambda event: None,
) -> list[Path]:
    """Trains one run, or one run per fold, and writes them.

    Args:
        store: the feature cache.
        labels: folder of label files.
        out: folder of the run, which must be new. With `split.folds` and no `split.fold`, it holds `fold-0`, ….
        config: what changes the numbers.
        device: where to compute.
        resume: continue what `out` holds, if anything: unfinished runs from their last state, bit for bit on a CPU.
        stop: called after every step; once it returns True, the state is saved and KeyboardInterrupt raised.
        track: trackers that log each run: `tensorboard`, `wandb`, `mlflow`.
        log: called with one dictionary per event (`loaded`, `grid`, `split`, `run`, `model`, `crossfit`, `epoch`,
            `done`; `tracker` for a tracker that failed).

    Returns:
        Folders of the finished runs.

    Raises:
        InputError: if clips, labels, streams and split do not go together, a tracker does not start, or the loss is no
            longer finite.
    """
    check_trackers(track)
    _reserve_workspace(config)
    device = join(device)
    log = log if is_main() else lambda event: None
    folder_of_labels = LabelFolder(labels)
    config = settle_split(settled(resolve(config), torch.device(device)), store, folder_of_labels)
    config, slowest = settle_grid(config, store, folder_of_labels)
    runs = _runs(config, out)
    unfinished = _unfinished(runs, out, resume)
    gathered(None)  # before one process makes folders that the others would find
    labelled = load_labelled(store, folder_of_labels, config)
    corpus, where = place(labelled.corpus, torch.device(device))
    log({"event": "loaded", **_loaded(labelled), "placement": where})
    log({"event": "grid", **_grid(corpus, config, slowest)})
    splits = [assign_roles(corpus.clips, labelled.parts, run_config.split, config.seed) for run_config, _ in unfinished]
    if unfinished:
        log({"event": "split", **summarise_split(corpus.clips, splits[0], config.split).to_json()})
    for (run_config, folder), roles in zip(unfinished, splits, strict=True):  # refused before anything is written
        _check(corpus, roles, run_config)
        if (folder / SPLIT).exists() and read_split(folder / SPLIT) != roles:
            todo = "Train with the clips that it began with, or choose another --out."
            raise InputError(folder / SPLIT, expected="the split that the run began with", got="another", todo=todo)
    with _alone(out):
        _unfinished(runs, out, resume)  # again: another training may have begun there since
        for (run_config, folder), roles in zip(unfinished, splits, strict=True):
            if is_main() and not (folder / SPLIT).exists():
                start_run(folder, run_config, roles)
            gathered(None)
            log({"event": "run", "path": str(folder), "fold": run_config.split.fold})
            origin = {**origin_of(store, labels), "left_out": labelled.left_out}
            train_one(corpus, roles, run_config, folder, origin, log, stop=stop, track=track)
    return [folder for _, folder in runs]


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keeps all other trainings out of a folder; where several processes train together, rank 0 holds the lock."""
    with contextlib.ExitStack() as held:
        free = True
        if is_main():
            make_folder(out.parent)
            free = held.enter_context(lock_if_free(out.with_name(f".lock-{out.name}")))
        if not gathered(free)[0]:
            todo = "Wait for it, or choose another --out."
            raise InputError(out, "another training is at work in this folder", todo=todo)
        yield


def _runs(config: Config, out: Path) -> list[tuple[Config, Path]]:
    split = config.split
    if split.folds is None or split.fold is not None:
        return [(config, out)]
    each = [config.model_copy(update={"split": split.model_copy(update={"fold": k})}) for k in range(split.folds)]
    return [(fold_config, out / f"fold-{k}") for k, fold_config in enumerate(each)]


def _unfinished(runs: list[tuple[Config, Path]], out: Path, resume: bool) -> list[tuple[Config, Path]]:
    """Returns the runs that are not finished; refuses folders that hold something else."""
    if not resume or (len(runs) > 1 and (out / SPLIT).exists()):
        check_new(out)
    return [(config, folder) for config, folder in runs if not (begun(config, folder) and (folder / CONFIG).exists())]


def _loaded(labelled: Labelled) -> dict[str, Any]:
    """Returns the fields of the event `loaded` that describe clips and streams."""
    clips, streams = labelled.corpus.clips, labelled.corpus.streams
    return {
        "num_clips": len(clips),
        "unlabelled": labelled.unlabelled,
        "unused": labelled.unused,
        "left_out": labelled.left_out,
        "random_weights": [stream.name for stream in streams if stream.random_weights],
        "normalise": streams[0].normalise,
        "num_without_subject": sum(clip.subject_id is None for clip in clips),
    }


def _grid(corpus: Corpus, config: Config, slowest: str | None) -> dict[str, Any]:
    """Returns the fields of the event `grid`: its rate, what decided it, and the windows."""
    labels = {stream.name: stream.label for stream in corpus.streams}
    window_steps, hop_steps = config.data.steps_on(corpus)
    return {
        "hz": corpus.hz,
        "slowest_stream": None if slowest is None else labels.get(slowest, slowest),
        "window_steps": window_steps,
        "hop_steps": hop_steps,
        "longest_clip_s": corpus.longest_steps / corpus.hz,
    }


def train_one(
    corpus: Corpus,
    roles: Mapping[str, Role],
    config: Config,
    out: Path,
    origin: Mapping[str, Any],
    log: Log,
    errors_of: Callable[[Corpus, list[int], Config, Log], Tensor] = out_of_fold_errors,
    stop: Callable[[], bool] = lambda: False,
    track: Sequence[str] = (),
) -> VAModel:
    """Trains one run on a loaded corpus, and writes it into its folder, which `start_run` made.

    Resumes from the state in the folder, if any.

    Args:
        origin: as `origin_of` gives it, written beside the weights.
        errors_of: computes the out-of-fold errors for a gate; a comparison shares them between variants.
        stop: see `train`.
        track: see `train`.
    """
    versions, identity = provenance(), _identity(corpus, roles)
    metadata = {**versions, **described(corpus.streams)}
    config = settle_lag(corpus, _counted(corpus, roles, "train"), config)
    lag_s = config.labels.settled_s
    corpus = corpus.with_earlier_labels(round(lag_s * corpus.hz))
    training, validation = (_counted(corpus, roles, role) for role in ("train", "val"))
    file = StateFile(out / LAST, identity, stop=stop, log=out / METRICS)
    metrics_log = (
        open_metrics_log(track, out, config, metadata, file.num_epochs, log)
        if is_main()
        else contextlib.nullcontext(log)
    )
    with metrics_log as record, _deterministic(config):
        torch.manual_seed(config.seed)
        model = build_model(corpus.streams, config.model).to(corpus.device)
        model.lag_s = lag_s
        num_parameters = sum(weight.numel() for weight in model.parameters())
        facts = {"num_parameters": num_parameters, "receptive_steps": model.receptive_steps, "lag_s": lag_s}
        log({"event": "model", **facts})

        def log_and_stop(event: dict[str, Any]) -> None:
            log(event)
            if stop() and num_processes() == 1:  # several would have to agree
                raise KeyboardInterrupt

        errors = None
        if learns_reliability(model, config):
            errors = _errors(corpus, training, config, out, log_and_stop, errors_of, json_sha256(identity))
        fit(model, corpus, training, validation, config, errors=errors, log=record, file=file)
        if is_main():
            predictions = predict(model, corpus, validation, config.data)
            smoothing_s = best_smoothing_s(predictions, corpus)
            sigma = None if errors is None else typical_error(errors).item()
            record({"event": "trained"})
            finish_run(out, model, config, {**origin, **versions, "smoothing_s": smoothing_s, "sigma": sigma})
            record({"event": "done", "path": str(out), "val": score(predictions, corpus), "smoothing_s": smoothing_s})
    return model


def _identity(corpus: Corpus, roles: Mapping[str, Role]) -> dict[str, str]:
    """Returns the facts that a saved state must match before training resumes."""
    streams = ", ".join(stream.name for stream in corpus.streams)
    return {"streams": streams, "split": json_sha256(dict(roles))[:16], "labels": labels_sha256(corpus)}


def _errors(
    corpus: Corpus,
    training: list[int],
    config: Config,
    out: Path,
    log: Log,
    errors_of: Callable[[Corpus, list[int], Config, Log], Tensor],
    facts: str,
) -> Tensor:
    """Returns the out-of-fold errors, from the folder of the run if it was stopped after they were computed."""
    path = out / ERRORS
    with contextlib.suppress(OSError, KeyError, DamagedTensorsError):
        tensors, header = load_tensors(path)
        if header.get("facts") == facts:  # errors for other labels are computed again
            return tensors["errors"].to(corpus.device)
    errors = errors_of(corpus, training, config, log)
    if is_main():
        save_tensors(path, {"errors": errors}, {"facts": facts})
    return errors


def _reserve_workspace(config: Config) -> None:
    """Gives cuBLAS the workspace with which it repeats itself; cuBLAS reads this once, when it is first used."""
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextlib.contextmanager
def _deterministic(config: Config) -> Iterator[None]:
    """Restricts torch to operations that give the same bits each time, if `train.deterministic` asks for it."""
    before = torch.are_deterministic_algorithms_enabled()
    _reserve_workspace(config)
    torch.use_deterministic_algorithms(config.train.deterministic or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _check(corpus: Corpus, roles: Mapping[str, Role], config: Config) -> None:
    check_subjects(corpus.clips, roles, config)
    training, _ = (_counted(corpus, roles, role) for role in ("train", "val"))
    settle_lag(corpus, training, config)
    model = build_model(corpus.streams, config.model).to(corpus.device)
    _check_gate(model, corpus)
    if learns_reliability(model, config):
        crossfit_folds(corpus, training, config)


def _check_gate(model: VAModel, corpus: Corpus) -> None:
    """Refuses a fusion that sets `learns_reliability` and returns no reliability."""
    with torch.inference_mode():
        output = model.eval()(cut(corpus, plan_windows(corpus, [0], 8, 8)[:1], 8))
    if model.learns_reliability and output.fused.reliability is None:
        todo = "Return it in Fused, or leave learns_reliability out."
        raise InputError(f"variant {model.config.variant}", expected="a reliability", got="none", todo=todo)


def learns_reliability(model: VAModel, config: Config) -> bool:
    """Returns True if a model has a gate and a loss that trains it, so that it needs out-of-fold errors."""
    return model.learns_reliability and bool(config.loss.calibration or config.loss.ordinal)


def _counted(corpus: Corpus, roles: Mapping[str, Role], role: Role) -> list[int]:
    clips = [index for index, clip in enumerate(corpus.clips) if roles.get(clip.clip_id) == role]
    if not any(corpus.va_mask[corpus.steps(index)].any() for index in clips):
        todo = "Check that labels and features cover the same seconds, and the split."
        raise InputError(f"split {role}", expected="clips with labels that count", got="none", todo=todo)
    return clips
