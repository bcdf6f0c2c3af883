"""Identity of a stream: the fingerprint of an encoder and the options that change the features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..data.errors import InputError
from ..data.store.fingerprint import stream_name
from .options import ExtractOptions

if TYPE_CHECKING:  # it loads torch
    from .encoders.base import Encoder


def fingerprint_of(encoder: Encoder, options: ExtractOptions) -> dict[str, Any]:
    """Returns all that decides the features of a stream: the encoder's part, the crop, the rate and the decoder."""
    from .decode.container import DECODER

    fingerprint = encoder.fingerprint
    if encoder.modality == "visual":
        if options.finder is None:
            fingerprint["preprocessing"]["faces"] = options.faces
        else:
            fingerprint["preprocessing"] = {key: fingerprint["preprocessing"][key] for key in ("size", "mean", "std")}
            fingerprint["preprocessing"]["faces"] = options.finder.fingerprint
        fingerprint["fps"] = "native" if options.fps is None else float(options.fps)
    return {**fingerprint, "decoder": dict(DECODER), "stored_dtype": options.store_dtype}


def stream_of(encoder: Encoder, options: ExtractOptions) -> str:
    """Returns the full name of the stream, `<modality>/<alias>-<8 hex>`, of an encoder with these options."""
    return stream_name(encoder.modality, encoder.alias, fingerprint_of(encoder, options))


def options_of(fingerprint: Mapping[str, Any], face_weights: str | None = None, **others: Any) -> ExtractOptions:
    """Rebuilds the options of an extraction from the fingerprint of its stream.

    Args:
        fingerprint: of a visual or audio stream.
        face_weights: file with the detector's weights; None = those that the detector finds by itself.
        others: options that no fingerprint holds, such as `batch_size`.

    Raises:
        InputError: if faces were detected, and the detector is not available with the same weights.
    """
    fps = fingerprint.get("fps", "native")
    faces = fingerprint["preprocessing"].get("faces", "full")
    finder = None
    if isinstance(faces, Mapping):
        from .faces.finder import FaceFinder

        finder = FaceFinder.of_fingerprint(faces, face_weights)
    return ExtractOptions(
        faces="detect" if isinstance(faces, Mapping) else faces,
        finder=finder,
        fps=None if fps == "native" else float(fps),
        store_dtype=fingerprint["stored_dtype"],
        **others,
    )


def check_same(fingerprint: Mapping[str, Any], encoder: Encoder, options: ExtractOptions) -> None:
    """Checks that an extraction would produce the stream of a fingerprint.

    Raises:
        InputError: naming what differs, such as the version of the decoder.
    """
    differing = _difference(fingerprint, fingerprint_of(encoder, options))
    if differing:
        key, recorded, ours = differing
        todo = "Install the version that the run was trained with, or extract and train again."
        raise InputError(encoder.name, expected=f"{key} {recorded}", got=f"{key} {ours}", todo=todo)


def _difference(recorded: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Returns the first value that differs: its dotted key, and the value in each fingerprint; None if none does."""
    for key in recorded:
        one, other = recorded[key], ours.get(key)
        if one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping) and (inner := _difference(one, other)):
            return f"{key}.{inner[0]}", *inner[1:]
        return key, one, other
    return None
