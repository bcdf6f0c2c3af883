"""Experiment trackers, as `--track` names them: TensorBoard, Weights & Biases, MLflow.

The trackers' own interfaces are used: accelerate's classes start a second folder in TensorBoard at each resume, keep
one MLflow run per process, and call every MLflow run finished, also one that failed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ...data.errors import InputError
from ..config import Config

PROJECT = "sage-va"
FINISH_S = 300.0
End = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Told:
    """What a tracker is told of a run when it starts.

    facts: as of `provenance` and `described`; run_id: under which the tracker knows it already, None if it does not;
    num_epochs: how many epochs the run has behind it.
    """

    out: Path
    config: Config
    facts: Mapping[str, Any]
    run_id: str | None
    num_epochs: int

    @property
    def group(self) -> str | None:
        """The cross-validation that the run is a fold of: the folder above."""
        out = self.out.resolve()
        return out.parent.name if out.name == f"fold-{self.config.split.fold}" else None

    @property
    def name(self) -> str:
        """The folder of the run, for a fold with the one above."""
        out = self.out.resolve()
        return f"{self.group}/{out.name}" if self.group else out.name


class Tracker(Protocol):
    """A run as an experiment tracker knows it. Whatever it raises is said, and the training goes on without it.

    Args:
        told: the run; a `run_id` is gone on with.

    `replaces`: epochs that are told again replace those of before; else they are not told again. `settles_s`: how long
    it takes at most until what it was told outlives this process.
    """

    replaces: bool
    settles_s: float
    run_id: str

    def __init__(self, told: Told) -> None: ...

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """What an epoch came to."""
        ...

    def final(self, number: int, values: Mapping[str, float]) -> None:
        """What the run came to in the end; `number` is its last epoch."""
        ...

    def close(self, end: End) -> None:
        """Nothing follows."""
        ...


class TensorBoard:
    """Event files in the folder `tensorboard` of the run: `tensorboard --logdir` of it or of any folder above."""

    replaces, settles_s = True, 0.0

    def __init__(self, told: Told) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run_id = "tensorboard"
        purge = told.num_epochs if told.run_id else None
        self.writer = SummaryWriter(str(told.out / self.run_id), purge_step=purge)
        texts = {"config": told.config.to_yaml(), "facts": json.dumps(told.facts, indent=2, ensure_ascii=False)}
        for name, text in texts.items():
            self.writer.add_text(name, f"```\n{text}\n```", told.num_epochs)
        self.writer.flush()

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, number)
        self.writer.flush()

    final = epoch

    def close(self, end: End) -> None:
        self.writer.close()


class Wandb:
    """A run of Weights & Biases, with its files in the run's folder; a step there is an epoch.

    The project is sage-va; WANDB_PROJECT, WANDB_MODE, WANDB_DIR and the others of W&B say otherwise.
    """

    replaces, settles_s = False, 30.0

    def __init__(self, told: Told) -> None:
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=os.environ.get("WANDB_DIR", str(told.out)),
            name=told.name,
            group=told.group,
            id=told.run_id,
            resume="allow" if told.run_id else None,
            config={**told.config.model_dump(mode="json"), "facts": dict(told.facts)},
            tags=["random weights"] if told.facts.get("random_weights") else None,
            allow_val_change=True,  # a run may be gone on with from another commit
            reinit="create_new",  # leaves a run of the user's own alone
            settings=wandb.Settings(
                finish_timeout=FINISH_S,
                finish_timeout_raises=True,
                console="off",  # names of clips are printed there
            ),
        )
        self.run_id = self.run.id

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=number, commit=True)

    def final(self, number: int, values: Mapping[str, float]) -> None:
        self.run.summary.update(dict(values))

    def close(self, end: End) -> None:
        self.run.finish(exit_code=int(end != "FINISHED"))


class MLflow:
    """A run of MLflow, in the store that MLFLOW_TRACKING_URI names, else MLflow's default, `mlflow.db` where one is.

    The experiment is sage-va, or MLFLOW_EXPERIMENT_NAME. The client is asked, not the module: its "active run" is the
    user's own.
    """

    replaces, settles_s = False, 0.0

    def __init__(self, told: Told) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        self.client = MlflowClient()
        self.run_id = told.run_id or self._new(told.name)
        self.client.update_run(self.run_id, status="RUNNING")
        params = [Param(key, str(value)) for key, value in told.config.flat().items()]
        tags = [RunTag(key, value) for key, value in _tags(told).items()]
        for start in range(0, max(len(params), len(tags)), 100):  # as many as it takes at once
            part = slice(start, start + 100)
            self.client.log_batch(self.run_id, params=params[part], tags=tags[part], synchronous=True)

    def _new(self, name: str) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self.client.create_experiment(experiment)
        return self.client.create_run(experiment_id, run_name=name).info.run_id

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, value, now_ms, number) for name, value in values.items()]
        self.client.log_batch(self.run_id, metrics=metrics, synchronous=True)

    final = epoch

    def close(self, end: End) -> None:
        self.client.set_terminated(self.run_id, end)


def _tags(told: Told) -> dict[str, str]:
    """Facts as MLflow keeps them; the commit under the name that its pages show."""
    facts = dict(told.facts)
    commit = (facts.get("git") or {}).get("commit")
    known = {"group": told.group, "mlflow.source.git.commit": commit}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    return {key: value for key, value in known.items() if value} | texts


@dataclass(frozen=True)
class Kind:
    """A tracker that there is: its class, the package it needs, and what to look at if it does not start."""

    tracker: type[Tracker]
    package: str
    todo: str


KINDS = {
    "tensorboard": Kind(TensorBoard, "tensorboard", "Check that the folder of the run can be written."),
    "wandb": Kind(Wandb, "wandb", "Run `wandb login`, or set WANDB_MODE=offline."),
    "mlflow": Kind(MLflow, "mlflow", "Check MLFLOW_TRACKING_URI, and that the store it names still holds this run."),
}


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers that do not exist or are not installed.

    Raises:
        InputError: if so.
    """
    for name in names:
        if name not in KINDS:
            raise InputError(f"--track {name}", expected=", ".join(KINDS), got=name, todo="Choose from these.")
        package = KINDS[name].package
        if importlib.util.find_spec(package) is None:
            todo = 'Install it: pip install "sage-va[track]".'
            raise InputError(f"--track {name}", expected=f"the package {package}", got="none", todo=todo)
