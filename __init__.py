"""Continuous valence-arousal estimation from face and voice, with reliability-guided fusion on cached features."""

from typing import TYPE_CHECKING, Any

from .data.lazy import lazy_names

if TYPE_CHECKING:
    from .api import evaluate, plot_clip, predict, render_clip, report, train
    from .data import Clip, Track, open_store
    from .fusion.export.pretrained import SAGE

    __version__: str

__all__ = [
    "SAGE",
    "Clip",
    "Track",
    "__version__",
    "evaluate",
    "open_store",
    "plot_clip",
    "predict",
    "render_clip",
    "report",
    "train",
]
_ROOMS = {
    **dict.fromkeys(("evaluate", "plot_clip", "predict", "render_clip", "report", "train"), ".api"),
    **dict.fromkeys(("Clip", "Track", "open_store"), ".data"),
    "SAGE": ".fusion.export.pretrained",
}
_import_name, __dir__ = lazy_names(__name__, _ROOMS)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("sage-va")
    return _import_name(name)
