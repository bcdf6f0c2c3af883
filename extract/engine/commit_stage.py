"""Commit stage of the pipeline: complete clips written to the cache, in order, by a thread of its own.

While the disk is busy with some clips, further ones gather, and are then committed together: the slower the disk and
the smaller the clips, the more share one wait for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from time import perf_counter
from typing import Any

from ...data.clip import Clip, Track
from ...data.errors import InputError
from ...data.store.base import Store
from ...data.store.entry import Entry
from ...data.store.groups import is_full_group
from ..options import ExtractOptions
from .assemble import Assembly
from .clip_notes import note_on_faces, notes_of
from .progress import ClipOutcome, Failure
from .targets import Targets

MIN_WAITING = 4


class CommitStage:
    """Commits clips in order; as many wait as one group of commits may have, and at least `MIN_WAITING`.

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
        self._waiting: deque[tuple[Assembly, Future[ClipOutcome]]] = deque()  # the end of `_writes`; not yet begun
        self._broken: OSError | None = None
        self.busy_s = 0.0

    @property
    def full(self) -> bool:
        """True if no further clip should be submitted."""
        num = len(self._writes)
        return num >= MIN_WAITING and is_full_group(num, sum(clip.nbytes for clip, _ in self._writes))

    @property
    def empty(self) -> bool:
        """True if no clip waits."""
        return not self._writes

    def submit(self, clip: Assembly) -> None:
        """Takes a complete clip."""
        write = clip, Future[ClipOutcome]()
        self._writes.append(write)
        self._waiting.append(write)
        self._writer.submit(self._write_waiting)

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

    def _write_waiting(self) -> None:
        """Commits all clips that wait; nothing where an earlier call has taken them."""
        group = [self._waiting.popleft() for _ in range(len(self._waiting))]
        start = perf_counter()
        try:
            outcomes = self._commit([clip for clip, _ in group])
        except BaseException as error:
            self._broken = self._broken or (error if isinstance(error, OSError) else None)
            for _, future in group:
                future.set_exception(error)
        else:
            for (_, future), outcome in zip(group, outcomes, strict=True):
                future.set_result(outcome)
        finally:
            self.busy_s += perf_counter() - start

    def _commit(self, clips: Sequence[Assembly]) -> list[ClipOutcome]:
        """Commits the streams of clips together; a clip that the store refuses fails by itself."""
        if self._broken:
            raise self._broken
        entries: list[Entry] = []
        outcomes = [self._prepare(clip, entries) for clip in clips]
        try:
            self._store.commit_all(entries, overwrite=self._options.overwrite)
        except (InputError, MemoryError) as error:
            return [_failed(clip, error) for clip in clips]
        return outcomes

    def _prepare(self, clip: Assembly, entries: list[Entry]) -> ClipOutcome:
        """Appends the entries of a clip's streams."""
        without_face, notes, reports = False, list[str](), dict[str, Mapping[str, Any]]()
        try:
            metadata = self._metadata(clip)
            for modality in clip.needs:
                track, reports[modality] = self._prepare_stream(clip, metadata, modality, entries)
                if modality == "visual" and self._options.finder is not None:
                    without_face, notes = not track.mask.any(), note_on_faces(track, reports[modality])
        except (InputError, MemoryError) as error:
            return _failed(clip, error)
        assert clip.result is not None, "complete"
        notes += notes_of(clip.source, clip.result.start_s + clip.result.duration_s, reports)
        return ClipOutcome(clip.source.clip_id, without_face=without_face, notes=tuple(notes))

    def _prepare_stream(
        self, clip: Assembly, metadata: Clip, modality: str, entries: list[Entry]
    ) -> tuple[Track, dict[str, Any]]:
        assert clip.medium is not None, "hashed before decoding"
        target = self._targets[modality]
        track, report = clip.track(target.encoder)
        entry = self._store.prepare(
            metadata,
            target.stream,
            track,
            fingerprint=target.fingerprint,
            source_sha256=clip.medium.source_sha256,
            report=report,
            overwrite=self._options.overwrite,
        )
        entries += [entry] if entry else []
        return track, report

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


def _failed(clip: Assembly, error: Exception) -> ClipOutcome:
    return ClipOutcome(clip.source.clip_id, Failure.of(clip.source.clip_id, error))
