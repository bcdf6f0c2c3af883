"""Weights: what is loaded, named by its bytes; and the number formats encoders compute in."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..data.errors import InputError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
_CHECKPOINT_KEYS = ("state_dict", "model")


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over sorted names, dtypes, shapes and bytes: equal weights are equal wherever they came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a `.safetensors` or `.pth`/`.pt`/`.bin` file; nothing in the file is ever executed.

    Raises:
        InputError: if the file is absent, of another kind, damaged, or a pickle of more than tensors.
    """
    if not path.is_file():
        raise InputError(path, expected="a weights file", got="no such file", todo="Check the path.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = "a pickle of more than tensors" if isinstance(error, pickle.UnpicklingError) else _first_line(error)
        todo = "Save the state dict alone, best as .safetensors; code in a pickle is never run."
        raise InputError(path, expected="tensors", got=reason, todo=todo) from error
    for key in _CHECKPOINT_KEYS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        todo = "Save the state dict alone, best as .safetensors."
        raise InputError(path, expected="a dict of tensors", got=type(found).__name__, todo=todo)
    state = cast(dict[str, Tensor], found)
    wrapped = bool(state) and all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in state.items()}


def load_into(model: nn.Module, state: dict[str, Tensor], place: object) -> None:
    """Loads a state dict that must fit the model exactly.

    Raises:
        InputError: naming what is missing, left over or of another shape.
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
    """Random weights made in here are the same every time; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The number format that an encoder computes in.

    "auto" is float32 on the CPU; on CUDA bfloat16 where it is supported, else float16.

    Raises:
        InputError: if the precision is unknown.
    """
    if precision not in PRECISIONS:
        todo = "Choose one of them."
        raise InputError("--precision", expected=" | ".join(PRECISIONS), got=repr(precision), todo=todo)
    if precision != "auto":
        return getattr(torch, precision)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def dtype_name(dtype: torch.dtype) -> str:
    """`bfloat16` of `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


def no_hub(name: str, option: str, error: Exception) -> InputError:
    """The one message for weights that cannot be fetched."""
    todo = f"Check the name and the network, or pass {option} with a local path, or random weights for a trial."
    return InputError(name, expected="weights from the model hub", got=_first_line(error), todo=todo)


def _first_line(error: Exception) -> str:
    return (f"{error}".strip() or type(error).__name__).splitlines()[0][:200]
