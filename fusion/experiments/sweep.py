"""Search for the configuration with the best validation score, trial by trial in many processes: `sage-va sweep`.

Only training and validation clips are used; the test clips are kept for the run of the best trial.

    until enough trials of the study are finished, in each process:
        ask -> draw values -> train, report every epoch -+-> complete: the best so far keeps its run
                                                         +-> pruned: worse than the median, or unfit to be trained
                                                         +-> failed: any other error; does not count

See optuna_study.py for the journal that the processes share.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...data.errors import DamagedError, InputError, first_line
from ...data.store.base import Store, open_store
from ...data.windows.load import choose_streams
from ...data.windows.memmap_cache import address_of
from ..config import Config, DataConfig
from ..models.variants import variant_streams
from ..run_folder import SPLIT
from ..training.crossfit import decides_errors
from ..training.labelled import settle_grid, settle_split
from .compare import ERRORS, bench_of, of_all
from .optuna_study import (
    JOURNAL,
    FrozenTrial,
    MadeOf,
    TrialState,
    best_of,
    distributions,
    folder_of,
    importance_of,
    keep_best,
    num_finished,
    open_study,
    optuna,
    rows_of,
)
from .runs import Bench, BenchSettings, Cell
from .search_space import Choices, Space, configured
from .sweep_report import write_sweep
from .sweep_result import FailedTrial, SweepResult
from .workers import Work, Workers, find_workers

SweepProgress = Callable[[int, int, float | None], None]


@dataclass(frozen=True)
class Sweep:
    """The settings that all processes of a sweep share; `config` is that of all trials, but for the keys of `space`."""

    cache: str
    labels: Path
    out: Path
    config: Config
    space: Space
    num_trials: int
    device: str
    made_of: MadeOf = ()

    def bench(self, config: Config) -> Bench:
        """Returns the clips with all streams of a configuration, loaded once per process for one choice of them."""
        kept = ("streams", "grid_hz", "normalise")
        data = DataConfig(**{key: getattr(config.data, key) for key in kept})
        loaded = of_all(open_store(self.cache), Config(data=data), [config.model.variant])
        return bench_of(BenchSettings(self.cache, self.labels, loaded, self.device, self.errors))

    @property
    def errors(self) -> Path | None:
        """The folder of out-of-fold errors; None where each trial has others, as with a rate from a range."""
        drawn = [key for key, part in self.space.items() if not isinstance(part, Choices)]
        return None if any(decides_errors(key) for key in drawn) else self.out / ERRORS

    def begun(self) -> Sweep:
        """Returns a copy with `made_of`: all that a score depends on besides a trial's own values."""
        bench, config = self.bench(self.config), self.config.flat()
        made_of = {key: bench.origin[key] for key in ("cache", "labels", "labels_sha256")}
        made_of["streams"] = ", ".join(stream.name for stream in bench.labelled.corpus.streams)
        made_of |= {key: str(value) for key, value in config.items() if key not in self.space}
        made_of |= {f"space of {key}": str(part) for key, part in sorted(self.space.items())}
        return replace(self, made_of=tuple(made_of.items()))

    @property
    def of_study(self) -> tuple[MadeOf, int, int]:
        """The arguments with which its study is opened."""
        return self.made_of, self.config.seed, self.config.train.epochs

    def config_of(self, trial: optuna.Trial | FrozenTrial) -> Config:
        """Returns the whole configuration of a trial.

        Raises:
            InputError: if its values do not go together.
        """
        values = {key: self.space[key].value(label) for key, label in trial.params.items()}
        return configured(self.config, values, f"trial {trial.number}")


def sweep(
    store: Store,
    labels: Path,
    out: Path,
    config: Config,
    space: Space,
    *,
    num_trials: int = 200,
    jobs: int | None = None,
    device: str = "cpu",
    engine: str = "local",
    ray_address: str | None = None,
    progress: SweepProgress = lambda num_finished, num_trials, best: None,
) -> SweepResult:
    """Searches until `num_trials` trials of the study in `out` are finished, by this call or any other.

    A trial trains with values of the space and is scored, after every epoch, on the validation clips; one that is worse
    than the median of the others at its epoch is pruned, and so is one that cannot be trained. Others that fail do not
    count. Trials that `out` already holds are not done again, and other processes may work on it at the same time.

    Args:
        store: the feature cache.
        labels: folder of label files.
        out: folder of the study, of the run of its best trial (`best`), and of the files of the result.
        config: of all trials, but for the keys of the space. Its seed is that of every trial.
        space: see `load_space`.
        num_trials: complete or pruned.
        jobs: processes; None = one per core, or one where the device is no CPU; on Ray, as many as there is room for.
        device: where to compute; on Ray "auto", "cpu" or "cuda".
        engine: "local", or "ray" for the workers of a cluster.
        ray_address: of the cluster; None = the one of this machine, or a new one.
        progress: called with the number of finished trials, of trials asked for, and the best score.

    Raises:
        InputError: if cache, labels, split and space do not go together, or `out` holds something else.
    """
    _check_split(config)
    _check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(find_workers(engine, jobs=jobs, device=device, ray_address=ray_address)) as workers:
        config = settle_split(workers.settled(config), store, labels)
        config, _ = settle_grid(config, store, labels)
        places = address_of(store), labels.resolve(), out.resolve()
        task = Sweep(*places, config, space, num_trials, workers.device).begun()
        labelled = task.bench(config).labelled
        num_val, has_test = _check_clips(task, store)
        study = open_study(task.out, *task.of_study)
        outcomes, interrupted = _work(workers, task, study, progress)
    keep_best(study, out)
    best, rows = best_of(study), rows_of(study, space)
    result = SweepResult(
        out=str(out),
        objective="CCC on the validation clips, mean of valence and arousal, at the epoch that is kept",
        num_validation_clips=num_val,
        has_test_clips=has_test,
        num_trials=num_trials,
        num_finished=num_finished(study),
        num_trained=len(outcomes),
        failures=[FailedTrial(each.trial, each.reason) for each in outcomes if each.state == TrialState.FAIL],
        interrupted=interrupted,
        random_weights=[stream.name for stream in labelled.corpus.streams if stream.random_weights],
        unlabelled=labelled.unlabelled,
        unused=labelled.unused,
        left_out=labelled.left_out,
        best=rows[best.number] if best else None,
        importance=importance_of(study),
        rows=rows,
    )
    write_sweep(out, result, task.config_of(best) if best else None)
    return result


@dataclass(frozen=True)
class TrialOutcome:
    """The end of a trial in this call."""

    trial: int
    state: TrialState
    reason: str | None


def _work(
    workers: Workers, task: Sweep, study: optuna.Study, progress: SweepProgress
) -> tuple[list[TrialOutcome], bool]:
    """Does the missing trials; returns their outcomes, and True if Ctrl-C ended the work."""
    outcomes: list[TrialOutcome] = []
    left = range(task.num_trials - num_finished(study))
    here, there = functools.partial(_attempt, task, study), functools.partial(_in_worker, task)
    ended = workers.spread(Work(here, there, left, lambda number, running: False, _lost))
    try:
        progress(num_finished(study), task.num_trials, _score(study))
        for _, outcome in ended:
            outcomes += [outcome] if outcome else []
            progress(num_finished(study), task.num_trials, _score(study))
    except KeyboardInterrupt:
        return outcomes, True
    finally:
        ended.close()
    return outcomes, False


def _lost(number: int, reason: str) -> TrialOutcome | None:
    todo = "Run it again: finished trials are kept."
    raise InputError("engine", reason, todo=todo)


def _score(study: optuna.Study) -> float | None:
    best = best_of(study)
    return best.value if best else None


_opened = functools.lru_cache(maxsize=1)(open_study)


def _in_worker(task: Sweep, number: int) -> TrialOutcome | None:
    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, ended)  # so that it releases the journal's lock, for which others would wait
    try:
        return _attempt(task, _opened(task.out, *task.of_study), number)
    except KeyboardInterrupt:
        os._exit(1)
    finally:
        signal.signal(signal.SIGTERM, before)


def _attempt(task: Sweep, study: optuna.Study, _: int) -> TrialOutcome | None:
    """Draws, trains and records one trial; None if enough are finished."""
    if num_finished(study) >= task.num_trials:
        return None
    trial = study.ask(distributions(task.space))
    value, state, reason = None, TrialState.COMPLETE, None
    try:
        value = _train(task, trial)
    except optuna.TrialPruned:
        state = TrialState.PRUNED
    except Exception as error:
        unfit = isinstance(error, InputError) and not isinstance(error, DamagedError)
        state = TrialState.PRUNED if unfit else TrialState.FAIL
        reason = str(error) if isinstance(error, InputError) else first_line(error)
    except KeyboardInterrupt:
        _end(task, study, trial, TrialState.FAIL, "interrupted")
        raise
    _end(task, study, trial, state, reason, value)
    return TrialOutcome(trial.number, state, reason)


def _end(
    task: Sweep,
    study: optuna.Study,
    trial: optuna.Trial,
    state: TrialState,
    reason: str | None,
    value: float | None = None,
) -> None:
    if reason:
        trial.set_user_attr("reason", reason)
    study.tell(trial, value, state)
    if state == TrialState.COMPLETE:
        keep_best(study, task.out)
    else:
        shutil.rmtree(folder_of(task.out, trial.number), ignore_errors=True)


def _train(task: Sweep, trial: optuna.Trial) -> float:
    """Trains the run of a trial; returns the score of the epoch that it keeps.

    Raises:
        TrialPruned: if others are better. InputError: if its values do not go together, or no epoch has a score.
    """
    config = task.config_of(trial)
    bench = task.bench(config)
    cell = Cell(config.model.variant, config.seed, config.split.fold, config, folder_of(task.out, trial.number))
    kept: dict[str, float] = {"mean": -math.inf}

    def judge(event: dict[str, Any]) -> None:
        if event["event"] != "epoch":
            return
        val = event["val"]
        trial.report(val["mean"], event["epoch"])
        if config.train.keep == "last" or val["mean"] > kept["mean"]:
            kept.update(val, epoch=event["epoch"])
        if trial.should_prune():
            raise optuna.TrialPruned

    bench.train(cell, judge)
    if not math.isfinite(kept["mean"]):
        todo = "Add validation clips whose labels vary."
        raise InputError("validation clips", "no epoch has a score on them", todo=todo)
    trial.set_user_attr("best", {name: kept[name] for name in ("epoch", "valence", "arousal")})
    return kept["mean"]


def _check_split(config: Config) -> None:
    if config.split.folds is not None and config.split.fold is None:
        todo = "Name one, such as --set split.fold=0: only its test clips play no part in the search."
        raise InputError("split.fold", expected="the fold to search on", got="none", todo=todo)


def _check_folder(out: Path) -> None:
    strange = out.is_file() or (out / SPLIT).exists()
    if strange or (out.exists() and any(out.iterdir()) and not (out / JOURNAL).exists()):
        got, todo = "something else", "Choose another --out."
        raise InputError(out, expected="a new folder, or that of a sweep", got=got, todo=todo)


def _check_clips(task: Sweep, store: Store) -> tuple[int, bool]:
    """Returns the number of validation clips, and True if there are test clips.

    Raises:
        InputError: if clips are missing, or streams that the space names.
    """
    corpus = task.bench(task.config).labelled.corpus
    streams, variants = (task.space.get(key) for key in ("data.streams", "model.variant"))
    if isinstance(streams, Choices):
        for names in streams.values:
            choose_streams(store, names)
    elif isinstance(variants, Choices):
        for variant in variants.values:
            variant_streams(variant, corpus.streams)
    cell = Cell(task.config.model.variant, task.config.seed, task.config.split.fold, task.config, task.out)
    roles = task.bench(task.config).roles(cell)
    counted = {
        roles[clip.clip_id] for index, clip in enumerate(corpus.clips) if corpus.va_mask[corpus.steps(index)].any()
    }
    for role in ("train", "val"):
        if role not in counted:
            todo = "Check that labels and features cover the same seconds, and the split."
            raise InputError(f"split {role}", expected="clips with labels that count", got="none", todo=todo)
    return list(roles.values()).count("val"), "test" in roles.values()
