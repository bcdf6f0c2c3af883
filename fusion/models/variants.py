"""The variants by name: each a few lines on the shared parts. A package adds its own by an entry point."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import nn

from ...data.errors import InputError, first_line
from ...data.windows.corpus import Stream, Windows
from ..config import Config, ModelConfig, check_config
from .attention import CrossAttention, JointCrossAttention, reach_of
from .base import EncodedModel, FusionModel, Output, VAModel, num_evidence
from .baselines import DCA, GMU, ITERATIONS, LFAN, RAAV, TAGF, Attended, Concat, leader_of
from .causal_cache import Memory
from .sage import Fused, ReliabilityFusion

GROUP = "sage_va.variants"
MAX_GIVEN = 4  # streams whose sets are stages

Build = Callable[[Sequence[Stream], ModelConfig], nn.Module]


@dataclass(frozen=True)
class Variant:
    """What a name stands for.

    Args:
        build: from streams and sizes to a fusion (a module from `Encoded` to `Fused`), or to a whole `VAModel`.
        source: where it comes from.
        modality: the only one whose streams it takes; None for a fusion of at least two streams.
        demands: what it makes of the configuration, by dotted key.
    """

    build: Build
    source: str
    modality: str | None = None
    demands: Mapping[str, Any] = field(default_factory=dict)


class LateModel(EncodedModel):
    """The average of the estimates of the streams that are valid."""

    def __init__(self, streams: Sequence[Stream], config: ModelConfig) -> None:
        super().__init__(streams, config)
        self.null = nn.Parameter(torch.zeros(2))

    def forward(self, windows: Windows, memory: Memory | None = None) -> Output:
        """Windows -> Output."""
        alone = self.alone(self.encode(windows, memory))
        each = windows.mask[..., None] / windows.mask.sum(-1)[..., None, None].clamp(min=1)
        va = torch.where(windows.mask.any(-1, keepdim=True), (alone * each).sum(-2), self.null.tanh())
        return Output(va, alone, Fused(va))


class LinearModel(VAModel):
    """One linear layer on each step's features, bounded by tanh. What is masked counts as average."""

    def __init__(self, streams: Sequence[Stream], config: ModelConfig) -> None:
        super().__init__(streams, config)
        self.dropout = nn.Dropout(config.input_dropout) if config.input_dropout else nn.Identity()
        self.together = nn.ModuleList(nn.Linear(stream.dim, 2, bias=False) for stream in streams)
        self.unimodal = nn.ModuleList(nn.Linear(stream.dim, 2) for stream in streams)
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, windows: Windows, memory: Memory | None = None) -> Output:
        """Windows -> Output; a step needs no memory of others."""
        x = [
            self.dropout(torch.where(windows.mask[..., m, None], norm(values), 0))
            for m, (norm, values) in enumerate(zip(self.norms, windows.values, strict=True))
        ]
        parts = torch.stack([layer(part) for layer, part in zip(self.together, x, strict=True)])
        va = torch.tanh(parts.sum(0) + self.bias)
        alone = torch.stack([torch.tanh(head(part)) for head, part in zip(self.unimodal, x, strict=True)], dim=-2)
        return Output(va, alone, Fused(va))


def _sage(streams: Sequence[Stream], config: ModelConfig) -> nn.Module:
    if config.floor * len(streams) >= 1:
        todo = f"Set model.floor below 1 / {len(streams)}."
        got = f"{config.floor} for each of {len(streams)} streams"
        raise InputError("model.floor", expected="floors that leave something to share", got=got, todo=todo)
    if config.stage == "given" and len(streams) > MAX_GIVEN:
        todo = "Name fewer data.streams, or choose another stage."
        expected = f"at most {MAX_GIVEN} streams with model.stage=given"
        raise InputError("model.stage", expected=expected, got=str(len(streams)), todo=todo)
    if config.stage == "depth":
        _check_heads(config)
    return ReliabilityFusion([num_evidence(stream) for stream in streams], config)


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


_SAGE = "Lee et al., arXiv 2603.11468, as docs/model.md reads it"

VARIANTS: dict[str, Variant] = {
    "linear": Variant(LinearModel, "the field's plainest baseline"),
    "visual": Variant(_concat, "one modality", modality="visual"),
    "audio": Variant(_concat, "one modality", modality="audio"),
    "concat": Variant(_concat, "the usual baseline"),
    "concat-quality": Variant(
        _concat, "concat that is given what a gate reads: the quality signals", demands={"model.quality_input": True}
    ),
    "late": Variant(LateModel, "decision-level fusion"),
    "gmu": Variant(_gmu, "Arevalo et al., arXiv 1702.01992"),
    "xattn": Variant(_attended(_cross), "Tsai et al., arXiv 1906.00295"),
    "jca": Variant(_attended(_joint), "Praveen et al., arXiv 2209.09068"),
    "rjca": Variant(_attended(_joint, ITERATIONS), "Praveen et al., arXiv 2304.07958"),
    "dca": Variant(_dca, "Praveen and Alam, arXiv 2403.19554"),
    "lfan": Variant(_lfan, "Zhang et al., arXiv 2107.01175"),
    "tagf": Variant(_tagf, "Lee et al., arXiv 2507.02080"),
    "raav": Variant(_raav, "team RAS, arXiv 2603.13056"),
    "sage": Variant(_sage, _SAGE),
    "sage-no-stage": Variant(_sage, _SAGE, demands={"model.stage": "none"}),
    "sage-no-calibration": Variant(
        _sage, _SAGE, demands={"model.calibrated": False, "loss.calibration": 0.0, "loss.ordinal": 0.0}
    ),
    "sage-no-separation": Variant(_sage, _SAGE, demands={"model.separate": False}),
    "sage-no-tcn": Variant(_sage, _SAGE, demands={"model.tcn_blocks": 0}),
    "sage-no-transformer": Variant(_sage, _SAGE, demands={"model.layers": 0}),
}


def variant_names() -> list[str]:
    """All that there are: our own in their order, then those that packages add."""
    added = {point.name for point in entry_points(group=GROUP)} - VARIANTS.keys()
    return [*VARIANTS, *sorted(added)]


def find_variant(name: str) -> Variant:
    """What a name stands for.

    Raises:
        InputError: if nothing, or if what a package adds under it is no `Variant`.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    place = f"variant {name}"
    points = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if not points:
        near = difflib.get_close_matches(name, variant_names(), 1)
        todo = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(variant_names())}."
        raise InputError(place, expected="a known variant", got=repr(name), todo=todo)
    if len(points) > 1:
        got = " and ".join(sorted(points))
        raise InputError(place, expected="one package that adds it", got=got, todo="Uninstall all but one.")
    (point,) = points.values()
    todo = f"Mend or uninstall {point.dist.name if point.dist else 'the package'}."
    try:
        found = point.load()
    except Exception as error:  # whatever its import does
        raise InputError(place, expected=f"to import {point.value}", got=first_line(error), todo=todo) from error
    if not isinstance(found, Variant):
        raise InputError(place, expected=f"{point.value} to be a Variant", got=type(found).__name__, todo=todo)
    return found


def resolve(config: Config) -> Config:
    """The configuration with what its variant demands, whatever it said before.

    Raises:
        InputError: for an unknown variant.
    """
    raw = config.model_dump()
    for key, value in find_variant(config.model.variant).demands.items():
        section, _, name = key.partition(".")
        if not isinstance(raw.get(section), dict) or name not in raw[section]:
            place = f"variant {config.model.variant}"
            todo = "Mend its package."
            raise InputError(place, expected="demands such as model.layers", got=repr(key), todo=todo)
        raw[section][name] = value
    return check_config(raw, "configuration")


def variant_streams(variant: str, streams: Sequence[Stream]) -> list[Stream]:
    """The streams that a variant takes: those of its one modality, or all.

    Raises:
        InputError: if none is left, or a fusion is left with one.
    """
    modality = find_variant(variant).modality
    chosen = [s for s in streams if modality in (None, s.modality)]
    needed = 1 if modality else 2
    if len(chosen) < needed:
        got = ", ".join(s.name for s in streams) or "none"
        expected = f"at least {needed} {modality + ' ' if modality else ''}stream{'s' * (needed > 1)}"
        todo = "Name them in data.streams, or choose the variant `visual` or `audio`."
        raise InputError(f"variant {variant}", expected=expected, got=got, todo=todo)
    return chosen


def build_model(streams: Sequence[Stream], config: ModelConfig) -> VAModel:
    """A fresh model of `config.variant` for exactly these streams."""
    made = find_variant(config.variant).build(streams, config)
    return made if isinstance(made, VAModel) else FusionModel(streams, config, made)
