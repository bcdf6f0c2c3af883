"""Plug-ins: encoders that other packages add by entry points of the group `sage_va.encoders`."""

from __future__ import annotations

import inspect
from collections.abc import Container, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np

from ...data.errors import InputError, first_line
from ...data.hashing import file_sha256
from ...data.plugins import added_names, find_added, load_added, mend, package_of
from . import GROUP
from .base import AudioEncoder, Encoder, VisualEncoder
from .vad import voice_fingerprint

CLASSES: dict[str, type[Encoder]] = {"visual": VisualEncoder, "audio": AudioEncoder}
_DEFAULTS = {"weights": "hub", "layer": "last", "precision": "auto", "image_size": None}
_PROBE_SEED, _PROBE_S = 0, 0.5


def plugin_names() -> list[str]:
    """Returns the names of all plug-ins, sorted."""
    return added_names(GROUP)


def load_plugin(
    name: str, modality: str, settings: Mapping[str, Any], *, vad: bool = False, rebuild: bool = False
) -> Encoder | None:
    """Builds the plug-in of exactly that name; returns None where no package adds one.

    Args:
        name: of the entry point.
        modality: "visual" or "audio".
        settings: weights, layer, device, precision and image_size. The class gets those that it takes and that are not
            defaults.
        vad: measure the probability of a voice at each step.
        rebuild: True if the settings come from a fingerprint; those that the class does not take are then ignored.

    Raises:
        InputError: if the plug-in cannot be imported or built, is for the other modality, does not take a setting that
            differs from the default, or returns a wrong shape or values that are not finite for a batch of noise.
    """
    place = f"encoder {name}"
    point = find_added(GROUP, name, place)
    if point is None:
        return None
    encoder = _build(point, place, modality, settings, rebuild=rebuild)
    encoder.name = name
    encoder.origin = {"package": package_of(point), "code_sha256": file_sha256(Path(inspect.getfile(type(encoder))))}
    if vad and isinstance(encoder, AudioEncoder):
        encoder.plan = replace(encoder.plan, voice=voice_fingerprint(encoder.plan.sampling_rate))
    _probe(encoder, place)
    return encoder


def _build(point: EntryPoint, place: str, modality: str, settings: Mapping[str, Any], *, rebuild: bool) -> Encoder:
    todo = mend(point)
    kind = load_added(point, place)
    _check_class(kind, place, modality, todo)
    takes = inspect.signature(kind).parameters
    if not rebuild:
        _check_settings(place, modality, settings, takes)
    try:
        chosen = {key: value for key, value in settings.items() if key in takes and value != _DEFAULTS.get(key)}
        return kind(**chosen)
    except InputError:
        raise
    except Exception as error:
        raise InputError(place, f"{point.value} cannot be built: {first_line(error)[:200]}", todo=todo) from error


def _check_class(candidate: object, place: str, modality: str, todo: str) -> None:
    kinds = [key for key, kind in CLASSES.items() if inspect.isclass(candidate) and issubclass(candidate, kind)]
    if kinds != [modality]:
        todo = f"Pass it to --{kinds[0]}." if kinds else todo
        expected = f"a class derived from {CLASSES[modality].__name__}"
        raise InputError(place, expected=expected, got=f"{candidate!r}", todo=todo)


def _check_settings(place: str, modality: str, settings: Mapping[str, Any], takes: Container[str]) -> None:
    for key, default in _DEFAULTS.items():
        if settings.get(key, default) != default and key not in takes:
            option = f"{modality}_weights" if key == "weights" else key
            raise InputError(place, f"it takes no {option}, and {settings[key]!r} was given", todo="Leave it out.")


def _probe(encoder: Encoder, place: str) -> None:
    """Encodes two items of noise, so that a faulty plug-in fails before the first clip."""
    noise = np.random.default_rng(_PROBE_SEED)
    todo = "Mend its `embed`."
    try:
        if isinstance(encoder, VisualEncoder):
            output = encoder.encode(noise.integers(0, 256, (2, *encoder.size, 3), dtype=np.uint8))
        else:
            assert isinstance(encoder, AudioEncoder), "the other modality"
            plan = encoder.plan
            length = plan.window if plan.padded else max(plan.receptive_field, round(_PROBE_S * plan.sampling_rate))
            output = encoder.encode(noise.uniform(-0.5, 0.5, (2, length)).astype(np.float32))
    except InputError:
        raise
    except Exception as error:
        raise InputError(place, f"it fails on a batch of noise: {first_line(error)[:200]}", todo=todo) from error
    if not np.isfinite(output).all():
        raise InputError(place, "it returns NaN or infinity for a batch of noise", todo=todo)
