"""Encoders by name, by recipe and from the fingerprint of a stream. The libraries behind them load on first use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...data.errors import InputError, did_you_mean
from .places import find_place, note_place

if TYPE_CHECKING:
    from .base import AudioEncoder, Encoder, VisualEncoder
    from .timm_encoder import TimmEncoder
    from .transformers_encoder import TransformersEncoder

RUNTIMES = ("torch", "openvino")
WITHOUT_WEIGHTS = ("logmel", "prosody")  # audio features by librosa
_KINDS = ("timm", "transformers", "librosa", "plug-in")


@dataclass(frozen=True)
class Recipe:
    """Instructions from which each process builds its own encoders; can be pickled.

    Args:
        arguments: keyword arguments of the factory, without `device`.
        factory: `module:function`, which returns (visual encoder or None, audio encoder or None).
    """

    arguments: Mapping[str, Any]
    factory: str = "sage_va.extract.encoders.factory:encoders_from"

    def make(self, device: str) -> tuple[VisualEncoder | None, AudioEncoder | None]:
        """Builds the encoders on a device.

        Raises:
            InputError: if one of them is not available.
        """
        return EntryPoint("encoders", self.factory, "sage_va").load()(**self.arguments, device=device)


def encoders_from(
    *,
    visual: str | None = None,
    visual_weights: str = "hub",
    image_size: int | None = None,
    audio: str | None = None,
    audio_weights: str = "hub",
    layer: str = "last",
    vad: bool = False,
    device: str = "auto",
    precision: str = "auto",
    runtime: str = "torch",
) -> tuple[VisualEncoder | None, AudioEncoder | None]:
    """Builds the encoders that options name; a plug-in takes precedence over a built-in encoder of the same name.

    Args:
        visual: a plug-in, or a timm model; None = no visual stream.
        visual_weights: "hub", "random", or a file.
        image_size: height and width of the images in pixels; None = as the visual model was trained.
        audio: a plug-in, `logmel`, `prosody`, or a transformers model (hub id or directory); None = no audio stream.
        audio_weights: "hub" or "random".
        layer: output of the audio encoder, see `TransformersEncoder`.
        vad: measure the probability of a voice at each step.
        device: "auto", "cpu", "cuda", "cuda:1", …
        precision: "auto", "float32", "bfloat16" or "float16".
        runtime: "torch", or "openvino" for models of timm and transformers on a CPU.

    Raises:
        InputError: if no encoder is named, or one of them is not available.
    """
    if runtime not in RUNTIMES:
        raise InputError("runtime", expected=" | ".join(RUNTIMES), got=repr(runtime), todo="Change the option.")
    if visual is None and audio is None:
        todo = "Pass --visual, --audio or both."
        raise InputError("extract", expected="an encoder", got="none", todo=todo)
    common = {"device": device, "precision": precision}
    visual_encoder = None
    if visual:
        visual_encoder = _visual(visual, {"weights": visual_weights, "image_size": image_size, **common}, runtime)
        if visual_weights not in ("hub", "random"):
            note_place(visual_encoder.weights_sha256, visual_weights)
    audio_settings = {"weights": audio_weights, "layer": layer, **common}
    audio_encoder = _audio(audio, audio_settings, runtime, vad=vad) if audio else None
    if audio and audio_encoder and audio_encoder.kind == "transformers":
        note_place(audio_encoder.weights_sha256, audio)
    return visual_encoder, audio_encoder


def _visual(name: str, settings: Mapping[str, Any], runtime: str) -> VisualEncoder:
    from .plugins import load_plugin

    plugin = load_plugin(name, "visual", settings)
    if plugin:
        _check_torch(name, runtime)
        return cast("VisualEncoder", plugin)
    return _timm_class(runtime)(name, **settings)


def _timm_class(runtime: str) -> type[TimmEncoder]:
    if runtime == "openvino":
        from .openvino_timm import OpenVinoTimmEncoder

        return OpenVinoTimmEncoder
    from .timm_encoder import TimmEncoder

    return TimmEncoder


def _transformers_class(runtime: str) -> type[TransformersEncoder]:
    if runtime == "openvino":
        from .openvino_transformers import OpenVinoTransformersEncoder

        return OpenVinoTransformersEncoder
    from .transformers_encoder import TransformersEncoder

    return TransformersEncoder


def _check_torch(name: str, runtime: str) -> None:
    if runtime != "torch":
        todo = "Leave the option out, or choose a model of timm or transformers."
        raise InputError("runtime", expected=f"torch for {name}", got=repr(runtime), todo=todo)


def _audio(name: str, settings: Mapping[str, str], runtime: str, *, vad: bool) -> AudioEncoder:
    from .plugins import load_plugin, plugin_names

    plugin = load_plugin(name, "audio", settings, vad=vad)
    if plugin:
        _check_torch(name, runtime)
        return cast("AudioEncoder", plugin)
    if name in WITHOUT_WEIGHTS:
        _check_torch(name, runtime)
        return _librosa_encoder(name, settings, vad=vad)
    todo = did_you_mean(name, [*plugin_names(), *WITHOUT_WEIGHTS], "", num=3)
    if todo and "/" not in name and not Path(name).is_dir():
        expected = f"a hub id, a model directory, {' or '.join(WITHOUT_WEIGHTS)}, or the name of a plug-in"
        raise InputError("audio", expected=expected, got=repr(name), todo=todo)
    return _transformers_class(runtime)(name, vad=vad, **settings)


def _librosa_encoder(name: str, settings: Mapping[str, str], *, vad: bool) -> AudioEncoder:
    from .librosa_encoders import LogMel, Prosody
    from .vad import voice_fingerprint

    for option, default in (("weights", "hub"), ("layer", "last")):
        if settings[option] != default:
            problem = f"it takes no {option}, and {settings[option]!r} was given"
            raise InputError(f"encoder {name}", problem, todo="Leave it out.")
    encoder = LogMel() if name == LogMel.name else Prosody()
    if vad:
        encoder.plan = replace(encoder.plan, voice=voice_fingerprint(encoder.plan.sampling_rate))
    return encoder


def encoder_from_fingerprint(
    fingerprint: Mapping[str, Any], weights: str | None = None, *, device: str = "auto"
) -> Encoder:
    """Rebuilds the encoder of a stream from the stream's recorded fingerprint.

    Args:
        fingerprint: of a visual or audio stream.
        weights: a weights file for timm, a model directory for transformers; None = random weights again where they
            were random; else the file or directory with these weights that was used last on this machine; else the
            model hub.
        device: see `encoders_from`.

    Raises:
        InputError: if the encoder is not available, or its weights are not those that the fingerprint names.
    """
    recorded = fingerprint["encoder"]
    if recorded["kind"] not in _KINDS:
        todo = "Import the new clips too (`sage-va cache import`), and name that cache."
        raise InputError(recorded["name"], expected="features that can be extracted", got="imported ones", todo=todo)
    drawn = recorded["weights"] == "random" and recorded["kind"] != "transformers"  # this kind needs its configuration
    place = weights or (None if drawn else find_place(recorded["weights_sha256"]))
    if place is None:
        _check_not_local(recorded)
    encoder = _rebuilt(fingerprint, place, device)
    if encoder.weights_sha256 != recorded["weights_sha256"]:
        raise InputError(
            recorded["name"],
            expected=f"the weights {recorded['weights_sha256'][:12]}… that the features were extracted with",
            got=f"{encoder.weights_sha256[:12]}…",
            todo="Pass the weights file or model directory that was used for extraction.",
        )
    if place:
        note_place(encoder.weights_sha256, place)
    encoder.name = recorded["name"]  # equal weights under another path are the same encoder
    return encoder


def _check_not_local(recorded: Mapping[str, Any]) -> None:
    """Refuses a directory that is not known here, before the hub is asked for its name: hub ids have an owner."""
    if recorded["kind"] == "transformers" and "/" not in recorded["name"]:
        todo = "Pass its place by --audio; it is recognised by its weights, under any name."
        raise InputError(recorded["name"], "this encoder is a local folder that was not used here before", todo=todo)


def _rebuilt(fingerprint: Mapping[str, Any], weights: str | None, device: str) -> Encoder:
    recorded = fingerprint["encoder"]
    default_weights = "random" if recorded["weights"] == "random" else "hub"
    runtime = fingerprint.get("runtime", {"name": "torch"})["name"]
    settings: dict[str, Any] = {"device": device if runtime == "torch" else "cpu"}
    settings["precision"] = fingerprint["compute_dtype"]
    if fingerprint["modality"] == "visual":
        height, width = fingerprint["preprocessing"]["size"]
        settings["image_size"] = height if height == width else None
    vad = "voice" in fingerprint["preprocessing"]
    if recorded["kind"] == "timm":
        return _timm_class(runtime)(recorded["name"], weights=weights or default_weights, **settings)
    if recorded["kind"] == "librosa":
        return _librosa_encoder(recorded["name"], {"weights": "hub", "layer": "last"}, vad=vad)
    settings["layer"] = recorded["layer"]
    if recorded["kind"] == "transformers":
        name = weights or recorded["name"]
        return _transformers_class(runtime)(name, vad=vad, weights=default_weights, **settings)
    settings["weights"] = weights or default_weights
    return _rebuilt_plugin(recorded, fingerprint["modality"], settings, vad=vad)


def _rebuilt_plugin(recorded: Mapping[str, Any], modality: str, settings: Mapping[str, Any], *, vad: bool) -> Encoder:
    from .plugins import load_plugin

    plugin = load_plugin(recorded["name"], modality, settings, vad=vad, rebuild=True)
    todo = "Install the package and version that the features were extracted with, or extract and train again."
    if plugin is None:
        got = "no plug-in of that name"
        raise InputError(recorded["name"], expected=f"the encoder of {recorded['package']}", got=got, todo=todo)
    assert plugin.origin is not None, "a plug-in has an origin"
    if plugin.origin["code_sha256"] != recorded["code_sha256"]:
        got = f"other code, of {plugin.origin['package']}"
        expected = f"the code of {recorded['package']} that the features were extracted with"
        raise InputError(recorded["name"], expected=expected, got=got, todo=todo)
    return plugin
