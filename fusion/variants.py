"""The fusion variants by name: each a few lines on the shared parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from ..data.errors import InputError
from ..data.windows import Stream
from .config import ModelConfig
from .gate import ConcatFusion, ReliabilityFusion
from .model import FusionModel

Build = Callable[[Sequence[Stream], ModelConfig], nn.Module]
ONE_MODALITY = ("visual", "audio")


def _sage(streams: Sequence[Stream], config: ModelConfig) -> nn.Module:
    if config.floor * len(streams) >= 1:
        todo = f"Set model.floor below 1 / {len(streams)}."
        got = f"{config.floor} for each of {len(streams)} streams"
        raise InputError("model.floor", expected="floors that leave something to share", got=got, todo=todo)
    return ReliabilityFusion(
        config.dim,
        [len(stream.quality_names) for stream in streams],
        num_stages=config.num_stages if config.stage == "latent" else 1,
        separate=config.separate,
        calibrated=config.calibrated,
        floor=config.floor,
    )


def _concat(streams: Sequence[Stream], config: ModelConfig) -> nn.Module:
    return ConcatFusion(config.dim, len(streams))


VARIANTS: dict[str, Build] = {
    "sage": _sage,  # Lee et al., arXiv 2603.11468, as docs/model.md reads it
    "concat": _concat,
    "visual": _concat,
    "audio": _concat,
}


def variant_streams(variant: str, streams: Sequence[Stream]) -> list[Stream]:
    """The streams that a variant takes: those of one modality for `visual` and `audio`, else all.

    Raises:
        InputError: if none is left, or a fusion is left with one.
    """
    chosen = [s for s in streams if variant not in ONE_MODALITY or s.modality == variant]
    needed = 1 if variant in ONE_MODALITY else 2
    if len(chosen) < needed:
        got = ", ".join(s.name for s in streams) or "none"
        expected = f"at least {needed} {variant + ' ' if needed == 1 else ''}stream{'s' * (needed > 1)}"
        todo = "Name them in data.streams, or choose the variant `visual` or `audio`."
        raise InputError(f"variant {variant}", expected=expected, got=got, todo=todo)
    return chosen


def build_model(streams: Sequence[Stream], config: ModelConfig) -> FusionModel:
    """A fresh model of `config.variant` for exactly these streams."""
    return FusionModel(streams, config, VARIANTS[config.variant](streams, config))
