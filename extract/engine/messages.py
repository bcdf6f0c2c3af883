"""Messages between the scheduler and its workers, and the engine that carries them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from ...data.manifest import Source
from ..encoders.factory import Recipe
from ..options import ExtractOptions
from .progress import ClipOutcome, ExtractionProgress, Summary


@dataclass(frozen=True)
class WorkerJob:
    """Everything that the workers of a run share; pickled.

    Args:
        url: of the cache.
        folder: working folder, which relative paths start from.
        recipe: builds the encoders in each worker.
        options: of the extraction.
    """

    url: str
    folder: Path
    recipe: Recipe
    options: ExtractOptions


@dataclass(frozen=True)
class Ready:
    """Event: a worker has its encoders, which extract these streams."""

    streams: tuple[str, ...]


@dataclass(frozen=True)
class NeedClips:
    """Event: a worker in session has no clip left to start."""


@dataclass(frozen=True)
class Died:
    """Event: a worker's process has ended; `how` follows "the worker died"."""

    how: str


@dataclass(frozen=True)
class ClipBatch:
    """Order: clips to extract.

    Args:
        sources: the clips.
        begin: True if they open a session.
        last: True if no other batch follows in the session.
    """

    sources: tuple[Source, ...]
    begin: bool = False
    last: bool = False


@dataclass(frozen=True)
class Halt:
    """Order: start no further clip."""


Event: TypeAlias = Ready | NeedClips | ClipOutcome | ExtractionProgress | Summary | Exception | Died
"""A Summary ends a session; an Exception ends the run."""
Order: TypeAlias = ClipBatch | Halt


class Engine(Protocol):
    """Starts workers and exchanges messages with them, by number.

    Args:
        num_workers: workers that may run at a time.
        cores_each: cores that a worker keeps busy; None = those that its process may use.
    """

    num_workers: int
    cores_each: int | None

    def start(self, worker: int, job: bytes) -> None:
        """Starts a worker from a pickled WorkerJob; replaces one that died."""
        ...

    def send(self, worker: int, order: Order) -> None:
        """Sends an order; ignored if the worker has died."""
        ...

    def events(self, timeout_s: float) -> Iterator[tuple[int, Event]]:
        """Yields (worker, event) that have come, waiting up to `timeout_s` for the first."""
        ...

    def close(self) -> None:
        """Ends all workers at once, whatever they do."""
        ...
