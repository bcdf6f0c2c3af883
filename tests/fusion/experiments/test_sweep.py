"""The search: what may be tried, what counts, what is kept, and that neither a stop nor company changes the outcome."""

import contextlib
import csv
import importlib
import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

pytest.importorskip("optuna")

from sage_va.cli import main
from sage_va.commands.sweep import describe_sweep
from sage_va.data import DamagedError, InputError, open_store
from sage_va.fusion.config import Config, check_config, load_config
from sage_va.fusion.evaluation.metrics import score
from sage_va.fusion.evaluation.predict import predict
from sage_va.fusion.evaluation.score import load_part
from sage_va.fusion.experiments import optuna_study as study_module
from sage_va.fusion.experiments import runs as cells_module
from sage_va.fusion.experiments import sweep_report as report_module
from sage_va.fusion.experiments.optuna_study import (
    NUM_RANDOM,
    best_of,
    distributions,
    folder_of,
    keep_best,
    num_finished,
    open_study,
)
from sage_va.fusion.experiments.search_space import Choices, Range, load_space
from sage_va.fusion.experiments.sweep import sweep
from sage_va.fusion.experiments.sweep_report import draw_sweep
from sage_va.fusion.experiments.sweep_result import FailedTrial, SweepResult, TrialRow
from sage_va.fusion.run_folder import load_run
from sage_va.fusion.training.train import train
from sage_va.tests.synthetic import make_cache, tiny
from sage_va.tests.waiting import MOST_S, held, num_held, until

torch.set_num_threads(1)
SHORT = {"epochs": 3, "crossfit_epochs": 1, "crossfit_folds": 2}
SMALL = {"dim": 8, "tcn_blocks": 1, "layers": 1}
SPACE = {
    "model.variant": ["concat", "late", "visual"],
    "train.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
    "model.tcn_blocks": {"low": 0, "high": 2},
}
PICTURE = b"\x89PNG\r\n\x1a\n"


def config_of(**sections: Any) -> Config:
    return check_config(tiny(**{"train": SHORT, "model": SMALL, **sections}), "test")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_cache(tmp_path_factory.mktemp("cache"), num_clips=8, seconds=2.4, weights="random")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than the rest; `finished` has one."""
    monkeypatch.setattr(report_module, "draw_sweep", lambda result: None)
    monkeypatch.setattr(report_module, "save_pictures", lambda figure, path: None)


def space_of(folder: Path, said: Any, config: Config | None = None) -> Any:
    (folder / "space.yaml").write_text(said if isinstance(said, str) else yaml.safe_dump(said), encoding="utf-8")
    return load_space(folder / "space.yaml", config or config_of())


def swept(
    cache: tuple[Path, Path],
    out: Path,
    num_trials: int,
    space: Any = SPACE,
    config: Config | None = None,
    **options: Any,
) -> dict[str, Any]:
    config = config or config_of()
    parsed = space_of(out.parent, space, config)
    settings: dict[str, Any] = {"jobs": 1, **options}
    return sweep(open_store(cache[0]), cache[1], out, config, parsed, num_trials=num_trials, **settings).to_json()


def typed(values: dict[str, Any]) -> SweepResult:
    """The result whose JSON these values are."""
    rows = [TrialRow(**row) for row in values["rows"]]
    best = None if values["best"] is None else TrialRow(**values["best"])
    failures = [FailedTrial(**failure) for failure in values["failures"]]
    return SweepResult(**{**values, "rows": rows, "best": best, "failures": failures})


@pytest.fixture(scope="module")
def finished(cache: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("swept") / "out"
    return out, swept(cache, out, 5)


# The space


def test_a_space_of_every_kind(tmp_path: Path) -> None:
    text = """
        model.variant: [sage, concat]
        data.streams: [[visual/face, audio/voice], [visual/face]]
        train.learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}
        model.tcn_blocks: {low: 2, high: 6, step: 2}
        train.batch_size: {low: 2, high: 64, log: true}
        model.dropout: {low: 0.0, high: 0.5, step: 0.1}
    """
    space = space_of(tmp_path, text)
    assert space["model.variant"] == Choices(("sage", "concat"))
    assert space["train.learning_rate"] == Range(1e-5, 1e-3, log=True)
    priors = distributions(space)
    assert priors["model.tcn_blocks"].to_external_repr(4.0) == 4  # type: ignore[no-untyped-call]
    assert [priors["model.tcn_blocks"]._contains(blocks) for blocks in (2, 3, 6)] == [True, False, True]
    assert priors["model.dropout"]._contains(0.5)
    label = space["data.streams"].labels[1]
    assert priors["data.streams"]._contains(priors["data.streams"].to_internal_repr(label))
    assert space["data.streams"].value(label) == ["visual/face"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("", r"space\.yaml: expected keys with what to try, got None\. For example"),
        ("model: [", r"space\.yaml: expected a YAML file"),
        ("train.lerning_rate: [1.0]", r"a known key, got 'train\.lerning_rate'\. Did you mean train\.learning_rate\?"),
        ("learning_rate: [1.0]", r"Did you mean train\.learning_rate\?"),
        ("model: {variant: [sage]}", r"expected a known key, got 'model'"),
        ("seed: [1, 2]", r"clips as they are, got seed\. Take it out"),
        ("split.fold: [0, 1]", r"got split\.fold\. Take it out: scores on different clips do not compare"),
        ("model.variant: sage", r"model\.variant: expected a list of choices, or low and high.* got 'sage'"),
        ("model.variant: []", r"model\.variant: expected a list of choices, or low and high"),
        ("model.variant: [sage, conct]", r"variant conct: expected a known variant.*Did you mean concat"),
        ("model.dim: {low: 2, hgh: 4}", r"model\.dim: expected a list of choices, or low and high"),
        (
            "train.learning_rate: {low: 1e-5, high: 1.0e-3}",
            r"learning_rate\.low: expected a number, got '1e-5'.*1\.0e-5",
        ),
        ("model.dropout: {low: 0.5, high: 0.1}", r"model\.dropout: expected low below high, got 0\.5 and 0\.1"),
        ("model.dropout: {low: 0.1, high: 1.5}", r"model\.dropout: expected less than or equal to 1, got 1\.5"),
        ("train.learning_rate: {low: 0.0, high: 1.0}", r"learning_rate: expected greater than 0, got 0\.0"),
        ("train.epochs: {low: 2.0, high: 6.0}", r"train\.epochs: expected a valid integer"),
        ("model.dropout: {low: 0.0, high: 0.5, log: true}", r"expected low above 0 and no step with log, got low 0\.0"),
        ("train.epochs: {low: 2, high: 6, log: true, step: 2}", r"no step with log, got low 2, step 2"),
        (
            "train.epochs: {low: 2, high: 7, step: 2}",
            r"epochs\.step: expected whole steps that lead from 2 to 7, got 2",
        ),
        ("train.epochs: {low: 2, high: 6, step: 0}", r"expected whole steps that lead from 2 to 6, got 0"),
        ("train.epochs: {low: 2, high: 6, log: 3}", r"epochs\.log: expected true or false, got 3"),
        ("model.heads: [2, 3]", r"model\.dim: expected a multiple of model\.heads = 3, got 8"),
    ],
)
def test_a_space_that_cannot_be_is_one_line(tmp_path: Path, said: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        space_of(tmp_path, said)


def test_keys_that_only_go_together_are_a_space(tmp_path: Path) -> None:
    assert space_of(tmp_path, {"model.heads": [2, 3], "model.dim": [8, 12]})
    windows = {"data.hop_s": {"low": 2.0, "high": 3.6}, "data.window_s": {"low": 2.4, "high": 4.0}}
    assert space_of(tmp_path, windows)


# The search


def test_the_best_trial_is_a_finished_run_with_the_score_it_was_chosen_for(
    finished: tuple[Path, dict[str, Any]], cache: tuple[Path, Path]
) -> None:
    out, study = finished
    assert (study["num_finished"], study["num_trained"], study["failures"], study["interrupted"]) == (5, 5, [], False)
    best = study["best"]
    assert best["score"] == max(row["score"] for row in study["rows"] if row["state"] == "complete")
    assert best["score"] == pytest.approx((best["valence"] + best["arousal"]) / 2)
    run = load_run(out / "best")
    for key, value in best["params"].items():
        section, _, name = key.partition(".")
        assert getattr(getattr(run.config, section), name) == value
    validation = load_part(run, open_store(cache[0]), cache[1], "val")
    predictions = predict(run.model, validation, range(len(validation.clips)), run.config.data)
    assert score(predictions, validation)["mean"] == pytest.approx(best["score"], abs=1e-9)
    assert study["num_validation_clips"] == len(validation.clips)


def test_only_the_best_trial_keeps_its_folder(finished: tuple[Path, dict[str, Any]]) -> None:
    out, study = finished
    assert [path.name for path in (out / "trials").iterdir()] == [f"{study['best']['trial']:04}"]
    assert os.readlink(out / "best") == f"trials/{study['best']['trial']:04}"
    assert {path.name for path in out.iterdir()} == {
        "best",
        "best.yaml",
        "study.journal",
        "sweep.pdf",
        "sweep.png",
        "sweep.svg",
        "trials",
        "trials.csv",
    }


def test_best_yaml_trains_the_same_run(
    finished: tuple[Path, dict[str, Any]], cache: tuple[Path, Path], tmp_path: Path
) -> None:
    config = load_config(finished[0] / "best.yaml", preset="tiny")
    (path,) = train(open_store(cache[0]), cache[1], tmp_path / "run", config)
    weights = (path / "model.safetensors").read_bytes()
    assert weights == (finished[0] / "best/model.safetensors").read_bytes()


def results_of(study: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in study["rows"]]


def test_a_sweep_that_goes_on_is_one_that_never_stopped(
    finished: tuple[Path, dict[str, Any]], cache: tuple[Path, Path], tmp_path: Path
) -> None:
    reports: list[tuple[int, int, float | None]] = []
    assert swept(cache, tmp_path / "out", 2)["num_trained"] == 2
    study = swept(cache, tmp_path / "out", 5, progress=lambda *counts: reports.append(counts))
    assert (study["num_trained"], study["num_finished"]) == (3, 5)
    assert results_of(study) == results_of(finished[1])
    assert [counts[:2] for counts in reports] == [(2, 5), (3, 5), (4, 5), (5, 5)]
    assert reports[-1][2] == study["best"]["score"]
    assert swept(cache, tmp_path / "out", 4)["num_trained"] == 0


def test_labels_of_test_clips_change_nothing(
    finished: tuple[Path, dict[str, Any]], cache: tuple[Path, Path], tmp_path: Path
) -> None:
    roles = load_run(finished[0] / "best").roles
    labels = Path(shutil.copytree(cache[1], tmp_path / "labels"))
    tested = [clip_id for clip_id, role in roles.items() if role == "test"]
    for clip_id in tested:
        path = labels / f"{clip_id}.csv"
        path.write_text(path.read_text(encoding="utf-8").replace(",0.", ",-0."), encoding="utf-8")
    assert tested
    study = swept((cache[0], labels), tmp_path / "out", 5)
    assert results_of(study) == results_of(finished[1])


def test_draws_differ_between_trials_and_not_between_processes(tmp_path: Path) -> None:
    space = distributions(space_of(tmp_path, SPACE))
    params = []
    for place in ("one", "other"):
        (tmp_path / place).mkdir()
        study = open_study(tmp_path / place, (("a", "b"),), 7, 10)
        for number in range(NUM_RANDOM + 4):
            trial = study.ask(space)
            study.tell(trial, trial.params["train.learning_rate"])
            if number % 2:  # as if another process asked
                study = open_study(tmp_path / place, (("a", "b"),), 7, 10)
        params.append([trial.params for trial in study.trials])
    assert params[0] == params[1]
    rates = [trial["train.learning_rate"] for trial in params[0]]
    assert len(set(rates)) == len(rates)


# What becomes of a trial: the training is replaced by curves


Curve = Callable[[Config, int], list[float]]


def fake_training(monkeypatch: pytest.MonkeyPatch, curve: Curve) -> list[Config]:
    """Trainings whose scores a function gives, by configuration and how many there were before; returns those begun."""
    begun: list[Config] = []

    def train_one(corpus: Any, roles: Any, config: Config, out: Path, origin: Any, log: Any, unseen: Any) -> None:
        begun.append(config)
        log({"event": "model"})
        for epoch, value in enumerate(curve(config, len(begun) - 1)):
            val = {"valence": value + 0.1, "arousal": value - 0.1, "mean": value}
            log({"event": "epoch", "epoch": epoch, "val": val})
        (out / "config.json").touch()

    monkeypatch.setattr(cells_module, "train_one", train_one)
    return begun


def test_the_score_is_that_of_the_best_epoch(
    cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_training(monkeypatch, lambda config, n: [math.nan, 0.1 * n, 0.3 * n, 0.2 * n])
    study = swept(cache, tmp_path / "out", 3)
    assert [row["score"] for row in study["rows"]] == pytest.approx([0, 0.3, 0.6])
    assert (study["best"]["trial"], study["best"]["epoch"], study["best"]["num_epochs"]) == (2, 2, 4)
    assert study["best"]["valence"] == pytest.approx(0.7)
    assert (tmp_path / "out/best/config.json").exists()


def test_where_the_last_epoch_is_kept_the_score_is_its(
    cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = [[0.9, 0.2], [0.1, 0.4]]
    fake_training(monkeypatch, lambda config, n: curves[n])
    study = swept(cache, tmp_path / "out", 2, config=config_of(train={**SHORT, "keep": "last"}))
    assert [row["score"] for row in study["rows"]] == pytest.approx([0.2, 0.4])
    assert (study["best"]["trial"], study["best"]["valence"]) == (1, pytest.approx(0.5))
    (first, *_) = [line for line in describe_sweep(typed(study)).splitlines() if "0.400" in line or "0.200" in line]
    assert first.split()[:2] == ["1", "0.400"]


def test_a_trial_below_the_median_is_pruned_after_the_warm_up(
    cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = 10
    fake_training(
        monkeypatch, lambda config, n: [(0.01 * n if n < NUM_RANDOM else -0.5) + 0.01 * e for e in range(epochs)]
    )
    config = config_of(train={**SHORT, "epochs": epochs})
    study = swept(cache, tmp_path / "out", NUM_RANDOM + 2, config=config)
    assert [row["state"] for row in study["rows"]] == ["complete"] * NUM_RANDOM + ["pruned"] * 2
    warm_up = math.ceil(study_module.PRUNED_AFTER * epochs)
    assert {row["num_epochs"] for row in study["rows"][NUM_RANDOM:]} == {warm_up + 1}
    assert study["best"]["trial"] == NUM_RANDOM - 1
    assert set(study["importance"]) == set(SPACE)
    assert sum(study["importance"].values()) == pytest.approx(1)
    assert json.loads((tmp_path / "out/importance.json").read_text(encoding="utf-8")) == study["importance"]


def test_unfit_trials_are_pruned_and_broken_ones_listed(
    cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def curve(config: Config, number: int) -> list[float]:
        if number == 1:
            raise InputError("training", expected="a finite loss", got="nan", todo="Lower train.learning_rate.")
        if number == 2:
            raise ZeroDivisionError("of a variant of the user's own")
        if number == 3:
            raise DamagedError("clip01", expected="its bytes", got="others", todo="Repair.")
        return [math.nan] if number == 4 else [0.5]

    fake_training(monkeypatch, curve)
    study = swept(cache, tmp_path / "out", 5)
    assert study["failures"] == [
        {"trial": 2, "reason": "ZeroDivisionError: of a variant of the user's own"},
        {"trial": 3, "reason": "clip01: expected its bytes, got others. Repair."},
    ]
    assert [row["state"] for row in study["rows"]] == ["complete", "pruned", "failed", "failed", "pruned"]
    assert (study["num_finished"], study["num_trained"]) == (3, 5)
    text = describe_sweep(typed(study))
    assert "3 trials finished, 5 asked for" in text
    assert "pruned as unfit, 1 trials: training: expected a finite loss, got nan." in text
    assert "pruned as unfit, 1 trials: validation clips: no epoch has a score on them." in text
    assert "failed: trial 3: clip01: expected its bytes" in text
    assert swept(cache, tmp_path / "out", 5)["num_finished"] == 5


def test_values_that_do_not_go_together_are_a_pruned_trial(
    cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = fake_training(monkeypatch, lambda config, n: [0.1])
    study = swept(cache, tmp_path / "out", 12, {"model.heads": [2, 3], "model.dim": [8, 9]})
    unfit = [row for row in study["rows"] if row["params"]["model.dim"] % row["params"]["model.heads"]]
    assert 0 < len(unfit) < 12
    assert {row["state"] for row in unfit} == {"pruned"}
    assert all(f"expected a multiple of model.heads = {row['params']['model.heads']}" in row["reason"] for row in unfit)
    assert len(begun) == 12 - len(unfit)


def test_streams_and_grids_can_be_tried(
    cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[int, int]] = []
    train_one = cells_module.train_one

    def seen(corpus: Any, *rest: Any) -> Any:
        loaded.append((len(corpus.streams), corpus.num_steps))
        return train_one(corpus, *rest)

    monkeypatch.setattr(cells_module, "train_one", seen)
    space = {"data.grid_hz": [10.0, 25.0], "data.streams": [["visual/face"], ["visual/face", "audio/voice"]]}
    config = config_of(model={**SMALL, "variant": "visual"}, train={**SHORT, "epochs": 1})
    study = swept(cache, tmp_path / "out", 6, space, config)
    assert {row["state"] for row in study["rows"]} == {"complete"}
    steps = {row["params"]["data.grid_hz"]: counts[1] for row, counts in zip(study["rows"], loaded, strict=True)}
    assert steps[10.0] < steps[25.0]
    with pytest.raises(InputError, match="visual/fase"):
        swept(cache, tmp_path / "other", 1, {"data.streams": [["visual/fase"]]}, config)


def test_ctrl_c_keeps_what_is_finished(
    cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def curve(config: Config, number: int) -> list[float]:
        if number == 2:
            raise KeyboardInterrupt
        return [0.1 * number]

    fake_training(monkeypatch, curve)
    study = swept(cache, tmp_path / "out", 4)
    assert (study["interrupted"], study["num_finished"], study["num_trained"]) == (True, 2, 2)
    assert study["rows"][2]["reason"] == "interrupted"
    assert "interrupted: run the same command to resume" in describe_sweep(typed(study))
    assert [path.name for path in (tmp_path / "out/trials").iterdir()] == ["0001"]
    study = swept(cache, tmp_path / "out", 4)
    assert (study["interrupted"], study["num_finished"], study["best"]["trial"]) == (False, 4, 4)


def test_a_trial_whose_process_was_killed_neither_counts_nor_blocks(
    cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_training(monkeypatch, lambda config, n: [0.1])
    with monkeypatch.context() as killed:
        killed.setattr(study_module.optuna.Study, "tell", lambda *_: os_error())
        with pytest.raises(OSError, match="killed"):
            swept(cache, tmp_path / "out", 2)
    study = swept(cache, tmp_path / "out", 2)
    assert [row["state"] for row in study["rows"]] == ["unfinished", "complete", "complete"]
    assert study["num_finished"] == 2


def os_error() -> None:
    raise OSError("killed")


# The folder


def test_a_study_of_something_else_is_refused(
    finished: tuple[Path, dict[str, Any]], cache: tuple[Path, Path], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished[0], tmp_path / "out", symlinks=True))
    before = (out / "study.journal").read_bytes()
    with pytest.raises(
        InputError, match=r"a study of train\.epochs = 4, got one of train\.epochs = 3\. Choose another"
    ):
        swept(cache, out, 5, config=config_of(train={**SHORT, "epochs": 4}))
    with pytest.raises(InputError, match=r"space of model\.tcn_blocks = Range\(low=0, high=3"):
        swept(cache, out, 5, {**SPACE, "model.tcn_blocks": {"low": 0, "high": 3}})
    labels = tmp_path / "labels"
    shutil.copytree(cache[1], labels)
    with pytest.raises(InputError, match=f"a study of labels = {labels}, got one of labels = {cache[1]}"):
        swept((cache[0], labels), out, 5)
    assert (out / "study.journal").read_bytes() == before
    assert swept(cache, out, 5, config=config_of(model={**SMALL, "tcn_blocks": 2}))["num_trained"] == 0  # it is tried


@pytest.mark.parametrize("name", ["thesis.tex", "split.csv"])
def test_a_folder_of_something_else_is_refused(cache: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).touch()
    with pytest.raises(InputError, match="expected a new folder, or that of a sweep, got something else"):
        swept(cache, tmp_path / "out", 1)


def test_half_a_line_of_a_killed_process_is_cut_off(
    finished: tuple[Path, dict[str, Any]], cache: tuple[Path, Path], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished[0], tmp_path / "out", symlinks=True))
    with (out / "study.journal").open("a", encoding="utf-8") as file:
        file.write('{"op_code":4,"worker')
    study = swept(cache, out, 6)
    assert (study["num_finished"], study["num_trained"]) == (6, 1)
    assert results_of(study)[:5] == results_of(finished[1])


@pytest.mark.parametrize("damage", ["{\n", '{"op_code":99}\n', "[]\n", "\n"])
def test_a_damaged_journal_is_one_line(cache: tuple[Path, Path], tmp_path: Path, damage: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/study.journal").write_text(damage + damage, encoding="utf-8")
    with pytest.raises(InputError, match=r"study\.journal: expected the journal of a study, got .*Restore it"):
        swept(cache, tmp_path / "out", 1)


def test_of_two_that_begin_at_once_the_first_decides(tmp_path: Path) -> None:
    one = open_study(tmp_path, (("train.epochs", "3"),), 0, 3)
    assert open_study(tmp_path, (("train.epochs", "3"),), 0, 3).study_name == one.study_name
    with pytest.raises(InputError, match=r"a study of train\.epochs = 4, got one of train\.epochs = 3"):
        open_study(tmp_path, (("train.epochs", "4"),), 0, 4)


def test_processes_agree_on_the_best(tmp_path: Path) -> None:
    one, other = (open_study(tmp_path, (("a", "b"),), 0, 3) for _ in range(2))
    trials = [study.ask() for study in (one, other, one)]
    for trial in trials:
        folder_of(tmp_path, trial.number).mkdir(parents=True)
    for study, trial, value in zip((one, other, one), trials, (0.1, 0.5, 0.3), strict=True):
        study.tell(trial, value)
        keep_best(study, tmp_path)
    assert os.readlink(tmp_path / "best") == "trials/0001"
    assert [path.name for path in (tmp_path / "trials").iterdir()] == ["0001"]
    assert [best.number for study in (one, other) if (best := best_of(study))] == [1, 1]
    assert num_finished(other) == 3


def test_a_better_trial_that_ends_meanwhile_gets_the_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (open_study(tmp_path, (("a", "b"),), 0, 3) for _ in range(2))
    first, second = one.ask(), other.ask()
    for trial in (first, second):
        folder_of(tmp_path, trial.number).mkdir(parents=True)
    one.tell(first, 0.1)
    replace = os.replace

    def late(*paths: Any) -> None:  # the other process is faster, and sets its link before this one
        monkeypatch.setattr(os, "replace", replace)
        other.tell(second, 0.9)
        keep_best(other, tmp_path)
        replace(*paths)

    monkeypatch.setattr(os, "replace", late)
    keep_best(one, tmp_path)
    assert os.readlink(tmp_path / "best") == "trials/0001"


def test_folds_need_one_of_them(cache: tuple[Path, Path], tmp_path: Path) -> None:
    config = config_of(split={"folds": 4}, train={**SHORT, "epochs": 1})
    with pytest.raises(InputError, match=r"split\.fold: expected the fold to search on, got none.*split\.fold=0"):
        swept(cache, tmp_path / "out", 1, config=config)
    study = swept(cache, tmp_path / "out", 1, config=config_of(split={"folds": 4, "fold": 1}, train=SHORT))
    assert load_run(tmp_path / "out/best").config.split.fold == 1
    assert study["has_test_clips"]


def test_clips_and_streams_are_checked_before_anything_runs(cache: tuple[Path, Path], tmp_path: Path) -> None:
    one = config_of(data={"streams": ["visual/face"]}, model={**SMALL, "variant": "visual"})
    with pytest.raises(InputError, match="variant audio: expected at least 1 audio stream"):
        swept(cache, tmp_path / "out", 1, {"model.variant": ["visual", "audio"]}, one)
    assert not (tmp_path / "out/study.journal").exists()


# The report


def test_what_is_written(finished: tuple[Path, dict[str, Any]]) -> None:
    out, study = finished
    with (out / "trials.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == list(range(5))
    for row, trial in zip(rows, study["rows"], strict=True):
        assert (row["state"], row["model.variant"]) == (trial["state"], trial["params"]["model.variant"])
        assert float(row["score"]) == trial["score"]
        assert float(row["train.learning_rate"]) == trial["params"]["train.learning_rate"]
    picture = (out / "sweep.png").read_bytes()
    assert picture[:8] == PICTURE
    assert len(picture) > 8_000
    text = describe_sweep(typed(study))
    assert "UNTRAINED ENCODER (random weights): " in text
    assert "which chose the configuration: too good for unseen ones" in text
    assert f"score it on them once: sage-va eval {out}/best" in text
    assert "importance: not estimated, too few trials are complete" in text


def test_the_picture_names_untrained_encoders(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    titles: list[str] = []
    monkeypatch.setattr(Figure, "suptitle", lambda self, text, **_: titles.append(text))
    for untrained in ([], ["audio/b-2"]):
        draw_sweep(typed({**finished[1], "random_weights": untrained}))
    assert ["UNTRAINED ENCODER (random weights): audio/b-2" in title for title in titles] == [False, True]


def test_without_optuna_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        InputError, match=r'expected the package optuna, got none\. Install it: pip install "sage-va\[sw'
    ):
        importlib.reload(study_module)


# The command line


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def command_of(cache: tuple[Path, Path], folder: Path, **sections: Any) -> list[Any]:
    (folder / "tiny.yaml").write_text(config_of(**sections).to_yaml(), encoding="utf-8")
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE), encoding="utf-8")
    settings = ["--config", folder / "tiny.yaml", "--preset", "base", "--device", "cpu"]
    return ["sweep", cache[0], "--labels", cache[1], "--space", folder / "space.yaml", *settings]


def test_the_command(finished: tuple[Path, dict[str, Any]], cache: tuple[Path, Path], tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished[0], tmp_path / "out", symlinks=True))
    command = [*command_of(cache, tmp_path), "--out", out, "--workers", 1]
    result = run(*command, "--trials", 5)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "5 trials finished, 5 asked for (5 complete); 0 done now, 0 of them failed"
    study = json.loads(run(*command, "--trials", 6, "--json").stdout)
    assert (study["num_finished"], study["num_trained"]) == (6, 1)
    result = run(*command, "--set", "train.epochs=4")
    assert result.exit_code == 1
    assert "expected a study of train.epochs = 4, got one of train.epochs = 3" in result.stderr
    result = run("eval", out / "best", "--device", "cpu", "--json")
    assert json.loads(result.stdout)["split"] == "test"


@pytest.mark.slow
def test_processes_share_one_study(cache: tuple[Path, Path], tmp_path: Path) -> None:
    study = swept(cache, tmp_path / "out", 6, jobs=2)
    assert (study["num_finished"], study["num_trained"], study["failures"]) == (6, 6, [])
    assert len({json.dumps(row["params"]) for row in study["rows"]}) == 6
    assert [path.name for path in (tmp_path / "out/trials").iterdir()] == [f"{study['best']['trial']:04}"]
    load_run(tmp_path / "out/best")


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [
        *(signal.SIGHUP, signal.SIGKILL),
        *(pytest.param(number, marks=pytest.mark.exhaustive) for number in (signal.SIGINT, signal.SIGUSR1)),
    ],
)
def test_a_stop_keeps_what_is_finished_and_others_go_on(
    cache: tuple[Path, Path], tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    command = [*command_of(cache, tmp_path), "--out", out, "--trials", 40]
    journal = out / "study.journal"
    enough = f"Path({str(journal)!r}).read_text(encoding='utf-8').count('\"state\":1') >= 4"
    with contextlib.ExitStack() as stack:
        scripts = {jobs: tmp_path / f"held{jobs}.py" for jobs in (1, 2)}
        commands = (held(script, enough, *command, "--workers", jobs) for jobs, script in scripts.items())
        started = [stack.enter_context(started) for started in commands]
        until(lambda: all(num_held(script) == jobs for jobs, script in scripts.items()))
        for process in started:
            if number in (signal.SIGHUP, signal.SIGUSR1):  # as a batch system sends them, to all processes of a job
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        for process in started:
            printed, errors = process.communicate(timeout=MOST_S)
            if number != signal.SIGKILL:
                assert process.returncode == 128 + number, errors
                assert "interrupted: run the same command to resume" in printed + errors
                assert "Traceback" not in errors
    result = run(*command[:-1], 1, "--workers", 1, "--json")
    assert result.exit_code == 0, result.output
    kept = json.loads(result.stdout)
    assert 4 <= kept["num_finished"] < 40
    assert kept["num_trained"] == 0
    study = json.loads(run(*command[:-1], kept["num_finished"] + 2, "--workers", 1, "--json").stdout)
    assert (study["num_finished"], study["num_trained"]) == (kept["num_finished"] + 2, 2)
