"""Outcomes and progress of a run: clips done, skipped and failed, speed, time left, and where the time went."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from ...data.errors import InputError, first_line, printable
from ...data.machine import is_out_of_memory
from ...data.manifest import Source
from ...data.store.base import Store


class FailedBeforeError(Exception):
    """A clip failed in an earlier run from the same bytes; the message is the earlier reason."""


@dataclass(frozen=True)
class Failure:
    """A clip that could not be extracted.

    Args:
        clip_id: of the clip.
        reason: one line.
        lasting: True if the cause lies in the medium, so that another try is of no use.
        repeated: True if an earlier run recorded the failure.
    """

    clip_id: str
    reason: str
    lasting: bool = False
    repeated: bool = False

    @classmethod
    def of(cls, clip_id: str, error: Exception) -> Failure:
        """Returns the failure that an exception means for a clip."""
        if isinstance(error, FailedBeforeError):
            return cls(clip_id, f"{error} (as before; --retry-failed tries it again)", lasting=True, repeated=True)
        if is_out_of_memory(error):
            todo = "Cut the clip into parts (start_s, end_s), or decode fewer at once."
            error = InputError(clip_id, "the memory of this machine does not suffice", todo=todo)
            return cls(printable(clip_id), printable(error.about(clip_id)))
        known = isinstance(error, InputError)
        reason = error.about(clip_id) if known else first_line(error)
        return cls(printable(clip_id), printable(reason), lasting=known)


@dataclass(frozen=True)
class ClipOutcome:
    """Outcome of a clip: committed, unless one of the other fields says otherwise.

    Args:
        clip_id: of the clip.
        failure: the clip failed.
        skipped: True if the cache had the clip already.
        without_face: True if the clip was committed and no face was detected in it.
        notes: what the clip lost or lacks, one line each.
        people: the clips that take its place, one for each person.
    """

    clip_id: str
    failure: Failure | None = None
    skipped: bool = False
    without_face: bool = False
    notes: tuple[str, ...] = ()
    people: tuple[Source, ...] = ()


@dataclass(frozen=True)
class ExtractionProgress:
    """State of a run.

    Args:
        num_clips: clips of the work list.
        num_done: committed clips.
        num_skipped: clips that the cache had already.
        num_failed: failed clips.
        num_frames: encoded images.
        audio_s: encoded audio in seconds.
        elapsed_s: seconds since the run began.
        eta_s: estimated seconds left; None = unknown so far.
    """

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
        """Images encoded per second so far."""
        return self.num_frames / self.elapsed_s if self.elapsed_s > 0 else 0.0


@dataclass
class Summary:
    """Result of a run.

    Args:
        num_done: committed clips.
        num_skipped: clips that the cache had already.
        without_face: committed clips in which no face was detected: all their frames are masked.
        notes: clip_id -> what a committed clip lost or lacks, one line each.
        failures: the other clips, sorted by clip_id.
        streams: full names of the streams of the run, sorted.
        num_frames: encoded images.
        audio_s: encoded audio in seconds.
        wall_s: duration of the run in seconds.
        busy_s: seconds of work by part: "decode" and "encode" (mean over their threads), "write".
        batch_sizes: items per batch of the encoder of each modality; fewer than asked for if memory was exhausted.
        interrupted: True if the run was stopped before all clips were started.
    """

    num_done: int = 0
    num_skipped: int = 0
    without_face: list[str] = field(default_factory=list[str])
    notes: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    failures: list[Failure] = field(default_factory=list[Failure])
    streams: list[str] = field(default_factory=list[str])
    num_frames: int = 0
    audio_s: float = 0.0
    wall_s: float = 0.0
    busy_s: dict[str, float] = field(default_factory=lambda: {"decode": 0.0, "encode": 0.0, "write": 0.0})
    batch_sizes: dict[str, int] = field(default_factory=dict[str, int])
    interrupted: bool = False

    @property
    def bottleneck(self) -> str:
        """The part that was busy longest: "decode", "encode" or "write"."""
        return max(self.busy_s, key=lambda part: self.busy_s[part])

    def count(self, outcome: ClipOutcome) -> None:
        """Counts the outcome of a clip."""
        if outcome.failure:
            self.failures.append(outcome.failure)
        elif outcome.skipped:
            self.num_skipped += 1
        else:
            self.num_done += 1
            self.without_face += [outcome.clip_id] * outcome.without_face
            if outcome.notes:
                self.notes[outcome.clip_id] = list(outcome.notes)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields and the bottleneck as plain JSON."""
        return {**asdict(self), "bottleneck": self.bottleneck}


@dataclass
class Tally:
    """Work done and left, measured in bytes of media, from which the time left is estimated.

    Args:
        sizes: bytes of the medium of each clip.
    """

    sizes: dict[str, int]
    _all_bytes: int = field(init=False)
    _closed_bytes: int = 0
    _skipped_bytes: int = 0
    _start_s: float = field(default_factory=perf_counter)

    def __post_init__(self) -> None:
        self._all_bytes = sum(self.sizes.values())  # kept, since progress is reported for each of the clips

    @classmethod
    def of(cls, sources: Iterable[Source]) -> Tally:
        """Starts a tally of a work list."""
        return cls({source.clip_id: _size_of(source.path) for source in sources})

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return perf_counter() - self._start_s

    def split(self, clip_id: str, people: Sequence[Source]) -> None:
        """Replaces a clip by the clips of its people."""
        parts = {person.clip_id: self.sizes.get(clip_id, 0) // len(people) for person in people}
        self._all_bytes += sum(parts.values()) - sum(self.sizes.pop(name, 0) for name in {clip_id, *parts})
        self.sizes |= parts

    def close(self, clip_id: str, *, skipped: bool = False) -> None:
        """Notes that nothing is left to do for a clip."""
        size = self.sizes.get(clip_id, 0)
        self._closed_bytes += size
        self._skipped_bytes += size if skipped else 0

    def progress(self, summary: Summary, parts: Iterable[ExtractionProgress] = ()) -> ExtractionProgress:
        """Returns the state of the run.

        Args:
            summary: what is counted so far.
            parts: of workers, with frames and seconds that the summary does not count yet.
        """
        uncounted, elapsed_s = list(parts), self.elapsed_s
        worked, left = self._closed_bytes - self._skipped_bytes, self._all_bytes - self._closed_bytes
        return ExtractionProgress(
            num_clips=len(self.sizes),
            num_done=summary.num_done,
            num_skipped=summary.num_skipped,
            num_failed=len(summary.failures),
            num_frames=summary.num_frames + sum(part.num_frames for part in uncounted),
            audio_s=summary.audio_s + sum(part.audio_s for part in uncounted),
            elapsed_s=elapsed_s,
            eta_s=elapsed_s * left / worked if worked else None,
        )


def _size_of(path: Path | None) -> int:
    try:
        return path.stat().st_size if path else 0
    except OSError:
        return 0


def check_failures(failures: Sequence[Failure], most: int | None) -> None:
    """Ends a run in which too many clips fail.

    Raises:
        InputError: if there are more failures than `most`; None = any number is allowed.
    """
    if most is not None and len(failures) > most:
        todo = "Mend the cause, or raise --max-failures; committed clips stay."
        got = f"{len(failures)}, the last {failures[-1].clip_id}: {failures[-1].reason}"
        raise InputError("extract", expected=f"at most {most} failures", got=got, todo=todo)


def log_end(store: Store, summary: Summary) -> None:
    """Writes to the journal what limited a run: the busy seconds of its parts, and the batches that it used."""
    if summary.num_done:
        times = {"wall_s": round(summary.wall_s, 3)} | {
            f"{part}_s": round(busy_s, 3) for part, busy_s in summary.busy_s.items()
        }
        store.log("end", clips=summary.num_done, **times, bottleneck=summary.bottleneck, batches=summary.batch_sizes)
