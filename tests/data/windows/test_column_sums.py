"""Means and variances of columns: those of the steps themselves, for any clips, read once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_va.data.windows import column_sums
from sage_va.data.windows.column_sums import quality_moments, value_moments
from sage_va.data.windows.corpus import Corpus
from sage_va.tests.host_cuda import on_host_cuda
from sage_va.tests.synthetic import random_corpus, streams_of

torch.set_num_threads(1)


def corpus_of(lengths: list[int], seed: int = 0, level: float = 0.0, spread: float = 1.0) -> Corpus:
    """Features around a level; a third of the signals is not measured."""
    corpus = random_corpus(streams_of(), lengths, seed=seed)
    values = [level + spread * values for values in corpus.values]
    quality = [torch.where(torch.rand(part.shape) < 0.3, torch.nan, part) for part in corpus.quality]
    return replace(corpus, values=values, quality=quality)


def plain(corpus: Corpus, columns: torch.Tensor, m: int, clips: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of what is valid and finite in these clips, column by column."""
    rows = np.concatenate([np.arange(corpus.num_steps)[corpus.steps(index)] for index in sorted({*clips})])
    rows = rows[corpus.mask[rows, m].numpy()]
    table = columns.double().numpy()[rows]
    kept = [column[np.isfinite(column)] for column in table.T]
    return np.array([k.mean() if len(k) else 0 for k in kept]), np.array([k.var() if len(k) else 0 for k in kept])


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=12),
    st.integers(0, 2**16),
    st.floats(-1e4, 1e4),
    st.floats(1e-2, 1e2),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_moments_are_those_of_the_steps_of_the_clips(
    lengths: list[int], seed: int, level: float, spread: float, data: st.DataObject
) -> None:
    """Also far from zero, where raw sums of squares would lose what varies."""
    corpus = corpus_of(lengths, seed, level, spread)
    for _ in range(2):
        clips = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
        for m in range(2):
            for moments, columns in ((value_moments, corpus.values[m]), (quality_moments, corpus.quality[m])):
                mean, variance = plain(corpus, columns, m, clips)
                result = moments(corpus, m, clips)
                np.testing.assert_allclose(result.mean, mean, rtol=1e-9, atol=1e-9)
                np.testing.assert_allclose(result.variance, variance, rtol=1e-6, atol=1e-12)


def test_a_constant_column_has_no_variance_at_any_level() -> None:
    corpus = corpus_of([50, 40], level=12345.678, spread=0.0)
    assert (value_moments(corpus, 0, [0, 1]).variance < 1e-15).all()


def test_without_clips_or_valid_steps_all_is_zero() -> None:
    corpus = corpus_of([50, 40])
    corpus.mask[:50, 0] = False
    for clips in ([], [0]):
        moments = value_moments(corpus, 0, clips)
        assert not moments.mean.any()
        assert not moments.variance.any()


@pytest.fixture
def num_sums(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The clips whose steps were read, in order."""
    read, plainly = list[int](), column_sums._clip_sums

    def counted(corpus: Corpus, columns: torch.Tensor, mask: torch.Tensor, shift: torch.Tensor, clips: list[int]):
        read.extend(clips)
        return plainly(corpus, columns, mask, shift, clips)

    monkeypatch.setattr(column_sums, "_clip_sums", counted)
    return read


def test_each_clip_is_read_once_for_all_folds_streams_and_devices(num_sums: list[int]) -> None:
    corpus = corpus_of([50, 90, 20])
    expected = value_moments(corpus.only([1]), 0, [0, 2])
    assert num_sums == [0, 1, 2]
    for other in (corpus, corpus.only([1]), corpus.only([1, 0]).to(torch.device("cpu"))):
        m = [stream.name for stream in other.streams].index(corpus.streams[1].name)
        assert torch.equal(value_moments(other, m, [2, 0]).mean, expected.mean)
        value_moments(other, m, [1])
    assert num_sums == [0, 1, 2]
    changed = replace(corpus, values=[values + 1 for values in corpus.values])
    torch.testing.assert_close(value_moments(changed, 1, [0, 2]).mean, expected.mean + 1)


def test_a_table_larger_than_the_features_is_not_kept(num_sums: list[int]) -> None:
    corpus = corpus_of([2] * 40)
    moments = [value_moments(corpus, 0, [3, 5]) for _ in range(2)]
    assert num_sums == [3, 5, 3, 5]
    mean, variance = plain(corpus, corpus.values[0], 0, [3, 5])
    np.testing.assert_allclose(moments[1].mean, mean, rtol=1e-9)
    np.testing.assert_allclose(moments[1].variance, variance, rtol=1e-6, atol=1e-15)


def test_blocks_do_not_change_the_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = value_moments(corpus_of([500, 30]), 0, [0, 1])
    monkeypatch.setattr(column_sums, "BLOCK_VALUES", 64)
    for one, other in zip(value_moments(corpus_of([500, 30]), 0, [0, 1]), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_on_a_gpu_they_are_those_of_the_host() -> None:
    corpus = corpus_of([50, 90, 20])
    expected = value_moments(corpus, 0, [1, 2])
    with on_host_cuda() as device:
        there = replace(corpus).to(device)
        moments = value_moments(there, 0, [1, 2])
    assert moments.mean.device.type == "cpu"
    for one, other in zip(moments, expected, strict=True):
        torch.testing.assert_close(one, other)
