"""The protocol: what a score depends on, what counts, and what smoothing and intervals are."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from sage_va.data import Clip, Grid
from sage_va.data.labels import Labels, Truth
from sage_va.fusion.config import DataConfig, ModelConfig
from sage_va.fusion.evaluation.metrics import (
    ClipMoments,
    at_instants,
    best_smoothing_s,
    bootstrap,
    clip_moments,
    corpus_moments,
    pooled_ccc,
    score,
    smooth,
    summarise,
)
from sage_va.fusion.evaluation.predict import Prediction, predict, predict_va
from sage_va.fusion.models.base import FusionModel
from sage_va.fusion.models.variants import build_model
from sage_va.tests.fake_cuda import on_cuda
from sage_va.tests.synthetic import random_corpus, streams_of

torch.set_num_threads(1)
STREAMS = streams_of()
CORPUS = random_corpus(STREAMS, [37, 120, 64, 1, 90])


def make(**settings: Any) -> FusionModel:
    torch.manual_seed(0)
    config = ModelConfig.model_validate({"dim": 8, "heads": 2, "tcn_blocks": 1, "layers": 1, **settings})
    model = build_model(STREAMS, config)
    assert isinstance(model, FusionModel)
    return model


WHOLE, POINTWISE = make(), make(tcn_blocks=0, layers=0)


def prediction_of(va: np.ndarray, grid: Grid) -> Prediction:
    return Prediction(
        "clip", grid.times_s, va, np.ones((len(va), 2), bool), None, None, None, np.zeros((len(va), 2, 2))
    )


def truth_of(times: np.ndarray, va: np.ndarray, mask: np.ndarray | None = None) -> Truth:
    return Truth(times, va.astype(np.float32), np.ones(len(times), bool) if mask is None else mask)


def ramp(num_steps: int) -> np.ndarray:
    return np.column_stack([np.linspace(-1, 1, num_steps), np.linspace(0.5, -0.5, num_steps)])


@given(st.integers(1, 70), st.permutations(range(5)))
@settings(deadline=None, max_examples=15)
def test_score_does_not_depend_on_batch_size_or_order_of_clips(batch_size: int, order: list[int]) -> None:
    data = DataConfig(window_s=1.2, hop_s=0.8)
    usual = predict(WHOLE, CORPUS, range(5), data)
    predictions = predict(WHOLE, CORPUS, order, data, batch_size)
    for prediction, index in zip(predictions, order, strict=True):
        assert prediction.clip_id == f"clip{index:02}"
        np.testing.assert_allclose(prediction.va, usual[index].va, atol=2e-6)
    for name, value in score(predictions, CORPUS).items():
        assert value == pytest.approx(score(usual, CORPUS)[name], abs=1e-5)


@given(st.integers(1, 200).flatmap(lambda w: st.tuples(st.just(w), st.integers(1, w))))
@settings(deadline=None, max_examples=15)
def test_a_pointwise_model_is_blind_to_the_cut_of_windows(cut: tuple[int, int]) -> None:
    """Whatever the window and hop: every step is covered, and overlaps are averaged, not summed."""
    usual = predict(POINTWISE, CORPUS, range(5), DataConfig(window_s=4.8, hop_s=4.8))
    predictions = predict(POINTWISE, CORPUS, range(5), DataConfig(window_s=cut[0] / 25, hop_s=cut[1] / 25))
    for a, b in zip(usual, predictions, strict=True):
        for name in ("va", "reliability", "weights", "stage"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=2e-6)


def test_prediction_leaves_the_model_as_it_was() -> None:
    data = DataConfig(window_s=1.2, hop_s=0.8)
    dropping = make(dropout=0.5)
    for mode in (True, False):
        dropping.train(mode)
        first, second = (predict(dropping, CORPUS, [1], data)[0].va for _ in range(2))
        assert np.array_equal(first, second)
        assert dropping.training is mode


def test_a_variant_without_a_gate_predicts_no_reliability() -> None:
    (prediction,) = predict(make(variant="concat"), CORPUS, [0], DataConfig())
    assert (prediction.reliability, prediction.weights, prediction.stage) == (None, None, None)
    assert prediction.va.shape == (37, 2)
    assert prediction.mask.shape == (37, 2)


def test_validation_predicts_what_the_whole_prediction_holds() -> None:
    """Valence and arousal alone, for any choice of clips, are those of `predict`, bit for bit."""
    data = DataConfig(window_s=1.2, hop_s=0.8)
    for model in (WHOLE, make(variant="concat"), make(causal=True)):
        expected = [prediction.va for prediction in predict(model, CORPUS, [3, 1, 4], data)]
        for va, other in zip(predict_va(model, CORPUS, [3, 1, 4], data), expected, strict=True):
            assert np.array_equal(va, other)
    assert predict_va(WHOLE, CORPUS, [], data) == predict(WHOLE, CORPUS, [], data) == []


class Allocations(TorchDispatchMode):
    """Records the shape of every tensor that is made from nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(kind in str(func) for kind in ("zeros", "ones", "full", "empty")):
            self.shapes.append(tuple(result.shape))
        return result


@pytest.mark.parametrize("causal", [False, True])
def test_a_prediction_allocates_rows_of_the_requested_clips_alone(causal: bool) -> None:
    """One block of sums for all batches, of 90 steps and a row of padding, though the corpus has 40,000 steps."""
    corpus, data = random_corpus(STREAMS, [20_000, 90, 20_000]), DataConfig(window_s=1.2, hop_s=0.8)
    model = make(causal=causal)
    for function, width in ((predict_va, 1 + 2), (predict, 1 + 2 + 2 + 2 + 4 + 4)):
        with Allocations() as allocations:
            function(model, corpus, [1], data, batch_size=2)
        assert allocations.shapes.count((91, width)) == 1
        assert max(len(shape) and shape[0] for shape in allocations.shapes) < 200


@pytest.mark.parametrize("causal", [False, True])
def test_a_gpu_is_asked_for_no_copy_between_its_batches(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and their places travel once, before the first batch; nothing waits for the device."""
    data, none = DataConfig(window_s=1.2, hop_s=0.8), np.zeros((210, 2))
    monkeypatch.setattr("sage_va.fusion.evaluation.predict._Sums.means", lambda sums: {"va": none})  # the one copy back
    kernels = []
    for batch_size in (1, 64):
        with on_cuda() as cuda:
            corpus, model = CORPUS.to(torch.device("cuda")), make(causal=causal).to("cuda")
            with cuda.count() as launches:
                predict_va(model, corpus, [1, 4], data, batch_size)
        plan, places = launches.copies
        assert (plan.to, plan.shape[1:], places.shape) == ("cuda", (2,), plan.shape[:1])
        kernels.append(launches.num_kernels)
    assert kernels[0] > kernels[1] > 20


def test_smoothing_is_the_mean_of_what_there_is() -> None:
    va = np.random.default_rng(0).standard_normal((40, 2))
    smoothed = smooth(va, 7)
    for t in range(40):
        np.testing.assert_allclose(smoothed[t], va[max(0, t - 3) : t + 4].mean(0), atol=1e-12)
    assert smooth(va, 1) is va
    np.testing.assert_allclose(smooth(va, 199), np.broadcast_to(va.mean(0), va.shape), atol=1e-12)
    assert smooth(va[:1], 9).shape == (1, 2)


def test_instants_on_the_grid_are_exact_and_between_are_linear() -> None:
    grid = Grid(25.0, 7, 20)
    va = np.random.default_rng(0).standard_normal((20, 2))
    values, covered = at_instants(va, grid, grid.times_s)
    assert covered.all()
    np.testing.assert_allclose(values, va, atol=1e-9)
    values, covered = at_instants(va, grid, grid.times_s[:-1] + 0.01)
    assert covered.all()
    np.testing.assert_allclose(values, 0.75 * va[:-1] + 0.25 * va[1:], atol=1e-9)


def test_the_grid_covers_half_a_step_around_it() -> None:
    grid = Grid(10.0, 5, 3)
    times = np.array([0.4499, 0.45, 0.5, 0.7, 0.75, 0.7501])
    values, covered = at_instants(np.array([[1.0], [2.0], [3.0]]), grid, times)
    assert covered.tolist() == [False, True, True, True, True, False]
    assert values[:, 0].tolist() == pytest.approx([1, 1, 1, 3, 3, 3])


def test_a_single_step_covers_its_own_instant() -> None:
    values, covered = at_instants(np.array([[1.0, 2.0]]), Grid(25.0, 0, 1), np.array([0.0, 0.01, 0.1]))
    assert covered.tolist() == [True, True, False]
    assert values.tolist() == [[1, 2]] * 3


def test_labels_at_30_fps_meet_a_grid_of_25_hz_at_their_own_times() -> None:
    grid = Grid(25.0, 0, 101)
    times = np.arange(120) / 30
    truth = truth_of(times, np.column_stack([times / 4, -times / 8]))
    perfect = np.column_stack([grid.times_s / 4, -grid.times_s / 8])
    sums = clip_moments(prediction_of(perfect, grid), grid, truth, None, 0.0)
    assert sums.all[0, 0] == 120
    scores = pooled_ccc([sums.all])
    assert scores["mean"] == pytest.approx(1, abs=1e-6)
    late = clip_moments(prediction_of(perfect - 0.1, grid), grid, truth, None, 0.0)
    assert pooled_ccc([late.all])["mean"] < 0.97


def test_labels_out_of_coverage_or_not_annotated_do_not_count() -> None:
    grid = Grid(25.0, 0, 50)
    times = np.arange(-10, 80) / 25
    mask = np.arange(90) % 7 != 0
    truth = truth_of(times, np.full((90, 2), np.nan), mask)
    truth.va[mask] = np.random.default_rng(0).uniform(-1, 1, (mask.sum(), 2))
    sums = clip_moments(prediction_of(ramp(50), grid), grid, truth, None, 0.0)
    assert sums.all[:, 0].tolist() == [mask[10:60].sum()] * 2
    assert torch.isfinite(sums.all).all()


def test_one_missing_target_takes_both_away() -> None:
    grid, va = Grid(25.0, 0, 50), ramp(50).astype(np.float32)
    va[3, 0], va[4, 1], va[5, 0], va[6, 1] = np.nan, np.nan, -5, -5.0001
    truth = Labels(Path("clip.csv"), va, grid.times_s).timed(Clip("clip"))
    sums = clip_moments(prediction_of(ramp(50), grid), grid, truth, None, 0.0)
    assert sums.all[:, 0].tolist() == [46, 46]
    assert pooled_ccc([sums.all])["mean"] == pytest.approx(1)


def test_labels_without_a_face_count_and_face_frames_stand_beside() -> None:
    grid, va = Grid(25.0, 0, 50), ramp(50)
    face = np.arange(50) < 20
    truth = truth_of(grid.times_s, np.where(face[:, None], va, -va))
    sums = clip_moments(prediction_of(va, grid), grid, truth, face, 0.0)
    assert sums.face is not None
    assert (sums.all[0, 0], sums.face[0, 0]) == (50, 20)
    assert pooled_ccc([sums.face])["mean"] == pytest.approx(1)
    assert pooled_ccc([sums.all])["mean"] < 0.5


def test_a_face_is_any_valid_visual_stream_and_sound_is_none() -> None:
    predictions = predict(WHOLE, CORPUS, range(5), DataConfig())
    sums = corpus_moments(predictions, CORPUS)
    for clip, truth in zip(sums, CORPUS.truths, strict=True):
        assert truth is not None
        assert clip.face is not None
        assert clip.face[0, 0] <= clip.all[0, 0] <= truth.mask.sum()
    alone = CORPUS.only([1])
    model = build_model(alone.streams, ModelConfig(variant="audio", dim=8, heads=2, layers=0, tcn_blocks=0))
    assert all(clip.face is None for clip in corpus_moments(predict(model, alone, range(5), DataConfig()), alone))


def test_clips_without_labels_are_predicted_and_not_scored() -> None:
    unlabelled = dataclasses.replace(CORPUS, truths=[None, *CORPUS.truths[1:]])
    predictions = predict(WHOLE, unlabelled, range(5), DataConfig())
    assert len(predictions) == 5
    assert [clip.clip_id for clip in corpus_moments(predictions, unlabelled)] == [f"clip{i:02}" for i in range(1, 5)]


def sums_of(num_clips: int, seed: int = 0) -> list[torch.Tensor]:
    rng = np.random.default_rng(seed)
    grid = Grid(25.0, 0, 60)
    sums = []
    for _ in range(num_clips):
        va = rng.uniform(-1, 1, (60, 2))
        noisy = va + rng.normal(0, 0.5, (60, 2))
        sums.append(clip_moments(prediction_of(noisy, grid), grid, truth_of(grid.times_s, va), None, 0.0).all)
    return sums


def test_bootstrap_is_seeded_and_surrounds_the_score() -> None:
    sums = sums_of(12)
    first, again, other = bootstrap(sums), bootstrap(sums), bootstrap(sums, seed=1)
    assert first == again != other
    for name, value in pooled_ccc(sums).items():
        low, high = first[name]
        assert low < value < high
        assert high - low < 0.3
        assert other[name] == pytest.approx(first[name], abs=0.02)


def test_bootstrap_resamples_clips() -> None:
    """Against the plain way: draw clips, pool, score."""
    sums = sums_of(5)
    rng = np.random.default_rng(3)
    drawn = [pooled_ccc([sums[i] for i in rng.integers(5, size=5)])["mean"] for _ in range(2000)]
    assert bootstrap(sums)["mean"] == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist(), abs=0.02)


def test_one_clip_has_no_interval_and_json_has_no_nan() -> None:
    nothing = torch.zeros(2, 6, dtype=torch.float64)
    clips = [ClipMoments("a", sums_of(1)[0], None), ClipMoments("b", nothing, None)]
    scores = summarise(clips, clips).to_json()
    assert scores["raw"]["interval"] == {name: [None, None] for name in ("valence", "arousal", "mean")}
    assert scores["clips"][1] == {"clip_id": "b", "valence": None, "arousal": None, "mean": None, "num_labels": 0}
    assert scores["raw"]["ccc"]["mean"] == pytest.approx(scores["clips"][0]["mean"])
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_a_constant_truth_is_zero_agreement_within_its_clip_and_still_pooled() -> None:
    grid = Grid(25.0, 0, 50)
    flat = clip_moments(prediction_of(ramp(50), grid), grid, truth_of(grid.times_s, np.full((50, 2), 0.3)), None, 0.0)
    assert pooled_ccc([flat.all])["mean"] == pytest.approx(0, abs=1e-9)
    other = sums_of(1)[0]
    assert pooled_ccc([flat.all, other])["mean"] != pooled_ccc([other])["mean"]


def test_smoothing_is_chosen_where_the_noise_is() -> None:
    rng = np.random.default_rng(0)
    corpus = random_corpus(STREAMS, [600])
    times = corpus.grids[0].times_s
    va = np.column_stack([np.sin(times / 2), np.cos(times / 3)])
    corpus.truths[0] = truth_of(times, va)
    noisy = dataclasses.replace(prediction_of(va + rng.normal(0, 0.5, va.shape), corpus.grids[0]), clip_id="clip00")
    clean = dataclasses.replace(noisy, va=va)
    assert best_smoothing_s([clean], corpus) == 0
    assert best_smoothing_s([noisy], corpus) >= 0.5
    corpus.truths[0] = truth_of(times + 1e6, va)
    assert best_smoothing_s([noisy], corpus) == 0
    assert math.isnan(score([noisy], corpus)["mean"])
