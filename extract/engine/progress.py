"""What a run tells: how far it is, what failed and why, and where the time went."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from ...data.errors import InputError, first_line, printable
from ...data.manifest import Source


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
        reason = error.about(clip_id) if known else first_line(error)
        return cls(printable(clip_id), printable(reason), lasting=known)


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


@dataclass
class Tally:
    """How much of a work list is behind a run, by the bytes of its media, from which the time left is told.

    Args:
        sizes: bytes of the medium of each clip.
    """

    sizes: dict[str, int]
    _handled_bytes: int = 0
    _skipped_bytes: int = 0
    _start_s: float = field(default_factory=perf_counter)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return perf_counter() - self._start_s

    def split(self, clip_id: str, people: Sequence[Source]) -> None:
        """The clips of its people take the place of a clip."""
        size = self.sizes.pop(clip_id, 0)
        self.sizes |= {person.clip_id: size // len(people) for person in people}

    def close(self, clip_id: str, *, skipped: bool = False) -> None:
        """Nothing is left to do for a clip."""
        size = self.sizes.get(clip_id, 0)
        self._handled_bytes += size
        self._skipped_bytes += size if skipped else 0

    def progress(self, summary: Summary, parts: Iterable[Progress] = ()) -> Progress:
        """How far the run is; `parts` is what workers have encoded that the summary does not count yet."""
        found, elapsed_s = list(parts), self.elapsed_s
        worked, left = self._handled_bytes - self._skipped_bytes, sum(self.sizes.values()) - self._handled_bytes
        return Progress(
            num_clips=len(self.sizes),
            num_done=summary.num_done,
            num_skipped=summary.num_skipped,
            num_failed=len(summary.failures),
            num_frames=summary.num_frames + sum(part.num_frames for part in found),
            audio_s=summary.audio_s + sum(part.audio_s for part in found),
            elapsed_s=elapsed_s,
            eta_s=elapsed_s * left / worked if worked else None,
        )


def check_failures(failures: Sequence[Failure], most: int | None) -> None:
    """Ends a run in which too many clips fail.

    Raises:
        InputError: if there are more failures than `most`.
    """
    if most is not None and len(failures) > most:
        todo = "Mend the cause, or raise --max-failures; what is done stays."
        got = f"{len(failures)}, the last {failures[-1].clip_id}: {failures[-1].reason}"
        raise InputError("extract", expected=f"at most {most} failures", got=got, todo=todo)
