"""Modules of torch, converted to OpenVINO: what the encoders of timm and of transformers share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from ...data.errors import InputError
from ...data.machine import find_device
from ..openvino_runtime import CompiledModel


def check_arithmetic(device: str, precision: str) -> None:
    """Checks that OpenVINO is to compute on a CPU in float32.

    Raises:
        InputError: if the device is another or the precision is not `auto` or `float32`.
    """
    if find_device(device).type != "cpu":
        todo = "Pass --device cpu, or leave --runtime out."
        raise InputError("device", expected="cpu, where OpenVINO computes", got=repr(device), todo=todo)
    if precision not in ("auto", "float32"):
        todo = "Change it, or leave --runtime out."
        raise InputError("precision", expected="float32 with OpenVINO", got=repr(precision), todo=todo)


class CompiledModule(CompiledModel):
    """A torch module, converted and compiled; as `CompiledModel`.

    Args:
        module: holds the weights.
        forward: computes a batch of the module; is traced.
        example: (1, …) input, on the CPU.
        varies: True if the last side of an item varies.
    """

    def __init__(
        self, module: nn.Module, forward: Callable[[Tensor], Tensor], example: Tensor, *, varies: bool = False
    ) -> None:
        start = perf_counter()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing; tests compare other lengths with torch
            model = _converted(_Traced(module, forward), example)
        *sides, last = example.shape[1:]
        super().__init__(model, (*sides, -1 if varies else last))
        self.compile_s = perf_counter() - start


def _converted(module: nn.Module, example: Tensor) -> Any:
    """Converts a module to an `openvino.Model`.

    By the steps of `openvino.convert_model`, which also reports its use to OpenVINO's makers without asking.
    """
    from openvino.frontend import FrontEndManager  # an extra
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(module, example_input=example)  # has to outlive the conversion
    return frontend.convert(frontend.load(decoder))


class _Traced(nn.Module):
    def __init__(self, module: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self._forward = module, forward
        self.eval()

    def forward(self, items: Tensor) -> Tensor:
        return self._forward(items)
