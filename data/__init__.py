"""What both stages share: clips, the cache, labels, splits and windows. Imports neither stage."""

from .clip import MODALITIES, Clip, FrameClock, Track
from .errors import DamagedError, InputError
from .store.base import Problem, Store, open_store
from .store.fingerprint import SCHEMA_VERSION, json_sha256, stream_alias, stream_name
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
