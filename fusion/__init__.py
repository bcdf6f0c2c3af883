"""Stage 2: Tracks in, valence and arousal out. Never imports extract.

The names below are the interface for authors of variants (docs/variants.md).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data.windows.corpus import Stream, Windows
    from .config import Config, ModelConfig
    from .models.base import FusionModel, Output, VAModel
    from .models.causal_cache import Memory, with_past
    from .models.sage import Encoded, Fused
    from .models.variants import Variant

__all__ = [
    "Config",
    "Encoded",
    "Fused",
    "FusionModel",
    "Memory",
    "ModelConfig",
    "Output",
    "Stream",
    "VAModel",
    "Variant",
    "Windows",
    "with_past",
]
_FILES = {
    **dict.fromkeys(("Stream", "Windows"), "..data.windows.corpus"),
    **dict.fromkeys(("Config", "ModelConfig"), ".config"),
    **dict.fromkeys(("FusionModel", "Output", "VAModel"), ".models.base"),
    **dict.fromkeys(("Memory", "with_past"), ".models.causal_cache"),
    **dict.fromkeys(("Encoded", "Fused"), ".models.sage"),
    "Variant": ".models.variants",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: torch takes seconds."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_FILES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
