"""Forwards on a GPU, replayed as CUDA graphs: one start in place of hundreds."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ...data.errors import first_line


@dataclass
class _Graph:
    """A captured forward: its input and its output always lie at the same place."""

    graph: torch.cuda.CUDAGraph
    items: Tensor
    output: Tensor

    def replay(self, items: Tensor) -> Tensor:
        self.items.copy_(items, non_blocking=True)
        self.graph.replay()
        return self.output.clone()  # the next batch overwrites it


class GraphedForward:
    """Computes batches by the kernels of an eager forward, which a CUDA graph starts; used by several threads.

    Each thread captures a graph of its own, on its own stream, when it meets a shape for the second time in a row. The
    first replay must equal the eager result to the bit. Where it does not, or where capture fails, a warning says so
    and all batches are computed eagerly; so they are on the default stream, which cannot be captured.

    Args:
        forward: (B, …) on the device -> (B, D); must not wait for the device.
        sent: copies a batch to the device.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], sent: Callable[[NDArray[Any]], Tensor]) -> None:
        self._forward, self._sent = forward, sent
        self._thread = threading.local()
        self._capturing = threading.Lock()
        self.refused = False

    def __call__(self, items: NDArray[Any]) -> Tensor:
        """Computes a batch."""
        shape, known = items.shape, getattr(self._thread, "shape", None)
        if shape != known:
            self._thread.shape, self._thread.graph = shape, None
        elif self._thread.graph is None and not self.refused:
            return self._captured(items)
        graph: _Graph | None = self._thread.graph
        return graph.replay(torch.from_numpy(items)) if graph else self._forward(self._sent(items))

    def _captured(self, items: NDArray[Any]) -> Tensor:
        """Computes a batch eagerly, and captures the graph of the next ones."""
        on_device = self._sent(items)
        expected = self._forward(on_device)
        stream = torch.cuda.current_stream(on_device.device)
        if stream == torch.cuda.default_stream(on_device.device):
            return expected
        try:
            with self._capturing:
                graph = self._capture(on_device, stream)
            if not torch.equal(graph.replay(torch.from_numpy(items)), expected):
                raise RuntimeError("the first replay differs from the eager result")
            self._thread.graph = graph
        except RuntimeError as error:
            self.refused = True
            warnings.warn(f"no CUDA graph, batches start slower: {first_line(error)[:200]}", stacklevel=2)
        return expected

    def _capture(self, items: Tensor, stream: torch.cuda.Stream) -> _Graph:
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):  # others go on computing
            output = self._forward(items)
        return _Graph(graph, items, output)
