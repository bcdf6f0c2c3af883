"""Audio encoders of transformers, computed by OpenVINO."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..decode.audio import Samples
from ..openvino_runtime import runtime_identity
from .openvino_module import CompiledModule, check_arithmetic
from .transformers_encoder import TransformersEncoder

_EXAMPLE_S = 2.0  # of audio for tracing; any length of a model that takes any


class OpenVinoTransformersEncoder(TransformersEncoder):
    """Embeds audio as a `TransformersEncoder` does, with the same weights, in float32 on the CPU by OpenVINO.

    Args and errors as for `TransformersEncoder`; `device` must be the CPU and `precision` "auto" or "float32".
    """

    def __init__(self, name: str, *, device: str = "auto", precision: str = "auto", **others: Any) -> None:
        self._runtime = runtime_identity()
        check_arithmetic(device, precision)
        super().__init__(name, device="cpu", precision="float32", **others)
        num_samples = self.plan.window if self._whisper else round(_EXAMPLE_S * self.sampling_rate)
        example = self._prepared(np.zeros((1, num_samples), np.float32))
        self._compiled = CompiledModule(self._model, self._hidden, example, varies=not self._whisper)
        self.compile_s = self._compiled.compile_s
        self._model = torch.nn.Identity()  # OpenVINO has a copy of the weights

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The encoder's part of the stream's fingerprint, with the runtime."""
        return {**super().fingerprint, "runtime": self._runtime}

    def embed(self, items: Samples) -> Tensor:
        """Embeds (B, N) samples, all of one length -> (B, T, D)."""
        return torch.from_numpy(self._compiled(self._prepared(items).numpy()))
