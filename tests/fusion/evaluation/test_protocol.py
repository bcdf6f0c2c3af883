"""The protocol as a whole: one score, whatever the road to it; what is chosen where; who is held out."""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sage_va.data import Clip, Grid, open_store
from sage_va.data.labels import Labels, Truth, read_label_file
from sage_va.data.windows.corpus import Corpus
from sage_va.data.windows.splits import Role
from sage_va.fusion.config import Config, DataConfig, ModelConfig, SplitConfig, check_config
from sage_va.fusion.evaluation.metrics import (
    ClipMoments,
    best_smoothing_s,
    bootstrap,
    corpus_moments,
    pooled_ccc,
    score,
    smooth,
    summarise,
)
from sage_va.fusion.evaluation.predict import Prediction, predict
from sage_va.fusion.evaluation.score import load_part, score_run
from sage_va.fusion.models.variants import build_model
from sage_va.fusion.run_folder import Run, load_run, start_run
from sage_va.fusion.training.labelled import assign_roles, crossfit_folds, groups_of
from sage_va.fusion.training.train import train, train_one
from sage_va.tests.synthetic import make_cache, random_corpus, streams_of, tiny

torch.set_num_threads(1)
STREAMS = streams_of((8, 6, 5), (1, 0, 0))  # visual, audio, visual
ORIGIN = {"cache": "none", "labels": "none", "licence": None, "restricted": False}
TRUSTLESS = {"model": {"variant": "concat"}, "train": {"epochs": 1}}


def config_of(**sections: Any) -> Config:
    return check_config(tiny(**sections), "test")


def prediction_of(clip_id: str, grid: Grid, va: np.ndarray, mask: np.ndarray) -> Prediction:
    rest = {field.name: None for field in dataclasses.fields(Prediction)}
    return Prediction(**{**rest, "clip_id": clip_id, "times_s": grid.times_s, "va": va, "mask": mask})


def messy_labels(rng: np.random.Generator, grid: Grid) -> Labels:
    """Labels at odd times from before the clip to after it; one value in eight missing, -5, or out of range."""
    times = np.sort(rng.uniform(grid.times_s[0] - 0.3, grid.times_s[-1] + 0.3, int(rng.integers(1, 60))))
    va = rng.uniform(-1, 1, (len(times), 2)).astype(np.float32)
    for odd in (np.nan, -5.0, 1.001):
        va[rng.random(va.shape) < 0.04] = odd
    return Labels(Path("clip.csv"), va, times)


def labelled(seed: int, lengths: Sequence[int], hz: float = 25.0) -> tuple[Corpus, list[Prediction], list[Labels]]:
    """A corpus with messy labels, and predictions of it that know something."""
    rng = np.random.default_rng(seed)
    corpus = random_corpus(STREAMS, lengths, hz=hz, seed=seed)
    labels = [messy_labels(rng, grid) for grid in corpus.grids]
    corpus = dataclasses.replace(corpus, truths=[label.timed(Clip("clip")) for label in labels])
    predictions = []
    for clip, grid, index in zip(corpus.clips, corpus.grids, range(len(lengths)), strict=True):
        va = np.clip(rng.normal(0.1, 0.5, (grid.num_steps, 2)).cumsum(0) / 3, -1, 1)
        predictions.append(prediction_of(clip.clip_id, grid, va, corpus.mask[corpus.steps(index)].numpy()))
    return corpus, predictions, labels


def by_hand(
    corpus: Corpus, predictions: Sequence[Prediction], labels: Sequence[Labels], *, face: bool = False
) -> tuple[list[float], int]:
    """The score of docs/model.md, written out: every counted label of every clip in one long series per target."""
    x: list[np.ndarray] = []
    y: list[np.ndarray] = []
    for prediction, label in zip(predictions, labels, strict=True):
        (index,) = corpus.find([prediction.clip_id])
        grid, times = corpus.grids[index], label.times_s
        assert times is not None
        for t, row in zip(times, label.va.astype(np.float64), strict=True):
            annotated = np.isfinite(row).all() and np.abs(row).max() <= 1
            covered = grid.times_s[0] - 0.5 / grid.hz <= t <= grid.times_s[-1] + 0.5 / grid.hz
            nearest = np.abs(grid.times_s - t).argmin()
            if annotated and covered and (not face or prediction.mask[nearest, [0, 2]].any()):
                x.append(np.array([np.interp(t, grid.times_s, prediction.va[:, d]) for d in range(2)]))
                y.append(row)
    if not x:
        return [math.nan, math.nan], 0
    a, b = np.array(x), np.array(y)
    with np.errstate(invalid="ignore"):
        covariance = ((a - a.mean(0)) * (b - b.mean(0))).mean(0)
        agreement = 2 * covariance / (a.var(0) + b.var(0) + (a.mean(0) - b.mean(0)) ** 2)
    return agreement.tolist(), len(x)


def close(scores: dict[str, float], expected: Sequence[float]) -> bool:
    return [scores["valence"], scores["arousal"]] == pytest.approx(list(expected), abs=1e-6, nan_ok=True)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(2, 40), min_size=1, max_size=4), st.sampled_from([10.0, 25, 30]))
@settings(deadline=None, max_examples=25)
def test_the_score_is_that_of_the_protocol_written_out(seed: int, lengths: list[int], hz: float) -> None:
    """Both-targets mask, -5, coverage, labels between steps, face or no face, pooling: all in one."""
    corpus, predictions, labels = labelled(seed, lengths, hz)
    raw = corpus_moments(predictions, corpus)
    expected, num_labels = by_hand(corpus, predictions, labels)
    assume(num_labels > 3)
    summary = summarise(raw, raw)
    assert summary.num_labels == num_labels
    assert close(score(predictions, corpus), expected)
    assert summary.raw.ccc == score(predictions, corpus)
    with_face, num_seen = by_hand(corpus, predictions, labels, face=True)
    assert summary.num_face_labels == num_seen
    assert num_seen < 4 or close(summary.raw.face_frames_only or {}, with_face)
    for clip, prediction, label in zip(summary.clips, predictions, labels, strict=True):
        own, count = by_hand(corpus, [prediction], [label])
        assert clip.num_labels == count
        assert count < 4 or close(clip.ccc, own)


@given(st.integers(0, 2**32 - 1), st.data())
@settings(deadline=None, max_examples=25)
def test_the_score_is_blind_to_who_computed_which_clips(seed: int, data: st.DataObject) -> None:
    """Folds or processes, in whatever order they come back: the moments of a clip are its own."""
    corpus, predictions, _ = labelled(seed, [30, 12, 25, 40, 8])
    worker_of = data.draw(st.lists(st.integers(0, 3), min_size=5, max_size=5))
    parts = [[p for p, w in zip(predictions, worker_of, strict=True) if w == k] for k in range(4)]
    order = data.draw(st.permutations(range(4)))
    sums = [clip for k in order for clip in corpus_moments(parts[k], corpus)]
    whole = corpus_moments(predictions, corpus)
    for kind in ("all", "face"):
        scores, expected = (pooled_ccc([getattr(clip, kind) for clip in each]) for each in (sums, whole))
        assert scores == pytest.approx(expected, abs=1e-9, nan_ok=True)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_what_stands_in_rows_that_do_not_count_changes_nothing(seed: int) -> None:
    corpus, predictions, labels = labelled(seed, [40, 40])
    rng = np.random.default_rng(seed)
    truths: list[Truth | None] = []
    for label, grid in zip(labels, corpus.grids, strict=True):
        assert label.times_s is not None
        out = ~label.mask | (np.abs(label.times_s - grid.times_s.mean()) > (grid.num_steps / 2) / grid.hz)
        other = np.where(out[:, None], rng.choice([np.nan, -5, 9.0]), label.va).astype(np.float32)
        truths.append(dataclasses.replace(label, va=other).timed(Clip("clip")))
    changed = dataclasses.replace(corpus, truths=truths)
    for a, b in zip(corpus_moments(predictions, corpus), corpus_moments(predictions, changed), strict=True):
        assert torch.equal(a.all, b.all)
        assert a.face is not None
        assert b.face is not None
        assert torch.equal(a.face, b.face)


def test_rows_of_minus_five_in_a_file_never_reach_the_score(tmp_path: Path) -> None:
    """Aff-Wild2's own form: row k is frame k; valence alone does not count, and no row moves up."""
    grid = Grid(25.0, 0, 6)
    rows = ["valence,arousal", "0.1,0.2", "-5,-5", "0.3,-5", "-5,0.9", "0.5,-0.4", "-0.6,0.8"]
    (tmp_path / "clip00.txt").write_text("\n".join(rows), encoding="utf-8")
    corpus = random_corpus(STREAMS, [6])
    corpus.grids[0] = grid
    corpus.truths[0] = Truth(
        grid.times_s, *(getattr(read_label_file(tmp_path / "clip00.txt"), k) for k in ("va", "mask"))
    )
    exact = np.array([[0.1, 0.2], [7, 7], [7, 7], [7, 7], [0.5, -0.4], [-0.6, 0.8]])
    (sums,) = corpus_moments([prediction_of("clip00", grid, exact, np.ones((6, 3), bool))], corpus)
    assert sums.all[:, 0].tolist() == [3, 3]
    assert pooled_ccc([sums.all])["mean"] == pytest.approx(1, abs=1e-6)


def test_faces_are_a_part_of_the_score_and_never_the_score() -> None:
    """Good where there is a face and bad elsewhere: the score says both, in two numbers."""
    corpus, (prediction,), _ = labelled(0, [400])
    grid = corpus.grids[0]
    va = np.column_stack([np.sin(grid.times_s), np.cos(grid.times_s)])
    corpus.truths[0] = Truth(grid.times_s, va.astype(np.float32), np.ones(400, bool))
    face = np.arange(400) < 250
    mask = np.column_stack([face & (np.arange(400) % 2 == 0), ~face, face & (np.arange(400) % 2 == 1)])
    good = dataclasses.replace(prediction, va=np.where(face[:, None], va, -va), mask=mask)
    summary = summarise(*[corpus_moments([good], corpus)] * 2)
    assert (summary.num_labels, summary.num_face_labels) == (400, 250)
    assert (summary.raw.face_frames_only or {})["mean"] == pytest.approx(1, abs=1e-6)
    assert summary.raw.ccc["mean"] < 0.7
    blind = dataclasses.replace(good, mask=np.zeros_like(mask))
    unseen = summarise(*[corpus_moments([blind], corpus)] * 2)
    assert unseen.raw.ccc == summary.raw.ccc
    assert unseen.num_face_labels == 0
    assert math.isnan((unseen.raw.face_frames_only or {})["mean"])


def small_model(variant: str = "sage", streams: int = 3) -> Any:
    torch.manual_seed(0)
    sizes = {"dim": 8, "heads": 2, "tcn_blocks": 2, "layers": 1, "variant": variant}
    return build_model(STREAMS[:streams], ModelConfig.model_validate(sizes))


@given(st.integers(90, 400))
@settings(deadline=None, max_examples=8)
def test_padding_of_short_clips_changes_no_prediction(window_steps: int) -> None:
    """A model with temporal extent, and every clip in one window: the room behind its end does not matter."""
    corpus, model = random_corpus(STREAMS, [37, 90, 64, 1]), small_model()
    usual = predict(model, corpus, range(4), DataConfig(window_s=3.6, hop_s=3.6))
    predictions = predict(model, corpus, range(4), DataConfig(window_s=window_steps / 25, hop_s=3.6))
    for a, b in zip(usual, predictions, strict=True):
        np.testing.assert_allclose(a.va, b.va, atol=3e-6)


@pytest.mark.parametrize("variant", ["sage", "concat"])
def test_a_clip_is_predicted_from_itself_alone(variant: str) -> None:
    """Neither the clips beside it in the batch nor those behind it in memory reach it; its own features do."""
    corpus, model = random_corpus(STREAMS, [37, 90, 64, 1]), small_model(variant)
    data = DataConfig(window_s=2, hop_s=1.2)
    usual = predict(model, corpus, range(4), data)
    for index in range(4):
        own = corpus.steps(index)
        values = [torch.full_like(v, 1e4) for v in corpus.values]
        for new, old in zip(values, corpus.values, strict=True):
            new[own] = old[own]
        other = dataclasses.replace(corpus, values=values)
        (alone,) = predict(model, other, [index], data)
        np.testing.assert_allclose(alone.va, usual[index].va, atol=3e-6)
        strange = next(k for k in range(4) if k != index)
        assert np.abs(predict(model, other, [strange], data)[0].va - usual[strange].va).max() > 1e-3


def test_labels_have_no_part_in_a_prediction() -> None:
    corpus, model = random_corpus(STREAMS, [37, 90]), small_model()
    hidden = dataclasses.replace(
        corpus, va=torch.zeros_like(corpus.va), va_mask=corpus.va_mask & False, truths=[None] * 2
    )
    for a, b in zip(*(predict(model, each, [0, 1], DataConfig()) for each in (corpus, hidden)), strict=True):
        assert np.array_equal(a.va, b.va)


def test_smoothing_is_chosen_on_validation_clips_alone(tmp_path: Path) -> None:
    """Labels are set to the model's own estimate, smoothed: by one width for validation, by another for test clips."""
    corpus, config = random_corpus(STREAMS[:2], [300] * 6), config_of(**TRUSTLESS)
    parts: list[Role] = ["train", "train", "val", "val", "test", "test"]
    roles = {clip.clip_id: part for clip, part in zip(corpus.clips, parts, strict=True)}

    def run_with(widths: dict[str, float], estimates: Sequence[Prediction]) -> Run:
        truths = list(corpus.truths)
        for index, prediction in enumerate(estimates):
            if (role := roles[prediction.clip_id]) in widths:
                va = smooth(prediction.va, steps_of(widths[role])).astype(np.float32)
                truths[index] = Truth(prediction.times_s, va, np.ones(len(va), bool))
        out = tmp_path / "-".join(map(str, widths.values()))
        start_run(out, config, roles)
        train_one(dataclasses.replace(corpus, truths=truths), roles, config, out, ORIGIN, lambda event: None)
        return load_run(out)

    first = run_with({}, [])
    estimates = predict(first.model, corpus, range(6), config.data)
    for width_s, other_s in ((0.0, 4.0), (1.0, 0.0), (8.0, 0.5)):
        model = run_with({"val": width_s, "test": other_s}, estimates)
        assert model.smoothing_s == width_s
        weights, others = first.model.state_dict(), model.model.state_dict()
        assert all(torch.equal(weights[key], others[key]) for key in weights)


def steps_of(width_s: float, hz: float = 25.0) -> int:
    return 2 * round(width_s * hz / 2) + 1


def test_smoothing_averages_seconds_and_not_steps() -> None:
    """At twice the grid's rate the same width is chosen."""
    for hz in (12.5, 25.0, 50.0):
        corpus = random_corpus(STREAMS, [round(24 * hz)], hz=hz)
        grid, rng = corpus.grids[0], np.random.default_rng(0)
        va = rng.uniform(-1, 1, (grid.num_steps, 2))
        corpus.truths[0] = Truth(
            grid.times_s, smooth(va, steps_of(2.0, hz)).astype(np.float32), np.ones(grid.num_steps, bool)
        )
        prediction = prediction_of("clip00", grid, va, np.ones((grid.num_steps, 3), bool))
        assert best_smoothing_s([prediction], corpus) == 2.0


def average(va: np.ndarray, half: int) -> np.ndarray:
    """Centred moving average, written out."""
    return np.stack([va[max(0, t - half) : t + half + 1].mean(0) for t in range(len(va))])


def test_folds_are_pooled_into_one_score_and_each_keeps_its_width(tmp_path: Path) -> None:
    """Against the protocol written out over all held-out clips; other labels at scoring time choose no other width."""
    cache, labels = make_cache(tmp_path, num_clips=6, seconds=4, label_hz=27.3)
    runs = train(open_store(cache), labels, tmp_path / "cv", config_of(split={"folds": 3}, **TRUSTLESS))
    other = tmp_path / "other"
    other.mkdir()
    for path in labels.iterdir():
        head, *rows = path.read_text(encoding="utf-8").splitlines()
        turned = [",".join([row.split(",")[0], *row.split(",")[:0:-1]]) for row in rows]
        (other / path.name).write_text("\n".join([head, *turned]), encoding="utf-8")
    widths = [load_run(path).smoothing_s for path in runs]
    for folder in (labels, other):
        scores = score_run(tmp_path / "cv", labels=folder)
        assert scores.smoothing_s == widths
        for kind in ("raw", "smoothed"):
            assert close(getattr(scores, kind).ccc, pooled_by_hand(runs, folder, smoothed=kind == "smoothed"))
    assert score_run(tmp_path / "cv").raw.ccc != scores.raw.ccc


def pooled_by_hand(runs: Sequence[Path], labels: Path, *, smoothed: bool) -> list[float]:
    x, y = [], []
    for path in runs:
        run = load_run(path)
        corpus = load_part(run, open_store(run.cache), labels, "test")
        for prediction in predict(run.model, corpus, range(len(corpus.clips)), run.config.data):
            half = round(run.smoothing_s * 25 / 2) if smoothed else 0
            va, grid_s = average(prediction.va, half), prediction.times_s
            table = np.genfromtxt(labels / f"{prediction.clip_id}.csv", delimiter=",", skip_header=1)
            table = table[(table[:, 0] >= grid_s[0] - 0.02) & (table[:, 0] <= grid_s[-1] + 0.02)]
            x.append(np.column_stack([np.interp(table[:, 0], grid_s, va[:, d]) for d in range(2)]))
            y.append(table[:, 1:])
    a, b = np.concatenate(x), np.concatenate(y)
    covariance = ((a - a.mean(0)) * (b - b.mean(0))).mean(0)
    return (2 * covariance / (a.var(0) + b.var(0) + (a.mean(0) - b.mean(0)) ** 2)).tolist()


def random_moments(rng: np.random.Generator, steps: int = 40) -> torch.Tensor:
    y = rng.uniform(-1, 1, (2, steps))
    x = y + rng.normal(0, 0.5, y.shape)
    parts = [np.full(2, steps), x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)]
    return torch.from_numpy(np.column_stack(parts).astype(np.float64))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_intervals_of_exchangeable_clips_hold_the_score_and_narrow_with_clips(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sums = [random_moments(rng) for _ in range(400)]
    widths = []
    for some in (sums[:25], sums):
        intervals, point = bootstrap(some), pooled_ccc(some)
        assert all(intervals[name][0] < point[name] < intervals[name][1] for name in point)
        assert intervals == bootstrap(some)
        widths.append(intervals["mean"][1] - intervals["mean"][0])
    assert 2.4 < widths[0] / widths[1] < 6.5  # √16 = 4


def test_intervals_in_degenerate_cases() -> None:
    """Equal clips leave no doubt; unlabelled ones add none; nothing, or one clip, or constants have no interval."""
    rng = np.random.default_rng(0)
    one, two, nothing = random_moments(rng), random_moments(rng), torch.zeros(2, 6, dtype=torch.float64)
    point = pooled_ccc([one])
    for name, (low, high) in bootstrap([one] * 5).items():
        assert (low, high) == pytest.approx((point[name],) * 2, abs=1e-9)
    assert bootstrap([one, nothing, two, nothing]) == bootstrap([one, two])
    low, high = bootstrap([one, two])["valence"]
    ends = sorted(pooled_ccc([clip])["valence"] for clip in (one, two))
    assert (low, high) == pytest.approx(tuple(ends), abs=1e-9)
    for sums in ([], [nothing] * 3, [one], [one, nothing]):
        assert all(math.isnan(end) for pair in bootstrap(sums).values() for end in pair)


@pytest.mark.parametrize("level", [0.0, 0.5, 0.1])
def test_clips_without_a_score_have_no_interval_and_no_warning(level: float) -> None:
    flat = torch.tensor([[10, 10 * level, 10 * level, *[10 * level * level] * 3]] * 2, dtype=torch.float64)
    clips = [ClipMoments(name, flat, None) for name in "abc"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = summarise(clips, clips).to_json()
    assert scores["raw"]["ccc"]["mean"] is None
    assert scores["raw"]["interval"]["mean"] == [None, None]


people = st.lists(
    st.tuples(st.sampled_from([None, "s0", "s1", "s2", "s3", "s4", "s5"]), st.booleans()),
    min_size=3,
    max_size=24,
)


def clips_of(drawn: Sequence[tuple[str | None, bool]]) -> list[Clip]:
    """People alone in their recording, or one of up to three in it; some of them unknown."""
    return [
        Clip(f"v{i // 3}.mp4#p{i}" if beside else f"alone{i}.mp4", subject) for i, (subject, beside) in enumerate(drawn)
    ]


@given(people, st.integers(3, 5), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_folds_share_no_subject_and_test_everyone_once(
    drawn: list[tuple[str | None, bool]], num_folds: int, seed: int
) -> None:
    clips = clips_of(drawn)
    recordings = {clip.clip_id: clip.clip_id.partition("#")[0] for clip in clips}
    subjects = {clip.clip_id: clip.subject_id or recordings[clip.clip_id] for clip in clips}
    assume(len(set(groups_of(clips, SplitConfig()).values())) >= num_folds)
    tested: list[str] = []
    for fold in range(num_folds):
        roles = assign_roles(clips, {}, SplitConfig(folds=num_folds, fold=fold), seed)
        for unit in (recordings, subjects):
            parts = [{unit[c] for c, role in roles.items() if role == part} for part in ("train", "val", "test")]
            assert all(parts)
            assert sum(map(len, parts)) == len(set().union(*parts))
        tested += [clip_id for clip_id, role in roles.items() if role == "test"]
    assert sorted(tested) == sorted(recordings)


@given(people, st.integers(2, 5), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_cross_fitting_shares_no_subject_and_leaves_out_every_training_clip_once(
    drawn: list[tuple[str | None, bool]], num_folds: int, seed: int
) -> None:
    clips = clips_of(drawn)
    corpus = dataclasses.replace(random_corpus([], [2] * len(clips)), clips=clips)
    config = config_of(seed=seed, train={"crossfit_folds": num_folds})
    training = list(range(0, len(clips), 2))
    group = groups_of(clips, config.split)
    assume(len({group[clips[i].clip_id] for i in training}) > 1)
    folds = crossfit_folds(corpus, training, config)
    assert len(folds) >= 2
    assert all(folds)
    assert sorted(index for fold in folds for index in fold) == training
    groups = [{group[clips[index].clip_id] for index in fold} for fold in folds]
    assert sum(map(len, groups)) == len(set().union(*groups))
