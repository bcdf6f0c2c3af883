"""Visual encoders of timm, computed by OpenVINO."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..decode.frames import Pixels
from ..openvino_runtime import runtime_identity
from .openvino_module import CompiledModule, check_arithmetic
from .timm_encoder import TimmEncoder


class OpenVinoTimmEncoder(TimmEncoder):
    """Embeds images as a `TimmEncoder` does, with the same weights, in float32 on the CPU by OpenVINO.

    Args and errors as for `TimmEncoder`; `device` must be the CPU and `precision` "auto" or "float32".
    """

    _compiled: CompiledModule | None = None

    def __init__(self, name: str, *, device: str = "auto", precision: str = "auto", **others: Any) -> None:
        self._runtime = runtime_identity()
        check_arithmetic(device, precision)
        super().__init__(name, device="cpu", precision="float32", **others)
        example = torch.zeros((1, *self.size, 3), dtype=torch.uint8)
        self._compiled = CompiledModule(self._model, self._features, example)
        self.compile_s = self._compiled.compile_s
        self._model = torch.nn.Identity()  # OpenVINO has a copy of the weights

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The encoder's part of the stream's fingerprint, with the runtime."""
        return {**super().fingerprint, "runtime": self._runtime}

    def embed(self, items: Pixels) -> Tensor:
        """Embeds (B, H, W, 3) uint8 RGB -> (B, D)."""
        return torch.from_numpy(self._compiled(items)) if self._compiled else super().embed(items)
