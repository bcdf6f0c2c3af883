"""Stage 1: decode ahead in threads, encode in batches across clips, commit each clip when it is whole."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ...data.clip import Clip
from ...data.errors import InputError
from ...data.machine import num_cores
from ...data.manifest import Source
from ...data.store.base import Store
from ..batch import Packer
from ..decode.frames import Frames
from ..encoders.audio_windows import Window
from ..encoders.base import AudioEncoder, VisualEncoder
from ..faces.finder import name_people
from ..identity import Encoder, ExtractOptions, Medium, fingerprint_of, size_of, stream_of
from .assemble import Assembly
from .prefetch import Backlog, DecodeAhead, Part
from .progress import FailedBeforeError, Failure, Outcome, Progress, Summary, Tally, check_failures

AUDIO_BATCH_ON_GPU = 8  # windows; on a CPU one at a time is the fastest
ENCODERS_ON_GPU = 2  # threads: one prepares a batch while the other waits for its own
_PENDING_WRITES = 4
_PROGRESS_EVERY_S = 0.2


def extract(
    sources: Sequence[Source],
    store: Store,
    *,
    visual: VisualEncoder | None = None,
    audio: AudioEncoder | None = None,
    options: ExtractOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> Summary:
    """Extracts the streams of all clips that the store does not have yet.

    A clip that fails is noted in the summary and the store's journal, and the others go on.

    Args:
        progress: called a few times a second, and after each clip, from this thread.
        stop: once set, no further clip is started; those in work are finished.

    Raises:
        InputError: if there is no encoder, two sources share a clip_id, an encoder breaks down (out of memory), or
            more clips fail than `max_failures`; what was committed before stays.
        OSError: if the store cannot be written; what was committed before stays.
    """
    options = options or ExtractOptions()
    sources = work_list(sources, options)
    encoders: list[Encoder] = [encoder for encoder in (visual, audio) if encoder is not None]
    if not encoders:
        raise InputError("extract", expected="an encoder", got="none", todo="Pass --visual, --audio or both.")
    run = _Run(sources, store, encoders, options, progress, stop)
    store.log("start", clips=len(sources), streams=run.streams)
    summary = run.go()
    store.finish()
    return summary


def extract_part(
    backlog: Backlog,
    store: Store,
    *,
    visual: VisualEncoder | None,
    audio: AudioEncoder | None,
    options: ExtractOptions,
    progress: Callable[[Progress], None],
    closed: Callable[[Outcome], None],
) -> Summary:
    """`extract` for one worker of several: the clips of a backlog that another process fills, from a `work_list`.

    To say where the run begins and ends in the store, and to count failures, is left to that process.

    Args:
        progress: frames and seconds so far are right; of clips, only those that were closed are counted.
        closed: told what became of each clip, once.

    Raises:
        InputError: if an encoder breaks down. OSError: if the store cannot be written.
    """
    encoders = [encoder for encoder in (visual, audio) if encoder is not None]
    return _Run(backlog, store, encoders, replace(options, max_failures=None), progress, None, closed).go()


def work_list(sources: Sequence[Source], options: ExtractOptions) -> list[Source]:
    """The clips that options make of sources.

    Raises:
        InputError: if two share a clip_id.
    """
    named = name_people(sources, options.person)
    if len({source.clip_id for source in named}) != len(named):
        todo = "Give each clip a name of its own."
        raise InputError("extract", expected="each clip_id once", got="one twice", todo=todo)
    return named


class _Run:
    def __init__(
        self,
        sources: Sequence[Source] | Backlog,
        store: Store,
        encoders: Sequence[Encoder],
        options: ExtractOptions,
        progress: Callable[[Progress], None] | None,
        stop: threading.Event | None = None,
        closed: Callable[[Outcome], None] | None = None,
    ) -> None:
        self._sources, self._store, self._options, self._progress = sources, store, options, progress
        self._stop, self._closed = stop or threading.Event(), closed
        self._failed_before = {} if options.retry_failed or options.overwrite else store.failures()
        self._encoders = {encoder.modality: encoder for encoder in encoders}
        self._streams = {modality: stream_of(encoder, options) for modality, encoder in self._encoders.items()}
        self._prints = {modality: fingerprint_of(encoder, options) for modality, encoder in self._encoders.items()}
        listed = sources if isinstance(sources, Sequence) else ()
        self._tally = Tally({source.clip_id: size_of(source.path) for source in listed})
        self._writer = ThreadPoolExecutor(1, "sage-va-writer")
        self._writes: deque[tuple[Assembly, Future[Failure | None]]] = deque()
        self._broken: OSError | None = None
        self._summary = Summary(streams=self.streams)
        self._told_s = perf_counter()
        self._lock = threading.Lock()
        self._visual = next((encoder for encoder in encoders if isinstance(encoder, VisualEncoder)), None)
        self._audio = next((encoder for encoder in encoders if isinstance(encoder, AudioEncoder)), None)
        on_gpu = any(encoder.device.type != "cpu" for encoder in encoders)
        self._num_encoders = ENCODERS_ON_GPU if on_gpu else options.num_cores or num_cores()
        self._pool = ThreadPoolExecutor(self._num_encoders, "sage-va-encoder", _one_thread)
        batch = AUDIO_BATCH_ON_GPU if self._audio and self._audio.device.type == "cuda" else 1
        self._images: Packer[Assembly] = self._packer(options.batch_size, "visual")
        self._windows: Packer[tuple[Assembly, Window]] = self._packer(batch, "audio")

    def _packer(self, batch_size: int, modality: str) -> Packer[Any]:
        return Packer(batch_size, lambda items: self._encode(modality, items), self._pool, self._num_encoders + 1)

    @property
    def streams(self) -> list[str]:
        return sorted(self._streams.values())

    def go(self) -> Summary:
        summary = self._summary
        ahead = DecodeAhead(self._sources, self._visual, self._audio, self._options, self._needs)
        try:
            with _calm_threads(), ahead:
                for clip, part in ahead:
                    self._take(clip, part)
                    self._note_write(wait=False)
                    self._tell()
                    if self._stop.is_set():
                        ahead.stop()
                self._flush()
                while self._writes:
                    self._note_write(wait=True)
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._writer.shutdown(cancel_futures=True)
        summary.wall_s = self._tally.elapsed_s
        summary.busy_s["decode"] = ahead.busy_s
        summary.failures.sort(key=lambda failure: failure.clip_id)
        self._tell(always=True)
        return summary

    def _needs(self, source: Source, medium: Medium) -> tuple[str, ...]:
        needs = {
            modality: stream
            for modality, stream in self._streams.items()
            if self._options.overwrite or not self._store.has(source.clip_id, stream, medium.source_sha256)
        }
        known = self._failed_before.get(source.clip_id)
        if known and known["source_sha256"] == medium.source_sha256 and set(needs.values()) == set(known["streams"]):
            raise FailedBeforeError(known["reason"])
        return tuple(needs)

    def _take(self, clip: Assembly, part: Part) -> None:
        if clip.failed:
            return
        if part is None:
            self._summary.num_skipped += 1
            self._close(clip, Outcome(clip.source.clip_id, skipped=True))
        elif isinstance(part, Failure):
            self._fail(clip, part)
        elif isinstance(part, Frames):
            clip.expect_images(part)
            for owner, row in self._images.push(clip, part.pixels):
                self._place_image(owner, row)
        elif isinstance(part, Window):
            self._take_window(clip, part)
        elif isinstance(part, tuple):
            self._tally.split(clip.source.clip_id, part)
            self._say(Outcome(clip.source.clip_id, people=part))
        else:
            clip.ending = part
            self._commit_if_whole(clip)

    def _flush(self) -> None:
        for clip, row in self._images.flush():
            self._place_image(clip, row)
        for (clip, window), steps in self._windows.flush():
            self._place_window(clip, window, steps)

    def _take_window(self, clip: Assembly, window: Window) -> None:
        assert self._audio is not None, "windows are cut for it"
        clip.num_windows += 1
        if len(window.samples) != self._audio.plan.window:  # a short recording runs alone
            done = self._windows.push_alone((clip, window), window.samples)
        else:
            done = self._windows.push((clip, window), window.samples[None])
        for (owner, piece), steps in done:
            self._place_window(owner, piece, steps)

    def _encode(self, modality: str, items: NDArray[Any]) -> NDArray[np.float32]:
        start = perf_counter()
        try:
            return self._encoders[modality].encode(items)
        except RuntimeError as error:
            got = f"{error}".splitlines()[0][:200]
            todo = "Try a smaller --batch-size, or --device cpu."
            place = f"encoder {self._encoders[modality].name}"
            raise InputError(place, expected="features", got=got, todo=todo) from error
        finally:
            with self._lock:
                self._summary.busy_s["encode"] += (perf_counter() - start) / self._num_encoders

    def _place_image(self, clip: Assembly, row: NDArray[np.floating[Any]]) -> None:
        self._summary.num_frames += 1
        self._guarded(clip, lambda: clip.add_image(row, self._encoders["visual"]))

    def _place_window(self, clip: Assembly, window: Window, steps: NDArray[np.floating[Any]]) -> None:
        assert self._audio is not None, "windows are cut for it"
        plan = self._audio.plan
        self._summary.audio_s += (window.end - window.first) * plan.step / plan.sampling_rate
        self._guarded(clip, lambda: clip.add_window(window, steps, self._encoders["audio"]))

    def _guarded(self, clip: Assembly, add: Callable[[], None]) -> None:
        if clip.failed:
            return
        try:
            add()
        except InputError as error:
            self._fail(clip, Failure.of(clip.source.clip_id, error))
        else:
            self._commit_if_whole(clip)

    def _commit_if_whole(self, clip: Assembly) -> None:
        if not clip.whole:
            return
        while len(self._writes) >= _PENDING_WRITES:
            self._note_write(wait=True)
        self._writes.append((clip, self._writer.submit(self._commit, clip)))

    def _note_write(self, *, wait: bool) -> None:
        while self._writes and (wait or self._writes[0][1].done()):
            clip, write = self._writes.popleft()
            failure = write.result()
            if failure:
                self._fail(clip, failure)
            else:
                self._summary.num_done += 1
                clip_id = clip.source.clip_id
                self._close(clip, Outcome(clip_id, without_face=clip_id in self._summary.without_face))
            wait = False

    def _fail(self, clip: Assembly, failure: Failure) -> None:
        clip.failed = True
        failures = self._summary.failures
        failures.append(failure)
        if not failure.repeated:
            source_sha256 = clip.medium.source_sha256 if clip.medium and failure.lasting else ""
            streams = [self._streams[modality] for modality in clip.needs]
            self._store.log_failure(failure.clip_id, failure.reason, source_sha256=source_sha256, streams=streams)
        self._close(clip, Outcome(clip.source.clip_id, failure))
        check_failures(failures, self._options.max_failures)

    def _close(self, clip: Assembly, outcome: Outcome) -> None:
        clip.forget()
        self._tally.close(clip.source.clip_id, skipped=outcome.skipped)
        self._say(outcome)
        self._tell(always=True)

    def _say(self, outcome: Outcome) -> None:
        if self._closed:
            self._closed(outcome)

    def _tell(self, *, always: bool = False) -> None:
        now = perf_counter()
        if self._progress is None or (not always and now - self._told_s < _PROGRESS_EVERY_S):
            return
        self._told_s = now
        self._progress(self._tally.progress(self._summary))

    def _commit(self, clip: Assembly) -> Failure | None:
        if self._broken:  # after the first write that failed, none of those that wait is tried
            raise self._broken
        start = perf_counter()
        try:
            made = self._describe(clip)
            for modality in clip.needs:
                track, report = clip.track(self._encoders[modality])
                assert clip.medium is not None, "decoded"
                self._store.commit(
                    made,
                    self._streams[modality],
                    track,
                    fingerprint=self._prints[modality],
                    source_sha256=clip.medium.source_sha256,
                    report=report,
                    overwrite=self._options.overwrite,
                )
                if modality == "visual" and self._options.finder and not track.mask.any():
                    self._summary.without_face.append(made.clip_id)
        except InputError as error:
            return Failure.of(clip.source.clip_id, error)
        except OSError as error:
            self._broken = error
            raise
        finally:
            self._summary.busy_s["write"] += perf_counter() - start
        return None

    def _describe(self, clip: Assembly) -> Clip:
        """What the cache is to know of the clip. Sound alone is decoded without the frames, so where this run's visual
        stream is there already, its word on frames and duration stands.
        """
        made = clip.describe()
        if clip.needs == ("audio",) and "visual" in self._streams:
            known = Clip.from_json(self._store.record(made.clip_id, self._streams["visual"])["clip"])
            return replace(made, duration_s=known.duration_s, clock=known.clock)
        return made


@contextmanager
def _calm_threads() -> Iterator[None]:
    """One thread for each operation, on every machine: as many batches are encoded at once as there are cores, which
    needs no threads that wait for each other, and features do not depend on the number of cores.
    """
    before = torch.get_num_threads(), cv2.getNumThreads()
    _one_thread()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _one_thread() -> None:
    torch.set_num_threads(1)  # of the thread that calls it, and of those that begin later
