"""Windows in batches: usual corpora as ever, very short clips without a window of padding each."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sage_va.data.windows.batches import in_batches
from sage_va.data.windows.corpus import cut, plan_windows
from sage_va.tests.synthetic import random_corpus, streams_of


def plan_of(lengths: list[int]) -> np.ndarray:
    ends = np.cumsum(lengths)
    return np.stack([ends - lengths, ends], axis=1).astype(np.int64)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=200), st.integers(1, 20), st.integers(1, 320))
def test_each_window_is_in_one_batch_and_fits(lengths: list[int], batch_size: int, window_steps: int) -> None:
    plan = plan_of(lengths)
    batches = in_batches(plan, window_steps, batch_size)
    assert sorted(map(tuple, np.concatenate([batch.rows for batch in batches]))) == sorted(map(tuple, plan))
    for batch in batches:
        assert 1 <= batch.length <= window_steps
        assert len(batch.rows) * batch.length <= batch_size * window_steps
        if batch.length < window_steps:
            assert (batch.rows[:, 1] - batch.rows[:, 0] <= batch.length).all()
            assert batch.length * 8 <= window_steps


@given(st.lists(st.integers(38, 400), min_size=1, max_size=100), st.integers(1, 20))
def test_batches_are_full_but_for_the_last_two(lengths: list[int], batch_size: int) -> None:
    """Whatever the number of windows, which jitter changes: one size serves an epoch, and none is a few windows."""
    plan = plan_of(lengths)
    batches = in_batches(plan, 300, batch_size)
    assert all(batch.length == 300 for batch in batches)
    assert np.array_equal(np.concatenate([batch.rows for batch in batches]), plan)
    sizes = [len(batch.rows) for batch in batches]
    assert len(sizes) == -(-len(plan) // batch_size)
    assert set(sizes[:-2]) <= {batch_size}
    if len(sizes) > 1:
        assert min(sizes) >= batch_size / 2
        assert sizes[-2] == batch_size or sizes[-2] - sizes[-1] in (0, 1)


def test_sizes_of_batches() -> None:
    for num_windows, expected in (
        (5, [5]),
        (32, [32]),
        (33, [17, 16]),
        (48, [32, 16]),
        (79, [32, 24, 23]),
        (80, [32, 32, 16]),
    ):
        assert [len(batch.rows) for batch in in_batches(plan_of([300] * num_windows), 300, 32)] == expected


def test_a_few_short_clips_stay_among_the_others() -> None:
    """A process of several would have nothing to do with a batch of one window."""
    plan = plan_of([300] * 40 + [1] * 31)
    assert [batch.length for batch in in_batches(plan, 300, 32)] == [300] * 3
    assert [batch.length for batch in in_batches(plan_of([300] * 40 + [1] * 32), 300, 32)] == [300, 300, 8]


def test_classes_of_short_windows() -> None:
    batches = in_batches(plan_of([1] * 40 + [12] * 40 + [30] * 40 + [38] * 40), 300, 32)
    assert [(len(batch.rows), batch.length) for batch in batches] == [(40, 8), (40, 16), (40, 32), (20, 300), (20, 300)]
    assert len(in_batches(plan_of([1] * 10_000), 300, 32)) == -(-10_000 // (32 * 37))


def test_ten_thousand_clips_of_one_step_are_not_ten_thousand_windows_of_padding() -> None:
    corpus = random_corpus(streams_of(), [1] * 10_000)
    plan = plan_windows(corpus, range(10_000), 300, 200)
    batches = in_batches(plan, 300, 32)
    assert sum(len(batch.rows) * batch.length for batch in batches) == 80_000  # were 3,000,000
    windows = cut(corpus, batches[0].rows, batches[0].length)
    assert windows.inside.sum() == len(batches[0].rows)
    assert torch.equal(windows.va[:, 0], corpus.va[batches[0].rows[:, 0]])
