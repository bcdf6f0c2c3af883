"""Lin's concordance correlation coefficient: one formula for the score and for the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from .distributed import pooled

MIN_STEPS = 4
MIN_VARIANCE = 1e-8
ROUNDING = 1e-12


def moments(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Returns the sums that determine a CCC, and that add over clips: (..., 6) of n, Σx, Σy, Σx², Σy², Σxy.

    Args:
        prediction: (..., T) in any floating dtype.
        truth: (..., T).
        mask: (..., T) True = the step counts.
    """
    x = torch.where(mask, prediction, 0)
    y = torch.where(mask, truth, 0)
    return torch.stack([mask.to(x.dtype).sum(-1), *(v.sum(-1) for v in (x, y, x * x, y * y, x * y))], dim=-1)


def ccc_of_moments(sums: Tensor) -> Tensor:
    """(..., 6) sums -> (...) CCC with population moments (Lin 1989); NaN for no steps or equal constant series.

    Series count as equal and constant if their spread, relative to their squares, is within rounding.
    """
    joint, spread = _joint_and_spread(sums)
    squares = (sums[..., 3] + sums[..., 4]) / sums[..., 0].clamp(min=1)
    return torch.where(spread > ROUNDING * squares, joint / spread, torch.nan)


def _joint_and_spread(sums: Tensor) -> tuple[Tensor, Tensor]:
    """2 cov(x, y), and var x + var y + (mean x - mean y)²; both 0 for no steps."""
    n, (x, y, xx, yy, xy) = sums[..., 0].clamp(min=1), sums[..., 1:].unbind(-1)
    mean_x, mean_y = x / n, y / n
    spread = (xx / n - mean_x**2) + (yy / n - mean_y**2) + (mean_x - mean_y) ** 2
    return 2 * (xy / n - mean_x * mean_y), spread


def ccc(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Returns the CCC over all counted steps of (..., T) series: (...).

    2 cov(x, y) / (var x + var y + (mean x - mean y)²), population moments, in the dtype of `prediction`. The series
    are centred on the truth's mean first, which changes nothing but the rounding.
    """
    n = mask.sum(-1, keepdim=True).clamp(min=1)
    centre = torch.where(mask, truth, 0).sum(-1, keepdim=True) / n
    return ccc_of_moments(moments(prediction - centre, truth - centre, mask))


def ccc_loss(prediction: Tensor, truth: Tensor, mask: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Equation (13): Σ_d w_d (1 - CCC_d) over all counted steps of a batch (of all processes), in float32.

    A target with fewer than 4 counted steps, or whose truth does not vary, contributes its mean squared error.

    Args:
        prediction: (..., d), d = valence, arousal.
        truth: (..., d).
        mask: (...) True = the step counts.
        weights: d weights that sum to 1.
    """
    (sums,) = pooled([series_moments(prediction[..., None, :], truth, mask[..., None])])
    (terms,) = losses_of_moments(sums)
    weighted = [weight * term for weight, term in zip(weights, terms.unbind(), strict=True)]
    return torch.stack(weighted).sum().to(prediction.device, torch.float32)


def series_moments(predictions: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Returns the `moments` of S series against one truth, in one pass: (S, d, 6) float64.

    float64, so that sums of raw products lose nothing that a loss in float32 could show. Apple's GPUs have no float64;
    for tensors there the moments are taken on the CPU.

    Args:
        predictions: (..., S, d).
        truth: (..., d).
        mask: (..., S) True = the step counts for this series.
    """
    if predictions.device.type == "mps":
        predictions, truth, mask = predictions.cpu(), truth.cpu(), mask.cpu()
    x, y = predictions.flatten(0, -3).double(), truth.flatten(0, -2).double()
    counted = mask.flatten(0, -2).T[:, None].expand(-1, truth.shape[-1], -1)
    return moments(x.permute(1, 2, 0), y.T, counted)


def losses_of_moments(sums: Tensor) -> Tensor:
    """(..., 6) sums -> (...) 1 - CCC, or the mean squared error where a CCC means nothing; see `ccc_loss`.

    With E for means over steps, 1 - CCC is E[(x - y)²] over E[x²] + E[y²] - 2 E[x] E[y].
    """
    n = sums[..., 0]
    x, y, xx, yy, xy = (sums[..., 1:] / n.clamp(min=1)[..., None]).unbind(-1)
    squares = xx + yy
    usable = (n >= MIN_STEPS) & (yy - y * y > MIN_VARIANCE)
    spread = torch.where(usable, squares - 2 * x * y, 1)  # no 0 / 0, whose gradient is NaN
    return (squares - 2 * xy) / spread
