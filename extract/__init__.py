"""Extraction: recordings in, cached Tracks out. The names below are the interface for authors of extensions."""

from typing import TYPE_CHECKING

from ..data.lazy import lazy_names

if TYPE_CHECKING:
    from ..data.machine import find_device
    from .encoders.audio_windows import WindowPlan
    from .encoders.base import AudioEncoder, VisualEncoder, plan_of
    from .encoders.factory import encoder_from_fingerprint, encoders_from
    from .encoders.timm_encoder import TimmEncoder
    from .encoders.transformers_encoder import TransformersEncoder
    from .encoders.weights import compute_dtype, fixed_seed, load_into, load_state, weights_sha256
    from .engine.pipeline import extract
    from .faces.detectors import Detector
    from .faces.finder import FaceFinder
    from .options import ExtractOptions

__all__ = [
    "AudioEncoder",
    "Detector",
    "ExtractOptions",
    "FaceFinder",
    "TimmEncoder",
    "TransformersEncoder",
    "VisualEncoder",
    "WindowPlan",
    "compute_dtype",
    "encoder_from_fingerprint",
    "encoders_from",
    "extract",
    "find_device",
    "fixed_seed",
    "load_into",
    "load_state",
    "plan_of",
    "weights_sha256",
]
_WEIGHTS = ("compute_dtype", "fixed_seed", "load_into", "load_state", "weights_sha256")
_MODULES = {
    **dict.fromkeys(_WEIGHTS, ".encoders.weights"),
    **dict.fromkeys(("AudioEncoder", "VisualEncoder", "plan_of"), ".encoders.base"),
    **dict.fromkeys(("encoder_from_fingerprint", "encoders_from"), ".encoders.factory"),
    "find_device": "..data.machine",
    "WindowPlan": ".encoders.audio_windows",
    "TimmEncoder": ".encoders.timm_encoder",
    "TransformersEncoder": ".encoders.transformers_encoder",
    "extract": ".engine.pipeline",
    "Detector": ".faces.detectors",
    "FaceFinder": ".faces.finder",
    "ExtractOptions": ".options",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
