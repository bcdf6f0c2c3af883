"""The trainer, end to end on synthetic ground truth: it learns, repeats itself, teaches trust on unseen clips."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sage_va.api import predict_to_files
from sage_va.data import DamagedError, InputError, open_store
from sage_va.data.windows import batches
from sage_va.data.windows.corpus import Windows
from sage_va.fusion.ccc import ccc
from sage_va.fusion.config import Config, TrainConfig, check_config, configure
from sage_va.fusion.evaluation.predict import predict
from sage_va.fusion.evaluation.score import score_run
from sage_va.fusion.models.variants import build_model, resolve
from sage_va.fusion.run_folder import load_run
from sage_va.fusion.training.augment import corrupt
from sage_va.fusion.training.crossfit import out_of_fold_errors
from sage_va.fusion.training.labelled import load_labelled
from sage_va.fusion.training.schedule import learning_rate
from sage_va.fusion.training.train import train
from sage_va.fusion.training.trainer import Trainer, fit, settled
from sage_va.tests.synthetic import Kind, make_cache, random_corpus, random_windows, streams_of, tiny

torch.set_num_threads(1)
SHORT = {"epochs": 2, "crossfit_epochs": 1}


def config_of(**sections: Any) -> Config:
    return check_config(tiny(**sections), "test")


def events_of(cache: Path, labels: Path, out: Path, config: Config) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    train(open_store(cache), labels, out, config, log=events.append)
    return events


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def learnt(cache: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("runs") / "sage"
    return out, events_of(*cache, out, config_of())


def weights_of(run: Path) -> Mapping[str, torch.Tensor]:
    return load_run(run).model.state_dict()


def test_it_learns(learnt: tuple[Path, list[dict[str, Any]]]) -> None:
    run, events = learnt
    epochs = [event for event in events if event["event"] == "epoch"]
    assert epochs[-1]["loss"]["loss"] < 0.6 * epochs[0]["loss"]["loss"]
    assert set(epochs[0]["loss"]) == {"loss", "va", "unimodal", "calibration", "ordinal"}
    scores = score_run(run)
    assert scores.split == "test"
    assert scores.raw.ccc["mean"] > 0.5
    assert (scores.raw.face_frames_only or {})["mean"] > 0.5
    assert scores.num_labels == sum(clip.num_labels for clip in scores.clips)


def test_what_a_run_writes(learnt: tuple[Path, list[dict[str, Any]]], cache: tuple[Path, Path]) -> None:
    run, events = learnt
    loaded = load_run(run)
    assert (loaded.cache, loaded.labels) == (str(cache[0]), str(cache[1]))
    assert (loaded.licence, loaded.restricted) == ("test", False)
    assert sorted(loaded.roles) == [f"clip{i:02}" for i in range(10)]
    assert loaded.config == settled(resolve(config_of(split={"by": "subject"})), torch.device("cpu")).on_grid(25.0)
    assert (run / "config.yaml").read_text(encoding="utf-8") == loaded.config.to_yaml()
    assert not list(run.glob(".part-*")) + list(run.glob("last*")) + list(run.glob("errors*"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == [event for event in events if event["event"] == "epoch"]
    done = events[-1]
    assert (done["event"], done["smoothing_s"]) == ("done", loaded.smoothing_s)
    assert done["val"] == pytest.approx(score_run(run, split="val").raw.ccc, abs=1e-6)


def test_the_best_epoch_is_kept(learnt: tuple[Path, list[dict[str, Any]]]) -> None:
    _, events = learnt
    reached = [event["val"]["mean"] for event in events if event["event"] == "epoch"]
    assert events[-1]["val"]["mean"] == pytest.approx(max(reached), abs=1e-6)


def test_one_seed_gives_the_same_bits_and_another_does_not(cache: tuple[Path, Path], tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(ord(name))
        events_of(*cache, tmp_path / name, config_of(seed=seed, train=SHORT))
    first, same, other = (weights_of(tmp_path / name) for name in "abc")
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("scores", "num_epochs", "best"),
    [([0.1, 0.5, 0.3, 0.2, 0.9], 4, 1), ([np.nan, np.nan, np.nan], 3, 0), ([np.nan, -0.9, 0.0, np.nan], 4, 2)],
)
def test_early_stopping(monkeypatch: pytest.MonkeyPatch, scores: list[float], num_epochs: int, best: int) -> None:
    streams = streams_of()
    corpus = random_corpus(streams, [60, 60])
    config = config_of(train={"epochs": len(scores), "patience": 2})
    model = build_model(streams, config.model)
    remaining = iter(scores)
    states: list[dict[str, torch.Tensor]] = []

    def fake(*_: Any) -> dict[str, float]:
        states.append({key: value.clone() for key, value in model.state_dict().items()})
        return {"mean": next(remaining)}

    monkeypatch.setattr(Trainer, "validate", fake)
    fit(model, corpus, [0], [1], config)
    assert len(states) == num_epochs
    assert all(torch.equal(states[best][key], value) for key, value in model.state_dict().items())


def test_the_last_epoch_is_kept_whatever_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = streams_of()
    config = config_of(train={"epochs": 4, "patience": 1, "keep": "last"})
    model, scores = build_model(streams, config.model), iter([0.9, 0.1, 0.1, 0.1])
    states: list[dict[str, torch.Tensor]] = []

    def fake(*_: Any) -> dict[str, float]:
        states.append({key: value.clone() for key, value in model.state_dict().items()})
        return {"mean": next(scores)}

    monkeypatch.setattr(Trainer, "validate", fake)
    fit(model, random_corpus(streams, [60, 60]), [0], [1], config)
    assert len(states) == 4
    assert all(torch.equal(states[-1][key], value) for key, value in model.state_dict().items())


def test_shuffled_labels_teach_nothing(tmp_path: Path) -> None:
    cache, labels = make_cache(tmp_path, num_clips=14, seconds=5, shuffled=True, seed=5)
    sections = {"split": {"fractions": [0.4, 0.2, 0.4]}, "model": {"variant": "concat"}, "train": {"epochs": 6}}
    events_of(cache, labels, tmp_path / "run", config_of(**sections))
    assert abs(score_run(tmp_path / "run").raw.ccc["mean"]) < 0.25


@pytest.mark.parametrize("seeds", [(0,), pytest.param((0, 1, 2), marks=pytest.mark.exhaustive)])
def test_a_stream_that_only_memorises_gets_little_weight(
    tmp_path: Path, seeds: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On clips that its estimator was trained on it looks the better stream; on others its sign is a coin's."""
    kinds = {"visual/face": Kind(masked=0.0), "audio/voice": Kind(dim=18, masked=0.0, memorises=True)}
    cache, labels = make_cache(tmp_path, num_clips=12, seconds=5, kinds=kinds, seed=1)
    config = config_of(train={"epochs": 8, "crossfit_epochs": 8})
    corpus = load_labelled(open_store(cache), labels, config).corpus
    training, held_out = list(range(9)), [9, 10, 11]

    def weight_of_memory() -> tuple[float, torch.Tensor]:
        weights, medians = [], []
        for seed in seeds:
            torch.manual_seed(seed)
            seeded = config.model_copy(update={"seed": seed})
            errors = out_of_fold_errors(corpus, training, seeded, lambda event: None)
            model = build_model(corpus.streams, config.model)
            fit(model, corpus, training, [], seeded, errors=errors)
            weights += [p.weights for p in predict(model, corpus, held_out, config.data) if p.weights is not None]
            medians.append(errors.nanmedian(0).values)
        return float(np.concatenate(weights)[:, 1].mean()), torch.stack(medians).mean(0)

    trusted, (honest, memorised) = weight_of_memory()
    assert trusted < 0.35
    assert honest < 0.5 * memorised
    monkeypatch.setattr(  # the control: errors on clips that the estimator was trained on
        "sage_va.fusion.training.crossfit.fit", lambda model, alone, _, *rest: fit(model, alone, training, *rest)
    )
    deceived, (_, familiar) = weight_of_memory()
    assert deceived > trusted + 0.04
    assert familiar < 0.5 * memorised


def test_out_of_fold_errors_are_made_without_the_clip_and_lie_where_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = streams_of()
    corpus = random_corpus(streams, [60] * 5)
    corpus = dataclasses.replace(
        corpus, clips=[dataclasses.replace(clip, subject_id=f"s{i // 2}") for i, clip in enumerate(corpus.clips)]
    )
    clip_sets: list[set[int]] = []
    monkeypatch.setattr(
        "sage_va.fusion.training.crossfit.fit", lambda model, corpus, clips, *_: clip_sets.append(set(clips))
    )
    errors = out_of_fold_errors(corpus, [0, 1, 2, 3], config_of(train={"crossfit_folds": 3}), lambda event: None)
    assert sorted(map(sorted, clip_sets)) == [[0, 1], [0, 1], [2, 3], [2, 3]]
    known = corpus.mask & corpus.va_mask[:, None]
    known[corpus.steps(4)] = False
    assert torch.equal(torch.isfinite(errors), known)


def test_trust_cannot_be_learnt_from_one_recording() -> None:
    corpus = random_corpus(streams_of(), [60])
    with pytest.raises(InputError, match="expected at least 2 subjects or recordings to estimate reliability, got 1"):
        out_of_fold_errors(corpus, [0], config_of(), lambda event: None)


def test_clips_without_labels_and_labels_without_clips_are_reported(tmp_path: Path) -> None:
    cache, labels = make_cache(tmp_path, num_clips=6, seconds=3)
    (labels / "clip05.csv").rename(labels / "other.csv")
    loaded, *_ = events_of(cache, labels, tmp_path / "run", config_of(train=SHORT, model={"variant": "visual"}))
    assert loaded["event"] == "loaded"
    assert loaded["num_clips"] == 5
    assert loaded["unlabelled"] == ["clip05"]
    assert loaded["unused"] == [str(labels / "other.csv")]


def test_labels_that_match_nothing_are_refused(cache: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("time_s,valence,arousal\n0,0,0\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"got none that match\. Label files are matched by name: 'other' has no clip"):
        train(open_store(cache[0]), tmp_path, tmp_path / "run", config_of())
    assert not (tmp_path / "run").exists()


def test_labels_of_other_seconds_are_refused(tmp_path: Path) -> None:
    cache, labels = make_cache(tmp_path, num_clips=6, seconds=3)
    for path in labels.iterdir():
        path.write_text("time_s,valence,arousal\n900,0,0.1\n901,0.2,0\n", encoding="utf-8")
    with pytest.raises(InputError, match="split train: expected clips with labels that count, got none"):
        train(open_store(cache), labels, tmp_path / "run", config_of())


def test_a_run_is_never_overwritten_and_an_unfinished_one_never_read(
    learnt: tuple[Path, Any], cache: tuple[Path, Path], tmp_path: Path
) -> None:
    for split in ({}, {"folds": 3}):
        with pytest.raises(
            InputError, match=r"expected a new folder, got one with files in it\. Choose another --out\."
        ):
            train(open_store(cache[0]), cache[1], learnt[0], config_of(split=split))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected a new folder"):
        train(open_store(cache[0]), cache[1], tmp_path / "file", config_of())
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match=r"finished run, got none\. Train one with `sage-va train`, or wait"):
        score_run(tmp_path / "run")


def test_a_diverging_loss_is_an_error(cache: tuple[Path, Path], tmp_path: Path) -> None:
    wild = config_of(train={"learning_rate": 1e30, "clip_norm": 1e30}, model={"variant": "concat"})
    with pytest.raises(InputError, match=r"expected a finite loss, got nan\. Lower train\.learning_rate\."):
        train(open_store(cache[0]), cache[1], tmp_path / "run", wild)


def test_folds_are_runs_and_their_held_out_clips_are_one_score(cache: tuple[Path, Path], tmp_path: Path) -> None:
    config = config_of(split={"folds": 3}, train=SHORT, model={"variant": "concat"})
    runs = train(open_store(cache[0]), cache[1], tmp_path / "cv", config)
    assert runs == [tmp_path / "cv" / f"fold-{k}" for k in range(3)]
    scores = score_run(tmp_path / "cv")
    assert (scores.num_folds, scores.num_clips) == (3, 10)
    assert sorted(clip.clip_id for clip in scores.clips) == [f"clip{i:02}" for i in range(10)]
    with pytest.raises(InputError, match=r"got 3 folds\. Name one of them, such as .*fold-0"):
        load_run(tmp_path / "cv")
    single = config_of(split={"folds": 3, "fold": 1}, train=SHORT, model={"variant": "concat"})
    train(open_store(cache[0]), cache[1], tmp_path / "one", single)
    first, second = weights_of(tmp_path / "one"), weights_of(tmp_path / "cv" / "fold-1")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_damaged_cache_is_refused_by_name(tmp_path: Path) -> None:
    cache, labels = make_cache(tmp_path, num_clips=4, seconds=3)
    (place,) = cache.glob("audio/voice-*/clip02/values/c/0/0")
    damaged = bytearray(place.read_bytes())
    damaged[100] ^= 1
    place.write_bytes(damaged)
    with pytest.raises(DamagedError, match=r"clip02 audio/voice-.*Run `sage-va cache repair`"):
        train(open_store(cache), labels, tmp_path / "run", config_of())


def test_variants_of_one_modality_do_not_need_the_other(tmp_path: Path) -> None:
    kinds = {"visual/face": Kind(), "audio/voice": Kind(), "audio/music": Kind()}
    cache, labels = make_cache(tmp_path, num_clips=3, seconds=2, kinds=kinds)
    assert len(load_labelled(open_store(cache), labels, config_of(model={"variant": "visual"})).corpus.streams) == 1
    with pytest.raises(InputError, match="stream 'audio': expected the name of one stream, got 2 that match"):
        load_labelled(open_store(cache), labels, config_of())
    named = config_of(data={"streams": ["visual", "audio/voice", "audio/music"]})
    assert len(load_labelled(open_store(cache), labels, named).corpus.streams) == 3


def test_learning_rate_rises_then_falls_and_is_never_zero() -> None:
    config = TrainConfig(learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(config, (step + 0.5) / 1000) for step in range(1000)]
    assert min(rates) > 0
    assert 0.9 < max(rates) < 1
    assert int(np.argmax(rates)) == pytest.approx(100, abs=5)
    assert np.all(np.diff(rates[:90]) > 0)
    assert np.all(np.diff(rates[110:]) < 0)
    assert rates[-1] < 1e-5
    assert learning_rate(TrainConfig(learning_rate=1.0, warmup=0), 0.0) == 1


@pytest.mark.parametrize("num_streams", [1, 2, 3])
def test_corruption_hides_but_never_everything(num_streams: int) -> None:
    streams = streams_of((8, 6, 5)[:num_streams], (0, 0, 0)[:num_streams])
    windows = random_windows(streams, 8, 60, valid=0.6)
    config = config_of(train={"modality_dropout": 0.7, "span_dropout": 0.7}).on_grid(25)
    corrupted = corrupt(windows, config, torch.Generator().manual_seed(0), [torch.ones(s.dim) for s in streams])
    assert torch.equal(corrupted.mask.any(-1), windows.mask.any(-1))
    assert not (corrupted.mask & ~windows.mask).any()
    assert (corrupted.mask.sum() < windows.mask.sum()) == (num_streams > 1)
    assert all(a is b for a, b in zip(corrupted.values, windows.values, strict=True))
    for name in ("inside", "va", "va_mask", "steps"):
        assert getattr(corrupted, name) is getattr(windows, name)


def test_noise_is_measured_in_each_features_own_spread() -> None:
    streams = streams_of()
    windows = random_windows(streams, 8, 500)
    windows = dataclasses.replace(windows, values=[v.half() for v in windows.values])
    scales = [torch.linspace(0.1, 10, s.dim) for s in streams]
    config = config_of(train={"noise": 0.5, "modality_dropout": 0, "span_dropout": 0}).on_grid(25)
    corrupted = corrupt(windows, config, torch.Generator().manual_seed(0), scales)
    for clean, noisy, scale in zip(windows.values, corrupted.values, scales, strict=True):
        added = (noisy - clean.float()).std((0, 1))
        torch.testing.assert_close(added, 0.5 * scale, rtol=0.05, atol=0)
    assert torch.equal(corrupted.mask, windows.mask)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_predictions_are_written_per_clip(learnt: tuple[Path, Any], cache: tuple[Path, Path], tmp_path: Path) -> None:
    files = predict_to_files(learnt[0], [str(cache[0])], tmp_path / "out")
    assert (files.out, files.failures, files.random_weights) == (str(tmp_path / "out"), [], [])
    assert files.clips == [f"clip{i:02}" for i in range(10)]
    rows = rows_of(tmp_path / "out" / "clip03.csv")
    assert list(rows[0]) == [
        *("time_s", "valence", "arousal"),
        *("reliability_visual", "mask_visual", "reliability_audio", "mask_audio"),
    ]
    assert np.diff([float(row["time_s"]) for row in rows]) == pytest.approx(0.04)
    for row in rows:
        for name in ("visual", "audio"):
            assert (row[f"reliability_{name}"] == "") == (row[f"mask_{name}"] == "0")
            assert row[f"mask_{name}"] == "0" or 0 <= float(row[f"reliability_{name}"]) <= 1


def test_the_predictions_of_any_runs_are_averaged(
    learnt: tuple[Path, Any], cache: tuple[Path, Path], tmp_path: Path
) -> None:
    (other,) = train(
        open_store(cache[0]), cache[1], tmp_path / "late", config_of(model={"variant": "late"}, train=SHORT)
    )
    files = predict_to_files([learnt[0], other], [str(cache[0])], tmp_path / "all")
    assert (files.runs, files.num_models) == ([str(learnt[0]), str(other)], 2)
    each = []
    for number, run in enumerate((learnt[0], other)):
        predict_to_files(run, [str(cache[0])], tmp_path / str(number))
        each.append([float(row["valence"]) for row in rows_of(tmp_path / str(number) / "clip03.csv")])
    together = [float(row["valence"]) for row in rows_of(tmp_path / "all" / "clip03.csv")]
    assert together == pytest.approx(np.mean(each, axis=0), abs=2e-5)
    assert np.abs(np.subtract(*each)).max() > 1e-3
    (face,) = train(
        open_store(cache[0]), cache[1], tmp_path / "face", config_of(model={"variant": "visual"}, train=SHORT)
    )
    with pytest.raises(InputError, match=r"face: expected a model of visual/.*, audio/.* at 25 Hz, as .*, got visual/"):
        predict_to_files([learnt[0], face], [str(cache[0])], tmp_path / "none")


def test_the_predictions_of_folds_are_averaged(cache: tuple[Path, Path], tmp_path: Path) -> None:
    config = config_of(split={"folds": 3}, train=SHORT)
    runs = train(open_store(cache[0]), cache[1], tmp_path / "cv", config)
    files = predict_to_files(tmp_path / "cv", [str(cache[0])], tmp_path / "all")
    assert (files.num_models, files.failures) == (3, [])
    shutil.copytree(tmp_path / "cv" / "fold-0", tmp_path / "part" / "fold-0")
    with pytest.raises(InputError, match="expected all 3 folds, got 1 of them"):
        predict_to_files(tmp_path / "part", [str(cache[0])], tmp_path / "none")
    each = []
    for number, run in enumerate(runs):
        predict_to_files(run, [str(cache[0])], tmp_path / str(number))
        each.append([float(row["valence"]) for row in rows_of(tmp_path / str(number) / "clip03.csv")])
    together = [float(row["valence"]) for row in rows_of(tmp_path / "all" / "clip03.csv")]
    np.testing.assert_allclose(together, np.mean(each, axis=0), atol=2e-5)


def test_predictions_without_a_gate_leave_reliability_empty(cache: tuple[Path, Path], tmp_path: Path) -> None:
    config = config_of(model={"variant": "concat"}, train=SHORT)
    train(open_store(cache[0]), cache[1], tmp_path / "run", config)
    predict_to_files(tmp_path / "run", [str(cache[0])], tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "clip00.csv")
    assert {row["reliability_visual"] + row["reliability_audio"] for row in rows} == {""}
    assert {row["mask_visual"] for row in rows} == {"0", "1"}


def test_features_of_another_encoder_are_refused(learnt: tuple[Path, Any], tmp_path: Path) -> None:
    cache, _ = make_cache(tmp_path, num_clips=3, seconds=2, weights="random")
    files = predict_to_files(learnt[0], [str(cache)], tmp_path / "out")
    assert files.clips == []
    assert [failure["clip_id"] for failure in files.failures] == ["clip00", "clip01", "clip02"]
    assert "visual/face-" in files.failures[0]["reason"]
    assert "expected a committed stream, got none" in files.failures[0]["reason"]


def test_a_score_needs_labels_for_every_clip_of_its_part(learnt: tuple[Path, Any], tmp_path: Path) -> None:
    (tmp_path / "stranger.csv").write_text("time_s,valence,arousal\n0,0,0\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"expected labelled test clips, got no labels for clip.*Check --labels"):
        score_run(learnt[0], labels=tmp_path)
    for clip_id in load_run(learnt[0]).roles:
        (tmp_path / f"{clip_id}.csv").write_text("time_s,valence,arousal\n900,0,0\n", encoding="utf-8")
    with pytest.raises(InputError, match="no label falls on the test clips"):
        score_run(learnt[0], labels=tmp_path)


@pytest.mark.parametrize("preset", ["tiny", "base"])
def test_linear_converges_at_the_presets_learning_rate(preset: str) -> None:
    """Least squares on the same clips is the bound; a random start at a deep network's rate ends far below it."""
    streams, rng = streams_of((48, 16), (0, 0)), np.random.default_rng(0)
    corpus = random_corpus(streams, [300] * 30)
    mixing = [rng.standard_normal((stream.dim, 2)) / 20 for stream in streams]
    clean = sum(x.numpy() @ m for x, m in zip(corpus.values, mixing, strict=True))
    va = torch.from_numpy((clean + 0.3 * rng.standard_normal(clean.shape)).clip(-1, 1).astype(np.float32))
    corpus = dataclasses.replace(corpus, va=va, mask=torch.ones_like(corpus.mask))
    config = configure({"model": {"variant": "linear"}, "data": {"window_s": 2.4, "hop_s": 1.6}}, preset, "test")
    torch.manual_seed(0)
    model = build_model(streams, config.model)
    fit(model, corpus, range(24), [], config)
    x, rows = np.concatenate([values.numpy() for values in corpus.values], axis=1), slice(0, 24 * 300)
    weights = np.linalg.lstsq(x[rows], va.numpy()[rows], rcond=None)[0]
    expected = x[24 * 300 :] @ weights
    va_of = np.concatenate([p.va for p in predict(model, corpus, range(24, 30), config.data)])
    truth, mask = va[24 * 300 :].T, torch.ones(2, 6 * 300, dtype=torch.bool)
    reached, bound = (ccc(torch.from_numpy(y).float().T, truth, mask).mean().item() for y in (va_of, expected))
    assert reached > bound - 0.02


@pytest.mark.parametrize("variant", ["sage", "concat", "tagf"])
def test_very_short_clips_train_and_predict_as_in_whole_windows(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding counts for nothing, so a shorter window gives the same estimate; an epoch has as many steps a batch."""
    corpus = random_corpus(streams_of(), [1] * 70 + [12] * 40 + [300] * 3)
    config = config_of(model={"variant": variant}, data={"window_s": 12, "hop_s": 8})
    model = build_model(corpus.streams, config.model)
    trainer = Trainer(model, corpus, range(len(corpus.clips)), config, None)
    lengths: list[int] = []
    step = trainer.step

    def counted(windows: Windows, rate: float) -> dict[str, torch.Tensor]:
        lengths.append(windows.steps.shape[1])
        return step(windows, rate)

    monkeypatch.setattr(trainer, "step", counted)
    assert np.isfinite(trainer.epoch()["loss"]["loss"])
    assert sorted(lengths) == [8, 16, 300]
    short = predict(model, corpus, range(113), config.data, batch_size=8)
    monkeypatch.setattr(batches, "SHORTEST_STEPS", 300)
    whole = predict(model, corpus, range(113), config.data, batch_size=8)
    assert all(np.allclose(a.va, b.va, atol=1e-5) for a, b in zip(short, whole, strict=True))


def test_two_trainings_in_one_folder_do_not_mix(cache: tuple[Path, Path], tmp_path: Path) -> None:
    """Before, both said that they were done, and their files were mixed."""
    store, out, config = open_store(cache[0]), tmp_path / "run", config_of(model={"variant": "concat"})
    refusals: list[str] = []

    def second(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and not refusals:
            with pytest.raises(InputError) as refusal:
                train(store, cache[1], out, config, resume=True)
            refusals.append(str(refusal.value))

    train(store, cache[1], out, config, log=second)
    assert len(refusals) == 1
    assert "another training is at work in this folder. Wait for it, or choose another --out." in refusals[0]
    assert train(store, cache[1], out, config, resume=True) == [out]  # the lock went with the first
