"""Streaming: one step of features in, one estimate out, equal to the prediction of the whole recording."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..data.errors import InputError
from ..data.windows.corpus import Stream, Windows
from ..data.windows.normalise import RunningMean
from .models.base import VAModel
from .models.causal_cache import Memory
from .models.tcn import TCNBlock
from .run_folder import Run

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Estimate:
    """A model's output for one step.

    va (2,): valence and arousal. weights (M,): None where the variant weighs no streams. reliability (M,) and stage
    (K,): None where it has no gate.
    """

    va: Floats
    reliability: Floats | None
    weights: Floats | None
    stage: Floats | None


class StreamingModel:
    """A causal model that follows one recording, step by step, and keeps what it still looks back at.

    It works on a copy in evaluation mode; the original model may be trained on.

        __init__, reset --> empty memory --step--> memory of 1 step --step--> … --step--> full memory --+
               ^                                                                            ^   step   |
               |                                                                            +-----------+
               +--- reset: another recording begins

    Each step appends to the memory and drops what no layer looks back at any more, so its size is bounded.

    Args:
        source: a run, or a model, trained with `model.causal=true`.

    Raises:
        InputError: if it is not causal, or its variant cannot go step by step.
    """

    def __init__(self, source: VAModel | Run) -> None:
        model = source.model if isinstance(source, Run) else source
        _check(model, str(source.path) if isinstance(source, Run) else "StreamingModel")
        self.streams = list(model.streams)
        self._model = copy.deepcopy(model).eval().requires_grad_(False)
        for module in self._model.modules():
            if isinstance(module, TCNBlock):
                module.fix_weights()
        self._device = next(self._model.parameters()).device
        self.reset()

    def reset(self) -> None:
        """Empties the memory, for another recording."""
        self._memory = Memory()
        self._means = [RunningMean() if stream.normalise == "causal" else None for stream in self.streams]

    @property
    def num_values(self) -> int:
        """Returns how many numbers the memory holds; bounded, however long the recording."""
        return self._memory.num_values

    @torch.inference_mode()
    def step(self, values: Sequence[ArrayLike | None], quality: Sequence[ArrayLike | None] | None = None) -> Estimate:
        """Returns the estimate for the next step of the grid; one step is due every 1 / `data.grid_hz` seconds.

        Args:
            values: for each of `streams`, in their order, (D,) features; None where the stream is not valid.
            quality: for each its (Q,) signals, in the order of `Stream.quality_names`, NaN or None where not measured.

        Raises:
            InputError: for another number of streams, other shapes, or features that are not finite.
        """
        signals = [None] * len(self.streams) if quality is None else quality
        for name, parts in (("values", values), ("quality", signals)):
            if len(parts) != len(self.streams):
                expected = f"one for each of {', '.join(stream.label for stream in self.streams)}"
                todo = "Give None for a stream without any."
                raise InputError(f"step: {name}", expected=expected, got=str(len(parts)), todo=todo)
        x = [_values(*pair) for pair in zip(self.streams, values, strict=True)]
        q = [_quality(*pair) for pair in zip(self.streams, signals, strict=True)]
        valid = [each is not None for each in values]
        for m, mean in enumerate(self._means):
            if mean is not None and valid[m]:
                x[m] = torch.from_numpy(mean.subtract(x[m].numpy()))
        return self._estimate(x, q, torch.tensor([[valid]]))

    def _estimate(self, values: list[Tensor], quality: list[Tensor], mask: Tensor) -> Estimate:
        yes, no = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool)
        windows = Windows(
            values=[x[None, None].to(self._device) for x in values],
            quality=[q[None, None].to(self._device) for q in quality],
            mask=mask.to(self._device),
            inside=yes.to(self._device),
            va=torch.zeros(1, 1, 2, device=self._device),
            va_mask=no.to(self._device),
            steps=torch.zeros(1, 1, dtype=torch.long, device=self._device),
        )
        output = self._model(windows, self._memory)
        fused = output.fused
        return Estimate(output.va[0, 0].cpu().numpy(), *map(_array, (fused.reliability, fused.weights, fused.stage)))


def _check(model: VAModel, place: str) -> None:
    """Raises an InputError for a model that cannot go step by step."""
    if not model.config.causal:
        todo = "Train one with --set model.causal=true."
        raise InputError(place, expected="a causal model", got="model.causal=false", todo=todo)
    whole = [stream.normalise for stream in model.streams if stream.normalise in ("subject", "clip")]
    if whole:
        todo = "Train with data.normalise=causal or training."
        raise InputError(place, f"its features are normalised by {whole[0]}, which asks for whole clips", todo=todo)
    if not model.can_stream:
        todo = "See docs/streaming.md for what a variant of your own needs."
        problem = f"the variant {model.config.variant} cannot go step by step, as it takes no memory"
        raise InputError(place, problem, todo=todo)


def _values(stream: Stream, values: ArrayLike | None) -> Tensor:
    """(D,) features, 0 where there are none."""
    if values is None:
        return torch.zeros(stream.dim)
    array = _of_shape(f"step: values of {stream.label}", values, stream.dim)
    if not np.isfinite(array).all():
        todo = "Give None where the stream is not valid."
        raise InputError(f"step: values of {stream.label}", expected="finite numbers", got="NaN or inf", todo=todo)
    return torch.from_numpy(array)


def _quality(stream: Stream, signals: ArrayLike | None) -> Tensor:
    """(Q,) signals, NaN where not measured."""
    num_signals = len(stream.quality_names)
    if signals is None:
        return torch.full((num_signals,), torch.nan)
    return torch.from_numpy(_of_shape(f"step: quality of {stream.label}", signals, num_signals))


def _of_shape(place: str, values: ArrayLike, length: int) -> Floats:
    array = np.array(values, np.float32)
    if array.shape != (length,):
        todo = "Give one step at a time, of the streams that the run was trained on."
        raise InputError(place, expected=f"shape ({length},)", got=str(array.shape), todo=todo)
    return array


def _array(part: Tensor | None) -> Floats | None:
    return None if part is None else part[0, 0].float().cpu().numpy()


LiveModel = StreamingModel  # its former name, still accepted
