"""Stage 2 with `device="cuda"`, on two stand-ins for a GPU: it gives the host's numbers, and no step waits for it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sage_va.data import open_store
from sage_va.data.windows.batches import Batch
from sage_va.data.windows.placement import each_cut
from sage_va.fusion.config import Config, check_config
from sage_va.fusion.evaluation.robustness import robustness
from sage_va.fusion.evaluation.score import score_run
from sage_va.fusion.models.variants import VARIANTS, build_model, resolve, variant_streams
from sage_va.fusion.run_folder import load_run
from sage_va.fusion.streaming import StreamingModel
from sage_va.fusion.training import calibrate as calibrate_module
from sage_va.fusion.training import resume_state, trainer
from sage_va.fusion.training.calibrate import calibrate
from sage_va.fusion.training.crossfit import out_of_fold_errors
from sage_va.fusion.training.losses import total_loss
from sage_va.fusion.training.train import train
from sage_va.fusion.training.trainer import Trainer
from sage_va.tests.fake_cuda import on_cuda
from sage_va.tests.host_cuda import CUDA, on_host_cuda
from sage_va.tests.synthetic import make_cache, random_corpus, random_windows, streams_of, tiny

torch.set_num_threads(1)
CPU = torch.device("cpu")
SMALL = {"dim": 8, "heads": 2, "tcn_blocks": 1, "layers": 1, "dropout": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"variant": name} for name in VARIANTS},
    "depth": {"stage": "depth"},
    "given": {"stage": "given"},
    "causal": {"causal": True, "stage": "depth", "memory_steps": 9},
    "quality": {"quality_input": True, "input_dropout": 0.2},
}


def config_of(settings: dict[str, Any], **sections: Any) -> Config:
    float32 = {"precision": "float32", "epochs": 2, "crossfit_epochs": 1, **sections.pop("train", {})}
    return resolve(check_config(tiny(model={**SMALL, **settings}, train=float32, **sections), "test"))


def two_steps(config: Config, device: torch.device) -> tuple[list[float], torch.device]:
    """Losses of two steps on the same windows, and the device of a gradient."""
    torch.manual_seed(0)
    streams = variant_streams(config.model.variant, streams_of())
    model = build_model(streams, config.model).to(device).train()
    windows = random_windows(streams).each(lambda tensor: tensor.to(device))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    errors, sigma, losses = torch.rand(windows.mask.shape).to(device), torch.ones((), device=device), []
    for _ in range(2):
        loss = total_loss(model(windows), windows, errors, sigma, config.loss)["loss"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
        optimiser.step()
        losses.append(loss.item())
    grad = next(weight.grad for weight in model.parameters() if weight.grad is not None)
    return losses, grad.device


@pytest.mark.parametrize("name", SETTINGS)
def test_every_variant_trains_on_a_gpu_as_on_the_host(name: str) -> None:
    config = config_of({**SETTINGS[name], "input_dropout": 0.0})
    expected, _ = two_steps(config, CPU)
    with on_host_cuda() as device:
        losses, where = two_steps(config, device)
    assert where == CUDA
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert losses[1] < losses[0]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_cache(tmp_path_factory.mktemp("cache"), num_clips=6, seconds=2.4)


TRAINED = config_of({"variant": "sage"}, train={"ema": 0.5, "noise": 0.1})


def train_there(cache: tuple[Path, Path], out: Path, device: str, **options: Any) -> list[dict[str, Any]]:
    train(open_store(cache[0]), cache[1], out, TRAINED, device=device, **options)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def on_host(cache: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("runs") / "cpu"
    return out, train_there(cache, out, "cpu")


def assert_same(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for row, other in zip(rows, expected, strict=True):
        for part in ("loss", "val"):
            assert row[part] == pytest.approx(other[part], abs=1e-4)


@pytest.mark.parametrize(
    ("device", "free_bytes"), [("cuda", 1 << 40), ("cuda:0", 1)], ids=["features on the GPU", "features in main memory"]
)
def test_a_run_on_a_gpu_gives_the_host_s_losses_and_scores(
    cache: tuple[Path, Path], on_host: tuple[Path, list[dict[str, Any]]], tmp_path: Path, device: str, free_bytes: int
) -> None:
    """Cross-fitting, training, its average of weights, validation and the search for a smoothing."""
    with on_host_cuda(free_bytes):
        rows = train_there(cache, tmp_path / "run", device)
        described = json.loads((tmp_path / "run/config.json").read_text())
        report = score_run(tmp_path / "run", device=device)
    assert_same(rows, on_host[1])
    assert described["sigma"] == pytest.approx(load_run(on_host[0]).sigma, abs=1e-4)
    assert report.raw.ccc == pytest.approx(score_run(on_host[0]).raw.ccc, abs=1e-3)


def test_a_run_on_a_gpu_resumes(
    cache: tuple[Path, Path], on_host: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    stops = iter([False] * 6)  # cross-fitting reports four times, then come steps
    with on_host_cuda():
        with pytest.raises(KeyboardInterrupt):
            train_there(cache, tmp_path / "run", "cuda", stop=lambda: next(stops, True))
        assert (tmp_path / "run/last.safetensors").exists()
        rows = train_there(cache, tmp_path / "run", "cuda", resume=True)
    assert_same(rows, on_host[1])


def test_memory_of_the_gpu_that_runs_out_is_an_error_of_torch_and_loses_no_state(
    cache: tuple[Path, Path],
    on_host: tuple[Path, list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def exhausted(*arguments: Any) -> dict[str, torch.Tensor]:
        if (tmp_path / "run/last.safetensors").exists():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return total_loss(*arguments)

    monkeypatch.setattr(resume_state, "EVERY_S", 0.0)
    with on_host_cuda():
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "total_loss", exhausted)
            with pytest.raises(torch.OutOfMemoryError):
                train_there(cache, tmp_path / "run", "cuda")
        assert not (tmp_path / "run/config.json").exists()
        rows = train_there(cache, tmp_path / "run", "cuda", resume=True)
    assert_same(rows, on_host[1])


def test_errors_of_cross_fitting_are_the_host_s() -> None:
    corpus, config = random_corpus(streams_of(), [50, 40, 40]), config_of({})
    expected = out_of_fold_errors(corpus, range(3), config, lambda event: None)
    with on_host_cuda() as device:
        errors = out_of_fold_errors(corpus.to(device), range(3), config, lambda event: None)
        assert errors.device == CUDA
        torch.testing.assert_close(errors.cpu(), expected, equal_nan=True)


def numbers(value: Any, path: str = "") -> dict[str, float]:
    """The numbers of a result by their place in it."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: number for name, part in items for key, number in numbers(part, f"{path}/{name}").items()}
    return {path: value} if isinstance(value, float) else {}


def test_a_run_is_calibrated_and_corrupted_on_a_gpu_as_on_the_host(
    on_host: tuple[Path, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate_module, "NUM_STEPS", 20)

    def results(name: str, device: str) -> list[dict[str, Any]]:
        return [
            calibrate(on_host[0], tmp_path / name, device=device).to_json(),
            robustness(on_host[0], strengths=(0.0, 1.0), device=device).to_json(),
        ]

    expected = numbers(results("cpu", "cpu"))
    with on_host_cuda():
        there = numbers(results("cuda", "cuda"))
    assert len(there) > 50
    assert there == pytest.approx(expected, abs=1e-3)


@torch.no_grad()
def test_a_model_streams_on_a_gpu_as_on_the_host() -> None:
    torch.manual_seed(0)
    model = build_model(streams_of(), config_of({"variant": "sage", "causal": True}).model)
    steps = [
        [rng.standard_normal(8), None if rng.random() < 0.3 else rng.standard_normal(6)]
        for rng in map(np.random.default_rng, range(5))
    ]
    streaming = StreamingModel(model)
    expected = [streaming.step(step).va for step in steps]
    with on_host_cuda() as device:
        there = StreamingModel(model.to(device))
        np.testing.assert_allclose([there.step(step).va for step in steps], expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # copying the model for its average
@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_never_waits_for_the_device(precision: str, ema: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait raises on the pretended device. The rows of all batches of an epoch are uploaded at once, nothing else."""
    config = config_of({"variant": "sage"}, train={"precision": precision, "noise": 0.1, "ema": ema})
    model = build_model(streams_of(), config.model)
    for once in ("fit_normalisation", "fit_evidence"):  # count steps, once per run
        monkeypatch.setattr(model, once, lambda *facts: None)
    corpus = random_corpus(streams_of(), [90, 80])
    batches = [Batch(np.array([[0, 90], [90, 170]]), 60)] * 4
    with on_cuda() as cuda:
        there = corpus.to(torch.device("cuda"))
        trainer = Trainer(model.to("cuda"), there, [0, 1], config, torch.rand(corpus.mask.shape).to("cuda"))
        with cuda.count() as first:
            steps = each_cut(there, batches)
            trainer.step(next(steps), 1e-3)
        with cuda.count() as others:
            for windows in steps:
                trainer.step(windows, 1e-3)
    assert [(copy.to, copy.shape) for copy in first.copies] == [("cuda", (8, 2))]
    assert others.copies == []
    assert others.num_kernels > 3 * 200
