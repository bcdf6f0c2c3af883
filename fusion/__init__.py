"""Stage 2: Tracks in, valence and arousal out. Never imports extract.

The names below are the interface for authors of variants (docs/variants.md).
"""

from typing import TYPE_CHECKING

from ..data.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _FILES)
