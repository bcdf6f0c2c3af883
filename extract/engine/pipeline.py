"""The pipeline of one process: decode ahead, encode in batches across clips, commit each clip when it is complete.

Four groups of threads, connected by bounded queues:

    decoder threads           the caller's thread                encoder threads         writer thread
    (Prefetcher)              (Extraction)                       (EncodeStage)           (CommitStage)

    Backlog.take
      | hash the medium
      | decode, window
      +--- BytesQueue -----> part of a clip
             32 MB             | Frames, Window
                               +------- Packer, fixed shape ----> encode(batch)
                               |                                    |
                             Assembly of its clip <--- in order ----+
                               |
                               | complete: DecodeResult came, and all features are back
                               +------- one group of clips waits -------------------> commit the group
                               |                                                       |
                             ClipOutcome <----------------- in order ------------------+

The caller's thread alone changes the summary and the state of clips. It never blocks on one stage while another could
fill up without end: each queue is bounded, and everything downstream of the caller's thread works without it.

The life of a clip (Assembly) in the caller's thread:

    first part --> ASSEMBLING ---- complete ----> COMMITTING ---- written ----> done
                       |                               |
                       +--- Failure from a decoder,    +--- the store refuses it --> failed
                       |    NaN or overflow ---------------------------------------> failed (later parts are dropped)
                       +--- None: the cache has it --------------------------------> skipped
                       +--- tuple: clips of its people take its place -------------> split
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

from ...data.errors import InputError
from ...data.manifest import Source
from ...data.store.base import Store
from ..batch import Values
from ..buffers import Buffers
from ..decode.frames import Frames
from ..encoders.audio_windows import Window
from ..options import ExtractOptions
from .assemble import Assembly
from .clip_decoder import Part
from .commit_stage import CommitStage
from .encode_stage import EncodeStage
from .prefetch import Prefetcher
from .progress import ClipOutcome, ExtractionProgress, Failure, Summary, Tally, check_failures, log_end
from .targets import Targets
from .threads import one_thread_per_operation
from .work_list import Backlog, work_list

if TYPE_CHECKING:  # it loads torch
    from ..encoders.base import AudioEncoder, VisualEncoder

_PROGRESS_EVERY_S = 0.2


def extract(
    sources: Sequence[Source],
    store: Store,
    *,
    visual: VisualEncoder | None = None,
    audio: AudioEncoder | None = None,
    options: ExtractOptions | None = None,
    progress: Callable[[ExtractionProgress], None] | None = None,
    stop: threading.Event | None = None,
) -> Summary:
    """Extracts the streams that the store lacks, for all clips, in this process.

    A clip that fails is noted in the summary and the store's journal; the others are extracted all the same.

    Args:
        sources: the clips.
        store: the cache, open for writing.
        visual: encoder of the visual stream; None = no visual stream.
        audio: encoder of the audio stream; None = no audio stream.
        options: None = the defaults.
        progress: called a few times per second, and after each clip, from this thread.
        stop: once set, no further clip is started; those at work are finished.

    Raises:
        InputError: if there is no encoder, two sources share a clip_id, an encoder fails (out of memory), or more
            clips fail than `max_failures`; committed clips stay.
        OSError: if the store cannot be written; committed clips stay.
    """
    options = options or ExtractOptions()
    sources = work_list(sources, options)
    if visual is None and audio is None:
        raise InputError("extract", expected="an encoder", got="none", todo="Pass --visual, --audio or both.")
    extraction = Extraction(sources, store, visual, audio, options, progress, stop=stop)
    store.log("start", clips=len(sources), streams=extraction.streams)
    summary = extraction.run()
    log_end(store, summary)
    store.finish()
    return summary


def extract_part(
    backlog: Backlog,
    store: Store,
    *,
    visual: VisualEncoder | None,
    audio: AudioEncoder | None,
    options: ExtractOptions,
    progress: Callable[[ExtractionProgress], None],
    closed: Callable[[ClipOutcome], None],
) -> Summary:
    """Extracts clips as one worker of several: those of a backlog that another process fills from a `work_list`.

    That process logs the start and the end of the run, and counts failures.

    Args:
        backlog: the clips.
        store: the cache, open for writing.
        visual: encoder of the visual stream.
        audio: encoder of the audio stream.
        options: of the extraction; `max_failures` is not used.
        progress: gets frames and seconds of this worker, and as clips only those that it has closed.
        closed: gets the outcome of each clip, once.

    Raises:
        InputError: if an encoder fails.
        OSError: if the store cannot be written.
    """
    return Extraction(backlog, store, visual, audio, replace(options, max_failures=None), progress, closed=closed).run()


class Extraction:
    """One run of the pipeline; see the text of this module for its threads and states.

    Args:
        sources: the clips, or a backlog that others fill.
        store: the cache, open for writing.
        visual: encoder of the visual stream.
        audio: encoder of the audio stream; at least one of them is given.
        options: of the extraction.
        progress: called a few times per second, and after each clip.
        stop: once set, no further clip is started.
        closed: called with the outcome of each clip.
    """

    def __init__(
        self,
        sources: Sequence[Source] | Backlog,
        store: Store,
        visual: VisualEncoder | None,
        audio: AudioEncoder | None,
        options: ExtractOptions,
        progress: Callable[[ExtractionProgress], None] | None,
        *,
        stop: threading.Event | None = None,
        closed: Callable[[ClipOutcome], None] | None = None,
    ) -> None:
        self._store, self._visual, self._audio, self._options = store, visual, audio, options
        self._progress, self._stop, self._closed = progress, stop or threading.Event(), closed
        encoders = [encoder for encoder in (visual, audio) if encoder is not None]
        self._targets = Targets(encoders, store, options)
        buffers = Buffers()
        self._prefetcher = Prefetcher(sources, visual, audio, options, self._targets.needs, buffers)
        self._encoding = EncodeStage(visual, audio, options, buffers)
        self._commits = CommitStage(store, self._targets, options)
        self._tally = Tally.of(sources if isinstance(sources, Sequence) else ())
        self._summary = Summary(streams=self.streams)
        self._reported_s = perf_counter()

    @property
    def streams(self) -> list[str]:
        """Full names of the streams of the run, sorted."""
        return self._targets.streams

    def run(self) -> Summary:
        """Runs the pipeline until all clips are closed; raises as `extract` does."""
        try:
            with one_thread_per_operation(), self._prefetcher:
                for clip, part in self._prefetcher:
                    self._take(clip, part)
                    self._close_committed(wait=False)
                    self._report()
                    if self._stop.is_set():
                        self._prefetcher.stop()
                self._flush()
                while not self._commits.empty:
                    self._close_committed(wait=True)
        finally:
            self._encoding.close()
            self._commits.close()
        self._finish_summary()
        self._report(always=True)
        return self._summary

    def _finish_summary(self) -> None:
        self._summary.wall_s, self._summary.interrupted = self._tally.elapsed_s, self._stop.is_set()
        self._summary.busy_s = {
            "decode": self._prefetcher.busy_s,
            "encode": self._encoding.busy_s,
            "write": self._commits.busy_s,
        }
        self._summary.batch_sizes = self._encoding.batch_sizes
        self._summary.failures.sort(key=lambda failure: failure.clip_id)

    def _take(self, clip: Assembly, part: Part) -> None:
        if clip.failed:
            return
        if part is None:
            self._close(clip, ClipOutcome(clip.source.clip_id, skipped=True))
        elif isinstance(part, Failure):
            self._fail(clip, part)
        elif isinstance(part, Frames):
            clip.expect_images(part)
            for owner, features in self._encoding.push_images(clip, part.pixels):
                self._add_images(owner, features)
        elif isinstance(part, Window):
            clip.num_windows += 1
            for (owner, window), features in self._encoding.push_window(clip, part):
                self._add_window(owner, window, features)
        elif isinstance(part, tuple):
            self._tally.split(clip.source.clip_id, part)
            self._announce(ClipOutcome(clip.source.clip_id, people=part))
        else:
            clip.result = part
            self._commit_if_complete(clip)

    def _flush(self) -> None:
        for clip, features in self._encoding.flush_images():
            self._add_images(clip, features)
        for (clip, window), features in self._encoding.flush_windows():
            self._add_window(clip, window, features)

    def _add_images(self, clip: Assembly, features: Values) -> None:
        encoder = self._visual
        assert encoder is not None, "images are decoded for it"
        self._summary.num_frames += len(features)
        self._add(clip, lambda: clip.add_images(features, encoder))

    def _add_window(self, clip: Assembly, window: Window, features: Values) -> None:
        encoder = self._audio
        assert encoder is not None, "windows are cut for it"
        self._summary.audio_s += (window.end - window.first) * encoder.plan.step / encoder.plan.sampling_rate
        self._add(clip, lambda: clip.add_window(window, features[0], encoder))

    def _add(self, clip: Assembly, add: Callable[[], None]) -> None:
        if clip.failed:
            return
        try:
            add()
        except (InputError, MemoryError) as error:
            self._fail(clip, Failure.of(clip.source.clip_id, error))
        else:
            self._commit_if_complete(clip)

    def _commit_if_complete(self, clip: Assembly) -> None:
        if not clip.complete:
            return
        while self._commits.full:
            self._close_committed(wait=True)
        self._commits.submit(clip)

    def _close_committed(self, *, wait: bool) -> None:
        for clip, outcome in self._commits.done(wait=wait):
            if outcome.failure:
                self._fail(clip, outcome.failure)
            else:
                self._close(clip, outcome)

    def _fail(self, clip: Assembly, failure: Failure) -> None:
        clip.failed = True
        if not failure.repeated:
            source_sha256 = clip.medium.source_sha256 if clip.medium and failure.lasting else ""
            streams = [self._targets[modality].stream for modality in clip.needs]
            self._store.log_failure(failure.clip_id, failure.reason, source_sha256=source_sha256, streams=streams)
        self._close(clip, ClipOutcome(clip.source.clip_id, failure))
        check_failures(self._summary.failures, self._options.max_failures)

    def _close(self, clip: Assembly, outcome: ClipOutcome) -> None:
        clip.release()
        self._summary.count(outcome)
        self._tally.close(clip.source.clip_id, skipped=outcome.skipped)
        self._announce(outcome)
        self._report(always=True)

    def _announce(self, outcome: ClipOutcome) -> None:
        if self._closed:
            self._closed(outcome)

    def _report(self, *, always: bool = False) -> None:
        now = perf_counter()
        if self._progress is None or (not always and now - self._reported_s < _PROGRESS_EVERY_S):
            return
        self._reported_s = now
        self._progress(self._tally.progress(self._summary))
