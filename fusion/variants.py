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


def _sage(streams: Sequence[Stream], config: ModelConfig) -> nn.Module:
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
    chosen = [s for s in streams if variant not in ("visual", "audio") or s.modality == variant]
    needed = 1 if variant in ("visual", "audio") else 2
    if len(chosen) < needed:
        got = ", ".join(s.name for s in streams) or "none"
        expected = f"at least {needed} {variant + ' ' if needed == 1 else ''}stream{'s' * (needed > 1)}"
        todo = "Name them in data.streams, or choose the variant `visual` or `audio`."
        raise InputError(f"variant {variant}", expected=expected, got=got, todo=todo)
    return chosen


def build_model(streams: Sequence[Stream], config: ModelConfig) -> FusionModel:
    """A fresh model of `config.variant` for exactly these streams."""
    return FusionModel(streams, config, VARIANTS[config.variant](streams, config))
