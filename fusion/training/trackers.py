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
class TrackedRun:
    """A run as a tracker receives it at the start.

    metadata: as of `provenance` and `described`; run_id: id of the run in the tracker if it is resumed, else None;
    num_epochs: finished epochs.
    """

    out: Path
    config: Config
    metadata: Mapping[str, Any]
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
    """A run in an experiment tracker. Any exception is logged, and training continues without the tracker.

    Args:
        run: to be tracked; one with a `run_id` is continued.
    """

    run_id: str

    def __init__(self, run: TrackedRun) -> None: ...

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """Adds the numbers of an epoch."""
        ...

    def final(self, number: int, values: Mapping[str, float]) -> None:
        """Adds the final numbers of the run; `number` is its last epoch."""
        ...

    def close(self, end: End) -> None:
        """Ends the run and sends what is left."""
        ...


class TensorBoard:
    """Event files in the folder `tensorboard` of the run: `tensorboard --logdir` of it or of any folder above."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run_id = "tensorboard"
        purge = run.num_epochs if run.run_id else None
        self.writer = SummaryWriter(str(run.out / self.run_id), purge_step=purge)
        texts = {"config": run.config.to_yaml(), "metadata": json.dumps(run.metadata, indent=2, ensure_ascii=False)}
        for name, text in texts.items():
            self.writer.add_text(name, f"```\n{text}\n```", run.num_epochs)
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

    The project is sage-va unless WANDB_PROJECT names another; all environment variables of W&B are respected.
    """

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=os.environ.get("WANDB_DIR", str(run.out)),
            name=run.name,
            group=run.group,
            id=run.run_id,
            resume="allow" if run.run_id else None,
            config={**run.config.model_dump(mode="json"), "metadata": dict(run.metadata)},
            tags=["random weights"] if run.metadata.get("random_weights") else None,
            allow_val_change=True,  # a run may be resumed from another commit
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

    The experiment is sage-va, or MLFLOW_EXPERIMENT_NAME. All calls go through a client: the "active run" of the module
    belongs to the user.
    """

    def __init__(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        self.client = MlflowClient()
        self.run_id = run.run_id or self._new(run.name)
        self.client.update_run(self.run_id, status="RUNNING")
        params = [Param(key, str(value)) for key, value in run.config.flat().items()]
        tags = [RunTag(key, value) for key, value in _tags(run).items()]
        for start in range(0, max(len(params), len(tags)), 100):  # MLflow's limit
            part = slice(start, start + 100)
            self.client.log_batch(self.run_id, params=params[part], tags=tags[part], synchronous=True)

    def _new(self, name: str) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self.client.get_experiment_by_name(experiment)
        experiment_id = known.experiment_id if known else self.client.create_experiment(experiment)
        return self.client.create_run(experiment_id, run_name=name).info.run_id

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, value, now_ms, number) for name, value in values.items()]
        self.client.log_batch(self.run_id, metrics=metrics, synchronous=True)

    final = epoch

    def close(self, end: End) -> None:
        self.client.set_terminated(self.run_id, end)


def _tags(run: TrackedRun) -> dict[str, str]:
    """Returns the metadata as MLflow's tags; the commit has the name that its pages show."""
    metadata = dict(run.metadata)
    commit = (metadata.get("git") or {}).get("commit")
    known = {"group": run.group, "mlflow.source.git.commit": commit}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    return {key: value for key, value in known.items() if value} | texts


@dataclass(frozen=True)
class TrackerKind:
    """A tracker by name: its class, the package that it needs, and the advice if it does not start."""

    tracker: type[Tracker]
    package: str
    todo: str


TRACKER_KINDS = {
    "tensorboard": TrackerKind(TensorBoard, "tensorboard", "Check that the folder of the run is writable."),
    "wandb": TrackerKind(Wandb, "wandb", "Run `wandb login`, or set WANDB_MODE=offline."),
    "mlflow": TrackerKind(MLflow, "mlflow", "Check MLFLOW_TRACKING_URI, and that the store still holds this run."),
}


def check_trackers(names: Sequence[str]) -> None:
    """Checks that trackers exist and are installed.

    Raises:
        InputError: if not.
    """
    for name in names:
        if name not in TRACKER_KINDS:
            raise InputError("track", expected=", ".join(TRACKER_KINDS), got=name, todo="Choose from these.")
        package = TRACKER_KINDS[name].package
        if importlib.util.find_spec(package) is None:
            todo = 'Install it: pip install "sage-va[track]".'
            raise InputError("track", expected=f"the package {package}", got="none", todo=todo)
