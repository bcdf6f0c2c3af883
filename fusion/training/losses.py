"""The training objective, equations (13) to (16): one term each, each switched off by a weight of 0."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.windows.corpus import Windows
from ..ccc import ccc_loss
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
    """Returns all terms, weighted, and their sum under "loss".

    Args:
        output: the model's.
        windows: its input, with the labels.
        error: (B, L, M) out-of-fold error of each stream: made by a model that was not trained on the clip; NaN where
            there is none.
        sigma: their median.
        config: weights.
    """
    weights = (config.valence, 1 - config.valence)
    terms = {"va": ccc_loss(output.va, windows.va, windows.va_mask, weights)}  # (13)
    if config.unimodal:
        counted = windows.mask & windows.va_mask[..., None]
        streams = range(windows.mask.shape[-1])
        each = [ccc_loss(output.unimodal[..., m, :], windows.va, counted[..., m], weights) for m in streams]
        terms["unimodal"] = config.unimodal * torch.stack(each).mean()  # (14)
    reliability, shares = output.fused.reliability, output.fused.weights
    if reliability is not None and config.calibration:
        terms["calibration"] = config.calibration * calibration_loss(reliability, error, sigma, windows)  # (15)
    if reliability is not None and shares is not None and config.ordinal:
        terms["ordinal"] = config.ordinal * ordinal_loss(shares, error, sigma, windows)  # (15)
    terms |= _optional(output, windows, config)  # (16)
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def calibration_loss(reliability: Tensor, error: Tensor, sigma: Tensor, windows: Windows) -> Tensor:
    """First line of (15): cross-entropy of the reliability against its target from the out-of-fold error."""
    counted = windows.mask & torch.isfinite(error)
    target = reliability_target(torch.where(counted, error, 0), sigma).detach()
    each = F.binary_cross_entropy(reliability.float().clamp(1e-6, 1 - 1e-6), target, reduction="none")
    return _mean(each, counted)


def ordinal_loss(weights: Tensor, error: Tensor, sigma: Tensor, windows: Windows) -> Tensor:
    """Second line of (15): KL from the ranking of errors to the weights (after COLD Fusion, arXiv 2206.05833)."""
    counted = windows.mask & torch.isfinite(error)
    several = counted.sum(-1) > 1
    logits = torch.where(counted, -error / sigma, -torch.inf)
    target = torch.where(several[..., None], logits, 0).softmax(-1).detach()
    log_weights = weights.float().clamp(min=1e-6).log()
    each = torch.where(counted, torch.xlogy(target, target) - target * log_weights, 0).sum(-1)
    return _mean(each, several)


def _optional(output: Output, windows: Windows, config: LossConfig) -> dict[str, Tensor]:
    terms: dict[str, Tensor] = {}
    va = output.va.float()
    if config.mse:
        terms["mse"] = config.mse * _mean((va - windows.va).square().mean(-1), windows.va_mask)
    if config.smoothness:
        inside = windows.inside[:, 1:]
        terms["smoothness"] = config.smoothness * _mean(va.diff(dim=1).square().sum(-1), inside)
    if config.stage_usage and output.fused.stage is not None:
        counted = windows.inside[..., None].expand_as(output.fused.stage)
        usage = _mean(output.fused.stage.float(), counted, (0, 1))
        terms["stage_usage"] = config.stage_usage * torch.xlogy(usage, usage).sum()
    return terms


def _mean(values: Tensor, mask: Tensor, dim: tuple[int, ...] | None = None) -> Tensor:
    """Returns the mean over counted entries, in all processes."""
    return pooled(torch.where(mask, values, 0).sum(dim)) / pooled(mask.sum(dim)).clamp(min=1)
