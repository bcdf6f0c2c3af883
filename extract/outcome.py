"""What a run tells: how far it is, what failed and why, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..data.errors import InputError
from ..data.manifest import Source


class FailedBeforeError(Exception):
    """Why a clip failed in an earlier run, from the same bytes."""


@dataclass(frozen=True)
class Failure:
    """A clip that could not be extracted, and why.

    lasting: it lies in the medium, so that trying again is of no use. repeated: an earlier run has said so.
    """

    clip_id: str
    reason: str
    lasting: bool = False
    repeated: bool = False

    @classmethod
    def of(cls, clip_id: str, error: Exception) -> Failure:
        """The failure that an exception means for a clip."""
        if isinstance(error, FailedBeforeError):
            return cls(clip_id, f"{error} (as before; --retry-failed tries it again)", lasting=True, repeated=True)
        known = isinstance(error, InputError)
        reason = error.about(clip_id) if known else f"{type(error).__name__}: {error}".splitlines()[0]
        return cls(_plain(clip_id), _plain(reason), lasting=known)


@dataclass(frozen=True)
class Outcome:
    """What became of a clip: it is done, unless something else is said.

    Args:
        skipped: the cache had it already.
        without_face: no face was found in it.
        people: the clips that take its place, one for each person.
    """

    clip_id: str
    failure: Failure | None = None
    skipped: bool = False
    without_face: bool = False
    people: tuple[Source, ...] = ()


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
        without_face: clips among `num_done` in which no face was found: all their frames are masked.
        failures: the others, sorted by clip_id.
        streams: full names of the streams that it was to make.
        num_frames: images that were encoded.
        audio_s: seconds of sound that were encoded.
        wall_s: how long it took.
        busy_s: seconds of work by part: "decode" (mean over its threads), "encode", "write".
    """

    num_done: int = 0
    num_skipped: int = 0
    without_face: list[str] = field(default_factory=list[str])
    failures: list[Failure] = field(default_factory=list[Failure])
    streams: list[str] = field(default_factory=list[str])
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


def check_failures(failures: Sequence[Failure], most: int | None) -> None:
    """Ends a run in which too many clips fail.

    Raises:
        InputError: if there are more failures than `most`.
    """
    if most is not None and len(failures) > most:
        todo = "Mend the cause, or raise --max-failures; what is done stays."
        got = f"{len(failures)}, the last {failures[-1].clip_id}: {failures[-1].reason}"
        raise InputError("extract", expected=f"at most {most} failures", got=got, todo=todo)
