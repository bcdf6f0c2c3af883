"""The contract between both stages: clips, the cache, labels, splits and windows. Imports neither stage."""

from typing import TYPE_CHECKING

from .lazy import lazy_names

if TYPE_CHECKING:
    from .clip import MODALITIES, Clip, FrameClock, Track
    from .errors import DamagedError, InputError
    from .hashing import json_sha256
    from .store.base import Problem, Store, open_store
    from .store.fingerprint import SCHEMA_VERSION, stream_alias, stream_name
    from .timebase import Grid, to_grid

__all__ = [
    "MODALITIES",
    "SCHEMA_VERSION",
    "Clip",
    "DamagedError",
    "FrameClock",
    "Grid",
    "InputError",
    "Problem",
    "Store",
    "Track",
    "json_sha256",
    "open_store",
    "stream_alias",
    "stream_name",
    "to_grid",
]
_FILES = {
    **dict.fromkeys(("MODALITIES", "Clip", "FrameClock", "Track"), ".clip"),
    **dict.fromkeys(("DamagedError", "InputError"), ".errors"),
    **dict.fromkeys(("Problem", "Store", "open_store"), ".store.base"),
    **dict.fromkeys(("SCHEMA_VERSION", "stream_alias", "stream_name"), ".store.fingerprint"),
    "json_sha256": ".hashing",
    **dict.fromkeys(("Grid", "to_grid"), ".timebase"),
}

__getattr__, __dir__ = lazy_names(__name__, _FILES)
