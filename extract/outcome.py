"""What a run tells: how far it is, what failed and why, and where the time went."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..data.errors import InputError


@dataclass(frozen=True)
class Failure:
    """A clip that could not be extracted, and why."""

    clip_id: str
    reason: str

    @classmethod
    def of(cls, clip_id: str, error: Exception) -> Failure:
        """The failure that an exception means for a clip."""
        known = isinstance(error, InputError)
        reason = error.about(clip_id) if known else f"{type(error).__name__}: {error}".splitlines()[0]
        return cls(_plain(clip_id), _plain(reason))


@dataclass(frozen=True)
class Progress:
    """How far a run is. `eta_s` is None until something can be said of it."""

    num_clips: int
    num_done: int
    num_skipped: int
    num_failed: int
    num_frames: int
    audio_s: float
    elapsed_s: float
    eta_s: float | None

    @property
    def frames_per_s(self) -> float:
        """Frames encoded per second so far."""
        return self.num_frames / self.elapsed_s if self.elapsed_s > 0 else 0.0


@dataclass
class Summary:
    """What a run did.

    Args:
        num_done: clips that were committed.
        num_skipped: clips that the cache had already.
        failures: the others, sorted by clip_id.
        num_frames: images that were encoded.
        audio_s: seconds of sound that were encoded.
        wall_s: how long it took.
        busy_s: seconds of work by part: "decode" (mean over its threads), "encode", "write".
    """

    num_done: int = 0
    num_skipped: int = 0
    failures: list[Failure] = field(default_factory=list[Failure])
    num_frames: int = 0
    audio_s: float = 0.0
    wall_s: float = 0.0
    busy_s: dict[str, float] = field(default_factory=lambda: {"decode": 0.0, "encode": 0.0, "write": 0.0})

    @property
    def bottleneck(self) -> str:
        """The part that was busy longest: "decode", "encode" or "write"."""
        return max(self.busy_s, key=lambda part: self.busy_s[part])


def _plain(text: str) -> str:
    """Text that any terminal and file can take, whatever a file name holds."""
    return text.encode("utf-8", "backslashreplace").decode()
