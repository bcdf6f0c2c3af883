"""Models to start from that need no hub: encoders in packages, and the model that is shipped with the demo."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..data.errors import InputError
from ..extract.catalogue import StartingModel, known_encoders
from ..extract.encoders.places import note_place
from .pretrained import DIM, FACE, FACE_DIM, VISUAL, VOICE, PackagedWeights, write_face_encoder, write_voice_encoder

SHIPPED = Path(__file__).parent / "assets" / "drawn-faces"
FACE_FILE, VOICE_FOLDER = "efficientnet_lite0.safetensors", "whisper-tiny-en"


def starting_models() -> list[StartingModel]:
    """Returns all models to start from: encoders on the hub and in packages, features without weights, a trained model.

    Raises:
        InputError: if a package holds another weights file than the known one.
    """
    packaged = [_packaged(FACE, VISUAL, "--visual", FACE_DIM), _packaged(VOICE, VOICE_FOLDER, "--audio", DIM)]
    return [*known_encoders(), *packaged, _shipped()]


def _packaged(weights: PackagedWeights, name: str, use: str, dimensions: int) -> StartingModel:
    data, source = weights.trained_on, f"package {weights.package}"
    about = (weights.num_bytes / 1e6, weights.licence, data, False, source, weights.card, weights.place() is not None)
    return StartingModel(name, use, dimensions, *about)


def _shipped() -> StartingModel:
    megabytes = (SHIPPED / "model.safetensors").stat().st_size / 1e6
    data, card = "drawn faces and synthetic voices: not for people", str(SHIPPED / "README.md")
    return StartingModel(SHIPPED.name, "predict", None, megabytes, "CC0-1.0", data, True, "sage-va", card, True)


def write_models(folder: Path) -> Iterator[Path]:
    """Writes what this machine has into a folder, ready for --visual-weights, --audio and `predict`; yields the places.

    `predict` finds the face encoder of the trained model there by itself.

    Raises:
        InputError: if something is there already.
    """
    writers = {FACE_FILE: (FACE, write_face_encoder), VOICE_FOLDER: (VOICE, write_voice_encoder)}
    for name in (*writers, SHIPPED.name):
        if (folder / name).exists():
            raise InputError(folder / name, "it exists already", todo="Choose another --out.")
    for name, (weights, write) in writers.items():
        if place := weights.place():
            write(place, folder / name)
            yield folder / name
    if (folder / FACE_FILE).exists():
        note_place(_face_sha256(), str(folder / FACE_FILE))
    shutil.copytree(SHIPPED, folder / SHIPPED.name)
    yield folder / SHIPPED.name


def _face_sha256() -> str:
    """Returns the hash of the weights of the face encoder, as the fingerprint of the trained model has it."""
    streams = json.loads((SHIPPED / "config.json").read_text(encoding="utf-8"))["streams"]
    return next(each["fingerprint"]["encoder"]["weights_sha256"] for each in streams if each["modality"] == "visual")
