"""Records of a run, read back: its own files, TensorBoard, W&B's offline folder, MLflow's store."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from sage_va.data import InputError
from sage_va.data.windows.corpus import Stream
from sage_va.fusion.config import Config, check_config
from sage_va.fusion.models.variants import build_model
from sage_va.fusion.provenance import described, git_state, provenance
from sage_va.fusion.training import metrics_log, resume_state
from sage_va.fusion.training.metrics_log import open_metrics_log
from sage_va.fusion.training.resume_state import StateFile
from sage_va.fusion.training.trackers import TRACKER_KINDS, End, TrackedRun, TrackerKind, check_trackers
from sage_va.fusion.training.trainer import fit
from sage_va.tests.synthetic import random_corpus, streams_of, tiny

NAN = float("nan")
RANDOM = Stream("visual/x-00000000", "visual", "visual", 8, (), {"encoder": {"name": "x", "weights": "random"}})
FACTS = {
    "versions": {"torch": "2.15"},
    "git": {"commit": "0123abcd", "dirty": True},
    **described([RANDOM]),
}
DONE = {"event": "done", "path": "there", "val": {"valence": NAN, "arousal": 0.25, "mean": NAN}, "smoothing_s": 0.5}


def epoch(number: int, valence: float = NAN) -> dict[str, Any]:
    val = {"valence": valence, "arousal": number / 10, "mean": NAN}
    return {
        "event": "epoch",
        "epoch": number,
        "lr": 1e-3,
        "loss": {"loss": 1 / (number + 1), "va": 0.5},
        "windows_per_s": 10.0,
        "val": val,
    }


class Recorder:
    """Collects what is logged."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == "tracker"]


def course(
    out: Path, names: list[str], numbers: range, *, resume: int = 0, done: bool = True, config: Config | None = None
) -> Recorder:
    """Writes down epochs as a training would."""
    out.mkdir(parents=True, exist_ok=True)
    log = Recorder()
    with open_metrics_log(names, out, config or Config(), FACTS, resume, log) as record:
        for number in numbers:
            record(epoch(number, 0.5 if number >= 2 else NAN))
        if done:
            record(DONE)
    return log


def killed(out: Path, names: list[str], numbers: range, *, valence: float = -0.5, config: Config | None = None) -> None:
    """Runs `course`, stopped by Ctrl-C after these epochs."""
    out.mkdir(parents=True, exist_ok=True)

    def session() -> None:
        with open_metrics_log(names, out, config or Config(), FACTS, 0, Recorder()) as record:
            for number in numbers:
                record(epoch(number, valence))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session()


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def table(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The store of MLflow; making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture(autouse=True)
def offline(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a test leaves the machine, or lands outside its folder."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    for name in ("WANDB_PROJECT", "WANDB_DIR", "WANDB_RUN_GROUP", "WANDB_NAME", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def test_the_files_of_a_run(tmp_path: Path) -> None:
    log = course(tmp_path, [], range(3))
    assert [event["event"] for event in log.events] == ["epoch"] * 3 + ["done"]
    assert [line["epoch"] for line in lines(tmp_path)] == [0, 1, 2]
    assert lines(tmp_path)[0]["val"] == {"valence": None, "arousal": 0.0, "mean": None}
    columns = ["epoch", "lr", "loss/loss", "loss/va", "windows_per_s", "val/valence", "val/arousal", "val/mean"]
    rows = table(tmp_path)
    assert list(rows[0]) == columns
    assert [row["val/valence"] for row in rows] == ["", "", "0.5"]  # NaN is empty, not 0
    assert [float(row["val/arousal"]) for row in rows] == [0.0, 0.1, 0.2]
    assert [row["val/mean"] for row in rows] == [""] * 3
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "metrics.jsonl"]


def test_a_term_that_comes_later_gets_a_column(tmp_path: Path) -> None:
    with open_metrics_log([], tmp_path, Config(), FACTS, 0, Recorder()) as record:
        record(epoch(0))
        record({**epoch(1), "loss": {"loss": 0.5, "late": 0.25}})
    assert [row["loss/late"] for row in table(tmp_path)] == ["", "0.25"]
    assert [row["loss/va"] for row in table(tmp_path)] == ["0.5", ""]


def test_a_run_that_goes_on_forgets_later_lines(tmp_path: Path) -> None:
    course(tmp_path, [], range(4), done=False)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "ep')  # killed while it wrote
    course(tmp_path, [], range(2, 3), resume=2)
    assert [line["epoch"] for line in lines(tmp_path)] == [0, 1, 2]
    assert [row["epoch"] for row in table(tmp_path)] == ["0", "1", "2"]


def test_epochs_do_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, calls, counts = os.fsync, list[int](), list[int]()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append(descriptor), sync(descriptor)))
    for num_epochs in (1, 40):
        course(tmp_path / str(num_epochs), [], range(num_epochs))
        counts.append(len(calls))
        calls.clear()
    assert counts[0] == counts[1] > 2


def test_the_table_grows_while_a_long_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_log, "TABLE_EVERY_S", 0.0)
    with open_metrics_log([], tmp_path, Config(), FACTS, 0, Recorder()) as record:
        record(epoch(0))
        assert len(table(tmp_path)) == len(lines(tmp_path)) == 1


def test_both_files_are_complete_before_the_run_is_marked_as_finished(tmp_path: Path) -> None:
    log = Recorder()
    with open_metrics_log([], tmp_path, Config(), FACTS, 0, log) as record:
        record(epoch(0))
        record({"event": "trained"})
        assert len(table(tmp_path)) == len(lines(tmp_path)) == 1
    assert [event["event"] for event in log.events] == ["epoch"]


def test_a_row_is_on_disk_before_a_state_that_counts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = resume_state.save_tensors, list[str]()
    monkeypatch.setattr(resume_state, "sync", lambda path: calls.append(path.name))
    monkeypatch.setattr(resume_state, "save_tensors", lambda *arguments: (calls.append("state"), save(*arguments)))
    StateFile(tmp_path / "last", {}, log=tmp_path / "metrics.jsonl").save(({}, {"course": {"epoch": 1}}))
    assert calls == ["metrics.jsonl", "state"]


def test_a_training_is_written_down(tmp_path: Path) -> None:
    config = check_config(tiny(model={"variant": "concat"}, train={"epochs": 2}), "test")
    streams = streams_of()
    corpus = random_corpus(streams, [80, 80, 80])
    torch.manual_seed(0)
    with open_metrics_log(["tensorboard"], tmp_path, config, FACTS, 0, Recorder()) as record:
        fit(build_model(streams, config.model), corpus, [0, 1], [2], config, log=record)
    rows, points = table(tmp_path), scalars(tmp_path)
    assert len(rows) == 2
    assert {"lr", "loss/loss", "windows_per_s", "val/valence", "val/arousal", "val/mean"} <= set(rows[0]) & set(points)
    for name in ("loss/loss", "val/mean"):
        assert [value for _, value in points[name]] == pytest.approx([float(row[name]) for row in rows], rel=1e-6)


def events_of(out: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(out / "tensorboard")).Reload()


def scalars(out: Path) -> dict[str, list[tuple[int, float]]]:
    events = events_of(out)
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard(tmp_path: Path) -> None:
    course(tmp_path, ["tensorboard"], range(3))
    series = scalars(tmp_path)
    assert series["val/valence"] == [(2, 0.5)]
    assert series["loss/loss"] == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert series["final/val/arousal"] == [(2, 0.25)]
    assert not {"val/mean", "final/val/mean", "epoch"} & set(series)  # never a number
    (text,) = events_of(tmp_path).Tensors("metadata/text_summary")
    assert "0123abcd" in text.tensor_proto.string_val[0].decode()
    assert '"weights": "random"' in text.tensor_proto.string_val[0].decode()
    (text,) = events_of(tmp_path).Tensors("config/text_summary")
    assert "learning_rate: 0.0001" in text.tensor_proto.string_val[0].decode()


def test_tensorboard_goes_on(tmp_path: Path) -> None:
    killed(tmp_path, ["tensorboard"], range(4))
    course(tmp_path, ["tensorboard"], range(2, 5), resume=2)
    series = scalars(tmp_path)["val/valence"]
    assert series == [(0, -0.5), (1, -0.5), (2, 0.5), (3, 0.5), (4, 0.5)]  # two were logged again, and replaced


def test_a_tracker_that_joins_later_begins_there(tmp_path: Path) -> None:
    killed(tmp_path, [], range(4))
    course(tmp_path, ["tensorboard"], range(2, 4), resume=2)
    assert scalars(tmp_path)["val/valence"] == [(2, 0.5), (3, 0.5)]
    assert len(lines(tmp_path)) == 4  # the files of the run hold all


def offline_run(folder: Path) -> list[dict[str, Any]]:
    """The records of a W&B run that was not sent."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_kind(records: list[dict[str, Any]], kind: str) -> list[Any]:
    return [record[kind] for record in records if record["type"] == kind]


def test_wandb(tmp_path: Path) -> None:
    out = tmp_path / "first" / "fold-1"
    config = check_config({"split": {"folds": 3, "fold": 1}}, "test")
    killed(out, ["wandb"], range(3), valence=NAN, config=config)
    log = course(out, ["wandb"], range(2, 5), resume=2, config=config)
    assert not log.failures
    before, after = sorted((out / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_ctime)
    first, second = offline_run(before), offline_run(after)
    (run,), (again,) = of_kind(first, "run"), of_kind(second, "run")
    assert run["run_id"] == again["run_id"]  # `wandb sync` joins them
    assert (run["display_name"], run["run_group"], run["project"]) == ("first/fold-1", "first", "sage-va")
    assert run["tags"] == ["random weights"]
    kept = run["config"]["update"]
    assert kept["train"]["learning_rate"] == 1e-4
    assert kept["metadata"] == FACTS
    steps = [item["item"] for item in of_kind(first, "history")]
    assert [item["_step"] for item in steps] == [0, 1, 2]
    assert all("val/valence" not in item and "val/mean" not in item for item in steps)
    assert [item["loss/loss"] for item in steps] == pytest.approx([1, 1 / 2, 1 / 3])
    assert [item["item"]["_step"] for item in of_kind(second, "history")] == [2, 3, 4]
    final = {key: value for summary in of_kind(second, "summary") for key, value in summary["update"].items()}
    assert (final["final/val/arousal"], final["final/smoothing_s"]) == (0.25, 0.5)
    assert "final/val/mean" not in final
    assert [event["exit_code"] for event in of_kind(second, "exit")] == [0]
    assert of_kind(first, "exit")[0]["exit_code"] != 0
    assert not of_kind(first, "output_raw")


@pytest.mark.slow
def test_mlflow(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    out = tmp_path / "run"
    killed(out, ["mlflow"], range(4))
    client = MlflowClient()
    run_id = json.loads((out / "trackers.json").read_text())["mlflow"]
    assert client.get_run(run_id).info.status == "KILLED"
    course(out, ["mlflow"], range(2, 6), resume=2)
    experiment = client.get_experiment_by_name("sage-va")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.run_name, run.info.status) == (run_id, "run", "FINISHED")
    assert run.data.params["train.learning_rate"] == "0.0001"
    assert run.data.tags["mlflow.source.git.commit"] == "0123abcd"
    assert json.loads(run.data.tags["git"]) == FACTS["git"]
    assert json.loads(run.data.tags["streams"]) == FACTS["streams"]
    assert json.loads(run.data.tags["random_weights"]) == [RANDOM.name]
    history = {key: client.get_metric_history(run_id, key) for key in ("val/valence", "val/mean", "final/val/arousal")}
    points = sorted((metric.step, metric.value) for metric in history["val/valence"])
    again = [(2, -0.5), (2, 0.5), (3, -0.5), (3, 0.5)]  # trained once more after the kill
    assert points == [(0, -0.5), (1, -0.5), *again, (4, 0.5), (5, 0.5)]
    assert history["val/mean"] == []
    assert [(metric.step, metric.value) for metric in history["final/val/arousal"]] == [(5, 0.25)]
    assert "final/val/mean" not in run.data.metrics

    course(tmp_path / "other" / "fold-0", ["mlflow"], range(1), config=check_config(FOLD, "test"))
    names = {run.info.run_name: run.data.tags.get("group") for run in client.search_runs([experiment.experiment_id])}
    assert names == {"run": None, "other/fold-0": "other"}


FOLD = {"split": {"folds": 3, "fold": 0}}


class Flaky:
    """A tracker that fails at the second epoch."""

    run_id = "7"
    ends: list[End]
    calls: list[int]

    def __init__(self, run: TrackedRun) -> None:
        type(self).ends, type(self).calls = [], []

    def epoch(self, number: int, values: Any) -> None:
        self.calls.append(number)
        if number == 1:
            raise ConnectionError("network\nis gone")

    def final(self, number: int, values: Any) -> None:
        self.calls.append(-1)

    def close(self, end: End) -> None:
        self.ends.append(end)


def test_a_tracker_that_fails_is_said_once_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKER_KINDS, "wandb", TrackerKind(Flaky, "json", ""))
    log = course(tmp_path, ["wandb", "tensorboard"], range(4))
    assert log.failures == [{"event": "tracker", "name": "wandb", "reason": "ConnectionError: network"}]
    assert Flaky.calls == [0, 1]
    assert [line["epoch"] for line in lines(tmp_path)] == [0, 1, 2, 3]
    assert [step for step, _ in scalars(tmp_path)["lr"]] == [0, 1, 2, 3]
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": "7", "tensorboard": "tensorboard"}


def test_one_that_cannot_be_closed_does_not_end_it_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(Flaky):
        def close(self, end: End) -> None:
            raise TimeoutError("not sent")

    monkeypatch.setitem(TRACKER_KINDS, "mlflow", TrackerKind(Stuck, "json", ""))
    log = course(tmp_path, ["mlflow"], range(1))
    assert [event["reason"] for event in log.failures] == ["TimeoutError: not sent"]


@pytest.mark.parametrize(
    ("error", "end"), [(ValueError("loss"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (None, "FINISHED")]
)
def test_a_tracker_is_told_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None, end: End
) -> None:
    monkeypatch.setitem(TRACKER_KINDS, "wandb", TrackerKind(Flaky, "json", ""))

    def session() -> None:
        with open_metrics_log(["wandb", "wandb"], tmp_path, Config(), FACTS, 0, Recorder()) as record:
            record(epoch(0))
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            session()
    else:
        session()
    assert Flaky.ends == [end]
    assert Flaky.calls == [0]


def test_only_epochs_that_are_trained_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Steady(Flaky):
        def epoch(self, number: int, values: Any) -> None:
            self.calls.append(number)

    monkeypatch.setitem(TRACKER_KINDS, "wandb", TrackerKind(Steady, "json", ""))
    killed(tmp_path, ["wandb"], range(4))
    assert Steady.calls == [0, 1, 2, 3]
    course(tmp_path, ["wandb"], range(3, 5), resume=3)
    assert Steady.calls == [3, 4, -1]
    course(tmp_path, ["wandb"], range(0), resume=5)  # killed after its last epoch
    assert Steady.calls == [-1]


@pytest.mark.parametrize("text", ["{", "[]", '{"wandb": {"run_id": "7"}}'])
def test_ids_that_cannot_be_read_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "trackers.json").write_text(text)
    with pytest.raises(InputError, match=r"the file does not hold the ids of tracked runs\. Remove the file"):
        course(tmp_path, ["tensorboard"], range(1))


def no_store(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://there")


def lost_run(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "trackers.json").write_text(json.dumps({"mlflow": "0" * 32}))


def no_folder(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "tensorboard").write_text("a file")


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("mlflow", no_store, "nonsense"),
        ("mlflow", lost_run, "MLFLOW_TRACKING_URI"),
        ("tensorboard", no_folder, "folder of the run"),
    ],
)
def test_a_tracker_that_does_not_start_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, spoil: Callable[..., None], words: str
) -> None:
    monkeypatch.setitem(TRACKER_KINDS, "wandb", TrackerKind(Flaky, "json", ""))
    spoil(tmp_path, monkeypatch)
    with pytest.raises(InputError, match=f"track: {name} did not start: ") as refused:
        course(tmp_path, ["wandb", name], range(1))
    assert words in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert Flaky.ends == ["FAILED"]  # the one that had started is let go of
    assert lines(tmp_path) == []


def test_a_tracker_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_trackers(["tensorboard", "wandb", "mlflow"])
    with pytest.raises(InputError, match=r"^track: expected tensorboard, wandb, mlflow, got wanbd"):
        check_trackers(["tensorboard", "wanbd"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'expected the package wandb, got none. Install it: pip install "sage-va\['):
        check_trackers(["wandb"])


def test_names_and_groups() -> None:
    def run(out: str, **split: int) -> TrackedRun:
        return TrackedRun(Path(out), check_config({"split": split}, "test"), FACTS, None, 0)

    runs = run("runs/a"), run("runs/a/fold-2", folds=4, fold=2), run("runs/b", folds=4, fold=2)
    assert [(run.name, run.group) for run in runs] == [("a", None), ("a/fold-2", "a"), ("b", None)]


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=someone", "-c", "user.email=someone@nowhere", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, timeout=300)


def test_the_commit_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
    git(tmp_path, "init")
    assert git_state(tmp_path) is None  # no commit yet
    (tmp_path / "mine.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    clean = git_state(tmp_path)
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.csv").write_text("not tracked")
    assert git_state(tmp_path) == clean
    (tmp_path / "mine.py").write_text("2")
    assert git_state(tmp_path) == {**clean, "dirty": True}
    monkeypatch.chdir(tmp_path)
    assert provenance()["git"] == {**clean, "dirty": True}
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) is None


def test_what_a_run_was_made_with(tmp_path: Path) -> None:
    record = provenance()
    assert record["versions"]["torch"] == version("torch")
    assert {"python", "sage-va", "torch", "numpy", "zarr", "safetensors"} <= set(record["versions"])
    assert not {"timm", "wandb"} & set(record["versions"])  # of extras
    assert str(Path.cwd()) not in json.dumps(record)
    assert described([RANDOM]) == {"streams": {RANDOM.name: RANDOM.fingerprint}, "random_weights": [RANDOM.name]}
