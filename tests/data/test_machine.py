"""Cores and devices are resolved in one place."""

import os

import pytest
import torch

from sage_va.data import InputError
from sage_va.data.machine import find_device, num_cores


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert num_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert num_cores() == 1


def test_auto_is_the_cpu_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device() == find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "cuda:x"])
def test_devices_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"device {name}: this machine has none: \w+: .*\. Use cpu, or auto\."):
        find_device(name)


def test_a_cuda_device_has_its_index_and_no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch holds `cuda` and `cuda:0` to be different. A tensor would open a context in a process that needs none."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a tensor, which opens a context")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", refused)
    monkeypatch.setattr(torch.cuda, "init", refused)
    assert [find_device("auto"), find_device("cuda"), find_device("cuda:1")] == [
        torch.device("cuda:0"),
        torch.device("cuda:0"),
        torch.device("cuda:1"),
    ]
    with pytest.raises(InputError, match=r"device cuda:2: this machine has none: RuntimeError: torch .* sees 2 CUDA"):
        find_device("cuda:2")


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    assert find_device("auto") == find_device("cuda") == torch.empty(1, device="cuda").device
