"""The pretended device shows the faults that it is there to show, and leaves nothing behind."""

import threading

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from sage_va.tests.fake_cuda import on_cuda


def test_devices_do_not_mix() -> None:
    with on_cuda():
        there = torch.zeros(4, 3).to("cuda")
        assert (there.device, torch.ones(2, device="cuda").device) == (torch.device("cuda:0"),) * 2
        assert there[torch.tensor([0, 1])].shape == (2, 3)  # as on a GPU, an index may lie in main memory
        with pytest.raises(RuntimeError, match="same device"):
            _ = there + torch.ones(4, 3)
        with pytest.raises(RuntimeError, match="only dense CPU tensors can be pinned"):
            there.pin_memory()


def test_reading_a_number_of_the_device_raises_and_one_in_main_memory_is_real() -> None:
    with on_cuda():
        there = torch.ones(3, device="cuda").sum()
        for read in (there.item, there.tolist, lambda: bool(there > 1)):
            with pytest.raises(DataDependentOutputException):
                read()
        assert torch.ones(3).sum().item() == 3


def test_kernels_and_copies_are_counted_in_every_thread() -> None:
    with on_cuda() as cuda:
        there = torch.zeros(4, 3, device="cuda")
        with cuda.count() as launches:
            (there.t()[1:] * 2).exp()
        assert (launches.num_kernels, launches.copies) == (2, [])

        with cuda.count() as launches:
            worker = threading.Thread(target=lambda: torch.zeros(5).pin_memory().to("cuda", non_blocking=True))
            worker.start()
            worker.join()
            there.cpu()
            torch.zeros(6).to(there)
        copies = [(copy.to, copy.shape, copy.pinned) for copy in launches.copies]
        assert copies == [("cuda", (5,), True), ("cpu", (4, 3), False), ("cuda", (6,), False)]
        assert all("test_fake_cuda.py" in copy.line for copy in launches.copies)


def test_a_training_step_runs() -> None:
    with on_cuda():
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)).to("cuda")
        optimiser = torch.optim.AdamW(model.parameters(), fused=True)
        generator = torch.Generator("cuda").manual_seed(1)
        inputs = torch.rand(5, 3, device="cuda", generator=generator)
        with torch.autocast("cuda", torch.bfloat16):
            outputs = model(inputs)
        outputs.float().square().mean().backward()
        grads = [weight.grad for weight in model.parameters()]
        assert all(grad is not None and grad.device.type == "cuda" for grad in grads)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()


def test_nothing_is_left_behind() -> None:
    before = (torch.Generator, torch.Tensor.pin_memory, torch.cuda.is_available, threading.Thread.run)
    with on_cuda():
        assert torch.cuda.is_available()
    assert before == (torch.Generator, torch.Tensor.pin_memory, torch.cuda.is_available, threading.Thread.run)
    assert not isinstance(torch.zeros(1), FakeTensor | FakeTensorMode)
