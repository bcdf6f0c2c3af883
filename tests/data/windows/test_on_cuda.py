"""A corpus on a GPU, pretended: windows are cut where it lies, nothing mixes devices, and only plans travel."""

import pytest
import torch

from sage_va.data.windows import placement
from sage_va.data.windows.batches import in_batches
from sage_va.data.windows.corpus import Corpus, Windows, cut, plan_windows
from sage_va.data.windows.placement import each_cut, num_bytes, place
from sage_va.tests.fake_cuda import on_cuda
from sage_va.tests.synthetic import random_corpus, streams_of

STREAMS = streams_of((8, 4))
CUDA = [torch.device("cuda"), torch.device("cuda:0")]


def corpus_of() -> Corpus:
    return random_corpus(STREAMS, [40, 7, 25])


def tensors(windows: Windows) -> list[torch.Tensor]:
    every: list[torch.Tensor] = []
    windows.each(lambda tensor: every.append(tensor) or tensor)
    return every


@pytest.mark.parametrize("device", CUDA, ids=str)
def test_windows_are_cut_on_the_device(device: torch.device) -> None:
    with on_cuda() as cuda:
        corpus = corpus_of().to(device)
        assert corpus.device == corpus.mask.device == corpus.values[0].device == torch.device("cuda:0")
        plan = plan_windows(corpus, range(3), 16, 8)
        with cuda.count() as launches:
            windows = cut(corpus, plan, 16)
        assert {tensor.device for tensor in tensors(windows)} == {corpus.device}
        assert windows.values[0].shape == (len(plan), 16, 8)
        assert [copy.shape for copy in launches.copies] == [plan.shape]
        assert 0 < launches.num_kernels <= 20


@pytest.mark.parametrize("device", CUDA, ids=str)
def test_a_corpus_that_fits_is_placed_on_the_device(device: torch.device) -> None:
    with on_cuda():
        corpus, where = place(corpus_of(), device)
        assert corpus.mask.device == corpus.device
        assert where.endswith("on cuda:0")
        batches = in_batches(plan_windows(corpus, range(3), 16, 8), 16, 3)
        assert {t.device for windows in each_cut(corpus, batches) for t in tensors(windows)} == {corpus.device}


@pytest.mark.parametrize("device", CUDA, ids=str)
def test_a_corpus_that_does_not_fit_is_sent_a_batch_ahead_from_pinned_memory(device: torch.device) -> None:
    whole = corpus_of()
    with on_cuda(free_bytes=num_bytes(whole)) as cuda:
        corpus, where = place(whole, device)
        assert corpus.mask.device.type == "cpu"
        assert corpus.device == torch.device("cuda:0")
        assert "in main memory" in where
        batches = in_batches(plan_windows(corpus, range(3), 16, 8), 16, 3)
        with cuda.count() as launches:
            cuts = list(each_cut(corpus, batches))
        assert [windows.va.shape[:2] for windows in cuts] == [(len(batch.rows), 16) for batch in batches]
        assert {t.device for windows in cuts for t in tensors(windows)} == {corpus.device}
        assert len(launches.copies) == len(cuts) * len(tensors(cuts[0]))
        assert all(copy.to == "cuda" and copy.pinned for copy in launches.copies)
        assert cut(corpus, batches[0].rows, 16).steps.device == corpus.device  # without a thread, too


def test_the_share_of_the_device_that_a_corpus_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = corpus_of()
    for share, kind in ((0.99, "cpu"), (1.0, "cuda")):
        monkeypatch.setattr(placement, "SHARE", share)
        with on_cuda(free_bytes=num_bytes(corpus)):
            assert place(corpus, torch.device("cuda"))[0].mask.device.type == kind
