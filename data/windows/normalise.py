"""Features relative to their own statistics, before the network standardises them by those of the training clips.

    training   unchanged
    clip       (x - mean) / standard deviation, over the valid steps of the clip
    subject    the same, over all clips of the subject in the cache; a clip without a subject is normalised by itself
    causal     x - mean of the valid steps of the clip up to this one; what follows plays no part

The scale of `causal` is that of the training clips, since the deviation of a few steps is noise. Statistics are taken
on the grid, in float64; no label plays a part. Quality signals stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..hashing import bytes_sha256

if TYPE_CHECKING:
    from .to_grid import CachedClip, OnGrid

Normalise = Literal["training", "subject", "clip", "causal"]
BLOCK_COLUMNS = 64  # of a running mean at a time, which bounds its memory
Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


class StepMoments(NamedTuple):
    """Number n of steps, and of their columns the mean (D,) and the sum of squared distances from it (D,), float64."""

    n: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, values: Floats, mask: Mask) -> StepMoments:
        """Returns the moments of (T, D) values over their valid steps."""
        x = values[mask].astype(np.float64)
        mean = x.mean(axis=0) if len(x) else np.zeros(x.shape[1])
        return cls(len(x), mean, ((x - mean) ** 2).sum(axis=0))

    def with_(self, other: StepMoments) -> StepMoments:
        """Returns the moments of both sets of steps together."""
        n = self.n + other.n
        if not n:
            return self
        gap = other.mean - self.mean
        squares = self.squares + other.squares + gap**2 * (self.n * other.n / n)
        return StepMoments(n, self.mean + gap * (other.n / n), squares)

    @property
    def scale(self) -> NDArray[np.float64]:
        """Standard deviations (D,); 1 for a column that does not vary."""
        variance = self.squares / max(self.n, 1)
        return np.where(variance > 1e-12, np.sqrt(variance), 1.0)


def standardised(values: Floats, mask: Mask, moments: StepMoments) -> NDArray[np.float32]:
    """Returns (T, D) float32 values less the mean over the scale of some moments, 0 where masked."""
    out = np.zeros(values.shape, np.float32)
    out[mask] = (values[mask].astype(np.float64) - moments.mean) / moments.scale
    return out


def less_running_mean(values: Floats, mask: Mask) -> NDArray[np.float32]:
    """Returns (T, D) float32 values less the mean of the valid steps up to each, 0 where masked."""
    out, counts = np.zeros(values.shape, np.float32), np.arange(1, int(mask.sum()) + 1)[:, None]
    for first in range(0, values.shape[1], BLOCK_COLUMNS):
        columns = slice(first, first + BLOCK_COLUMNS)
        x = values[mask, columns].astype(np.float64)
        out[mask, columns] = x - x.cumsum(axis=0) / counts
    return out


class RunningMean:
    """The mean of the steps of one stream so far; gives step by step what `less_running_mean` gives for a clip."""

    def __init__(self) -> None:
        self._total: NDArray[np.float64] | float = 0.0
        self._num_steps = 0

    def subtract(self, values: Floats) -> NDArray[np.float32]:
        """Takes the (D,) values of the next valid step; returns them less the mean, this step included."""
        x = values.astype(np.float64)
        self._total, self._num_steps = self._total + x, self._num_steps + 1
        return (x - self._total / self._num_steps).astype(np.float32)


@dataclass
class Normaliser:
    """Normalises the streams of clips, each in its own way.

    Args:
        kinds: for each stream, how.
        subjects: subject_id -> its clips in the cache; called only where a stream is normalised by subject.
        load: puts a clip on the grid, not normalised.
    """

    kinds: Sequence[Normalise]
    subjects: Callable[[], dict[str, list[CachedClip]]]
    load: Callable[[CachedClip], OnGrid]

    def __post_init__(self) -> None:
        self._clips: dict[str, list[CachedClip]] | None = None
        self._moments: dict[str, list[StepMoments]] = {}

    def __call__(self, clip: CachedClip, on_grid: OnGrid) -> OnGrid:
        """Returns a clip on its grid with its streams normalised; those of kind `training` keep their memory."""
        arrays = dict(on_grid.arrays)
        for m, kind in enumerate(self.kinds):
            values, mask = arrays[f"values-{m}"], arrays["mask"][:, m]
            if kind == "causal":
                arrays[f"values-{m}"] = less_running_mean(values, mask)
            elif kind != "training":
                alone = kind == "clip" or clip.clip.subject_id is None
                moments = StepMoments.of(values, mask) if alone else self.of_subject(clip)[m]
                arrays[f"values-{m}"] = standardised(values, mask, moments)
        return replace(on_grid, arrays=arrays)

    def identity(self, clip: CachedClip) -> list[str]:
        """Returns all that decides the normalised values of a clip besides the clip itself; [] where nothing does."""
        if set(self.kinds) <= {"training"}:
            return []
        by_subject = "subject" in self.kinds and clip.clip.subject_id is not None
        parts = self.of_subject(clip) if by_subject else []
        hashes = [bytes_sha256(part.mean.tobytes() + part.squares.tobytes()) for part in parts]
        return [*self.kinds, *hashes]

    def of_subject(self, clip: CachedClip) -> list[StepMoments]:
        """Returns, for each stream, the moments of all clips of a clip's subject; each clip is read once."""
        subject = clip.clip.subject_id
        assert subject is not None, "a clip with a subject"
        if self._clips is None:
            self._clips = self.subjects()
        if subject not in self._moments:
            each = [self._of_clip(one) for one in self._clips[subject]]
            first, *others = each
            for other in others:
                first = [one.with_(two) for one, two in zip(first, other, strict=True)]
            self._moments[subject] = first
        return self._moments[subject]

    def _of_clip(self, clip: CachedClip) -> list[StepMoments]:
        arrays = self.load(clip).arrays
        streams = range(len(self.kinds))
        return [StepMoments.of(arrays[f"values-{m}"], arrays["mask"][:, m]) for m in streams]
