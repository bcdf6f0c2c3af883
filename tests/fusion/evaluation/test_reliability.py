"""Measures of reliability: known answers, a second implementation, and synthetic ground truth."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_va.benchmarks import reliability as benchmark
from sage_va.benchmarks.synthetic import EQUAL_DB, SNR_DB, STAGES, SyntheticData, snr_on_grid, synthesise
from sage_va.data import open_store
from sage_va.data.store.fingerprint import stream_alias
from sage_va.data.windows.corpus import Corpus
from sage_va.fusion.ccc import ccc_of_moments, moments
from sage_va.fusion.config import check_config
from sage_va.fusion.evaluation.predict import Prediction
from sage_va.fusion.evaluation.reliability import diagram, ece, reliability_report, spearman
from sage_va.fusion.evaluation.report import plot_diagram
from sage_va.fusion.training.labelled import load_labelled
from sage_va.tests.synthetic import random_corpus, streams_of

CORPUS = random_corpus(streams_of(), [40, 25, 60])


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([1, 2, 3, 4], [10, 100, 1000, 10000], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([106, 100, 86, 101, 99, 103, 97, 113, 112, 110], [7, 27, 2, 50, 28, 29, 20, 12, 6, 17], -29 / 165),
        ([1, 1, 2, 2], [1, 2, 1, 2], 0.0),
        ([1, 1, 2], [1, 2, 3], math.sqrt(3) / 2),  # ties share rank 1.5
    ],
)
def test_spearman_of_known_series(x: list[float], y: list[float], expected: float) -> None:
    assert spearman(x, y) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("x", "y"), [([], []), ([1], [2]), ([1, 1, 1], [1, 2, 3])])
def test_spearman_is_not_defined_without_two_different_values(x: list[float], y: list[float]) -> None:
    assert math.isnan(spearman(x, y))


@given(st.lists(st.tuples(st.integers(-5, 5), st.floats(-1e3, 1e3)), min_size=3, max_size=60))
@settings(max_examples=30, deadline=None)
def test_spearman_agrees_with_scipy(pairs: list[tuple[int, float]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    x, y = np.array(pairs, np.float64).T
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert spearman(x, y) == pytest.approx(float(stats.spearmanr(x, y).statistic), abs=1e-9)


def test_spearman_looks_at_ranks_alone() -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 50))
    assert spearman(np.exp(x), y**3) == pytest.approx(spearman(x, y), abs=1e-12)


def test_ece_of_known_estimates() -> None:
    # bin 0.2 … 0.3: mean 0.25 against 0.5, two values; last bin: 1.0 against 0.6, one value
    assert ece([0.22, 0.28, 1.0], [1.0, 0.0, 0.6]) == pytest.approx((2 * 0.25 + 0.4) / 3)
    assert ece([0.1, 0.5, 0.9], [0.1, 0.5, 0.9]) == pytest.approx(0)
    assert ece([1.0, 1.0], [0.0, 0.0]) == pytest.approx(1)
    assert math.isnan(ece([], []))


def test_ece_weighs_bins_by_count() -> None:
    assert ece([0.15] * 99 + [0.95], [0.15] * 99 + [0.0]) == pytest.approx(0.0095)


def test_diagram_counts_every_value_once_and_leaves_empty_bins_undefined() -> None:
    bins = diagram([0.0, 0.05, 0.5, 1.0, 1.0 + 1e-7], [0.2, 0.4, 0.5, 0.9, 0.7], num_bins=4)
    np.testing.assert_array_equal(bins.count, [2, 0, 1, 2])
    np.testing.assert_allclose(bins.reliability, [0.025, np.nan, 0.5, 1.0], atol=1e-6)
    np.testing.assert_allclose(bins.target, [0.3, np.nan, 0.5, 0.8])


def predictions_of(corpus: Corpus, trust: float | None, offsets: tuple[float, float]) -> list[Prediction]:
    """Stream m errs by offsets[m] times a number drawn per step; trust None means exp(-error / 0.5)."""
    rng, predictions = np.random.default_rng(0), []
    for index, clip in enumerate(corpus.clips):
        steps = corpus.steps(index)
        va, mask = corpus.va[steps].double().numpy(), corpus.mask[steps].numpy()
        error = rng.uniform(0, 1, mask.shape) * np.array(offsets)
        alone = va[:, None] + error[..., None] * np.array([0.25, -0.75])
        reliability = np.exp(-error / 0.5) if trust is None else np.full(mask.shape, trust)
        reliability[~mask] = 0.123  # must not be looked at
        times = corpus.grids[index].times_s
        predictions.append(Prediction(clip.clip_id, times, va, mask, reliability, reliability, None, unimodal=alone))
    return predictions


def test_perfect_reliability_is_calibrated_and_ranks_every_error() -> None:
    report = reliability_report(predictions_of(CORPUS, None, (1.0, 0.3)), CORPUS, sigma=0.5)
    for m, stream in enumerate(report.streams.values()):
        assert stream.num_steps == int(CORPUS.mask[:, m].sum()) == stream.diagram.count.sum()
        assert stream.spearman == pytest.approx(1, abs=1e-6)
        assert stream.ece == pytest.approx(0, abs=1e-6)


def test_constant_reliability_has_no_rank_correlation() -> None:
    report = reliability_report(predictions_of(CORPUS, 0.95, (2.0, 0.0)), CORPUS, sigma=0.5)
    bad, good = report.streams.values()
    assert bad.ece > 0.5
    assert good.ece == pytest.approx(0.05, abs=1e-6)
    assert math.isnan(bad.spearman)
    values = report.to_json()["streams"]
    assert values["s0"]["spearman"] is None
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_unlabelled_steps_and_clips_not_predicted_are_left_out() -> None:
    corpus = random_corpus(streams_of(), [40, 25, 60])
    corpus.va_mask[10:40] = False
    report = reliability_report(predictions_of(corpus, None, (1.0, 1.0))[:1], corpus, sigma=0.5)
    assert [stream.num_steps for stream in report.streams.values()] == corpus.mask[:10].sum(0).tolist()


def test_diagram_is_drawn(tmp_path: Path) -> None:
    plot_diagram(tmp_path / "d.png", reliability_report(predictions_of(CORPUS, None, (1.0, 0.3)), CORPUS, 0.5), "sage")
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")


SMALL: dict[str, Any] = {"clips": 3, "subjects": 2, "seconds": 12.0}


def load(folder: Path) -> tuple[Corpus, Any]:
    labelled = load_labelled(open_store(folder / "cache.zarr"), folder / "labels", check_config({}, "test"))
    return labelled.corpus, np.load(folder / "truth.npz")


def residual(corpus: Corpus, index: int, m: int) -> np.ndarray:
    """(T,) spread over dimensions of the change from one step to the next: mostly noise, as the signal is smooth."""
    values = corpus.values[m][corpus.steps(index)].float().numpy()
    return np.concatenate([[np.nan], np.diff(values, axis=0).std(1)])


def test_synthetic_streams_are_as_noisy_as_the_truth_says(tmp_path: Path) -> None:
    synthesise(tmp_path, SyntheticData(**SMALL, masked=0.0))
    corpus, truth = load(tmp_path)
    aliases = [stream_alias(stream.name) for stream in corpus.streams]
    assert aliases == ["visual/face", "audio/voice"]
    for m in range(2):
        noise, ratio = [], []
        for index, clip in enumerate(corpus.clips):
            snr = snr_on_grid(truth, clip.clip_id, aliases, corpus.grids[index].times_s)[:, m]
            assert set(snr[np.isfinite(snr)]) <= set(SNR_DB[aliases[m].split("/")[0]])
            still = np.concatenate([[False], np.diff(snr) == 0])
            noise.append(residual(corpus, index, m)[still])
            ratio.append(snr[still])
        assert spearman(-np.concatenate(noise), np.concatenate(ratio)) > 0.9


def test_equal_streams_are_equally_noisy_and_quality_can_be_left_out(tmp_path: Path) -> None:
    synthesise(tmp_path, SyntheticData(**SMALL, equal=True, quality=False))
    corpus, truth = load(tmp_path)
    assert all(set(truth[f"{clip.clip_id}/snr_db"].ravel()) == {EQUAL_DB} for clip in corpus.clips)
    assert [stream.quality_names for stream in corpus.streams] == [(), ()]
    assert not corpus.mask.all()


def test_only_one_quality_signal_hints_at_the_noise(tmp_path: Path) -> None:
    synthesise(tmp_path, SyntheticData(clips=6, subjects=3, seconds=30.0))
    corpus, truth = load(tmp_path)
    assert corpus.streams[0].quality_names == ("clarity", "idle")
    snr = np.concatenate([
        snr_on_grid(truth, clip.clip_id, ["visual/face"], grid.times_s)[:, 0]
        for clip, grid in zip(corpus.clips, corpus.grids, strict=True)
    ])  # fmt: skip
    signals = corpus.quality[0].numpy()
    known = np.isfinite(signals).all(1) & np.isfinite(snr)
    hint, idle = (spearman(signals[known, column], snr[known]) for column in range(2))
    assert hint > 0.4
    assert abs(idle) < 0.3


def test_the_same_evidence_means_another_noise_by_stage(tmp_path: Path) -> None:
    synthesise(tmp_path, SyntheticData(clips=6, subjects=3, seconds=30.0, ambiguous=True))
    corpus, truth = load(tmp_path)
    assert [stream.quality_names for stream in corpus.streams] == [("turned",), ("loudness", "voice")]
    pairs = list(zip(corpus.clips, corpus.grids, strict=True))
    snr = np.concatenate([
        snr_on_grid(truth, clip.clip_id, ["visual/face", "audio/voice"], grid.times_s) for clip, grid in pairs
    ])  # fmt: skip
    turned, loudness, voice = np.concatenate([part.numpy() for part in corpus.quality], axis=1).T
    known = np.isfinite(snr).all(1) & np.isfinite(turned + loudness + voice)
    for speaks, loud_is_clear in ((True, True), (False, False)):
        chosen = known & ((voice > 0.5) == speaks)
        assert (spearman(loudness[chosen], snr[chosen, 1]) > 0.5) == loud_is_clear
        assert abs(spearman(loudness[chosen], snr[chosen, 1])) > 0.5
        assert (spearman(turned[chosen], snr[chosen, 0]) < -0.5) == (not speaks)


def test_synthetic_audio_runs_late_by_the_known_lag(tmp_path: Path) -> None:
    synthesise(tmp_path, SyntheticData(**SMALL, lag_s=0.4, equal=True, masked=0.0))
    truth = np.load(tmp_path / "truth.npz")
    np.testing.assert_array_equal(truth["lag_s"], [0.0, 0.4])
    assert all(set(truth[f"clip{i:03}/stage"]) <= set(range(len(STAGES))) for i in range(3))


def test_truth_is_not_known_outside_a_clip(tmp_path: Path) -> None:
    synthesise(tmp_path, SyntheticData(clips=1, subjects=1, seconds=5.0))
    snr_db = snr_on_grid(np.load(tmp_path / "truth.npz"), "clip000", ["audio/voice"], np.array([-1.0, 2.0, 6.0]))
    assert np.isfinite(snr_db[:, 0]).tolist() == [False, True, False]


def test_synthetic_data_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        (tmp_path / name).mkdir()
        synthesise(tmp_path / name, SyntheticData(clips=1, subjects=1, seconds=5.0, seed=seed))
    a, b, c = (load(tmp_path / name)[0].values[0] for name in "abc")
    assert a.equal(b)
    assert not a.equal(c)


def result_of(variant: str, seed: int, clips: list[tuple[float, float]]) -> dict[str, Any]:
    """Result of a training of the benchmark; a clip is (slope, offset) of its estimate against its truth."""
    truth = torch.linspace(-0.8, 0.8, 50, dtype=torch.float64).expand(2, 50)
    sums = torch.stack([moments(a * truth + b, truth, torch.ones(2, 50, dtype=torch.bool)) for a, b in clips])
    valence, arousal = ccc_of_moments(sums.sum(0)).tolist()
    ccc = {"valence": valence, "arousal": arousal}
    return {"variant": variant, "seed": seed, "ccc": ccc, "sums": sums.tolist(), "num_parameters": 1, "ms_per_step": 1}


def test_intervals_are_paired_and_cover_seeds_and_clips() -> None:
    clips = [(1.0, 0.0), (0.2, 0.1), (0.9, -0.3), (0.5, 0.0)]
    worse = [(0.8 * a, b) for a, b in clips]
    results = [result_of("sage", seed, clips) for seed in range(3)] + [result_of("concat", s, worse) for s in range(3)]
    sage, concat = benchmark.summarise([*results], ["sage", "concat"])
    assert sage["ccc"] == pytest.approx(sum(results[0]["ccc"].values()) / 2)
    low, high = sage["difference_interval"]
    assert 0 < low < sage["difference"] < high  # better on every clip, though the intervals themselves overlap
    assert sage["interval"][0] < concat["interval"][1]
    assert high - low < concat["interval"][1] - concat["interval"][0]
    same = benchmark.summarise([result_of(name, 0, clips) for name in ("sage", "concat")], ["sage", "concat"])
    assert same[0]["difference_interval"] == [0, 0]
    assert "difference" not in concat


def test_seeds_that_differ_widen_the_interval() -> None:
    def widths(seeds: list[list[tuple[float, float]]]) -> float:
        rows = benchmark.summarise([result_of("sage", k, clips) for k, clips in enumerate(seeds)], ["sage"])
        return rows[0]["interval"][1] - rows[0]["interval"][0]

    assert widths([[(1.0, 0.0)] * 3] * 3) == pytest.approx(0, abs=1e-12)
    assert widths([[(1.0, 0.0)] * 3, [(0.3, 0.0)] * 3]) > 0.3


@pytest.mark.slow
def test_the_benchmark_runs_and_pairs_its_variants(tmp_path: Path) -> None:
    synthesise(tmp_path, SyntheticData(clips=8, subjects=8, seconds=12.0))
    quick = ("train.epochs=2", "train.crossfit_epochs=1", "model.dim=8", "model.heads=2")
    tasks = [benchmark.Task(name, benchmark.FIRST_SEED, tmp_path, tmp_path, quick) for name in ("sage", "concat")]
    benchmark.report(tmp_path, [benchmark.run(task) for task in tasks], ["sage", "concat"])
    rows = {row["variant"]: row for row in json.loads((tmp_path / "reliability.json").read_text())["rows"]}
    assert rows["sage"]["difference"] == pytest.approx(rows["sage"]["ccc"] - rows["concat"]["ccc"])
    assert rows["concat"]["spearman_snr"] is None
    assert -1 <= rows["sage"]["spearman_snr"] <= 1
    assert (tmp_path / "diagram-sage.png").exists()
    assert "| sage |" in (tmp_path / "reliability.md").read_text()
