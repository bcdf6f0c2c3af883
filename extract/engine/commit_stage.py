"""Commit stage of the pipeline: complete clips written to the cache, one after the other, by a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from time import perf_counter

from ...data.clip import Clip, Track
from ...data.errors import InputError
from ...data.store.base import Store
from ..options import ExtractOptions
from .assemble import Assembly
from .progress import ClipOutcome, Failure
from .targets import Targets

MAX_WAITING = 4


class CommitStage:
    """Commits clips in order; at most `MAX_WAITING` wait.

    After the first write that fails with an OSError, no other is tried.

    Args:
        store: the cache, open for writing.
        targets: streams of the run.
        options: of the extraction.
    """

    def __init__(self, store: Store, targets: Targets, options: ExtractOptions) -> None:
        self._store, self._targets, self._options = store, targets, options
        self._writer = ThreadPoolExecutor(1, "sage-va-writer")
        self._writes: deque[tuple[Assembly, Future[ClipOutcome]]] = deque()
        self._broken: OSError | None = None
        self.busy_s = 0.0

    @property
    def full(self) -> bool:
        """True if no further clip should be submitted."""
        return len(self._writes) >= MAX_WAITING

    @property
    def empty(self) -> bool:
        """True if no clip waits."""
        return not self._writes

    def submit(self, clip: Assembly) -> None:
        """Takes a complete clip."""
        self._writes.append((clip, self._writer.submit(self._commit, clip)))

    def done(self, *, wait: bool) -> Iterator[tuple[Assembly, ClipOutcome]]:
        """Yields the clips at the front that are written; `wait` waits for the first of them.

        Raises:
            OSError: if the store cannot be written.
        """
        while self._writes and (wait or self._writes[0][1].done()):
            clip, write = self._writes.popleft()
            yield clip, write.result()
            wait = False

    def close(self) -> None:
        """Ends the thread; writes that have not started are dropped."""
        self._writer.shutdown(cancel_futures=True)

    def _commit(self, clip: Assembly) -> ClipOutcome:
        if self._broken:
            raise self._broken
        start = perf_counter()
        try:
            return self._commit_streams(clip)
        except InputError as error:
            return ClipOutcome(clip.source.clip_id, Failure.of(clip.source.clip_id, error))
        except OSError as error:
            self._broken = error
            raise
        finally:
            self.busy_s += perf_counter() - start

    def _commit_streams(self, clip: Assembly) -> ClipOutcome:
        metadata, without_face = self._metadata(clip), False
        for modality in clip.needs:
            track = self._commit_stream(clip, metadata, modality)
            without_face |= modality == "visual" and self._options.finder is not None and not track.mask.any()
        return ClipOutcome(clip.source.clip_id, without_face=without_face)

    def _commit_stream(self, clip: Assembly, metadata: Clip, modality: str) -> Track:
        assert clip.medium is not None, "hashed before decoding"
        target = self._targets[modality]
        track, report = clip.track(target.encoder)
        self._store.commit(
            metadata,
            target.stream,
            track,
            fingerprint=target.fingerprint,
            source_sha256=clip.medium.source_sha256,
            report=report,
            overwrite=self._options.overwrite,
        )
        return track

    def _metadata(self, clip: Assembly) -> Clip:
        """Returns the clip's metadata for the cache.

        Audio alone is decoded without the frames. Where the cache has this run's visual stream already, its clock and
        duration are used.
        """
        metadata = clip.clip()
        if clip.needs == ("audio",) and "visual" in self._targets:
            record = self._store.record(metadata.clip_id, self._targets["visual"].stream)
            known = Clip.from_json(record["clip"])
            return replace(metadata, duration_s=known.duration_s, clock=known.clock)
        return metadata
