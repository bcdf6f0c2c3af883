"""Continuous valence-arousal estimation from face and voice, with reliability-guided fusion on cached features."""

from importlib.metadata import version

from .data import Clip, Track, open_store

__version__ = version("sage-va")
__all__ = ["Clip", "Track", "__version__", "open_store"]
