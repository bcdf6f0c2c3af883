"""The trials of a sweep on disk: an Optuna study in a journal, which several processes and machines may share.

The journal is a file of lines, each a change of the study, appended under a lock. Every process replays the lines that
it has not read yet, so all see the same trials in the same order:

    ask      lock, append "trial N begins", unlock      N is the place of that line: no two processes share a number
    report   lock, append the score of an epoch, unlock after each epoch; pruning compares with the trials read so far
    tell     lock, append "trial N is complete / pruned / failed", unlock
    best     if N is the best: the link `best` -> trials/N is replaced, the runs of all other finished trials removed

A killed process leaves a trial that stays `unfinished` and counts for nothing; half a line, which the next process cuts
off under the lock before it appends; or the lock itself, which is broken after 30 seconds. Two processes that end at
the same moment may both replace the link: each looks again afterwards, so the last one leaves it at the best trial.
What a trial draws depends on seed and number alone, so it does not matter which process asks.
"""

from __future__ import annotations

import math
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...data.atomic import publish
from ...data.errors import InputError
from ...data.hashing import json_sha256
from .search_space import Choices, Range, Space
from .sweep_result import TrialRow

try:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.samplers import BaseSampler, TPESampler
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    from optuna.trial import FrozenTrial, TrialState
except ModuleNotFoundError:
    todo = 'Install it: pip install "sage-va[sweep]".'
    raise InputError("sage-va sweep", expected="the package optuna", got="none", todo=todo) from None

JOURNAL, BEST = "study.journal", "best"
NUM_RANDOM = 10  # trials that are drawn at random, and finish, before the others are chosen and may be pruned
PRUNED_AFTER = 0.3  # of the epochs: earlier scores say too little about the last
NUM_BESIDE = 5  # completed trials that a trial is compared with, at least
MadeOf = tuple[tuple[str, str], ...]
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class Sampler(BaseSampler):
    """TPE whose draws depend on the seed and the number of the trial alone.

    So processes never draw the same, and a sweep of one process that was resumed equals one that never stopped.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.number, self.inner = seed, -1, TPESampler()

    def _of(self, trial: FrozenTrial) -> TPESampler:
        if trial.number != self.number:
            seed = int(np.random.SeedSequence([self.seed, trial.number]).generate_state(1)[0])
            self.number, self.inner = trial.number, TPESampler(n_startup_trials=NUM_RANDOM, seed=seed)
        return self.inner

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Returns a space as Optuna's distributions."""
    return {key: _distribution(part) for key, part in space.items()}


def _distribution(part: Choices | Range) -> BaseDistribution:
    if isinstance(part, Choices):
        return CategoricalDistribution(part.labels)
    if part.whole:
        return IntDistribution(int(part.low), int(part.high), part.log, int(part.step or 1))
    return FloatDistribution(part.low, part.high, part.log, part.step)


def open_study(out: Path, made_of: MadeOf, seed: int, num_epochs: int) -> optuna.Study:
    """Opens the study in a folder, or begins one.

    Args:
        out: the folder.
        made_of: names and values that identify the study; a study of other ones is refused.
        seed: of the draws.
        num_epochs: of a trial; they decide from when on it may be pruned.

    Raises:
        InputError: if the folder holds another study, or its journal cannot be read.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name, path = json_sha256(made_of)[:16], out / JOURNAL
    # The lock is a file made with O_EXCL, which NFS 3 and later keep between machines. The other one that Optuna has,
    # a symbolic link, counts as abandoned by the age of the journal: a fresh one may be broken.
    lock = JournalFileOpenLock(str(path))
    try:
        _mend(path, lock)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), lock))
        studies = storage.get_all_studies()
        if not studies or studies[0].study_name == name:
            study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
            if not study.user_attrs:
                study.set_user_attr("made_of", dict(made_of))
            studies = storage.get_all_studies()  # the journal has one order for all: the first study is the study
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        got, todo = " ".join(str(error).split())[:200], "Restore it, or choose another --out."
        raise InputError(path, expected="the journal of a study", got=got or "another file", todo=todo) from None
    if studies[0].study_name != name:
        _refuse(out, studies[0].user_attrs.get("made_of", {}), dict(made_of))
    warmup = math.ceil(PRUNED_AFTER * num_epochs)
    pruner = optuna.pruners.MedianPruner(NUM_RANDOM, warmup, n_min_trials=NUM_BESIDE)
    return optuna.load_study(storage=storage, study_name=name, sampler=Sampler(seed), pruner=pruner)


def _mend(path: Path, lock: JournalFileOpenLock) -> None:
    """Cuts off half a line that a killed process left, before others append to it."""
    if not path.exists() or _num_whole(path) == path.stat().st_size:
        return
    lock.acquire()  # a process that is writing a line has finished it by then
    try:
        os.truncate(path, _num_whole(path))
    finally:
        lock.release()


def _num_whole(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    return path.read_bytes().rfind(b"\n") + 1


def _refuse(out: Path, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for key in (*wanted, *kept):
        if kept.get(key) != wanted.get(key):
            todo = "Choose another --out, or the settings of before."
            expected, got = (f"{key} = {side.get(key, 'none')}" for side in (wanted, kept))
            raise InputError(out, expected=f"a study of {expected}", got=f"one of {got}", todo=todo)


def num_finished(study: optuna.Study) -> int:
    """Returns the number of complete and pruned trials."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def best_of(study: optuna.Study) -> FrozenTrial | None:
    """Returns the trial with the best score, the first of several; None before one is complete."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(complete, key=lambda trial: trial.value or 0.0, default=None)


def folder_of(out: Path, number: int) -> Path:
    """Returns the folder of a trial's run."""
    return out / "trials" / f"{number:04}"


def keep_best(study: optuna.Study, out: Path) -> None:
    """Links `best` to the run of the best trial, and removes the runs of all other finished ones."""
    while (best := best_of(study)) is not None:
        link, part = out / BEST, out / f".{BEST}-{uuid.uuid4().hex}"
        part.symlink_to(folder_of(Path(), best.number))
        publish(part, link)
        if best_of(study) == best:  # else a better one has ended meanwhile, and its link may have been replaced
            break
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished() and (best is None or trial.number != best.number):
            shutil.rmtree(folder_of(out, trial.number), ignore_errors=True)


def rows_of(study: optuna.Study, space: Space) -> list[TrialRow]:
    """Returns one row per trial, in their order."""
    return [_row(trial, space) for trial in study.get_trials(deepcopy=False)]


def _row(trial: FrozenTrial, space: Space) -> TrialRow:
    states = {TrialState.FAIL: "failed", TrialState.RUNNING: "unfinished"}
    reached = [value for value in trial.intermediate_values.values() if not math.isnan(value)]
    best = trial.user_attrs.get("best", {})
    return TrialRow(
        trial.number,
        states.get(trial.state, trial.state.name.lower()),
        max(reached, default=None) if trial.state != TrialState.COMPLETE else trial.value,
        best.get("valence"),
        best.get("arousal"),
        best.get("epoch"),
        num_epochs=len(trial.intermediate_values),
        seconds=round(trial.duration.total_seconds(), 2) if trial.duration else None,
        reason=trial.user_attrs.get("reason"),
        params={key: space[key].value(label) for key, label in trial.params.items()},
    )


def importance_of(study: optuna.Study) -> dict[str, float] | None:
    """Returns the share of each key in reaching the best scores (PED-ANOVA, which needs no scikit-learn).

    None while too few trials are complete.
    """
    num_complete = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    if num_complete < 2 * NUM_BESIDE:
        return None
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(0.1, NUM_BESIDE / num_complete))
    return optuna.importance.get_param_importances(study, evaluator=evaluator)
