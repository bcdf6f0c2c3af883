"""The work that a training step asks of a GPU, for every variant: kernels as a figure, no copies, no waits.

`tests/golden/kernels.json` holds two figures for each variant: [in float32 with the backward pass and the optimiser, on
the device that computes on the host; in bfloat16 without the backward pass, on the one that has shapes alone]. A step
that needs more fails, so that the figure cannot grow unnoticed; one that needs much less asks for a new figure:

    python -m sage_va.tests.fusion.test_kernels
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sage_va.data import open_store
from sage_va.data.windows.batches import Batch
from sage_va.data.windows.corpus import Corpus
from sage_va.data.windows.placement import each_cut
from sage_va.fusion.config import Config, check_config
from sage_va.fusion.evaluation.predict import predict, predict_va
from sage_va.fusion.experiments.compare import compare
from sage_va.fusion.models.base import VAModel
from sage_va.fusion.models.variants import VARIANTS, build_model, resolve, variant_streams
from sage_va.fusion.training.trainer import Trainer
from sage_va.tests.fake_cuda import Launches, on_cuda
from sage_va.tests.host_cuda import count, on_host_cuda
from sage_va.tests.synthetic import make_cache, random_corpus, streams_of, tiny

torch.set_num_threads(1)
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "kernels.json"
SLACK = 0.95  # a figure below this share of the golden one asks for a new one
SMALL = {"dim": 8, "heads": 2, "tcn_blocks": 1, "layers": 1, "dropout": 0.1, "input_dropout": 0.2}
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"variant": name} for name in VARIANTS},
    "depth": {"stage": "depth"},
    "given": {"stage": "given"},
    "causal": {"causal": True, "stage": "depth", "memory_steps": 9},
    "quality": {"quality_input": True},
}
WITH_DRIVER = ("tagf",)  # cuDNN's LSTM asks the driver, so shapes alone do not run it
STILL = {"precision": "float32", "epochs": 1, "crossfit_epochs": 1, "modality_dropout": 0.0, "span_dropout": 0.0}
BATCHES = [Batch(np.array([[0, 90], [90, 170]]), 60)] * 3


def config_of(name: str, precision: str = "float32") -> Config:
    train = {"precision": precision, "ema": 0.9, "epochs": 2, "crossfit_epochs": 1}
    return resolve(check_config(tiny(model={**SMALL, **SETTINGS[name]}, train=train), "test"))


def parts(config: Config) -> tuple[VAModel, Corpus]:
    torch.manual_seed(0)
    streams = variant_streams(config.model.variant, streams_of())
    corpus = random_corpus(streams, [90, 80])
    return build_model(streams, config.model), corpus


def steady(trainer: Trainer, launches: Any) -> Launches:
    """The work of a step after the first."""
    batches = each_cut(trainer.corpus, BATCHES)
    trainer.model.train()
    trainer.step(next(batches), 1e-3)
    with launches() as first:
        trainer.step(next(batches), 1e-3)
    with launches() as second:
        trainer.step(next(batches), 1e-3)
    assert first == second, "steps are alike"
    return second


def with_gradients(name: str) -> Launches:
    """One step in float32, with numbers and its backward pass."""
    config = config_of(name)
    model, corpus = parts(config)
    with on_host_cuda() as device:
        there = corpus.to(device)
        errors = torch.rand(corpus.mask.shape).to(device)
        return steady(Trainer(model.to(device), there, [0, 1], config, errors), count)


def in_bfloat16(name: str) -> Launches:
    """One step in bfloat16 without its backward pass, where a wait for the device raises."""
    config = config_of(name, "bfloat16")
    model, corpus = parts(config)
    model.fit_normalisation = model.fit_evidence = lambda *facts: None  # read features, once per run
    with on_cuda() as cuda:
        there = corpus.to(torch.device("cuda"))
        errors = torch.rand(corpus.mask.shape).to("cuda")
        return steady(Trainer(model.to("cuda"), there, [0, 1], config, errors), cuda.count)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # copying the model for its average
@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_asks_for_no_more_than_before_and_copies_nothing(name: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[name]
    ways = [with_gradients] if name in WITH_DRIVER else [with_gradients, in_bfloat16]
    for way, figure in zip(ways, golden, strict=True):
        launches = way(name)
        assert launches.copies == []
        assert launches.num_kernels <= figure, "more kernels than before"
        assert launches.num_kernels >= SLACK * figure, f"lower {GOLDEN.name}: see above"


@pytest.mark.parametrize("name", SETTINGS)
def test_predictions_on_a_gpu_are_the_host_s_and_are_copied_once(name: str) -> None:
    config = config_of(name)
    model, corpus = parts(config)
    expected = predict(model, corpus, [0, 1], config.on_grid(corpus.hz).data)
    copies = []
    with on_host_cuda() as device:
        there, model = corpus.to(device), model.to(device)
        predictions = predict(model, there, [0, 1], config.on_grid(corpus.hz).data, batch_size=1)
        for batch_size in (1, 2, 64):
            with count() as launches:
                predict_va(model, there, [0, 1], config.on_grid(corpus.hz).data, batch_size)
            copies.append([(copy.to, len(copy.shape)) for copy in launches.copies])
    for one, other in zip(predictions, expected, strict=True):
        np.testing.assert_allclose(one.va, other.va, atol=1e-5)
        np.testing.assert_allclose(one.unimodal, other.unimodal, atol=1e-5)
    assert copies == [[("cuda", 2), ("cuda", 1), ("cpu", 2)]] * 3  # rows, their places; the sums


def test_a_comparison_on_a_gpu_is_the_host_s(tmp_path: Path) -> None:
    cache, labels = make_cache(tmp_path, num_clips=6, seconds=2.4)
    config = check_config(tiny(model={**SMALL, "input_dropout": 0.0, "dropout": 0.0}, train=STILL), "test")

    def scores(device: str) -> list[dict[str, Any]]:
        result = compare(
            open_store(cache), labels, tmp_path / device, config, ["concat", "sage"], num_seeds=1, jobs=1, device=device
        )
        assert not result.failures
        return result.to_json()["rows"]

    expected = scores("cpu")
    with on_host_cuda():
        there = scores("cuda")
    assert [row["variant"] for row in there] == ["concat", "sage"]
    for row, other in zip(there, expected, strict=True):
        for target in ("valence", "arousal"):
            assert row["raw"][target]["each"] == pytest.approx(other["raw"][target]["each"], abs=1e-3)


if __name__ == "__main__":
    figures = {
        name: [with_gradients(name).num_kernels, *([] if name in WITH_DRIVER else [in_bfloat16(name).num_kernels])]
        for name in SETTINGS
    }
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(pair)}" for name, pair in figures.items())
    GOLDEN.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
