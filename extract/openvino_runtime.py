"""Models computed by OpenVINO on a CPU in float32, one item at a time.

An item's result cannot depend on its batch, and each item is computed by one core, so not on their number either.
"""

from __future__ import annotations

import threading
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.errors import InputError
from ..data.machine import num_cores


def runtime_identity() -> dict[str, str]:
    """Returns name and version of the runtime, for fingerprints.

    Raises:
        InputError: if OpenVINO is not installed.
    """
    try:
        return {"name": "openvino", "version": version("openvino")}
    except PackageNotFoundError as error:
        todo = 'Install it: pip install "sage-va[openvino]". Or leave the option out.'
        raise InputError("runtime", expected="the package openvino", got="none", todo=todo) from error


class CompiledModel:
    """A model of OpenVINO, compiled for items one at a time; several threads may call it at once.

    Args:
        model: an `openvino.Model`, or the bytes of an ONNX file.
        item_shape: of an item without its batch; -1 = that side varies.
        num_streams: items that can be computed at once, each on one core; None = as many as cores.
    """

    def __init__(self, model: Any, item_shape: tuple[int, ...], num_streams: int | None = None) -> None:
        import openvino  # an extra

        core, count = openvino.Core(), num_streams or num_cores()
        model = core.read_model(model, b"") if isinstance(model, bytes) else model
        model.reshape([1, *item_shape])
        hints = {
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": count,
            "INFERENCE_NUM_THREADS": count,
            "ENABLE_CPU_PINNING": False,  # other workers compute on the same cores
        }
        self._compiled, self._tensor = core.compile_model(model, "CPU", hints), openvino.Tensor
        self._local = threading.local()

    def outputs(self, item: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Computes an item: (1, …) -> the model's outputs, each (1, …) float32."""
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        request = self._local.request
        request.set_input_tensor(self._tensor(np.ascontiguousarray(item), shared_memory=True))
        request.infer()
        return [tensor.data.copy() for tensor in request.output_tensors]

    def __call__(self, items: NDArray[Any]) -> NDArray[np.float32]:
        """Computes a batch one by one: (B, …) -> (B, …) float32, the model's first output."""
        return np.concatenate([self.outputs(items[place : place + 1])[0] for place in range(len(items))])
