"""The parts of a training step: the average of weights, the precision of estimates, what several processes share."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sage_va.commands.train import describe_speed
from sage_va.data import open_store
from sage_va.fusion.config import Config, check_config
from sage_va.fusion.models.base import VAModel
from sage_va.fusion.models.variants import VARIANTS, build_model, resolve, variant_streams
from sage_va.fusion.training import limits as limits_module
from sage_va.fusion.training import train as train_module
from sage_va.fusion.training.average import WeightAverage
from sage_va.fusion.training.limits import Limits
from sage_va.fusion.training.train import train
from sage_va.fusion.training.trainer import Trainer
from sage_va.tests.synthetic import make_cache, random_corpus, random_windows, streams_of, tiny

torch.set_num_threads(1)
SMALL = {"dim": 8, "heads": 2, "tcn_blocks": 1, "layers": 1, "dropout": 0.0}


def config_of(variant: str = "sage", **sections: Any) -> Config:
    return resolve(check_config(tiny(model={**SMALL, "variant": variant}, **sections), "test"))


def model_of(config: Config) -> VAModel:
    torch.manual_seed(0)
    return build_model(variant_streams(config.model.variant, streams_of()), config.model)


def test_the_average_of_weights_is_torch_s_to_the_bit() -> None:
    model = model_of(config_of())
    ours, theirs = WeightAverage(model, 0.7), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7))
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn(weight.shape, generator=generator))
        ours.update(model)
        theirs.update_parameters(model)
        again = WeightAverage(model, 0.7)
        again.load_state_dict(ours.state_dict())
        ours = again
        expected = theirs.state_dict()
        assert set(ours.state_dict()) == set(expected)
        for name, value in ours.state_dict().items():
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_estimates_are_float32_where_the_network_is_bfloat16(variant: str) -> None:
    """And not float32 numbers that were rounded to bfloat16 before."""
    config = config_of(variant)
    model, windows = model_of(config), random_windows(variant_streams(variant, streams_of()))
    with torch.no_grad():
        for weight in model.parameters():  # those of `linear` are 0
            weight.add_(0.1 * torch.randn(weight.shape))
    with torch.autocast("cpu", torch.bfloat16):
        output = model(windows)
    for estimates in (output.va, output.unimodal):
        assert estimates.dtype == torch.float32
        assert (estimates != estimates.bfloat16().float()).float().mean() > 0.8
    exact = model(windows)
    torch.testing.assert_close(output.va, exact.va, atol=0.05, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_unused_weights_are_searched_for_only_where_there_are_some(variant: str) -> None:
    """With several processes, each step would search."""
    corpus = random_corpus(variant_streams(variant, streams_of()), [90, 80])
    errors = torch.rand(corpus.mask.shape)
    for weight, any_unused in ((0.3, False), (0.0, variant != "late")):
        config = config_of(variant, loss={"unimodal": weight})
        trainer = Trainer(model_of(config), corpus, [0, 1], config, errors)
        state = torch.get_rng_state()
        assert trainer._any_unused() == any_unused
        assert torch.equal(torch.get_rng_state(), state)


def test_cublas_is_told_to_repeat_itself_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first model that runs is that of the checks, before the training itself."""
    cache, labels = make_cache(tmp_path, num_clips=4, seconds=2.4)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    values: list[str | None] = []

    def checked(*_: object) -> None:
        values.append(os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "_check", checked)
    for deterministic in (False, True):
        config = config_of("concat", train={"deterministic": deterministic})
        with pytest.raises(KeyboardInterrupt):
            train(open_store(cache), labels, tmp_path / "run", config)
    assert values == [None, ":4096:8"]


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("device", "cut_s", "finished", "expected"),
    [
        ("cpu", 0.1, None, "device"),
        ("cpu", 3.0, None, "data"),
        ("cuda", 0.1, True, "host"),
        ("cuda", 3.0, True, "data"),
        ("cuda", 0.1, False, "device"),
        ("cuda", 3.0, False, "device"),
    ],
)
def test_what_limits_an_epoch(
    device: str, cut_s: float, finished: bool | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`finished`: the device has done a step before the next begins."""
    clock = Clock()

    class Event:
        def record(self) -> None: ...

        def query(self) -> bool:
            assert finished is not None
            return finished

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(limits_module, "perf_counter", clock)
    limits = Limits(torch.device(device))

    def windows() -> Iterator[Any]:
        for _ in range(5):
            clock.now_s += cut_s
            yield object()

    for _ in limits.timed(windows()):
        clock.now_s += 1.0
    share = 5 * cut_s / (5 * cut_s + 5)
    assert limits.figures() == {"data_share": pytest.approx(share, abs=1e-3), "limited_by": expected}
    line = describe_speed({"windows_per_s": 12.3, **limits.figures()})
    assert (
        line
        == f"12 windows/s, limited by the {expected}; cutting windows took {100 * round(share, 4):.1f} % of the time"
    )
