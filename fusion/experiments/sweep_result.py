"""The result of a sweep, as it is printed and written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..result import Result


@dataclass(frozen=True)
class TrialRow(Result):
    """One trial; None for what it does not have.

    state: complete, pruned, failed or unfinished. score, valence, arousal: of the epoch that it keeps; the score of a
    trial that is not complete is its best so far. num_epochs: trained. reason: why it was pruned as unfit, or failed.
    params: its values of the keys of the space.
    """

    trial: int
    state: str
    score: float | None
    valence: float | None
    arousal: float | None
    epoch: int | None
    num_epochs: int
    seconds: float | None
    reason: str | None
    params: dict[str, Any]


@dataclass(frozen=True)
class FailedTrial(Result):
    """A trial that failed, and why."""

    trial: int
    reason: str | None


@dataclass(frozen=True)
class SweepResult(Result):
    """The result of `sweep`.

    num_trials: finished trials asked for; num_finished: those there are; num_trained: trials of this call, of which
    `failures` failed. unlabelled: clips without labels; unused: label files without a clip. left_out: a line for each
    clip with a malformed record. best: one of `rows`; None before one is complete. importance: None before enough are
    complete.
    """

    out: str
    objective: str
    num_validation_clips: int
    has_test_clips: bool
    num_trials: int
    num_finished: int
    num_trained: int
    failures: list[FailedTrial]
    interrupted: bool
    random_weights: list[str]
    unlabelled: list[str]
    unused: list[str]
    left_out: list[str]
    best: TrialRow | None
    importance: dict[str, float] | None
    rows: list[TrialRow]
