"""Graphs of a forward, on a pretended device: what is captured, replayed and refused. Nothing of it ran on a GPU.

The pretended graph notes the operations of its `with` block and repeats them on the same memory, as a real one does.
"""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sage_va.extract.encoders.cuda_graph import GraphedForward
from sage_va.extract.encoders.timm_encoder import TimmEncoder
from sage_va.tests.encoders import TINY_CONVNET, TINY_VIT


class Notes(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out


class Graph:
    def __init__(self):
        self.notes, self.num_replays = Notes(), 0

    def replay(self):
        self.num_replays += 1
        for func, args, kwargs, out in self.notes.operations:
            again = func(*args, **kwargs)
            if isinstance(out, torch.Tensor) and again is not out and again.data_ptr() != out.data_ptr():
                out.copy_(again)


class Stream:
    def synchronize(self):
        pass


@pytest.fixture
def graphs(monkeypatch):
    captured, local = [], threading.local()

    def current_stream(device):
        local.stream = getattr(local, "stream", None) or Stream()
        return local.stream

    @contextlib.contextmanager
    def capture(graph, stream, capture_error_mode):
        assert stream is local.stream
        assert capture_error_mode == "thread_local"
        captured.append(graph)
        with graph.notes:
            yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: None)
    return captured


def batches(num, size=4, side=8):
    return [np.random.default_rng(k).integers(0, 255, (size, side, side, 3), dtype=np.uint8) for k in range(num)]


def sent(array):
    return torch.from_numpy(array).clone()  # to another memory, as to a device


def double(items):
    return items.float().mul_(2).flatten(1) + 1


@torch.inference_mode()
def run(forward, arrays):
    return [forward(array).clone() for array in arrays]


def test_a_shape_is_captured_the_second_time_and_replayed_from_then_on(graphs):
    forward = GraphedForward(double, sent)
    arrays = batches(5)
    for result, array in zip(run(forward, arrays), arrays, strict=True):
        assert torch.equal(result, double(torch.from_numpy(array)))
    assert [graph.num_replays for graph in graphs] == [1 + 3]  # a proof, and three batches
    run(forward, [*batches(1, size=2), *arrays[:1]])
    assert len(graphs) == 1  # a shape that comes once is not captured


def test_a_result_is_not_overwritten_by_the_next(graphs):
    forward = GraphedForward(double, sent)
    arrays = batches(4)
    with torch.inference_mode():
        results = [forward(array) for array in arrays]
    for result, array in zip(results, arrays, strict=True):
        assert torch.equal(result, double(torch.from_numpy(array)))


def test_each_thread_has_a_graph_of_its_own(graphs):
    forward, barrier, arrays = GraphedForward(double, sent), threading.Barrier(2), batches(6)

    def work(part):
        barrier.wait(300)
        return run(forward, part)

    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(work, (arrays[:3], arrays[3:])))
    assert len(graphs) == 2
    for result, array in zip(parts[0] + parts[1], arrays, strict=True):
        assert torch.equal(result, double(torch.from_numpy(array)))


@pytest.mark.parametrize("fault", ["capture", "bits"])
def test_a_graph_that_fails_is_refused_with_a_line_and_batches_stay_right(graphs, monkeypatch, fault):
    if fault == "bits":
        monkeypatch.setattr(Graph, "replay", lambda self: None)
    else:

        def refuse(graph, stream, capture_error_mode):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

        monkeypatch.setattr(torch.cuda, "graph", refuse)
    calls = []

    def other_each_time(items):
        calls.append(1)
        return double(items) + (len(calls) if fault == "bits" else 0)

    forward = GraphedForward(other_each_time, sent)
    line = "first replay differs" if fault == "bits" else "operation not permitted when stream is capturing$"
    with pytest.warns(UserWarning, match=f"no CUDA graph, batches start slower: RuntimeError: .*{line}"):
        results = run(forward, batches(4))
    assert forward.refused
    if fault == "capture":
        for result, array in zip(results, batches(4), strict=True):
            assert torch.equal(result, double(torch.from_numpy(array)))


def test_the_default_stream_is_not_captured(graphs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "default_stream", torch.cuda.current_stream)
    run(GraphedForward(double, sent), batches(4))
    assert graphs == []


@pytest.mark.parametrize("name", [TINY_VIT, TINY_CONVNET])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_encoders_replay_the_same_bits(graphs, name, precision):
    encoder = TimmEncoder(name, weights="random", device="cpu", precision=precision)
    arrays = batches(4, size=2, side=160)
    eager = [encoder.encode(array) for array in arrays]
    encoder._graphed = GraphedForward(encoder._features, sent)
    for array, expected in zip(arrays, eager, strict=True):
        np.testing.assert_array_equal(encoder.encode(array), expected)
    assert [graph.num_replays for graph in graphs] == [1 + 2]
