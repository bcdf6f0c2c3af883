"""The device that computes on the host gives the host's numbers and CUDA's errors, and leaves nothing behind."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from sage_va.tests.host_cuda import count, on_host_cuda


def test_numbers_and_gradients_are_those_of_the_host() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4)), torch.randn(5, 3)
    model(x).square().sum().backward()
    expected = [weight.grad for weight in model.parameters()]
    model.zero_grad()
    with on_host_cuda() as device:
        model.to(device)
        loss = model(x.to(device)).square().sum()
        assert loss.device == torch.device("cuda:0")
        loss.backward()
        for weight, grad in zip(model.parameters(), expected, strict=True):
            assert weight.grad is not None
            assert weight.grad.device == torch.device("cuda:0")
            torch.testing.assert_close(weight.grad.cpu(), grad)


def test_devices_do_not_mix() -> None:
    with on_host_cuda() as device:
        there = torch.ones(3, device=device)
        assert there.device != device  # "cuda" is not "cuda:0"
        assert (there + torch.tensor(1.0)).sum().item() == 6  # a scalar may be anywhere
        for mix in (
            lambda: there + torch.ones(3),
            lambda: torch.cat([there, torch.ones(1)]),
            lambda: there.mul_(torch.ones(3)),
        ):
            with pytest.raises(RuntimeError, match="same device"):
                mix()
        with pytest.raises(RuntimeError, match="same device"):
            _ = torch.ones(3)[torch.zeros(1, dtype=torch.long, device=device)]
        with pytest.raises(RuntimeError, match="only dense CPU tensors can be pinned"):
            there.pin_memory()
        with pytest.raises((RuntimeError, TypeError), match="numpy"):
            there.numpy()
        assert torch.ones(2).pin_memory().to(device).device == there.device


@pytest.mark.parametrize("inference", [True, False])
def test_positions_views_and_copies(inference: bool) -> None:
    values = torch.arange(12.0).reshape(6, 2)
    with on_host_cuda() as device, torch.inference_mode(inference):
        there = values.to(device)
        torch.testing.assert_close(there[:, [1]].cpu(), values[:, [1]])
        torch.testing.assert_close(there[torch.tensor([2, 0])].cpu(), values[[2, 0]])
        there[[0, 1]] = 0
        there[2:4, 1].fill_(-1)
        assert there.cpu().tolist() == [[0, 0], [0, 0], [4, -1], [6, -1], [8, 9], [10, 11]]
        assert torch.as_tensor(np.ones(2), device=device).device == torch.zeros(1).to(there).device == there.device
        assert torch.nonzero(there[:, 0] > 5).cpu().tolist() == [[3], [4], [5]]


def test_random_numbers_of_a_generator_are_those_of_the_host() -> None:
    expected = torch.rand(4, generator=torch.Generator().manual_seed(5))
    with on_host_cuda() as device:
        generator = torch.Generator(device).manual_seed(5)
        assert generator.device == torch.device("cuda:0")
        assert torch.rand(4, generator=generator, device=generator.device).cpu().tolist() == expected.tolist()


def test_threads_have_the_device_too() -> None:
    devices = []
    with on_host_cuda() as device:
        worker = threading.Thread(target=lambda: devices.append(torch.zeros(2).pin_memory().to(device).device))
        worker.start()
        worker.join()
    assert devices == [torch.device("cuda:0")]


def test_nothing_is_left_behind() -> None:
    before = torch.Generator, torch.cuda._lazy_init, threading.Thread.run
    with on_host_cuda() as device:
        there = torch.ones(1, device=device)
    assert before == (torch.Generator, torch.cuda._lazy_init, threading.Thread.run)
    with pytest.raises(AssertionError, match="outlived"):
        there.sum()


def test_kernels_copies_and_waits_are_counted() -> None:
    weight = torch.ones(3)
    with on_host_cuda() as device:
        there = weight.to(device).requires_grad_()
        with count() as forward:
            loss = (there * 2).sum()
        with count() as backward:
            loss.backward()
        with count() as copies:
            loss.item()
            there.detach().cpu()
            there.detach().to(device)
            torch.empty(3, device=device).copy_(weight)
    assert (forward.num_kernels, forward.copies) == (2, [])
    assert backward.num_kernels >= 1
    assert [(copy.to, copy.shape) for copy in copies.copies] == [("cpu", ()), ("cpu", (3,)), ("cuda", (3,))]
    assert all("test_host_cuda.py" in copy.line for copy in copies.copies)
