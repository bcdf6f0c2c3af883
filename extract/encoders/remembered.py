"""Identity of encoders, remembered: a run that has nothing to do need not load torch and the weights to find that out.

The fingerprint of an encoder holds the hash of its weights, which only loading them gives. It is remembered under a key
of everything that it follows from: the options, the versions of the packages, our own code, and path, size and time of
the files with the weights. For weights of the model hub these are the revisions in the local cache of the hub; a newer
revision there is noticed when the encoder is loaded again, at the latest with `--rehash`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.hashing import json_sha256
from ...data.journal import append_line, read_lines
from ...data.plugins import added_names
from ...data.user_cache import user_cache
from . import GROUP

if TYPE_CHECKING:  # it loads torch
    from .base import Encoder

PACKAGES = ("openvino", "silero-vad", "soxr", "timm", "torch", "transformers")
_GPU_DRIVERS = ("/proc/driver/nvidia/version", "/sys/module/amdgpu/version")
_VISIBLE_GPUS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_SETTLED_S = 2.0  # a file that changed later than that may change again within its clock's tick


@dataclass(frozen=True)
class RememberedEncoder:
    """Identity of an encoder that is not loaded: enough to name its stream, not to encode.

    Args:
        modality: "visual" or "audio".
        alias: see `Encoder.alias`.
        recorded: see `Encoder.fingerprint`.
    """

    modality: str
    alias: str
    recorded: Mapping[str, Any]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Returns a copy of the fingerprint."""
        return deepcopy(dict(self.recorded))


def remember(arguments: Mapping[str, Any], device: str, encoders: Iterable[Encoder | None]) -> None:
    """Notes the identity of encoders that were built from these arguments of `encoders_from` on a device."""
    for encoder in encoders:
        key = _key(encoder.modality, arguments, device) if encoder else None
        if encoder and key:
            line = {"key": key, "alias": encoder.alias, "fingerprint": encoder.fingerprint}
            with contextlib.suppress(OSError):  # it only saves time
                _journal().parent.mkdir(parents=True, exist_ok=True)
                append_line(_journal(), line)


def recall(arguments: Mapping[str, Any], device: str) -> list[RememberedEncoder] | None:
    """Returns the encoders that `encoders_from` would build, or None where one of them has to be loaded."""
    keys = {modality: _key(modality, arguments, device) for modality in ("visual", "audio") if arguments[modality]}
    lines: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(OSError):
        lines = {line["key"]: line for line in read_lines(_journal()) if "key" in line}
    if not all(key in lines for key in keys.values()):
        return None
    chosen = {modality: lines[str(key)] for modality, key in keys.items()}
    return [RememberedEncoder(modality, line["alias"], line["fingerprint"]) for modality, line in chosen.items()]


def _journal() -> Path:
    return user_cache() / "encoders.jsonl"


def _key(modality: str, arguments: Mapping[str, Any], device: str) -> str | None:
    """Returns the key of an encoder; None where its identity depends on more than is visible without loading it."""
    name, weights = arguments[modality], arguments[f"{modality}_weights"]
    files = _files(modality, name, weights)
    if name in added_names(GROUP) or files is None:
        return None
    own = ("layer", "vad") if modality == "audio" else ("image_size",)
    options = {key: arguments.get(key) for key in own}
    precision = arguments["precision"]
    return json_sha256(
        {
            "modality": modality,
            "name": name,
            "weights": weights,
            "options": {**options, "precision": precision, "runtime": arguments.get("runtime", "torch")},
            "device": _device(device) if precision == "auto" else None,
            "files": files,
            "code": _stats(Path(__file__).parents[1].rglob("*.py")),
            "packages": {package: _version(package) for package in PACKAGES},
        }
    )


def _files(modality: str, name: str, weights: str) -> list[Any] | None:
    """Returns the identity of the files that decide the weights and the configuration."""
    folder = Path(name)
    if modality == "audio" and folder.is_dir():
        return _settled([file for file in folder.rglob("*") if file.is_file()])
    if modality == "visual" and weights == "random" and ":" not in name:
        return []
    if modality == "visual" and weights not in ("hub", "random"):
        return _settled([Path(weights)]) if Path(weights).is_file() else None
    return list(_revisions(modality, name)) or None


def _settled(files: Sequence[Path]) -> list[Any] | None:
    newest = max((file.stat().st_mtime for file in files), default=0.0)
    return _stats(files) if time.time() - newest > _SETTLED_S else None


def _stats(files: Iterable[Path]) -> list[Any]:
    stats = [(str(file.resolve()), file.stat()) for file in sorted(files)]
    return [[place, stat.st_size, stat.st_mtime_ns, stat.st_ino] for place, stat in stats]


def _revisions(modality: str, name: str) -> Iterator[list[str]]:
    """Yields the local revisions of the repositories of the hub that a name may stand for."""
    from huggingface_hub.constants import HF_HUB_CACHE

    repository = name.removeprefix("hf-hub:").removeprefix("hf_hub:")
    whole = modality == "audio" or repository != name
    pattern = f"models--{repository.replace('/', '--')}" if whole else f"models--*--{repository}"
    for reference in sorted(Path(HF_HUB_CACHE).glob(f"{pattern}/refs/*")):
        yield [reference.parents[1].name, reference.name, reference.read_text(encoding="utf-8")]


def _device(name: str) -> list[Any]:
    """Returns what the number format of `--precision auto` follows from."""
    drivers = {file: Path(file).read_text() for file in _GPU_DRIVERS if Path(file).is_file()}
    visible = {variable: os.environ.get(variable) for variable in _VISIBLE_GPUS}
    return ["cpu"] if name == "cpu" or not drivers else [name, drivers, visible]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
