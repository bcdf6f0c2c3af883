"""Files of tensors that prove themselves: safetensors, with the SHA-256 of all that they hold in the header.

safetensors checks the sizes in a file, not its bytes: of 30 single flipped bytes in a run's weights, 10 gave other
predictions and no error. Reading computes the hash anew, about a second per gigabyte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .atomic import replacing
from .hashing import canonical_json

KEY = "sage_va"  # of the header, with all that is ours as JSON: safetensors orders several keys at random


class DamagedTensorsError(ValueError):
    """A file of tensors whose bytes are not those that were written."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Makes or replaces a file, whole or not at all.

    Args:
        path: of the file.
        tensors: on any device.
        metadata: of the header.

    Raises:
        OSError: if it cannot be written.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = dict(metadata or {})
    about = canonical_json({"metadata": header, "sha256": tensors_sha256(on_cpu, header)})
    with replacing(path) as part:  # not by save_file, whose files only their owner may read
        part.write_bytes(save(on_cpu, {KEY: about}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors of a file, on the CPU, and the metadata of its header.

    A file without a hash (of an earlier version, or of another program) is read as it is.

    Raises:
        DamagedTensorsError: if it is no such file, or not as it was written. OSError: if it cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get(KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata, expected = header.get("metadata", {}), header.get("sha256")
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata that are not texts by name")
        if expected is not None and tensors_sha256(tensors, metadata) != expected:
            raise ValueError("bytes that are not those that were written")
    except (SafetensorError, ValueError, AttributeError, RecursionError) as error:
        raise DamagedTensorsError(" ".join(str(error).split())) from None
    return tensors, metadata


def tensors_sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Returns the SHA-256 (hex) over metadata, and sorted names, dtypes, shapes and bytes of tensors on any device."""
    digest = hashlib.sha256()
    for key, value in sorted((metadata or {}).items()):
        digest.update(f"{key}={value}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
