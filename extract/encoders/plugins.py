"""Encoders that other packages add by the entry points of the group `sage_va.encoders`."""

from __future__ import annotations

import inspect
from collections.abc import Container, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np

from ...data.errors import InputError, first_line
from ...data.hashing import file_sha256
from ...data.plugins import added_names, find_added, load_added, mend, package_of
from .base import AudioEncoder, Encoder, VisualEncoder
from .vad import voice_fingerprint

GROUP = "sage_va.encoders"
CLASSES: dict[str, type[Encoder]] = {"visual": VisualEncoder, "audio": AudioEncoder}
_USUAL = {"weights": "hub", "layer": "last", "precision": "auto"}
_PROBE_SEED, _PROBE_S = 0, 0.5


def plugin_names() -> list[str]:
    """Of all added encoders, sorted."""
    return added_names(GROUP)


def load_plugin(
    name: str, modality: str, settings: Mapping[str, str], *, vad: bool = False, rebuild: bool = False
) -> Encoder | None:
    """The added encoder of exactly that name, or None where no package adds one.

    Args:
        settings: weights, layer, device and precision. Its class gets those that it takes and that are not the usual.
        vad: measure for each step how likely it holds a voice.
        rebuild: the settings are a record of what it was, not a wish; those that it does not take do not matter.

    Raises:
        InputError: if it cannot be loaded or made, is for the other modality, does not take a setting that differs
            from the usual, or does not keep its promises for a batch of noise.
    """
    place = f"encoder {name}"
    point = find_added(GROUP, name, place)
    if point is None:
        return None
    made = _made(point, place, modality, settings, rebuild=rebuild)
    made.name = name
    made.origin = {"package": package_of(point), "code_sha256": file_sha256(Path(inspect.getfile(type(made))))}
    if vad and isinstance(made, AudioEncoder):
        made.plan = replace(made.plan, voice=voice_fingerprint(made.plan.sampling_rate))
    _probe(made, place)
    return made


def _made(point: EntryPoint, place: str, modality: str, settings: Mapping[str, str], *, rebuild: bool) -> Encoder:
    todo = mend(point)
    found = load_added(point, place)
    _check_class(found, place, modality, todo)
    takes = inspect.signature(found).parameters
    if not rebuild:
        _check_settings(place, modality, settings, takes)
    try:
        chosen = {key: value for key, value in settings.items() if key in takes and value != _USUAL.get(key)}
        return found(**chosen)
    except InputError:
        raise
    except Exception as error:
        expected = f"that {point.value} can be made"
        raise InputError(place, expected=expected, got=_first_line(error), todo=todo) from error


def _check_class(found: object, place: str, modality: str, todo: str) -> None:
    kinds = [key for key, kind in CLASSES.items() if inspect.isclass(found) and issubclass(found, kind)]
    if kinds != [modality]:
        todo = f"Pass it to --{kinds[0]}." if kinds else todo
        expected = f"a class derived from {CLASSES[modality].__name__}"
        raise InputError(place, expected=expected, got=f"{found!r}", todo=todo)


def _check_settings(place: str, modality: str, settings: Mapping[str, str], takes: Container[str]) -> None:
    for key, usual in _USUAL.items():
        if settings.get(key, usual) != usual and key not in takes:
            option = f"--{modality}-weights" if key == "weights" else f"--{key}"
            got = f"{option} {settings[key]}"
            raise InputError(place, expected=f"no {option}, since it takes none", got=got, todo="Leave it out.")


def _probe(encoder: Encoder, place: str) -> None:
    """Encodes two items of noise: what is wrong always is wrong before the first clip."""
    noise = np.random.default_rng(_PROBE_SEED)
    todo = "Mend its `embed`."
    try:
        if isinstance(encoder, VisualEncoder):
            found = encoder.encode(noise.integers(0, 256, (2, *encoder.size, 3), dtype=np.uint8))
        else:
            assert isinstance(encoder, AudioEncoder), "there are two kinds"
            plan = encoder.plan
            length = plan.window if plan.padded else max(plan.hears, round(_PROBE_S * plan.sampling_rate))
            found = encoder.encode(noise.uniform(-0.5, 0.5, (2, length)).astype(np.float32))
    except InputError:
        raise
    except Exception as error:
        raise InputError(place, expected="embeddings of noise", got=_first_line(error), todo=todo) from error
    if not np.isfinite(found).all():
        raise InputError(place, expected="finite embeddings of noise", got="NaN or infinity", todo=todo)


def _first_line(error: Exception) -> str:
    return first_line(error)[:200]
