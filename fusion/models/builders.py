"""Builders of our own variants: a few lines each on the shared parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from ...data.errors import InputError
from ...data.windows.corpus import Stream
from ..config import ModelConfig
from .attention import CrossAttention, JointCrossAttention, reach_of
from .base import Build, FusionModel, VAModel, num_evidence
from .baselines import DCA, GMU, ITERATIONS, LFAN, RAAV, TAGF, Attended, Concat, LateModel, LinearModel, leader_of
from .novelty import Veto
from .sage import ReliabilityFusion
from .tcn import receptive_steps


def _sage(streams: Sequence[Stream], config: ModelConfig) -> nn.Module:
    if config.floor * len(streams) >= 1:
        todo = f"Set model.floor below 1 / {len(streams)}."
        got = f"{config.floor} for each of {len(streams)} streams"
        raise InputError("model.floor", expected="floors that leave something to share", got=got, todo=todo)
    if config.stage == "depth":
        _check_heads(config)
    reads = receptive_steps(config.tcn_blocks, config.tcn_kernel) - 1
    reach = reads if config.causal else reads // 2
    veto = Veto([stream.dim for stream in streams], config.veto, config.gaps, reach, config.causal)
    modalities = [stream.modality for stream in streams]
    return ReliabilityFusion([num_evidence(stream) for stream in streams], config, veto, modalities)


def _concat(streams: Sequence[Stream], config: ModelConfig) -> nn.Module:
    return Concat(len(streams), config.dim)


def _gmu(streams: Sequence[Stream], config: ModelConfig) -> nn.Module:
    return GMU(len(streams), config.dim)


def _check_heads(config: ModelConfig) -> None:
    if config.dim % config.heads:
        expected = f"a multiple of model.heads = {config.heads}"
        raise InputError("model.dim", expected=expected, got=str(config.dim), todo="Change one of them.")


def _cross(streams: Sequence[Stream], config: ModelConfig) -> nn.Module:
    _check_heads(config)
    return CrossAttention(len(streams), config.dim, config.heads, reach_of(config))


def _joint(streams: Sequence[Stream], config: ModelConfig) -> nn.Module:
    return JointCrossAttention(len(streams), config.dim, reach_of(config))


def _attended(attention: Build, iterations: int = 1) -> Build:
    return lambda streams, config: Attended(len(streams), config.dim, attention(streams, config), iterations)


def _dca(streams: Sequence[Stream], config: ModelConfig) -> nn.Module:
    return DCA(len(streams), config.dim, _cross(streams, config))


def _tagf(streams: Sequence[Stream], config: ModelConfig) -> nn.Module:
    return TAGF(len(streams), config.dim, _joint(streams, config))


def _lfan(streams: Sequence[Stream], config: ModelConfig) -> nn.Module:
    return LFAN(len(streams), config.dim, leader_of(streams))


def _raav(streams: Sequence[Stream], config: ModelConfig) -> nn.Module:
    return RAAV(len(streams), config.dim, leader_of(streams), reach_of(config))


BUILDERS: Mapping[str, Build] = {
    "linear": LinearModel,
    "late": LateModel,
    "concat": _concat,
    "gmu": _gmu,
    "xattn": _attended(_cross),
    "jca": _attended(_joint),
    "rjca": _attended(_joint, ITERATIONS),
    "dca": _dca,
    "lfan": _lfan,
    "tagf": _tagf,
    "raav": _raav,
    "sage": _sage,
}


def whole_model(fusion: nn.Module, streams: Sequence[Stream], config: ModelConfig) -> VAModel:
    """Returns a fusion with encoders below it and heads above it; a whole model as it is."""
    return fusion if isinstance(fusion, VAModel) else FusionModel(streams, config, fusion)
