"""A bound on the memory of a saved model: its configuration may declare more than its weights hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ...data.errors import InputError
from ...data.windows.corpus import Stream
from ..config import ModelConfig
from .variants import build_model

USUAL_NUMBERS = 64_000_000  # of a model, roughly; below it nothing is counted
_PER_BLOCK = 16  # times the square of the width


def check_size(weights: Path, streams: Sequence[Stream], config: ModelConfig) -> None:
    """Refuses a model that is larger than its file of weights, before any memory is taken for it.

    Args:
        weights: the file.
        streams: inputs of the model.
        config: of the model.

    Raises:
        InputError: stating both sizes.
    """
    blocks = config.layers + config.tcn_blocks + 1
    if config.dim * (sum(stream.dim for stream in streams) + _PER_BLOCK * blocks * config.dim) < USUAL_NUMBERS:
        return
    with torch.device("meta"):  # shapes alone
        model = build_model(streams, config)
    num_numbers, num_bytes = sum(tensor.numel() for tensor in model.state_dict().values()), weights.stat().st_size
    if 2 * num_numbers > num_bytes:  # two bytes each at least
        expected = f"the {num_numbers:,} numbers that its configuration declares"
        raise InputError(weights, expected=expected, got=f"{num_bytes:,} bytes", todo="Fetch or export it again.")
