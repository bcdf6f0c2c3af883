"""The network: what may and may not change its output, where gradients flow, and that a checkpoint keeps it whole."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_va.data import InputError
from sage_va.data.windows.corpus import Stream, Windows
from sage_va.fusion.config import Config, LossConfig, ModelConfig
from sage_va.fusion.models.base import Output, VAModel
from sage_va.fusion.models.sage import floored_weights
from sage_va.fusion.models.tcn import TCN
from sage_va.fusion.models.variants import VARIANTS, build_model, variant_streams
from sage_va.fusion.run_folder import finish_run, load_run, start_run
from sage_va.fusion.training.losses import total_loss
from sage_va.tests.synthetic import random_corpus, random_windows, streams_of

ORIGIN = {"cache": "c", "labels": "l", "licence": None, "restricted": False, "smoothing_s": 1.0, "sigma": None}

torch.set_num_threads(1)
RTOL, ATOL = 1e-5, 2e-6


def make(variant: str = "sage", streams: Sequence[Stream] | None = None, **settings: Any) -> VAModel:
    torch.manual_seed(0)
    small = {"dim": 16, "heads": 2, "tcn_blocks": 2, "layers": 1, **settings}
    model = build_model(
        variant_streams(variant, streams or streams_of()), ModelConfig.model_validate({"variant": variant, **small})
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("absent", "null")):
                parameter.normal_()
    return model.eval()


def windows_for(model: VAModel, *shape: int, **settings: Any) -> Windows:
    return random_windows(model.streams, *shape, **settings)


def padded(windows: Windows, length: int) -> Windows:
    """Windows followed by garbage that is marked as outside the clip."""
    batch, old = windows.inside.shape

    def longer(x: torch.Tensor, garbage: torch.Tensor | None = None) -> torch.Tensor:
        more = torch.zeros(batch, length - old, *x.shape[2:], dtype=x.dtype)
        return torch.cat([x, more if garbage is None else garbage], dim=1)

    return dataclasses.replace(
        windows,
        values=[longer(v, 9 * torch.randn(batch, length - old, v.shape[2])) for v in windows.values],
        quality=[longer(q, 9 * torch.randn(batch, length - old, q.shape[2])) for q in windows.quality],
        **{name: longer(getattr(windows, name)) for name in ("mask", "inside", "va", "va_mask", "steps")},
    )


def assert_same(actual: Output, expected: Output, steps: slice = slice(None), rows: slice = slice(None)) -> None:
    def parts(output: Output) -> list[torch.Tensor | None]:
        return [output.va, output.unimodal, output.fused.weights, output.fused.reliability, output.fused.stage]

    for a, b in zip(parts(actual), parts(expected), strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a[rows, steps], b[rows, steps], rtol=RTOL, atol=ATOL)


@pytest.fixture(params=sorted(VARIANTS))
def model(request: pytest.FixtureRequest) -> VAModel:
    return make(request.param)


@pytest.mark.parametrize("length", [1, 7, 300, 301])
@torch.no_grad()
def test_any_window_length(model: VAModel, length: int) -> None:
    output = model(windows_for(model, 2, length))
    assert output.va.shape == (2, length, 2)
    assert output.unimodal.shape == (2, length, len(model.streams), 2)
    assert (output.va.abs() <= 1).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_padding_and_batch_mates_never_change_a_valid_output(causal: bool, mode: Callable[[], Any]) -> None:
    """With and without gradients, since torch takes another way through the transformer for each."""
    for variant in VARIANTS:
        model = make(variant, causal=causal)
        windows = windows_for(model, 3, 23)
        alone = dataclasses.replace(
            windows,
            values=[v[:1] for v in windows.values],
            quality=[q[:1] for q in windows.quality],
            **{name: getattr(windows, name)[:1] for name in ("mask", "inside", "va", "va_mask", "steps")},
        )
        with mode():
            expected = model(windows)
            assert_same(model(padded(windows, 40)), expected, steps=slice(23))
            assert_same(model(padded(alone, 64)), expected, steps=slice(23), rows=slice(1))


@torch.no_grad()
def test_values_under_a_false_mask_never_matter(model: VAModel) -> None:
    windows = windows_for(model, 2, 30)
    dirty = dataclasses.replace(
        windows,
        values=[
            torch.where(windows.mask[..., m, None], v, torch.tensor(bad))
            for m, (v, bad) in enumerate(zip(windows.values, (torch.nan, 1e4), strict=False))
        ],
    )
    assert_same(model(dirty), model(windows))


@torch.no_grad()
def test_fully_masked_streams_are_no_problem(model: VAModel) -> None:
    windows = windows_for(model, 2, 30)
    for m in range(len(model.streams)):
        mask = windows.mask.clone()
        mask[..., m] = False
        output = model(dataclasses.replace(windows, mask=mask))
        assert torch.isfinite(output.va).all()
        if output.fused.weights is not None:
            assert (output.fused.weights[..., m] == 0).all()
    output = model(dataclasses.replace(windows, mask=torch.zeros_like(windows.mask)))
    assert torch.isfinite(output.va).all()


@torch.no_grad()
def test_null_token_stands_where_no_stream_is_valid() -> None:
    model = make(layers=0, tcn_blocks=0)
    windows = windows_for(model, 2, 30)
    windows.mask[:, 5:9] = False
    before = model(windows).va
    model.get_parameter("fusion.null").add_(torch.randn(16))
    changed = (model(windows).va - before).abs().sum(-1) > 0
    assert torch.equal(changed, ~windows.mask.any(-1))


@torch.no_grad()
def test_a_causal_model_never_sees_the_future() -> None:
    for variant in VARIANTS:
        for causal in (True, False):
            model = make(variant, causal=causal)
            windows = windows_for(model, 2, 40)
            later = [torch.cat([v[:, :25], torch.randn_like(v[:, 25:])], 1) for v in windows.values]
            before, after = model(windows), model(dataclasses.replace(windows, values=later))
            if causal:
                assert_same(after, before, steps=slice(25))
            elif variant != "linear":  # which sees only the present
                assert not torch.allclose(after.va[:, :25], before.va[:, :25], rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("causal", [False, True])
def test_receptive_field_is_what_the_tcn_says(causal: bool) -> None:
    torch.manual_seed(0)
    tcn = TCN(4, causal=causal, dropout=0.0)
    assert tcn.receptive_steps == 121
    x = torch.randn(1, 301, 4, requires_grad=True)
    tcn(x, torch.ones(1, 301, dtype=torch.bool))[0, 150].sum().backward()
    assert x.grad is not None
    reach = x.grad[0].abs().sum(-1).nonzero()[:, 0]
    assert (reach.min().item(), reach.max().item()) == ((30, 150) if causal else (90, 210))


@torch.no_grad()
def test_three_streams() -> None:
    streams = streams_of((8, 6, 5), (1, 0, 2))
    for variant in VARIANTS:
        model = make(variant, streams)
        assert len(model.streams) == {"visual": 2, "audio": 1}.get(variant, 3)
        windows = windows_for(model, 2, 12)
        output = model(windows)
        assert output.va.shape == (2, 12, 2)
        if output.fused.reliability is not None:
            torch.testing.assert_close(output.fused.weights.sum(-1), windows.mask.any(-1).float())


def tcn_gradients(separate: bool, term: str) -> float:
    model = make(separate=separate).train()
    windows = windows_for(model, 2, 20)
    error = torch.rand(windows.mask.shape)
    total_loss(model(windows), windows, error, torch.tensor(0.5), LossConfig())[term].backward()
    inputs = [p for name, p in model.named_parameters() if name.startswith("encoders")]
    return sum(0.0 if p.grad is None else p.grad.abs().sum().item() for p in inputs)


@pytest.mark.parametrize("term", ["calibration", "ordinal"])
def test_teaching_trust_never_bends_the_features_unless_asked(term: str) -> None:
    assert tcn_gradients(True, term) == 0
    assert tcn_gradients(False, term) > 0
    assert tcn_gradients(True, "va") > 0


@given(
    st.integers(2, 4).flatmap(
        lambda m: st.lists(
            st.tuples(
                st.lists(st.floats(0, 1), min_size=m, max_size=m), st.lists(st.booleans(), min_size=m, max_size=m)
            ),
            min_size=1,
            max_size=6,
        )
    ),
    st.floats(0, 0.24),
)
@settings(deadline=None, max_examples=100)
def test_floored_weights(rows: list[tuple[list[float], list[bool]]], floor: float) -> None:
    """Sum 1 over valid streams even if none is trusted, at least the floor each, 0 where masked."""
    reliability, mask = torch.tensor([r for r, _ in rows]), torch.tensor([m for _, m in rows])
    weights = floored_weights(reliability, mask, floor)
    torch.testing.assert_close(weights.sum(-1), mask.any(-1).float())
    assert (weights[mask] >= floor - 1e-6).all()
    assert (weights[~mask] == 0).all()


def test_floors_that_leave_nothing_to_share_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"model\.floor: .*got 0\.4 for each of 3 streams\. Set model\.floor below 1 / 3"
    ):
        make(streams=streams_of((8, 6, 5), (0, 0, 0)), floor=0.4)


@torch.no_grad()
def test_reliability_and_stages_are_shares() -> None:
    for stage, num_stages in (("latent", 3), ("none", 1), ("given", 4), ("depth", 3)):
        model = make(stage=stage)
        fused = model(windows_for(model, 2, 20)).fused
        assert fused.stage.shape[-1] == num_stages
        torch.testing.assert_close(fused.stage.sum(-1).float(), torch.ones(2, 20))
        assert ((fused.reliability > 0) & (fused.reliability < 1)).all()


def test_calibration_parameters_are_registered_and_learn_only_if_wanted() -> None:
    names = {"fusion.gate.offset", "fusion.gate.raw_temperature", "fusion.null", "encoders.0.absent"}
    assert names <= set(dict(make().named_parameters()))
    gate = make(calibrated=False).get_submodule("fusion.gate")
    torch.testing.assert_close(gate.temperature, torch.ones(2))
    assert not gate.offset.requires_grad
    assert not gate.raw_temperature.requires_grad


def test_normalisation_comes_from_valid_steps_of_training_clips_alone() -> None:
    model = make()
    corpus = random_corpus(model.streams, [30, 50, 20])
    corpus.values[0][corpus.steps(2)] += 1000
    model.fit_normalisation(corpus, [0, 1])
    valid = corpus.values[0][:80][corpus.mask[:80, 0]]
    torch.testing.assert_close(model.get_buffer("norms.0.mean"), valid.mean(0))
    torch.testing.assert_close(model.get_buffer("norms.0.scale"), valid.std(0, correction=0))


@torch.no_grad()
def test_constant_features_and_streams_without_a_valid_step_are_no_problem() -> None:
    model = make()
    corpus = random_corpus(model.streams, [30])
    corpus.values[0][:, 0] = 1000.3
    corpus.mask[:, 1] = False
    model.fit_normalisation(corpus, [0])
    assert model.get_buffer("norms.0.scale")[0] == 1
    assert torch.equal(model.get_buffer("norms.1.mean"), torch.zeros(6))


@torch.no_grad()
def test_float16_features_give_what_their_float32_copies_give(model: VAModel) -> None:
    windows = windows_for(model, 2, 20)
    half = dataclasses.replace(windows, values=[v.half() for v in windows.values])
    assert_same(model(half), model(dataclasses.replace(half, values=[v.float() for v in half.values])))


@torch.no_grad()
def test_a_checkpoint_keeps_every_output(model: VAModel, tmp_path: Path) -> None:
    model.fit_normalisation(random_corpus(model.streams, [40]), [0])
    config = Config(model=model.config)
    start_run(tmp_path / "run", config, {"a": "train", "b": "val"})
    finish_run(
        tmp_path / "run",
        model,
        config,
        ORIGIN,
    )
    run = load_run(tmp_path / "run")
    assert (run.config, run.streams, run.roles, run.smoothing_s) == (
        config,
        model.streams,
        {"a": "train", "b": "val"},
        1,
    )
    windows = windows_for(model, 2, 20)
    before, after = model(windows), run.model(windows)
    assert torch.equal(before.va, after.va)
    assert torch.equal(before.unimodal, after.unimodal)


def test_a_torn_checkpoint_is_refused(tmp_path: Path) -> None:
    model = make()
    config = Config(model=model.config)
    start_run(tmp_path / "run", config, {"a": "train"})
    with pytest.raises(InputError, match="expected the folder of a finished run, got none"):
        load_run(tmp_path / "run")
    finish_run(
        tmp_path / "run",
        model,
        config,
        ORIGIN,
    )
    for name in ("model.safetensors", "config.json"):
        whole = (tmp_path / "run" / name).read_bytes()
        (tmp_path / "run" / name).write_bytes(whole[: len(whole) // 3])
        with pytest.raises(InputError, match="expected a whole run"):
            load_run(tmp_path / "run")
        (tmp_path / "run" / name).write_bytes(whole)
    (tmp_path / "run" / "split.csv").unlink()
    with pytest.raises(InputError, match="expected a whole run"):
        load_run(tmp_path / "run")


def test_variants_refuse_streams_that_they_cannot_use() -> None:
    face, voice = streams_of()
    with pytest.raises(InputError, match=r"variant audio: expected at least 1 audio stream, got visual/s0-00000000"):
        variant_streams("audio", [face])
    with pytest.raises(InputError, match="variant sage: expected at least 2 streams, got audio/s1-00000000"):
        variant_streams("sage", [voice])
