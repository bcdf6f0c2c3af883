"""The training objective: each term on its own, its minimum, its masks."""

import dataclasses
from collections.abc import Mapping

import pytest
import torch

from sage_va.data.windows.corpus import Windows
from sage_va.fusion.config import LossConfig, ModelConfig
from sage_va.fusion.models.base import Output
from sage_va.fusion.models.sage import Fused
from sage_va.fusion.models.variants import build_model
from sage_va.fusion.training.losses import calibration_loss, ordinal_loss, reliability_target, total_loss
from sage_va.tests.synthetic import random_windows, streams_of

torch.set_num_threads(1)
SIGMA = torch.tensor(0.5)
OFF = {name: 0.0 for name in LossConfig.model_fields if name != "valence"}
ON = {**OFF, "unimodal": 0.3, "calibration": 0.1, "ordinal": 0.05, "mse": 0.2, "smoothness": 0.4, "stage_usage": 0.1}


@pytest.fixture
def windows() -> Windows:
    return random_windows(streams_of(), 3, 15)


@pytest.fixture
def error(windows: Windows) -> torch.Tensor:
    values = torch.rand(windows.mask.shape)
    return torch.where(windows.mask & windows.va_mask[..., None], values, torch.nan)


def output_for(windows: Windows, variant: str = "sage") -> Output:
    torch.manual_seed(0)
    model = build_model(streams_of(), ModelConfig(variant=variant, dim=8, heads=2, layers=1, tcn_blocks=1))  # type: ignore[arg-type]
    return model.eval()(windows)


def loss(
    windows: Windows, error: torch.Tensor, config: Mapping[str, float], output: Output | None = None
) -> dict[str, torch.Tensor]:
    return total_loss(output or output_for(windows), windows, error, SIGMA, LossConfig(**config))


def test_each_term_is_switched_by_its_weight_and_scales_with_it(windows: Windows, error: torch.Tensor) -> None:
    assert set(loss(windows, error, OFF)) == {"loss", "va"}
    for name in OFF:
        once, twice = (loss(windows, error, {**OFF, name: weight}) for weight in (0.5, 1.0))
        assert set(once) == {"loss", "va", name}
        torch.testing.assert_close(twice[name], 2 * once[name])
        torch.testing.assert_close(once["loss"], once["va"] + once[name])


def test_a_term_of_weight_zero_is_absent_and_leaves_the_others_alone(windows: Windows, error: torch.Tensor) -> None:
    output = output_for(windows)
    full = loss(windows, error, ON, output)
    assert set(full) == {"loss", "va", *OFF}
    for name in OFF:
        terms = loss(windows, error, {**ON, name: 0.0}, output)
        assert set(terms) == set(full) - {name}
        torch.testing.assert_close(terms["loss"], full["loss"] - full[name])
        assert all(torch.equal(terms[other], full[other]) for other in terms if other != "loss")


def agreement(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """CCC of (S,) series, written out."""
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    return 2 * covariance / (x.var(correction=0) + y.var(correction=0) + (x.mean() - y.mean()) ** 2)


def by_hand(parts: Mapping[str, torch.Tensor], windows: Windows, error: torch.Tensor) -> dict[str, torch.Tensor]:
    """Equations (13) to (16) of docs/model.md step by step, in the dtype of the parts, unweighted."""
    y, labelled, sigma = windows.va.double(), windows.va_mask, SIGMA.double()

    def disagreement(va: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
        each = [agreement(va[counted][:, d], y[counted][:, d]) for d in range(2)]
        return 0.3 * (1 - each[0]) + 0.7 * (1 - each[1])

    streams = range(windows.mask.shape[-1])
    alone = [disagreement(parts["unimodal"][:, :, m], windows.mask[..., m] & labelled) for m in streams]
    trust, order, change = [], [], []
    for b, t in torch.cartesian_prod(torch.arange(labelled.shape[0]), torch.arange(labelled.shape[1])).tolist():
        known = [m for m in streams if windows.mask[b, t, m] and torch.isfinite(error[b, t, m])]
        for m in known:
            r, target = parts["reliability"][b, t, m], (-error[b, t, m].double() / sigma).exp()
            trust.append(-target * r.log() - (1 - target) * (1 - r).log())
        if len(known) > 1:
            target, share = (-error[b, t, known].double() / sigma).softmax(0), parts["weights"][b, t, known]
            order.append((target * (target.log() - share.log())).sum())
        if t and windows.inside[b, t]:
            change.append((parts["va"][b, t] - parts["va"][b, t - 1]).square().sum())
    usage = parts["stage"][windows.inside].mean(0)
    return {
        "va": disagreement(parts["va"], labelled),
        "unimodal": torch.stack(alone).mean(),
        "calibration": torch.stack(trust).mean(),
        "ordinal": torch.stack(order).mean(),
        "mse": (parts["va"] - y)[labelled].square().mean(),
        "smoothness": torch.stack(change).mean(),
        "stage_usage": (usage * usage.log()).sum(),
    }


@pytest.mark.parametrize("num_streams", [2, 3])
def test_every_term_and_its_gradient_are_those_of_the_equations_in_float64(num_streams: int) -> None:
    windows = random_windows(streams_of((4,) * num_streams, (0,) * num_streams), 3, 15, seed=num_streams)
    windows.inside[1, 11:] = False
    windows.mask[1, 11:], windows.va_mask[1, 11:] = False, False
    generator = torch.Generator().manual_seed(1)
    error = torch.where(
        windows.mask & windows.va_mask[..., None], torch.rand(windows.mask.shape, generator=generator), torch.nan
    )
    shape = (3, 15)
    wide = {
        "va": torch.rand(*shape, 2, generator=generator).double() * 2 - 1,
        "unimodal": torch.rand(*shape, num_streams, 2, generator=generator).double() * 2 - 1,
        "reliability": torch.rand(*shape, num_streams, generator=generator).double() * 0.9 + 0.05,
        "weights": torch.randn(*shape, num_streams, generator=generator).softmax(-1).double(),
        "stage": torch.randn(*shape, 3, generator=generator).softmax(-1).double(),
    }
    narrow = {name: value.float().requires_grad_() for name, value in wide.items()}
    wide = {name: value.requires_grad_() for name, value in wide.items()}
    fused = Fused(narrow["va"], narrow["weights"], narrow["reliability"], narrow["stage"])
    each = dict.fromkeys(OFF, 1.0)
    terms = total_loss(
        Output(narrow["va"], narrow["unimodal"], fused), windows, error, SIGMA, LossConfig(valence=0.3, **each)
    )
    expected = by_hand(wide, windows, error)
    assert set(terms) == {"loss", *expected}
    for name, value in expected.items():
        assert terms[name].dtype == torch.float32
        assert terms[name].item() == pytest.approx(value.item(), abs=1e-5), name
        gradients = [
            torch.autograd.grad(
                term, list(parts.values()), retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for term, parts in ((terms[name], narrow), (value, wide))
        ]
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours.double(), theirs, atol=1e-4 * max(1e-3, theirs.abs().max().item()), rtol=0)


@pytest.mark.parametrize("num_streams", [2, 3])
@pytest.mark.parametrize("stage", ["none", "latent"])
def test_what_teaches_trust_leaves_every_encoder_alone_if_separate(stage: str, num_streams: int) -> None:
    """The gate learns from it either way; the TCN, the projection and the absent token only without `separate`."""
    streams = streams_of((8, 6, 5)[:num_streams], (1, 0, 2)[:num_streams])
    windows = random_windows(streams, 3, 15)
    error = torch.rand(windows.mask.shape)
    sizes = {"dim": 8, "heads": 2, "layers": 1, "tcn_blocks": 1, "dropout": 0.0, "stage": stage}
    for separate in (True, False):
        torch.manual_seed(0)
        model = build_model(streams, ModelConfig.model_validate({**sizes, "separate": separate}))
        terms = total_loss(model(windows), windows, error, SIGMA, LossConfig())
        (terms["calibration"] + terms["ordinal"]).backward()
        learnt = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        encoders = {name for name, _ in model.named_parameters() if name.startswith("encoders.")}
        if separate:
            assert not learnt & encoders
        else:
            assert all(any(name.startswith(f"encoders.{m}.tcn") for name in learnt) for m in range(num_streams))
        assert any(name.startswith("fusion.gate") for name in learnt)
        assert not any(name.startswith(("head", "transformer", "unimodal")) for name in learnt)


def test_a_fusion_without_a_gate_has_no_term_for_one(windows: Windows, error: torch.Tensor) -> None:
    assert set(loss(windows, error, ON, output_for(windows, "concat"))) == {
        "loss",
        "va",
        "unimodal",
        "mse",
        "smoothness",
    }


def test_valence_and_arousal_are_weighed(windows: Windows, error: torch.Tensor) -> None:
    valence, arousal, both = (loss(windows, error, {**OFF, "valence": share})["va"] for share in (1.0, 0.0, 0.25))
    torch.testing.assert_close(both, 0.25 * valence + 0.75 * arousal)


def test_steps_without_a_known_error_teach_no_trust(windows: Windows, error: torch.Tensor) -> None:
    output = output_for(windows)
    terms = loss(windows, error, ON, output)
    assert all(torch.isfinite(term) for term in terms.values())
    reliability, weights = output.fused.reliability, output.fused.weights
    assert reliability is not None
    assert weights is not None
    unknown = error.isnan()
    other = torch.where(unknown, torch.rand_like(reliability), reliability)
    torch.testing.assert_close(
        calibration_loss(other, error, SIGMA, windows), calibration_loss(reliability, error, SIGMA, windows)
    )
    nothing = torch.full_like(error, torch.nan)
    assert calibration_loss(reliability, nothing, SIGMA, windows) == 0
    assert ordinal_loss(weights, nothing, SIGMA, windows) == 0


def test_masked_streams_and_uncounted_labels_do_not_matter(windows: Windows, error: torch.Tensor) -> None:
    output, terms = output_for(windows), loss(windows, error, ON)
    dirty = dataclasses.replace(windows, va=torch.where(windows.va_mask[..., None], windows.va, 7.0))
    other = torch.where(windows.mask, error, 3.0)
    for name, value in loss(dirty, other, ON, output).items():
        torch.testing.assert_close(value, terms[name])


def test_calibration_is_least_where_reliability_is_the_target(windows: Windows, error: torch.Tensor) -> None:
    target = reliability_target(error.nan_to_num(0.3), SIGMA)
    assert torch.equal(reliability_target(torch.zeros(1), SIGMA), torch.ones(1))
    free = target.logit(1e-6).clone().requires_grad_()
    calibration_loss(free.sigmoid(), error, SIGMA, windows).backward()
    assert free.grad is not None
    assert free.grad.abs().max() < 1e-6
    least = calibration_loss(target, error, SIGMA, windows)
    for shift in (-0.05, 0.05):
        assert calibration_loss((target + shift).clamp(0, 1), error, SIGMA, windows) > least


@pytest.mark.parametrize("num_streams", [2, 3])
def test_ordinal_is_zero_where_the_weights_are_the_target_and_positive_elsewhere(num_streams: int) -> None:
    streams = streams_of((4,) * num_streams, (0,) * num_streams)
    windows = random_windows(streams, 3, 15)
    error = torch.where(windows.mask, torch.rand(windows.mask.shape), torch.nan)
    logits = torch.where(windows.mask, -error / SIGMA, -torch.inf)
    weights = torch.where(windows.mask.any(-1, keepdim=True), logits, 0).softmax(-1)
    assert ordinal_loss(weights, error, SIGMA, windows).item() == pytest.approx(0, abs=1e-6)
    assert ordinal_loss(weights.roll(1, -1), error, SIGMA, windows) > 0.01


def test_a_single_valid_stream_has_no_order(windows: Windows, error: torch.Tensor) -> None:
    windows.mask[..., 1] = False
    assert ordinal_loss(torch.tensor([0.2, 0.8]).expand(3, 15, 2), error, SIGMA, windows) == 0


def test_reliability_of_zero_or_one_is_finite(windows: Windows, error: torch.Tensor) -> None:
    for value in (0.0, 1.0):
        reliability = torch.full(windows.mask.shape, value, requires_grad=True)
        term = calibration_loss(reliability, error, SIGMA, windows)
        term.backward()
        assert torch.isfinite(term)
        assert reliability.grad is not None
        assert torch.isfinite(reliability.grad).all()


def test_smoothness_looks_within_the_clip_alone(windows: Windows, error: torch.Tensor) -> None:
    flat = torch.zeros(3, 15, 2)
    flat[:, 10:] = 0.9
    windows.inside[:, 10:] = False
    output = Output(flat, torch.zeros(3, 15, 2, 2), Fused(flat))
    assert loss(windows, error, {**OFF, "smoothness": 1.0}, output)["smoothness"] == 0
    one = random_windows(streams_of(), 2, 1)
    output = Output(flat[:2, :1], torch.zeros(2, 1, 2, 2), Fused(flat))
    assert loss(one, torch.zeros(one.mask.shape), {**OFF, "smoothness": 1.0}, output)["smoothness"] == 0


def test_stage_usage_is_least_where_all_stages_are_used(windows: Windows, error: torch.Tensor) -> None:
    def usage(stage: torch.Tensor) -> float:
        va = torch.zeros(3, 15, 2)
        output = Output(va, torch.zeros(3, 15, 2, 2), Fused(va, stage=stage))
        return loss(windows, error, {**OFF, "stage_usage": 1.0}, output)["stage_usage"].item()

    even, one = torch.full((3, 15, 3), 1 / 3), torch.eye(3)[torch.zeros(3, 15, dtype=torch.long)]
    assert usage(even) == pytest.approx(-torch.tensor(3.0).log().item(), abs=1e-6)
    assert usage(one) == 0
