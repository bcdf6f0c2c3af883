"""The reaction lag: a drawn one is recovered from training clips, labels move earlier, predictions are delayed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sage_va import SAGE
from sage_va.data import InputError, open_store
from sage_va.fusion.config import Config, LabelsConfig, configure, load_config
from sage_va.fusion.evaluation.predict import predict, predict_va
from sage_va.fusion.evaluation.score import score_run
from sage_va.fusion.experiments.compare import compare
from sage_va.fusion.run_folder import load_run
from sage_va.fusion.training.labelled import load_labelled
from sage_va.fusion.training.lag import estimate_lag_s, settle_lag
from sage_va.fusion.training.train import train
from sage_va.tests.synthetic import make_cache, random_corpus, streams_of, tiny

torch.set_num_threads(1)
LAG_S = 1.4


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A cache whose labels are 1.4 s late."""
    return make_cache(tmp_path_factory.mktemp("late"), num_clips=10, seconds=24, lag_s=LAG_S, label_hz=25)


def config_of(lag_s: object, **sections: dict[str, object]) -> Config:
    raw = tiny(labels={"lag_s": lag_s}, model={"variant": "concat"}, data={"grid_hz": 25}, **sections)
    return configure(raw, "base", "test")


def corpus_of(late: tuple[Path, Path]):
    return load_labelled(open_store(str(late[0])), late[1], config_of(0)).corpus


def test_a_drawn_lag_is_recovered_from_the_training_clips_alone(late: tuple[Path, Path]) -> None:
    corpus = corpus_of(late)
    assert estimate_lag_s(corpus, range(6)) == pytest.approx(LAG_S, abs=0.2)
    for index in range(6, 10):  # labels of other clips do not matter
        corpus.va[corpus.steps(index)] = torch.rand(corpus.grids[index].num_steps, 2)
    assert estimate_lag_s(corpus, range(6)) == pytest.approx(LAG_S, abs=0.2)
    assert settle_lag(corpus, range(6), config_of("estimate")).labels.lag_s == pytest.approx(LAG_S, abs=0.2)
    assert settle_lag(corpus, range(6), config_of(0.3)).labels.lag_s == 0.3


def test_labels_without_a_lag_have_none(tmp_path: Path) -> None:
    cache, labels = make_cache(tmp_path, num_clips=6, seconds=24)
    assert estimate_lag_s(load_labelled(open_store(str(cache)), labels, config_of(0)).corpus, range(6)) == 0


def test_too_little_to_estimate_from(tmp_path: Path) -> None:
    cache, labels = make_cache(tmp_path, num_clips=6, seconds=9)
    message = r"labels\.lag_s: too little to estimate it from: \d+ s of labels later than 8 s after the start of their"
    with pytest.raises(InputError, match=message):
        train(open_store(str(cache)), labels, tmp_path / "run", config_of("estimate"))
    assert not (tmp_path / "run").exists()


def test_seconds_of_labels_are_counted_on_a_grid_of_any_rate() -> None:
    corpus = random_corpus(streams_of(), [24, 24, 24], hz=2.0)  # 8 steps of each clip lie 8 s after its start or later
    message = r"labels\.lag_s: too little to estimate it from: 12 s of labels later than 8 s"
    with pytest.raises(InputError, match=message):
        estimate_lag_s(corpus, range(3))


def test_labels_move_by_whole_steps_inside_their_clip() -> None:
    corpus = random_corpus(streams_of(), [6, 3])
    moved = corpus.with_earlier_labels(4)
    assert torch.equal(moved.va[:2], corpus.va[4:6])
    assert moved.va_mask.tolist() == [True, True, *[False] * 7]
    assert moved.truths is corpus.truths
    assert corpus.with_earlier_labels(0) is corpus


@pytest.mark.parametrize("value", [-1, 9, "guess", True, None])
def test_a_lag_out_of_range_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"labels\.lag_s: expected seconds from 0 to 8, or estimate, got"):
        config_of(value)


def test_the_lag_is_configuration(tmp_path: Path) -> None:
    assert LabelsConfig().lag_s == 0
    assert load_config(None, ["labels.lag_s=estimate"]).labels.lag_s == "estimate"
    assert load_config(None, ["labels.lag_s=2"]).flat()["labels.lag_s"] == 2
    (tmp_path / "c.yaml").write_text(load_config(None, ["labels.lag_s=estimate"]).to_yaml(), encoding="utf-8")
    assert load_config(tmp_path / "c.yaml").labels.lag_s == "estimate"


@pytest.fixture(scope="module")
def runs(late: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One training without the lag, and one with it."""
    folder = tmp_path_factory.mktemp("runs")
    short = {"train": {"epochs": 8}}
    for name, lag_s in (("without", 0), ("with", "estimate")):
        train(open_store(str(late[0])), late[1], folder / name, config_of(lag_s, **short))
    return {name: folder / name for name in ("without", "with")}


@pytest.mark.slow
def test_a_model_with_the_lag_fits_late_labels_and_all_of_them_count(runs: dict[str, Path]) -> None:
    scores = {name: score_run(path) for name, path in runs.items()}
    assert scores["with"].num_labels == scores["without"].num_labels
    assert scores["with"].raw.ccc["mean"] > scores["without"].raw.ccc["mean"] + 0.1


@pytest.mark.slow
def test_the_run_and_what_is_exported_keep_the_estimate(runs: dict[str, Path], late, tmp_path: Path) -> None:
    run = load_run(runs["with"])
    assert run.config.labels.lag_s == run.model.lag_s == pytest.approx(LAG_S, abs=0.2)
    assert "lag_s: estimate" in (runs["with"] / "config.yaml").read_text()
    SAGE.load(runs["with"]).save_pretrained(tmp_path / "model")
    sage = SAGE.load(tmp_path / "model")
    assert sage.model.lag_s == run.model.lag_s
    a, b = (model.predict(str(late[0]), ["clip00"])[0] for model in (SAGE.load(runs["with"]), sage))
    assert np.array_equal(a.va, b.va)


@pytest.mark.slow
def test_a_comparison_with_an_estimated_lag_is_resumed(late: tuple[Path, Path], tmp_path: Path) -> None:
    config = config_of("estimate", train={"epochs": 1, "crossfit_epochs": 1})
    options = {"num_seeds": 1, "folds": None, "jobs": 1}
    first, again = (
        compare(open_store(str(late[0])), late[1], tmp_path / "c", config, ["concat", "sage"], **options).to_json()
        for _ in range(2)
    )
    assert [(each["num_trained"], each["num_skipped"], each["failures"]) for each in (first, again)] == [
        (2, 0, []),
        (0, 2, []),
    ]
    assert first["rows"] == again["rows"]
    lag_s = load_run(tmp_path / "c/sage/seed-0").config.labels.lag_s
    assert lag_s == pytest.approx(LAG_S, abs=0.2)


@pytest.mark.slow
def test_predictions_are_delayed_by_the_lag(runs: dict[str, Path], late: tuple[Path, Path]) -> None:
    run, corpus = load_run(runs["with"]), corpus_of(late).only([0, 1])
    num_steps = round(run.model.lag_s * 25)
    (delayed,), (va,) = (
        predict(run.model, corpus, [3], run.config.data),
        predict_va(run.model, corpus, [3], run.config.data),
    )
    run.model.lag_s = 0.0
    (plain,) = predict(run.model, corpus, [3], run.config.data)
    for name in ("va", "mask", "unimodal", "weights"):
        now, before = getattr(delayed, name), getattr(plain, name)
        if now is not None:
            assert np.array_equal(now[num_steps:], before[:-num_steps])
            assert (now[:num_steps] == before[0]).all()
    assert np.array_equal(va, delayed.va)
    assert np.array_equal(delayed.times_s, plain.times_s)
