"""Arithmetic of encoders on a device: float32 without shortcuts, fewer bits that are checked, weights cast once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ...data.errors import InputError
from ...data.shared_setting import SharedSetting

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MAX_DEVIATION = 0.3  # of a convolution, of its norm: bfloat16 has about 0.005, a wrong one about 1
_CASTABLE = (nn.Linear, *_CONVOLUTIONS)  # autocast casts the weights of just these, whole


_settings = SharedSetting()


@contextmanager
def plain_float32() -> Iterator[None]:
    """Lets no library compute float32 in fewer bits (TF32, bfloat16) inside the block; all threads share the settings.

    The last thread to leave restores those of the user.
    """
    with _settings.changed(
        lambda: [(place, name, getattr(place, name)) for place, name, _ in _shortcuts()],
        lambda: _set(_shortcuts()),
        _set,
    ):
        yield


def _shortcuts() -> list[tuple[Any, str, Any]]:
    """Returns each setting and its value for IEEE float32."""
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):  # before torch 2.9
        return [(backends.cudnn, "allow_tf32", False), (backends.cuda.matmul, "allow_tf32", False)]
    cuda = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    cpu = (backends.mkldnn.conv, backends.mkldnn.rnn, backends.mkldnn.matmul)
    return [(place, "fp32_precision", "ieee") for place in (*cuda, *cpu)]


def _set(settings: list[tuple[Any, str, Any]]) -> None:
    for place, name, value in settings:
        setattr(place, name, value)


def cast_once(model: nn.Module, dtype: torch.dtype, embed: Callable[[], Tensor]) -> bool:
    """Casts the weights that autocast would cast anew for each batch, if the embeddings keep their bits.

    Weights that something else computes with (parametrised ones, those with hooks, layers of other classes) stay.

    Args:
        model: changed in place.
        dtype: of autocast; nothing is done for float32.
        embed: embeds a fixed item with the model.

    Returns:
        True if the weights were cast; False if the embedding of that item would differ, or for float32.
    """
    if dtype == torch.float32:
        return False
    expected = embed()
    before = [(weight, weight.data) for module in model.modules() if _castable(module) for weight in _own(module)]
    for weight, values in before:
        weight.data = values.to(dtype)
    if torch.equal(embed(), expected):
        return True
    for weight, values in before:
        weight.data = values
    return False


def check_convolutions(model: nn.Module, dtype: torch.dtype, embed: Callable[[], Tensor], name: str) -> None:
    """Compares each convolution in few bits with float32 of the same input, since some libraries compute some wrong.

    With oneDNN 3.13 on a processor with AMX, 1-D convolutions in bfloat16 with 4 or 8 channels per group and an even
    kernel had cosines of about 0 to those in float32.

    Args:
        model: with weights in float32.
        dtype: of autocast; nothing is done for float32.
        embed: embeds a fixed item with the model.
        name: of the encoder.

    Raises:
        InputError: if one is wrong.
    """
    if dtype == torch.float32:
        return
    wrong: list[str] = []

    def compare(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        with torch.autocast(output.device.type, enabled=False):
            exact = module.forward(*(each.float() for each in inputs))
        if not (output.float() - exact).norm() <= MAX_DEVIATION * exact.norm():
            wrong.append(type(module).__name__)

    hooks = [module.register_forward_hook(compare) for module in model.modules() if isinstance(module, _CONVOLUTIONS)]
    try:
        embed()
    finally:
        for hook in hooks:
            hook.remove()
    if wrong:
        number = str(dtype).removeprefix("torch.")
        problem = f"its {wrong[0]} is computed wrong in {number} by this processor and this version of torch"
        raise InputError(f"encoder {name}", problem, todo="Use --precision float32.")


def _castable(module: nn.Module) -> bool:
    return type(module) in _CASTABLE and not is_parametrized(module) and not module._forward_pre_hooks


def _own(module: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in module.parameters(recurse=False) if weight.dtype == torch.float32]
