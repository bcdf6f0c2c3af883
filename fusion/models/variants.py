"""Variants by name. A package adds its own by an entry point of the group `sage_va.variants`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...data.errors import InputError
from ...data.plugins import find_by_name, names_with_added

if TYPE_CHECKING:
    from torch import nn

    from ...data.windows.corpus import Stream
    from ..config import Config, ModelConfig
    from .base import Build, VAModel

GROUP = "sage_va.variants"


@dataclass(frozen=True)
class Variant:
    """A variant: how its model is built, and what it requires.

    Args:
        build: from streams and sizes to a fusion (a module from `Encoded` to `Fused`), or to a whole `VAModel`.
        source: paper or authors.
        modality: of the streams that it takes; None for a fusion of at least two streams.
        demands: values of the configuration that it sets, by dotted key.
    """

    build: Build
    source: str
    modality: str | None = None
    demands: Mapping[str, Any] = field(default_factory=dict)


def _own(name: str) -> Build:
    """Returns one of our own builders, imported when a model is built: a list of variants need not wait for torch."""

    def build(streams: Sequence[Stream], config: ModelConfig) -> nn.Module:
        from .builders import BUILDERS

        return BUILDERS[name](streams, config)

    return build


def _sage(demands: Mapping[str, Any] | None = None) -> Variant:
    source = "Lee et al., arXiv 2603.11468, as docs/model.md reads it"
    return Variant(_own("sage"), source, demands={"model.quality_input": True, **(demands or {})})


VARIANTS: dict[str, Variant] = {
    "linear": Variant(_own("linear"), "the field's plainest baseline"),
    "visual": Variant(_own("concat"), "one modality", modality="visual"),
    "audio": Variant(_own("concat"), "one modality", modality="audio"),
    "concat": Variant(_own("concat"), "the usual baseline"),
    "concat-quality": Variant(
        _own("concat"),
        "concat that is given what a gate reads: the quality signals",
        demands={"model.quality_input": True},
    ),
    "late": Variant(_own("late"), "decision-level fusion"),
    "gmu": Variant(_own("gmu"), "Arevalo et al., arXiv 1702.01992"),
    "xattn": Variant(_own("xattn"), "Tsai et al., arXiv 1906.00295"),
    "jca": Variant(_own("jca"), "Praveen et al., arXiv 2209.09068"),
    "rjca": Variant(_own("rjca"), "Praveen et al., arXiv 2304.07958"),
    "dca": Variant(_own("dca"), "Praveen and Alam, arXiv 2403.19554"),
    "lfan": Variant(_own("lfan"), "Zhang et al., arXiv 2107.01175"),
    "tagf": Variant(_own("tagf"), "Lee et al., arXiv 2507.02080"),
    "raav": Variant(_own("raav"), "team RAS, arXiv 2603.13056"),
    "sage": _sage(),
    "sage-no-stage": _sage({"model.stage": "none"}),
    "sage-latent": _sage({"model.stage": "latent"}),
    "sage-depth": _sage({"model.stage": "depth"}),
    "sage-no-calibration": _sage({"model.calibrated": False, "loss.calibration": 0.0, "loss.ordinal": 0.0}),
    "sage-no-separation": _sage({"model.separate": False}),
    "sage-no-tcn": _sage({"model.tcn_blocks": 0}),
    "sage-no-transformer": _sage({"model.layers": 0}),
    "sage-no-veto": _sage({"model.veto": 0.0}),
    "sage-no-gaps": _sage({"model.gaps": False}),
    "sage-no-quality": _sage({"model.quality_input": False}),
    "sage-shares": _sage({"model.weighting": "shares"}),
    "sage-plain": _sage(
        {
            "model.stage": "latent",
            "model.quality_input": False,
            "model.veto": 0.0,
            "model.gaps": False,
            "model.weighting": "shares",
            "model.floor": 0.02,
        }
    ),
}


def variant_names() -> list[str]:
    """Returns the names of our own variants in their order, then of those that packages add."""
    return names_with_added(GROUP, VARIANTS)


def find_variant(name: str) -> Variant:
    """Returns a variant by name.

    Raises:
        InputError: for an unknown name, or if a package's entry point is no `Variant`.
    """
    return find_by_name("variant", GROUP, VARIANTS, name, _fault)


def _fault(added: Any) -> str | None:
    return None if isinstance(added, Variant) else f"a {type(added).__name__}, not a Variant"


def resolve(config: Config) -> Config:
    """Returns the configuration with the values that its variant demands.

    Raises:
        InputError: for an unknown variant.
    """
    from ..config import check_config

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
    """Returns the streams that a variant takes: those of its modality, or all.

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
    """Returns a fresh model of `config.variant` for exactly these streams."""
    from .builders import whole_model

    return whole_model(find_variant(config.variant).build(streams, config), streams, config)
