"""Evidence against a stream that no training teaches: novelty, standing still, and gaps.

A gate learns from the errors of training clips. Where a stream is corrupted as it never was in training, what it has
learnt is worth nothing. So the gate's reliability is multiplied by a veto, which comes from statistics of the training
clips alone, without gradients, and which falls further the further a step lies outside of them (docs/model.md, (6a)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .causal_cache import Memory, with_past

NUM_AXES = 32  # principal axes with a variance of their own
SHRINKAGE = 0.1  # of the covariance towards the identity
SMOOTH_STEPS = 5  # of the distance
STILL_STEPS = 9  # of the change
USUAL = 0.99  # quantile of the distance up to which a step counts as usual
STILL = 0.001  # quantile of the change; below half of that a stream stands still
STILL_VETO = 0.001
MAX_STEPS = 32768  # of training clips, from about so many of which a covariance is estimated
NEVER = 1e9  # steps to a valid step, where there is none

Read = Callable[[int], tuple[Tensor, Tensor]]  # clip -> (T, D) standardised features and (T,) mask


class Novelty(nn.Module):
    """Compares a stream's standardised features with those of the training clips, step by step.

    The distance of a step is its squared Mahalanobis distance per dimension, the median over 5 steps: a click of one or
    two steps is no reason to distrust those around it, which a TCN averages away. The covariance is
    shrunk towards the identity; past its first 32 axes it is alike in all directions, so that a few clips and hundreds
    of dimensions are enough. The change of a step is its mean absolute difference to the step before, smoothed over 9.

    Args:
        dim: D of the stream.
        strength: how fast the veto falls with the distance; see `forward`.
        causal: smooth over earlier steps alone.
    """

    def __init__(self, dim: int, strength: float, causal: bool) -> None:
        super().__init__()
        self.strength, self.causal, self.num_axes = strength, causal, min(dim, NUM_AXES)
        self.axes: Tensor
        self.gains: Tensor
        self.rest: Tensor
        self.usual: Tensor
        self.still: Tensor
        self.register_buffer("axes", torch.zeros(dim, self.num_axes))
        self.register_buffer("gains", torch.zeros(self.num_axes))  # 1 / variance along an axis, less `rest`
        self.register_buffer("rest", torch.ones(()))  # 1 / variance in all other directions
        self.register_buffer("usual", torch.full((), torch.inf))
        self.register_buffer("still", torch.zeros(()))

    def forward(self, values: Tensor, mask: Tensor, memory: Memory | None = None) -> Tensor:
        """Returns the veto of each step, (B, L): 1 where the stream is as in training, near 0 far outside.

        1 / (1 + strength * excess), where the excess is distance / usual - 1, if positive; usual is the 99 % quantile
        of training clips that the covariance had not seen. 0.001 where the stream stands still, though it hardly ever
        did in training.

        Args:
            values: (B, L, D) standardised features.
            mask: (B, L) True where the stream is valid.
            memory: earlier steps, where the windows are chunks of clips.
        """
        distance = self._median(self.distance(values), mask, memory)
        change = self._smooth(*_changes(values, mask, memory), STILL_STEPS, torch.inf, memory)
        veto = 1 / (1 + self.strength * (distance / self.usual - 1).clamp(min=0))
        return torch.where(change < self.still / 2, STILL_VETO, veto)

    def distance(self, values: Tensor) -> Tensor:
        """(..., D) standardised -> (...) squared Mahalanobis distance per dimension; near 1 or less in training."""
        along = (values @ self.axes).square() @ self.gains
        return (along + self.rest * values.square().sum(-1)) / values.shape[-1]

    def fit(self, read: Read, lengths: Sequence[int], folds: Sequence[Sequence[int]]) -> None:
        """Sets all statistics from the training clips.

        Args:
            read: returns one of them, by its number.
            lengths: steps of each of them.
            folds: clips that are held out together; the usual distance is that of clips that the covariance had not
                seen. Fewer than two: it is that of clips which it had.
        """
        parts = [list(fold) for fold in folds if fold] if len(folds) > 1 else [[]]
        every, num_clips = max(1, sum(lengths) // MAX_STEPS), len(lengths)
        distances, changes = [], []
        for held_out in parts:
            self._fit_covariance(read, sorted(set(range(num_clips)) - set(held_out)), every)
            for clip in held_out or range(num_clips):
                values, mask = (part[None] for part in read(clip))
                distances.append(self._median(self.distance(values), mask)[mask])
                changes.append(self._smooth(*_changes(values, mask), STILL_STEPS, torch.inf)[mask])
        self.usual.copy_(_quantile(torch.cat(distances), USUAL, torch.inf))
        self.still.copy_(_quantile(torch.cat(changes), STILL, 0.0))
        if len(parts) > 1:
            self._fit_covariance(read, range(num_clips), every)

    def _fit_covariance(self, read: Read, clips: Sequence[int], every: int) -> None:
        """Estimates the covariance from one of `every` valid steps of these clips."""
        sums, count = torch.zeros(len(self.axes), len(self.axes)).to(self.axes), 0
        for clip in clips:
            values, mask = read(clip)
            steps = values[mask][::every]
            sums, count = sums + steps.T @ steps, count + len(steps)
        identity = torch.eye(len(sums)).to(sums)
        covariance = (1 - SHRINKAGE) * sums / max(count, 1) + SHRINKAGE * identity if count else identity
        variances, axes = torch.linalg.eigh(covariance)  # rising
        others = len(sums) - self.num_axes
        self.rest.copy_(1 / variances[:others].mean() if others else torch.zeros(()))
        self.axes.copy_(axes[:, others:])
        self.gains.copy_(1 / variances[others:] - self.rest)

    def _median(self, series: Tensor, known: Tensor, memory: Memory | None = None) -> Tensor:
        """Takes the median (B, L) over the known steps of a span around each step; 0 where it holds none."""
        past = SMOOTH_STEPS - 1 if self.causal else SMOOTH_STEPS // 2
        length, held = series.shape[1], with_past(torch.where(known, series, torch.nan)[..., None], past, memory)
        padding = past - (held.shape[1] - length), SMOOTH_STEPS - 1 - past
        spans = F.pad(held.movedim(1, 2), padding, value=torch.nan)[:, 0].unfold(1, SMOOTH_STEPS, 1)
        middle = (spans.isfinite().sum(dim=-1, keepdim=True) - 1).clamp(min=0) // 2
        rising = spans.sort(dim=-1).values  # NaN last; CUDA's nanmedian does not repeat itself by torch's rules
        return rising.gather(-1, middle)[..., 0].nan_to_num(0.0)

    def _smooth(
        self, series: Tensor, known: Tensor, num_steps: int, unknown: float, memory: Memory | None = None
    ) -> Tensor:
        """Averages (B, L) over the known steps of a span around each step; `unknown` where it holds none."""
        pair = torch.stack([torch.where(known, series, 0), known.to(series.dtype)], dim=-1)
        past = num_steps - 1 if self.causal else num_steps // 2
        length, pair = pair.shape[1], with_past(pair, past, memory)
        padding = past - (pair.shape[1] - length), num_steps - 1 - past
        means = F.avg_pool1d(F.pad(pair.movedim(1, 2), padding), num_steps, 1)  # over known steps and others
        mean, share = means.unbind(1)
        return torch.where(share > 0, mean / share.clamp(min=1 / num_steps), unknown)


class Veto(nn.Module):
    """Factors of the reliabilities of M streams, from novelty, standing still and gaps: equation (6a).

    Args:
        dims: D of each stream.
        strength: of the veto by novelty, `model.veto`; 0 = no novelty.
        gaps: a stream that is not valid keeps some reliability near valid steps, `model.gaps`.
        reach: steps to which the TCN carries what it read, on either side; past it nothing of a stream is left.
        causal: no step depends on a later one.
    """

    def __init__(self, dims: Sequence[int], strength: float, gaps: bool, reach: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.novelty = nn.ModuleList(Novelty(dim, strength, causal) for dim in dims if strength)
        self.drift: Tensor
        self.register_buffer("drift", torch.zeros(reach + 1 if gaps else 0))

    @torch.no_grad()
    def forward(self, values: Sequence[Tensor], mask: Tensor, inside: Tensor, memory: Memory | None = None) -> Tensor:
        """M × (B, L, D) standardised features, mask (B, L, M) and inside (B, L) -> (B, L, M) in 0 … 1.

        0 where nothing is known of a stream: its weight is then 0.
        """
        with torch.autocast(mask.device.type, enabled=False):
            factor = self._near(mask, inside, memory) if len(self.drift) else mask.float()
            if not self.novelty:
                return factor
            each = [n(x, mask[..., m], memory) for m, (n, x) in enumerate(zip(self.novelty, values, strict=True))]
            return factor * torch.stack(each, dim=-1)

    def _near(self, mask: Tensor, inside: Tensor, memory: Memory | None) -> Tensor:
        """1 where a stream is valid; exp(-drift) of the steps to the nearest valid one; 0 out of reach."""
        reach, length = len(self.drift) - 1, mask.shape[1]
        known = with_past(mask, reach, memory)
        gap = _steps_since(known, reach)
        if not self.causal:
            gap = torch.minimum(gap, _steps_since(known.flip(1), reach).flip(1))
        gap = gap[:, known.shape[1] - length :]
        near = torch.exp(-self.drift)[gap.clamp(max=reach).long()]
        return torch.where((gap <= reach) & inside[..., None], near, 0)

    @torch.no_grad()
    def fit(
        self,
        reads: Sequence[Read],
        labels: Sequence[tuple[Tensor, Tensor]],
        folds: Sequence[Sequence[int]],
        sigma: Tensor,
    ) -> None:
        """Sets all statistics from the training clips.

        Args:
            reads: for each stream, what returns the features and mask of a clip, by its number.
            labels: (T, 2) labels of each clip, and the (T,) mask of those that count.
            folds: see `Novelty.fit`.
            sigma: the typical error of a stream, equation (15), in whose unit the change of the labels counts.
        """
        for gap in range(1, len(self.drift)):
            changes = [(va[gap:] - va[:-gap]).abs().sum(-1)[counted[gap:] & counted[:-gap]] for va, counted in labels]
            every = torch.cat(changes)
            self.drift[gap] = every.mean() / sigma if len(every) else self.drift[gap - 1]
        for novelty, read in zip(self.novelty, reads, strict=bool(self.novelty)):
            assert isinstance(novelty, Novelty)
            novelty.fit(read, [len(counted) for _, counted in labels], folds)


def _changes(values: Tensor, mask: Tensor, memory: Memory | None = None) -> tuple[Tensor, Tensor]:
    """Returns the mean absolute difference of each step to the one before, (B, L), and where both are valid."""
    joined = with_past(torch.cat([values, mask[..., None].to(values.dtype)], dim=-1), 1, memory)
    if joined.shape[1] == values.shape[1]:
        joined = F.pad(joined, (0, 0, 1, 0))  # before a clip nothing is valid
    valid = joined[..., -1] > 0
    return joined[..., :-1].diff(dim=1).abs().mean(-1), valid[:, 1:] & valid[:, :-1]


def _steps_since(mask: Tensor, reach: int) -> Tensor:
    """Returns (B, L, M) the number of steps since the last True; more than `reach` if that is further away."""
    place = torch.arange(mask.shape[1], device=mask.device, dtype=torch.float32)[:, None]
    at = torch.where(mask, place, -NEVER).movedim(1, 2)
    last = F.max_pool2d(F.pad(at, (reach, 0), value=-NEVER), (1, reach + 1), 1)  # max_pool1d exports one length
    return place - last.movedim(1, 2)


def _quantile(values: Tensor, share: float, empty: float) -> Tensor:
    """Returns a quantile; `empty` of no values. torch.quantile takes 16 million at most."""
    if not len(values):
        return torch.tensor(empty)
    return values.sort().values[min(int(share * len(values)), len(values) - 1)]
