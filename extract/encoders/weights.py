"""Weights of encoders: loading, hashing, random ones; devices and number formats to compute in."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...data.errors import InputError
from ...data.hub import reason_of
from ...data.tensor_file import tensors_sha256

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
_CHECKPOINT_KEYS = ("state_dict", "model")
_DAMAGED = (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError)


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Returns a SHA-256 (hex) over sorted names, dtypes, shapes and bytes: equal weights have equal hashes."""
    return tensors_sha256(state)


def load_state(path: Path) -> dict[str, Tensor]:
    """Reads the state dict in a `.safetensors` or `.pth`/`.pt`/`.bin` file; runs no code from the file.

    Raises:
        InputError: if the file is absent, of another kind, damaged, or a pickle of more than tensors.
    """
    if not path.is_file():
        raise InputError(path, expected="a weights file", got="no such file", todo="Check the path.")
    if _is_compressed(path):
        todo = "Load it and save it again with torch.save, or as .safetensors."
        raise InputError(path, expected="tensors as torch saves them", got="compressed ones", todo=todo)
    content = _read(path)
    for key in _CHECKPOINT_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        todo = "Save the state dict alone, best as .safetensors."
        raise InputError(path, expected="a dict of tensors", got=type(content).__name__, todo=todo)
    state = cast(dict[str, Tensor], content)
    wrapped = bool(state) and all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in state.items()}


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        got = "a pickle of more than tensors" if isinstance(error, pickle.UnpicklingError) else reason_of(error)
        todo = "Save the state dict alone, best as .safetensors; code in a pickle is never run."
        raise InputError(path, expected="tensors", got=got, todo=todo) from error


def _is_compressed(path: Path) -> bool:
    """True for a ZIP with compressed members: torch compresses none, and kilobytes could inflate to gigabytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False  # another format, or damaged, which the reader says


def load_into(model: nn.Module, state: dict[str, Tensor], place: object) -> None:
    """Loads a state dict into a model whose weights it must match exactly.

    Args:
        model: changed in place.
        state: name -> tensor.
        place: names the weights in the error.

    Raises:
        InputError: naming weights that are missing, left over or of another shape.
    """
    wanted = model.state_dict()
    faults = {
        "missing": [name for name in wanted if name not in state],
        "left over": [name for name in state if name not in wanted],
        "of another shape": [name for name in wanted if name in state and wanted[name].shape != state[name].shape],
    }
    got = [f"{len(names)} {fault} (e.g. {names[0]})" for fault, names in faults.items() if names]
    if got:
        todo = "Name the model that these weights belong to."
        raise InputError(place, expected=f"the {len(wanted)} weights of the model", got=", ".join(got), todo=todo)
    model.load_state_dict(state)


@contextmanager
def fixed_seed() -> Iterator[None]:
    """Seeds torch inside the `with` block, so that random weights are always the same; restores the state after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Returns the number format that an encoder computes in.

    Args:
        precision: "float32", "bfloat16", "float16", or "auto": float32 on a CPU; on CUDA bfloat16 where the device
            supports it, else float16.
        device: to compute on.

    Raises:
        InputError: if the precision is unknown.
    """
    if precision not in PRECISIONS:
        todo = "Choose one of them."
        raise InputError("precision", expected=" | ".join(PRECISIONS), got=repr(precision), todo=todo)
    if precision != "auto":
        return getattr(torch, precision)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def dtype_name(dtype: torch.dtype) -> str:
    """Returns the name of a dtype, e.g. "bfloat16" for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")
