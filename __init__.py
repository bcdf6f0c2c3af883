"""Continuous valence-arousal estimation from face and voice, with reliability-guided fusion on cached features."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import evaluate, predict, train
    from .data import Clip, Track, open_store
    from .fusion.export.pretrained import SAGE

__version__ = version("sage-va")
__all__ = ["SAGE", "Clip", "Track", "__version__", "evaluate", "open_store", "predict", "train"]
_ROOMS = {
    **dict.fromkeys(("evaluate", "predict", "train"), ".api"),
    **dict.fromkeys(("Clip", "Track", "open_store"), ".data"),
    "SAGE": ".fusion.export.pretrained",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for: torch costs seconds that `sage-va --help` need not wait."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_ROOMS[name], __name__), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
