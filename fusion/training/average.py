"""A moving average of a model's weights, kept on its device: an update is a few kernels and waits for nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from ..models.base import VAModel


class WeightAverage:
    """An exponential moving average of the weights of a model.

    torch's `AveragedModel` asks the device twice per update how many there have been; here the host counts.

    Args:
        model: of which `model` of this object is a copy with averaged weights.
        decay: share of the average that an update leaves; the first update copies the weights.
    """

    def __init__(self, model: VAModel, decay: float) -> None:
        self.model, self.decay, self.num_updates = copy.deepcopy(model), decay, 0

    @torch.no_grad()
    def update(self, model: VAModel) -> None:
        """Moves the average towards the weights of a model."""
        averages, weights = ([weight.detach() for weight in each.parameters()] for each in (self.model, model))
        share = 1 - self.decay if self.num_updates else 1.0
        torch._foreach_lerp_(averages, weights, share)  # pyright: ignore[reportPrivateImportUsage]
        self.num_updates += 1

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the weights under `module.…`, and the number of updates as `n_averaged`, as torch names them."""
        weights = {f"module.{name}": value for name, value in self.model.state_dict().items()}
        return {"n_averaged": torch.tensor(self.num_updates), **weights}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned."""
        self.num_updates = int(state["n_averaged"])
        weights = {name.removeprefix("module."): value for name, value in state.items() if name != "n_averaged"}
        self.model.load_state_dict(weights)
