"""Continuous valence-arousal estimation from face and voice, with reliability-guided fusion on cached features."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import evaluate, predict, train
    from .data import Clip, Track, open_store
    from .fusion.export.pretrained import SAGE

    __version__: str

__all__ = ["SAGE", "Clip", "Track", "__version__", "evaluate", "open_store", "predict", "train"]
_ROOMS = {
    **dict.fromkeys(("evaluate", "predict", "train"), ".api"),
    **dict.fromkeys(("Clip", "Track", "open_store"), ".data"),
    "SAGE": ".fusion.export.pretrained",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: torch takes seconds, which `sage-va --help` need not wait."""
    if name == "__version__":
        from importlib.metadata import version

        return version("sage-va")
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_ROOMS[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
