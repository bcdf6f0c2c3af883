"""The training objective, equations (13) to (16): one term each, each switched off by a weight of 0."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.windows.corpus import Windows
from ..ccc import losses_of_moments, series_moments
from ..config import LossConfig
from ..distributed import pooled
from ..models.base import Output


def reliability_target(error: Tensor, sigma: Tensor) -> Tensor:
    """Equation (15): absolute errors |y^m - y|_1 -> target of the reliability, exp(-error / sigma), in 0 … 1."""
    return torch.exp(-error / sigma)


def typical_error(errors: Tensor) -> Tensor:
    """Returns sigma of (15): the median of errors without NaN; 1 where there is none."""
    return errors.nanmedian().nan_to_num(1.0).clamp(min=1e-3)


def total_loss(output: Output, windows: Windows, error: Tensor, sigma: Tensor, config: LossConfig) -> dict[str, Tensor]:
    """Returns all terms, weighted, and their sum under "loss", in float32.

    Every term is a function of sums over the steps of the batch. All sums are taken first, then added over processes in
    one exchange, so that the loss is that of the whole batch.

    Args:
        output: the model's.
        windows: its input, with the labels.
        error: (B, L, M) out-of-fold error of each stream: made by a model that was not trained on the clip; NaN where
            there is none.
        sigma: their median.
        config: weights.
    """
    sums = {"ccc": _series(output, windows, config), **_gate_sums(output, windows, error, sigma, config)}
    sums |= _optional_sums(output, windows, config)
    sums = dict(zip(sums, pooled(list(sums.values())), strict=True))
    terms = _ccc_terms(sums.pop("ccc").to(windows.va.device), config)
    for name, value in sums.items():
        mean = _mean(value)
        term = torch.xlogy(mean, mean).sum() if name == "stage_usage" else mean
        terms[name] = getattr(config, name) * term
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def _series(output: Output, windows: Windows, config: LossConfig) -> Tensor:
    """The moments of `output.va`, and of each stream's own estimate where it is trained: (1 + M or 1, 2, 6)."""
    estimates, counted = output.va[..., None, :], windows.va_mask[..., None]
    if config.unimodal:
        estimates = torch.cat([estimates, output.unimodal], dim=-2)
        counted = torch.cat([counted, windows.mask & counted], dim=-1)
    return series_moments(estimates, windows.va, counted)


def _ccc_terms(moments: Tensor, config: LossConfig) -> dict[str, Tensor]:
    """Equations (13) and (14), from moments (1 + M or 1, 2, 6)."""
    valence, arousal = losses_of_moments(moments).unbind(-1)
    each = (config.valence * valence + (1 - config.valence) * arousal).float()
    terms = {"va": each[0]}  # (13)
    if config.unimodal:
        terms["unimodal"] = config.unimodal * each[1:].mean()  # (14)
    return terms


def _gate_sums(output: Output, windows: Windows, error: Tensor, sigma: Tensor, config: LossConfig) -> dict[str, Tensor]:
    """Sums of the terms of equation (15) that have a weight."""
    reliability, shares = output.fused.reliability, output.fused.weights
    if reliability is None:
        return {}
    sums, known = dict[str, Tensor](), _known(windows, error)
    if config.calibration:
        sums["calibration"] = _calibration_sums(reliability, error, sigma, known)
    if shares is not None and config.ordinal:
        sums["ordinal"] = _ordinal_sums(shares, error, sigma, known)
    return sums


def _known(windows: Windows, error: Tensor) -> Tensor:
    """(B, L, M) True where a stream is valid and its out-of-fold error is known."""
    return windows.mask & ~error.isnan()


def calibration_loss(reliability: Tensor, error: Tensor, sigma: Tensor, windows: Windows) -> Tensor:
    """First line of (15): cross-entropy of the reliability against its target from the out-of-fold error."""
    return _mean(_calibration_sums(reliability, error, sigma, _known(windows, error)))


def _calibration_sums(reliability: Tensor, error: Tensor, sigma: Tensor, known: Tensor) -> Tensor:
    target = reliability_target(torch.where(known, error, 0), sigma)
    each = F.binary_cross_entropy(reliability.float().clamp(1e-6, 1 - 1e-6), target, reduction="none")
    return _sums(each, known)


def ordinal_loss(weights: Tensor, error: Tensor, sigma: Tensor, windows: Windows) -> Tensor:
    """Second line of (15): KL from the ranking of errors to the weights (after COLD Fusion, arXiv 2206.05833)."""
    return _mean(_ordinal_sums(weights, error, sigma, _known(windows, error)))


def _ordinal_sums(weights: Tensor, error: Tensor, sigma: Tensor, known: Tensor) -> Tensor:
    several = known.sum(-1) > 1
    logits = torch.where(known, -error / sigma, -torch.inf)
    target = torch.where(several[..., None], logits, 0).softmax(-1)
    log_weights = weights.float().clamp(min=1e-6).log()
    each = torch.where(known, torch.xlogy(target, target) - target * log_weights, 0).sum(-1)
    return _sums(each, several)


def _optional_sums(output: Output, windows: Windows, config: LossConfig) -> dict[str, Tensor]:
    """Sums of the terms of equation (16) that have a weight."""
    sums, va, stage = dict[str, Tensor](), output.va.float(), output.fused.stage
    if config.mse:
        sums["mse"] = _sums((va - windows.va).square().mean(-1), windows.va_mask)
    if config.smoothness:
        sums["smoothness"] = _sums(va.diff(dim=1).square().sum(-1), windows.inside[:, 1:])
    if config.stage_usage and stage is not None:
        counted = windows.inside[..., None].expand_as(stage)
        sums["stage_usage"] = _sums(stage.float(), counted, (0, 1))
    return sums


def _sums(values: Tensor, mask: Tensor, dim: tuple[int, ...] | None = None) -> Tensor:
    """Returns (2, …): the sum over counted entries, and how many they are."""
    return torch.stack([torch.where(mask, values, 0).sum(dim), mask.sum(dim, dtype=values.dtype)])


def _mean(sums: Tensor) -> Tensor:
    return sums[0] / sums[1].clamp(min=1)
