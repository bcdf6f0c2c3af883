"""A Ray cluster as both stages use it: the connection, its devices, and the deaths of its workers in one line."""

from __future__ import annotations

import logging
import re
import signal
import threading
from collections.abc import Mapping
from typing import Any

from .errors import InputError


def connect(address: str | None) -> tuple[Any, bool]:
    """Returns Ray, and True if it was connected just now, so that the caller shuts it down.

    Args:
        address: of a cluster; None = the one of this machine, or a new one.

    Raises:
        InputError: if Ray is not installed, or there is no such cluster.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.exceptions  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        todo = 'Install it with: pip install "sage-va[ray]".'
        raise InputError("engine", "Ray is not installed", todo=todo) from error
    if ray.is_initialized():
        return ray, False
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        got = f"{error}".splitlines()[0]
        todo = "Start one with `ray start --head`, or leave the address out."
        raise InputError("ray_address", expected="a Ray cluster", got=got, todo=todo) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray's own handler ends at once; ours finishes the clips at work
    return ray, True


def resources(ray: Any) -> list[Mapping[str, float]]:
    """Returns the resources of each machine of the cluster, such as `{"CPU": 16, "GPU": 2}`."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def device_on(num_gpus: int, device: str) -> str:
    """Returns the device of workers in a cluster with so many GPUs: "cuda" or "cpu".

    Raises:
        InputError: if `device` is not "auto", "cpu" or "cuda", or "cuda" where there is no GPU.
    """
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not num_gpus):
        got = f"{device} and {num_gpus} GPUs in the cluster"
        todo = "Leave it out: each worker gets a GPU where there are some."
        raise InputError("device", expected="auto, cpu or cuda", got=got, todo=todo)
    return "cuda" if num_gpus and device != "cpu" else "cpu"


def death_of(error: Exception) -> str:
    """Returns Ray's reason in one line, to follow "the worker died"."""
    detail = re.search(r"exit detail: ([^.\n]+)", f"{error}")
    return f"({detail[1] if detail else f'{error}'.splitlines()[0].rstrip('.')})"
