"""A CUDA device that computes on the host: real numbers, and the errors that a GPU gives where devices are mixed.

Inside `on_host_cuda()` every `device="cuda"` works without a GPU. A tensor on the device reports `cuda:0` and wraps a
CPU tensor. As on a GPU, it cannot meet a CPU tensor, be pinned or become a NumPy array. Speed, memory, streams and
rounding are those of the host. `fake_cuda` counts kernels and finds waits for the device, but computes nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

from sage_va.tests.fake_cuda import NO_KERNEL, Copied, Event, Launches, line_of_ours

CUDA = torch.device("cuda:0")
aten = torch.ops.aten
COPIES = (aten.copy_.default, aten._to_copy.default)
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)


class DeviceTensor(Tensor):
    """A tensor on the device. torch's engine believes it to be on "meta", where a backward pass needs no driver."""

    on_host: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]

    @staticmethod
    def __new__(cls, inner: Tensor) -> DeviceTensor:
        with torch.inference_mode(False):  # views of parameters cannot be inference tensors
            return Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
                cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device="meta"
            )

    def __init__(self, inner: Tensor) -> None:
        self.on_host = inner

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return CUDA

    is_cuda, is_meta = True, False  # pyright: ignore[reportAssignmentType]

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["on_host"], None

    @staticmethod
    def __tensor_unflatten__(tensors: dict[str, Tensor], *_: Any) -> DeviceTensor:
        return DeviceTensor(tensors["on_host"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("a tensor of the device outlived on_host_cuda()")


class _Device(TorchDispatchMode):
    """Runs operations on what the tensors of the device wrap, and wraps the results."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func._can_decompose():  # in inference mode, whole operations come here
            with self:
                return func.decompose(*args, **kwargs)
        target = kwargs.get("device")
        wanted = None if target is None else torch.device(target).type
        there = [
            isinstance(tensor, DeviceTensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)
        ]
        if not any(there) and wanted not in ("cuda", "meta") and func is not aten._pin_memory.default:
            return func(*args, **kwargs)
        if func is aten._pin_memory.default:
            return _pinned(args[0])
        _check(func, args, kwargs)
        _count(func, args, wanted)
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        inner_args, inner_kwargs = tree_map_only(DeviceTensor, lambda tensor: tensor.on_host, (args, kwargs))
        out = func(*inner_args, **inner_kwargs)
        if wanted == "cpu":
            return out
        if func is aten.copy_.default:
            return args[0]
        out = tree_map_only(Tensor, DeviceTensor, out)
        return return_and_correct_aliasing(func, args, kwargs, out)


class _Lists(TorchFunctionMode):
    """Makes tensors of lists of positions, whose values C++ would lose on "meta"."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            place = args[1] if isinstance(args[1], tuple) else (args[1],)
            place = tuple(torch.tensor(part) if isinstance(part, list) else part for part in place)
            args = (args[0], place, *args[2:])
        return func(*args, **(kwargs or {}))


COUNTS: list[Launches] = []


@contextlib.contextmanager
def count() -> Iterator[Launches]:
    """Counts kernels, those of a backward pass too, and lists copies and waits: `item` is a copy of one number."""
    launches = Launches()
    COUNTS.append(launches)
    try:
        yield launches
    finally:
        COUNTS.remove(launches)


def _count(func: Any, args: Any, wanted: str | None) -> None:
    name = func._schema.name.split("::")[1]
    copied = _copied(name, args, wanted) if COUNTS else None
    for launches in COUNTS:
        launches.num_kernels += name not in NO_KERNEL
        launches.copies += [copied] if copied else []


def _copied(name: str, args: Any, wanted: str | None) -> Copied | None:
    """The copy between host and device that an operation is, if it is one."""
    if name == "_local_scalar_dense":
        return Copied("cpu", (), False, line_of_ours())
    if name == "copy_":
        source, there = args[1], isinstance(args[0], DeviceTensor)
    elif name == "_to_copy" and wanted is not None:
        source, there = args[0], wanted in ("cuda", "meta")
    else:
        return None
    if isinstance(source, DeviceTensor) == there:
        return None
    return Copied("cuda" if there else "cpu", tuple(source.shape), False, line_of_ours())


def _pinned(tensor: Tensor) -> Tensor:
    if isinstance(tensor, DeviceTensor):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    return tensor.clone()


def _check(func: Any, args: Any, kwargs: Any) -> None:
    """Refuses CPU tensors beside tensors of the device, as CUDA does, except for scalars, copies and indices."""
    if func in COPIES:
        return
    lost = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and type(x) is Tensor and x.is_meta]
    assert not lost, f"{func}: C++ lost the values of an argument"
    checked = (args[0], args[2:]) if func in INDEXING else (args, kwargs)
    for tensor in tree_leaves(checked):
        if isinstance(tensor, Tensor) and not isinstance(tensor, DeviceTensor) and tensor.ndim:
            problem = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
            raise RuntimeError(f"{problem} ({func})")


class _Generator(torch.Generator):
    """A generator of random numbers on any device."""

    def __new__(cls, device: torch.device | str = "cpu") -> _Generator:
        generator = super().__new__(cls)
        generator.place = CUDA if torch.device(device).type == "cuda" else torch.device(device)
        return generator

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.place


@contextlib.contextmanager
def on_host_cuda(free_bytes: int = 1 << 40) -> Iterator[torch.device]:
    """Inside, `device="cuda"` works. Yields the device without an index, as a user names it.

    Args:
        free_bytes: memory that is free on the device.
    """
    replaced = {
        "_lazy_init": lambda: None,
        "Event": Event,
        "device_count": lambda: 1,
        "is_bf16_supported": lambda including_emulation=True: True,
        "mem_get_info": lambda device=None: (free_bytes, free_bytes),
        "get_rng_state": lambda device="cuda": torch.get_rng_state(),
        "set_rng_state": lambda state, device="cuda": torch.set_rng_state(state),
    }
    run = threading.Thread.run

    def run_with_modes(thread: threading.Thread) -> None:  # a mode belongs to one thread
        with _Lists(), _Device():
            run(thread)

    torch._C._ensureCUDADeviceGuardSet()  # pyright: ignore[reportAttributeAccessIssue]
    with contextlib.ExitStack() as stack:
        for name, function in replaced.items():
            stack.enter_context(patch.object(torch.cuda, name, function))
        stack.enter_context(patch.object(torch, "Generator", _Generator))
        stack.enter_context(patch.object(threading.Thread, "run", run_with_modes))
        stack.enter_context(_Lists())
        stack.enter_context(_Device())
        yield torch.device("cuda")
