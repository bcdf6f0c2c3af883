"""Several processes that train one model find what one process finds with the same batches."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from sage_va.data import InputError
from sage_va.fusion.ccc import ccc_loss
from sage_va.fusion.config import LossConfig, check_config
from sage_va.fusion.distributed import gathered, join, pooled
from sage_va.fusion.models.base import Output
from sage_va.fusion.models.sage import Fused
from sage_va.fusion.training.losses import total_loss
from sage_va.tests.synthetic import make_cache, random_windows, streams_of, tiny

pytest.importorskip("accelerate")
SIGMA = torch.tensor(0.5)
STILL = {"epochs": 3, "crossfit_epochs": 1, "modality_dropout": 0.0, "span_dropout": 0.0}
SLOW = {"learning_rate": 1e-4}  # Adam turns what is rounded otherwise, in gradients near 0, into whole steps


def settings(folder: Path, **train: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(check_config(tiny(train={**STILL, **train}), "test").to_yaml(), encoding="utf-8")
    return path


def command(cache: Path, labels: Path, out: Path, config: Path) -> list[str]:
    options = ["--labels", labels, "--out", out, "--config", config, "--device", "cpu", "--json"]
    return ["-m", "sage_va.cli", "train", *map(str, [cache, *options])]


def launched(*arguments: str) -> subprocess.CompletedProcess[str]:
    two = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0", "--rdzv_backend", "c10d"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *two, *arguments], capture_output=True, text=True, timeout=300, check=False, env=environment
    )


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    cache, labels = make_cache(tmp_path)
    config = settings(tmp_path, **SLOW)
    one = subprocess.run(
        [sys.executable, *command(cache, labels, tmp_path / "one", config)], capture_output=True, text=True, check=True
    )
    two = launched(*command(cache, labels, tmp_path / "two", config))
    assert two.returncode == 0, two.stderr
    assert json.loads(one.stdout)["random_weights"] == json.loads(two.stdout)["random_weights"]  # printed once
    alone, together = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    assert len(alone) == len(together) == 3
    for a, b in zip(alone, together, strict=True):
        for name, value in a["loss"].items():
            assert b["loss"][name] == pytest.approx(value, rel=3e-4, abs=1e-6)
        assert b["val"] == pytest.approx(a["val"], abs=1e-4)
    weights, others = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_too_few_windows_for_the_processes_are_refused(tmp_path: Path) -> None:
    cache, labels = make_cache(tmp_path)
    done = launched(*command(cache, labels, tmp_path / "run", settings(tmp_path, batch_size=1)))
    assert done.returncode != 0
    assert "expected windows for 2 processes, got" in done.stderr


def _member(index: int, meeting: str, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", meeting, rank=index, world_size=2)
    x, y, mask = batch()
    mine = slice(0, 3) if index == 0 else slice(3, 8)
    part = x[mine].clone().requires_grad_()
    loss = ccc_loss(part, y[mine], mask[mine], (0.5, 0.5))
    loss.backward()
    assert part.grad is not None
    total, count = pooled([torch.tensor(index + 1.0), torch.tensor([3, index])])
    results.put((index, loss.item(), part.grad.tolist(), gathered(index * 10), [total.item(), count.tolist()]))
    dist.destroy_process_group()


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(8, 20, 2, generator=generator) for _ in range(2))
    return x, y, torch.rand(8, 20, generator=generator) < 0.8


@pytest.mark.slow
def test_the_loss_of_parts_is_the_loss_of_the_batch(tmp_path: Path) -> None:
    """And its gradient, once averaged over processes, the gradient of the whole."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    members = [
        context.Process(target=_member, args=(index, f"file://{tmp_path}/meeting", results)) for index in range(2)
    ]
    for member in members:
        member.start()
    replies = sorted(results.get(timeout=120) for _ in members)
    for member in members:
        member.join()
    x, y, mask = batch()
    whole = x.clone().requires_grad_()
    loss = ccc_loss(whole, y, mask, (0.5, 0.5))
    loss.backward()
    assert whole.grad is not None
    gradient = torch.cat([torch.tensor(part) for _, _, part, _, _ in replies])
    torch.testing.assert_close(gradient / 2, whole.grad, rtol=1e-4, atol=1e-7)
    for _, value, _, everyone, total in replies:
        assert value == pytest.approx(loss.item(), rel=1e-5)
        assert (everyone, total) == ([0, 10], [3, [6, 1]])


def test_alone_nothing_is_joined() -> None:
    assert join("cpu") == "cpu"
    assert gathered("x") == ["x"]
    tensor = torch.ones(2)
    assert pooled([tensor])[0] is tensor


def test_a_whole_loss_is_one_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every term switched on; the other process has the same batch, so the loss is that of one."""
    exchanges: list[tuple[int, ...]] = []

    def doubled(tensor: torch.Tensor) -> None:
        exchanges.append(tuple(tensor.shape))
        tensor *= 2

    windows = random_windows(streams_of(), 3, 15)
    generator = torch.Generator().manual_seed(0)
    va, unimodal = (torch.rand(3, 15, *shape, generator=generator, requires_grad=True) for shape in ((2,), (2, 2)))
    shares = torch.rand(3, 15, 2, generator=generator).softmax(-1)
    output = Output(va, unimodal, Fused(va, shares, shares, shares))
    config = LossConfig(mse=0.2, smoothness=0.4, stage_usage=0.1)
    errors = torch.rand(windows.mask.shape, generator=generator)
    expected = total_loss(output, windows, errors, SIGMA, config)
    monkeypatch.setattr("sage_va.fusion.distributed.num_processes", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", doubled)
    terms = total_loss(output, windows, errors, SIGMA, config)
    assert len(exchanges) == 1
    assert set(terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-6, atol=1e-7)
    terms["loss"].backward()
    assert va.grad is not None


def test_without_accelerate_several_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(InputError, match="accelerate launch: expected the package accelerate, got none"):
        join("cpu")
