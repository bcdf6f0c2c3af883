"""Clip and Track: one recording, and one embedding stream of it with its times, mask and quality.

All times of a clip are seconds on the recording's own clock, as its container states them: the first frame need not be
at 0, and frames need not be evenly spaced. A frame stands at its presentation time, a step of an audio encoder at the
centre of the samples it covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any

import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy
import numpy as np
from numpy.typing import NDArray

from .errors import InputError

MODALITIES = ("visual", "audio")  # those that an extraction makes; others are imported: text, physio, …
VALUE_DTYPES = ("float16", "bfloat16", "float32")


@dataclass(frozen=True)
class FrameClock:
    """Presentation times of a recording's frames: integer timestamps in the medium's own time base.

    Row k of a frame-indexed label file belongs to frame k, hence to `times_s[k]`, whatever the rate of the cached
    features. Ticks are kept, since 1001/30000 s has no exact float.

    Args:
        time_base: seconds per tick.
        pts: (num_frames,) int64, strictly increasing presentation timestamps in ticks.
    """

    time_base: Fraction
    pts: NDArray[np.int64]

    @classmethod
    def regular(cls, hz: float, num_frames: int) -> FrameClock:
        """Returns a clock with frame k at k / hz seconds, k = 0 … num_frames - 1."""
        rate = Fraction(hz).limit_denominator(1001)
        return cls(1 / rate, np.arange(num_frames, dtype=np.int64))

    @property
    def times_s(self) -> NDArray[np.float64]:
        """(num_frames,) float64 seconds on the clip's own clock."""
        return self.pts * self.time_base.numerator / self.time_base.denominator

    def to_json(self) -> dict[str, Any]:
        """Returns `{"time_base": "1/12800", "runs": [[first, gap, count], …]}`, one run for equal gaps."""
        gaps = np.diff(self.pts)
        changes = np.flatnonzero(np.diff(gaps)) + 1
        runs: list[list[int]] = []
        start = 0
        while start < len(self.pts):
            change = np.searchsorted(changes, start, side="right")
            last = int(changes[change]) if change < len(changes) else len(self.pts) - 1
            runs.append([int(self.pts[start]), int(gaps[start]) if start < len(gaps) else 0, last - start + 1])
            start = last + 1
        return {"time_base": str(self.time_base), "runs": runs}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FrameClock:
        """The inverse of `to_json`."""
        runs = [first + gap * np.arange(count, dtype=np.int64) for first, gap, count in value["runs"]]
        return cls(Fraction(value["time_base"]), np.concatenate([np.empty(0, np.int64), *runs]))


@dataclass(frozen=True)
class Clip:
    """One recording, or one person in it: its name, person, length and frame times.

    Args:
        clip_id: path relative to the media root, plus `#person` where a recording shows several people.
        subject_id: the person shown; clips of one subject are never divided by a split.
        duration_s: length of the recording.
        clock: times of the medium's frames; None where no frame-indexed source is known.
        media: `{"path", "bytes", "sha256"}` of the recording, path relative to the media root; None for imports.
        recording_sha256: hashes of what was recorded: of each medium and of each audio stream with any valid step.
            Clips that share one come from one recording. A store fills it in; it is not part of a commit record.
    """

    clip_id: str
    subject_id: str | None = None
    duration_s: float | None = None
    clock: FrameClock | None = field(default=None, compare=False)
    media: Mapping[str, Any] | None = None
    recording_sha256: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Returns the clip as a commit record holds it: plain JSON without absent fields."""
        fields = {
            "clip_id": self.clip_id,
            "subject_id": self.subject_id,
            "duration_s": self.duration_s,
            "clock": self.clock.to_json() if self.clock else None,
            "media": dict(self.media) if self.media else None,
        }
        return {key: value for key, value in fields.items() if value is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Clip:
        """The inverse of `to_json`."""
        clock = FrameClock.from_json(value["clock"]) if "clock" in value else None
        return cls(value["clip_id"], value.get("subject_id"), value.get("duration_s"), clock, value.get("media"))


def choose_clips(clip_ids: Iterable[str], patterns: Sequence[str], todo: str) -> set[str]:
    """Returns the clips that are named by their ids or by patterns such as `train/*`; all where there are no patterns.

    Args:
        clip_ids: all clips.
        patterns: ids and patterns.
        todo: what to do about a pattern that matches nothing.

    Raises:
        InputError: for such a pattern.
    """
    everyone = set(clip_ids)
    if not patterns:
        return everyone
    chosen = set[str]()
    for pattern in patterns:
        matching = {clip_id for clip_id in everyone if clip_id == pattern or fnmatchcase(clip_id, pattern)}
        if not matching:
            raise InputError(f"clip {pattern!r}", expected="a clip_id or a pattern of some", got="no match", todo=todo)
        chosen |= matching
    return chosen


_EXPONENTS: dict[str, tuple[Any, Any]] = {
    "float16": (np.uint16, np.uint16(0x7C00)),
    "bfloat16": (np.uint16, np.uint16(0x7F80)),
    "float32": (np.uint32, np.uint32(0x7F800000)),
}
_BLOCK_VALUES = 1 << 17


@dataclass(frozen=True)
class Track:
    """One stream of one clip: embeddings on their own clock, never compacted, missing never zero.

    Args:
        values: (T, D) float16, bfloat16 (ml_dtypes) or float32; NaN exactly where `mask` is False.
        times_s: (T,) float64, strictly increasing seconds on the clip's own clock. A video frame stands at its
            presentation time, a step of an audio encoder at the centre of the samples it covers.
        mask: (T,) bool, True = valid.
        quality: (T, Q) float32, measured signals about each frame; NaN where not measured.
        quality_units: name -> unit of each of the Q signals, in order.

    Raises:
        InputError: if shapes disagree, times do not increase, or values and mask disagree.
    """

    values: NDArray[np.floating[Any]]
    times_s: NDArray[np.float64]
    mask: NDArray[np.bool_]
    quality: NDArray[np.float32]
    quality_units: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(
        cls,
        values: NDArray[np.floating[Any]],
        times_s: NDArray[np.float64],
        mask: NDArray[np.bool_] | None = None,
        quality: Mapping[str, tuple[str, NDArray[np.floating[Any]]]] | None = None,
    ) -> Track:
        """Builds a Track from its parts: the mask defaults to all valid, values outside it become NaN.

        `quality` maps a name to its unit and its (T,) values.
        """
        mask = np.ones(len(values), bool) if mask is None else np.asarray(mask, bool)
        signals = quality or {}
        columns = [np.asarray(signal, np.float32) for _, signal in signals.values()]
        stacked = np.stack(columns, axis=1) if columns else np.zeros((len(values), 0), np.float32)
        masked = np.where(mask[:, None], values, np.asarray(np.nan, values.dtype))
        return cls(
            masked, np.asarray(times_s, np.float64), mask, stacked, {n: unit for n, (unit, _) in signals.items()}
        )

    def __post_init__(self) -> None:
        num_frames = self._check_shapes()
        if not np.isfinite(self.times_s).all() or (np.diff(self.times_s) <= 0).any():
            raise _bad("finite, strictly increasing times", "times that stand still or go back")
        right = finite_rows(self.values)
        right[~self.mask] = np.isnan(self.values[~self.mask]).all(axis=1)
        if not right.all():
            count = num_frames - int(right.sum())
            raise _bad("finite values under the mask and NaN outside it", f"{count} frames that break this")

    def _check_shapes(self) -> int:
        if self.values.ndim != 2 or 0 in self.values.shape or self.values.dtype.name not in VALUE_DTYPES:
            expected = "values of shape (T, D), float16, bfloat16 or float32"
            raise _bad(expected, f"{self.values.shape} {self.values.dtype}")
        num_frames = len(self.values)
        layouts = {
            "times_s": ((num_frames,), np.float64),
            "mask": ((num_frames,), np.bool_),
            "quality": ((num_frames, len(self.quality_units)), np.float32),
        }
        for name, (shape, dtype) in layouts.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype:
                raise _bad(f"{name} of shape {shape}, {np.dtype(dtype)}", f"{array.shape} {array.dtype}")
        return num_frames

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.values)

    @property
    def dim(self) -> int:
        """D."""
        return self.values.shape[1]


def finite_rows(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Returns (T,) True where all of a frame's values (T, D) are finite: none has all bits of its exponent set.

    It takes a tenth of the time of `np.isfinite` for float16: verifying a cache would wait for that, not for the disk.
    """
    bits_type, exponent = _EXPONENTS[values.dtype.name]
    bits = values.view(np.dtype(bits_type).newbyteorder(values.dtype.byteorder))
    finite = np.empty(len(values), bool)
    rows = max(1, _BLOCK_VALUES // values.shape[1])  # what a processor's cache holds
    for start in range(0, len(values), rows):
        finite[start : start + rows] = (bits[start : start + rows] & exponent).max(axis=1) < exponent
    return finite


def _bad(expected: str, got: str) -> InputError:
    return InputError("track", expected=expected, got=got, todo="Look at the code or file that made these features.")
