"""What a run makes: the options that change the numbers, the streams that they name, the bytes that they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..data.clip import VALUE_DTYPES
from ..data.errors import InputError, did_you_mean
from ..data.hashing import json_sha256
from ..data.manifest import Source, crop_numbers
from ..data.store.fingerprint import stream_name
from .decode.reader import DECODER
from .encoders.base import AudioEncoder, VisualEncoder
from .encoders.plugins import load_plugin, plugin_names
from .encoders.timm_encoder import TimmEncoder
from .encoders.transformers_encoder import TransformersEncoder
from .faces.finder import FaceFinder
from .faces.tracking import PERSONS
from .media_hashes import MediaHashes

STORE_DTYPES = VALUE_DTYPES
FACES = ("full", "crops", "detect")
_KINDS = ("timm", "transformers", "plug-in")
Encoder = VisualEncoder | AudioEncoder


@dataclass(frozen=True)
class ExtractOptions:
    """How to extract. Those up to `person` change the features; the others where and how fast they are made.

    Args:
        faces: "full" for whole frames, "crops" for folders of face crops, "detect" to find and cut them.
        fps: frames per second of the visual stream; None = every frame of the recording.
        store_dtype: "float16", "bfloat16" or "float32" values in the cache.
        finder: what "detect" finds and cuts faces with.
        person: whom of those that it finds; "left", "right" and "all" make clips `<clip_id>#<person>`.
        batch_size: frames per device batch. Another size may change the last bit of a feature, not more.
        num_decode_threads: decoder threads; None = chosen by the number of cores.
        num_cores: cores to keep busy; None = all that this process may use.
        overwrite: make streams anew that the cache already has.
        rehash: read media whose hash is known again.
        retry_failed: try clips again that an earlier run could not make from the same bytes.
        max_failures: give up when more clips than this have failed; None = never.

    Raises:
        InputError: if an option is out of its range.
    """

    faces: str = "full"
    fps: float | None = None
    store_dtype: str = "float16"
    finder: FaceFinder | None = None
    person: str = "largest"
    batch_size: int = 32
    num_decode_threads: int | None = None
    num_cores: int | None = None
    overwrite: bool = False
    rehash: bool = False
    retry_failed: bool = False
    max_failures: int | None = None

    def __post_init__(self) -> None:
        _check(self.faces in FACES, "--faces", " | ".join(FACES), self.faces)
        _check(self.person in PERSONS, "--person", " | ".join(PERSONS), self.person)
        if self.person != "largest":
            _check(self.faces == "detect", "--faces", f"detect, since --person is {self.person}", self.faces)
        if (self.faces == "detect") != (self.finder is not None):
            got = f"faces={self.faces!r}, finder={'none' if self.finder is None else 'given'}"
            todo = "Pass ExtractOptions(faces='detect', finder=FaceFinder.of()), or neither."
            raise InputError("--faces", expected="a face finder with detect alone", got=got, todo=todo)
        _check(self.fps is None or 0 < self.fps <= 1000, "--fps", "frames per second above 0", self.fps)
        _check(self.store_dtype in STORE_DTYPES, "--store-dtype", " | ".join(STORE_DTYPES), self.store_dtype)
        _check(self.batch_size >= 1, "--batch-size", "1 or more", self.batch_size)
        for flag, count in {"--decode-threads": self.num_decode_threads, "num_cores": self.num_cores}.items():
            _check(count is None or count >= 1, flag, "1 or more", count)

    @property
    def dtype(self) -> np.dtype[Any]:
        """`store_dtype` as numpy's."""
        return np.dtype(self.store_dtype)


def _check(good: bool, place: str, expected: str, got: object) -> None:
    if not good:
        raise InputError(place, expected=expected, got=repr(got), todo="Change the option.")


def fingerprint_of(encoder: Encoder, options: ExtractOptions) -> dict[str, Any]:
    """All that decides the features of a stream: the encoder's part and the run's."""
    found = encoder.fingerprint
    if isinstance(encoder, VisualEncoder):
        if options.finder is None:
            found["preprocessing"]["faces"] = options.faces
        else:
            found["preprocessing"] = {key: found["preprocessing"][key] for key in ("size", "mean", "std")}
            found["preprocessing"]["faces"] = options.finder.fingerprint
        found["fps"] = "native" if options.fps is None else float(options.fps)
    return {**found, "decoder": dict(DECODER), "stored_dtype": options.store_dtype}


def stream_of(encoder: Encoder, options: ExtractOptions) -> str:
    """The full name of the stream that an encoder makes with these options."""
    return stream_name(encoder.modality, encoder.alias, fingerprint_of(encoder, options))


def options_of(fingerprint: Mapping[str, Any], face_weights: str | None = None, **others: Any) -> ExtractOptions:
    """The options that a visual or audio fingerprint was made with; `others` are those that it does not hold.

    Raises:
        InputError: if faces were detected, and the detector cannot be had with the same weights.
    """
    fps = fingerprint.get("fps", "native")
    faces = fingerprint["preprocessing"].get("faces", "full")
    detected = isinstance(faces, Mapping)
    return ExtractOptions(
        faces="detect" if detected else faces,
        finder=FaceFinder.of_fingerprint(faces, face_weights) if detected else None,
        fps=None if fps == "native" else float(fps),
        store_dtype=fingerprint["stored_dtype"],
        **others,
    )


def encoders_from(
    *,
    visual: str | None = None,
    visual_weights: str = "hub",
    audio: str | None = None,
    audio_weights: str = "hub",
    layer: str = "last",
    vad: bool = False,
    device: str = "auto",
    precision: str = "auto",
) -> tuple[VisualEncoder | None, AudioEncoder | None]:
    """The encoders that options name; either may be None. An added one goes before a built-in one of its name.

    Raises:
        InputError: if there is none, or one of them cannot be had.
    """
    if visual is None and audio is None:
        todo = "Pass --visual, --audio or both."
        raise InputError("extract", expected="an encoder", got="none", todo=todo)
    usual = {"device": device, "precision": precision}
    eyes = _visual(visual, {"weights": visual_weights, **usual}) if visual else None
    ears = _audio(audio, {"weights": audio_weights, "layer": layer, **usual}, vad=vad) if audio else None
    return eyes, ears


def _visual(name: str, settings: Mapping[str, str]) -> VisualEncoder:
    added = load_plugin(name, "visual", settings)
    return cast(VisualEncoder, added) if added else TimmEncoder(name, **settings)


def _audio(name: str, settings: Mapping[str, str], *, vad: bool) -> AudioEncoder:
    added = load_plugin(name, "audio", settings, vad=vad)
    if added:
        return cast(AudioEncoder, added)
    todo = did_you_mean(name, plugin_names(), "", num=3)
    if todo and "/" not in name and not Path(name).is_dir():
        expected = "a hub id, a model directory, or the name of an added encoder"
        raise InputError("--audio", expected=expected, got=repr(name), todo=todo)
    return TransformersEncoder(name, vad=vad, **settings)


def encoder_from_fingerprint(
    fingerprint: Mapping[str, Any], weights: str | None = None, *, device: str = "auto"
) -> Encoder:
    """The encoder that made a stream, from its recorded fingerprint.

    Args:
        weights: where its weights lie (a file for timm, a model directory for transformers); None = random ones
            again where they were random, else the model hub.

    Raises:
        InputError: if it cannot be had, or its weights are not those that the fingerprint names.
    """
    recorded = fingerprint["encoder"]
    if recorded["kind"] not in _KINDS:
        todo = "Import the new clips too (`sage-va cache import`), and name that cache."
        raise InputError(recorded["name"], expected="features that can be extracted", got="imported ones", todo=todo)
    random = recorded["weights"] == "random"
    settings = {"device": device, "precision": fingerprint["compute_dtype"]}
    vad = "voice" in fingerprint["preprocessing"]
    if recorded["kind"] == "timm":
        origin = weights or ("random" if random else "hub")
        encoder: Encoder = TimmEncoder(recorded["name"], weights=origin, **settings)
    elif recorded["kind"] == "transformers":
        settings |= {"weights": "random" if random else "hub", "layer": recorded["layer"]}
        encoder = TransformersEncoder(weights or recorded["name"], vad=vad, **settings)
    else:
        settings |= {"weights": weights or ("random" if random else "hub"), "layer": recorded["layer"]}
        encoder = _added_again(recorded, fingerprint["modality"], settings, vad=vad)
    if encoder.weights_sha256 != recorded["weights_sha256"]:
        raise InputError(
            recorded["name"],
            expected=f"the weights {recorded['weights_sha256'][:12]}… that the features were made with",
            got=f"{encoder.weights_sha256[:12]}…",
            todo="Pass the weights file or model directory that was used for extraction.",
        )
    encoder.name = recorded["name"]  # equal weights under another path are the same encoder
    return encoder


def _added_again(recorded: Mapping[str, Any], modality: str, settings: Mapping[str, str], *, vad: bool) -> Encoder:
    """The added encoder that made a stream."""
    found = load_plugin(recorded["name"], modality, settings, vad=vad, rebuild=True)
    todo = "Install the package and version that the features were made with, or extract and train again."
    if found is None:
        got = "none of that name"
        raise InputError(recorded["name"], expected=f"the encoder of {recorded['package']}", got=got, todo=todo)
    assert found.origin is not None, "an added one"
    if found.origin["code_sha256"] != recorded["code_sha256"]:
        got = f"other code, of {found.origin['package']}"
        expected = f"the code of {recorded['package']} that the features were made with"
        raise InputError(recorded["name"], expected=expected, got=got, todo=todo)
    return cast(Encoder, found)


def check_same(fingerprint: Mapping[str, Any], encoder: Encoder, options: ExtractOptions) -> None:
    """Refuses an extraction that would not make the stream of a fingerprint.

    Raises:
        InputError: naming what differs, such as the version of the decoder.
    """
    made = fingerprint_of(encoder, options)
    if differing := [key for key in fingerprint if fingerprint[key] != made.get(key)]:
        key = differing[0]
        todo = "Install the version that the run was made with, or extract and train again."
        got = f"{key} {made.get(key)}"
        raise InputError(encoder.name, expected=f"{key} {fingerprint[key]}", got=got, todo=todo)


@dataclass(frozen=True)
class Medium:
    """The bytes behind a clip.

    Args:
        source_sha256: names all that is read for the clip, and the cut.
        num_bytes: of the recording, or of all crops where there is none.
        sha256: of the same.
    """

    source_sha256: str
    num_bytes: int
    sha256: str

    @classmethod
    def of(cls, source: Source, hashes: MediaHashes) -> Medium:
        """Hashes it, or knows its hash.

        Raises:
            InputError: if it is not there.
            OSError: if it cannot be read.
        """
        path, crops = source.path, source.crops
        if path is not None and not path.is_file():
            raise InputError(source.clip_id, expected="a file", got=f"none at {path}", todo="Correct the path.")
        if crops is not None and not crops.is_dir():
            got = f"none at {crops}"
            raise InputError(source.clip_id, expected="a folder of crops", got=got, todo="Correct the path.")
        images = crop_numbers(crops) if crops else {}
        crops_sha256 = hashes.of_images(images)
        if path is None:
            num_bytes, sha256 = sum(image.stat().st_size for image in images.values()), crops_sha256
        else:
            num_bytes, sha256 = path.stat().st_size, hashes.of_file(path)
        read = {
            "medium": sha256,
            "crops": crops_sha256 if crops else None,
            "start_s": source.start_s,
            "end_s": source.end_s,
            "fps": source.fps,
        }
        if source.person not in (None, "largest"):  # the person that is there anyway is not a part of the cut
            read["person"] = source.person
        plain = path is not None and all(value is None for key, value in read.items() if key != "medium")
        return cls(sha256 if plain else json_sha256(read), num_bytes, sha256)


def size_of(path: Path | None) -> int:
    """Bytes of a file, 0 where there is none."""
    try:
        return path.stat().st_size if path else 0
    except OSError:
        return 0
