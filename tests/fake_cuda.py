"""A pretended CUDA device, for machines without one: tensors there have shapes, dtypes and devices, but no numbers.

Tensors on the CPU stay real. A tensor that is moved to "cuda", or made there, becomes a fake tensor of torch's own
FakeTensorMode. Inside `on_cuda()` these faults show as they would on a GPU:

- an operation on tensors of two devices raises;
- reading a number of a device tensor (`.item()`, `if tensor`, `.tolist()`) raises, since it waits for the device;
- pinning a tensor that is not in main memory raises;
- `FakeCuda.count()` counts kernels and lists copies between host and device, with the line that asked for each.

What it cannot show: numbers, speed, memory, and the kernels of a backward pass (`backward()` only gives every leaf a
gradient of its shape).

    with on_cuda() as cuda:
        corpus = corpus.to(torch.device("cuda"))
        with cuda.count() as launches:
            cut(corpus, plan, 300)
        assert launches.copies == []
"""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU_BYTES = 1 << 36
# Operations that change how memory is read, or reserve it, and start nothing on a device.
# fmt: off
NO_KERNEL = {
    "alias", "as_strided", "chunk", "detach", "detach_", "diagonal", "empty", "empty_like", "empty_strided",
    "expand", "is_pinned", "lift_fresh", "movedim", "mT", "narrow", "new_empty", "new_empty_strided", "permute",
    "reshape", "select", "set_", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind",
    "unfold", "unsqueeze", "view", "_reshape_alias", "_unsafe_view",
}
# fmt: on


@dataclass(frozen=True)
class Copied:
    """One copy between main memory and the device; a copy from memory that is not pinned waits."""

    to: str
    shape: tuple[int, ...]
    pinned: bool
    line: str


@dataclass
class Launches:
    """Work asked of the device: the number of kernels, and the copies to and from it."""

    num_kernels: int = 0
    copies: list[Copied] = field(default_factory=list[Copied])


class Event:
    """An event of the device, always reached: work is done when it is asked for."""

    def record(self) -> None: ...

    def query(self) -> bool:
        return True


class FakeCuda:
    """The device of an `on_cuda()` block."""

    def __init__(self) -> None:
        self.counts: list[Launches] = []

    @contextlib.contextmanager
    def count(self) -> Iterator[Launches]:
        """Counts what is asked of the device inside the block, by any thread."""
        launches = Launches()
        self.counts.append(launches)
        try:
            yield launches
        finally:
            self.counts.remove(launches)


@contextlib.contextmanager
def on_cuda(free_bytes: int = GPU_BYTES) -> Iterator[FakeCuda]:
    """Pretends that this machine has one GPU, `cuda:0`, with so many bytes free."""
    device = FakeCuda()
    fake, counter = FakeTensorMode(allow_non_fake_inputs=True), _Counter(device)
    run = threading.Thread.run

    def run_with_modes(thread: threading.Thread) -> None:  # modes belong to a thread; workers need them too
        with counter, _Redirect(fake, counter):
            run(thread)

    with contextlib.ExitStack() as stack:
        for place, name, value in _replaced(free_bytes):
            stack.enter_context(patch.object(place, name, value))
        stack.enter_context(patch.object(threading.Thread, "run", run_with_modes))
        stack.enter_context(counter)
        stack.enter_context(_Redirect(fake, counter))
        yield device


def _replaced(free_bytes: int) -> list[tuple[Any, str, Any]]:
    """Stand-ins for what torch asks the driver, with the answers of one GPU."""
    generator, optimiser = torch.Generator, torch.optim.Optimizer
    state = torch.get_rng_state()
    checks = [name for name in dir(optimiser) if name.endswith("_graph_capture_health_check")]
    return [
        *((optimiser, name, lambda self: None) for name in checks),
        (torch.cuda, "Event", Event),
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "device_count", lambda: 1),
        (torch.cuda, "current_device", lambda: 0),
        (torch.cuda, "is_bf16_supported", lambda **_: True),
        (torch.cuda, "mem_get_info", lambda device=None: (free_bytes, GPU_BYTES)),
        (torch.cuda, "get_rng_state", lambda device=None: state),
        (torch.cuda, "set_rng_state", lambda state, device=None: None),
        (fake_tensor, "init_gpu_context", lambda device: None),  # these two would start the driver
        (FakeTensorMode, "avoid_device_init", True),
        (torch, "Generator", lambda device="cpu": generator()),
        (torch.Tensor, "pin_memory", _pin),
        (torch.Tensor, "backward", _backward),
    ]


class _Redirect(TorchFunctionMode):
    """Hands functions that name the device, or get a tensor on it, to the mode that follows shapes alone."""

    def __init__(self, fake: FakeTensorMode, counter: _Counter) -> None:
        super().__init__()
        self._fake, self._counter = fake, counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(map(_on_device, [*args, *kwargs.values()])):
            with self._fake, self._counter:
                return func(*args, **kwargs)
        return func(*args, **kwargs)


class _Counter(TorchDispatchMode):
    def __init__(self, device: FakeCuda) -> None:
        super().__init__()
        self._device, self._within = device, threading.local()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._device.counts or getattr(self._within, "operation", False):
            return func(*args, **(kwargs or {}))
        self._within.operation = True  # what it is made of is not counted again
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self._within.operation = False
        name, first = func._schema.name.split("::")[1], result[0] if isinstance(result, (tuple, list)) else result
        kernel = isinstance(first, FakeTensor) and first.device.type == "cuda" and name not in NO_KERNEL
        copied = _copied(name, args, first)
        for launches in self._device.counts:
            launches.num_kernels += kernel
            launches.copies += copied
        return result


def _copied(name: str, args: Any, result: Any) -> list[Copied]:
    """The copy that an operation is, if it is one between two devices."""
    if name not in ("_to_copy", "copy_"):
        return []
    source, target = (args[1], args[0]) if name == "copy_" else (args[0], result)
    if source.device.type == target.device.type:
        return []
    return [Copied(target.device.type, tuple(source.shape), getattr(source, "is_pinned_here", False), line_of_ours())]


def line_of_ours() -> str:
    """The line of this project that is being executed."""
    ours = [
        f"{frame.filename}:{frame.lineno}"
        for frame in traceback.extract_stack()
        if "site-packages" not in frame.filename and Path(frame.filename).name not in ("fake_cuda.py", "host_cuda.py")
    ]
    return ours[-1] if ours else ""


def _on_device(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_on_device, value))
    if isinstance(value, (str, torch.device)):
        return str(value).split(":")[0] == "cuda"
    return isinstance(value, FakeTensor)


def _pin(tensor: Tensor) -> Tensor:
    if tensor.device.type != "cpu":
        raise RuntimeError(f"cannot pin a tensor on {tensor.device}: only dense CPU tensors can be pinned")
    pinned = tensor.clone()
    pinned.is_pinned_here = True  # type: ignore[attr-defined]
    return pinned


def _backward(loss: Tensor) -> None:
    """Gives the leaves that a loss depends on a gradient; torch computes none on a device that is not there."""
    assert loss.grad_fn is not None, "a loss that depends on weights"
    ahead, reached = [loss.grad_fn], set[Any]()
    while ahead:
        node = ahead.pop()
        if node in reached:
            continue
        reached.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            leaf.grad = torch.zeros_like(leaf)
        ahead += [parent for parent, _ in node.next_functions if parent is not None]
