"""One run on several workers: clips are sent in batches as workers ask for them, and retried when a worker dies.

A worker works in sessions. In a session it gets batch after batch until the scheduler has none left; then it sends its
Summary. The scheduler starts the next session when there is work again. States of a worker, as the scheduler sees them:

              start()            Ready                ClipBatch(begin)
    (none) ----------> STARTING -------> IDLE <-----------------------------> IN SESSION
       ^                  |               |   Summary of the session           |      ^
       |                  |               |                                    +------+
       |   Died           | Died          | Died                      Died     | NeedClips: another ClipBatch, empty
       +------------------+---------------+------------------------------------+            and last if none is left

A worker that dies may have been killed by one of the clips that it had (a decoder that crashes), or by something else
(memory, a machine that went away). The clips that it had and that are not closed are retried, each in a session of its
own, so that the next death has a single cause. States of a clip:

    PENDING -- in a batch --> AT A WORKER -- ClipOutcome --> closed (done, skipped, failed)
                                 |                              ^
                                 | the worker dies              |
                                 v                              |
                              TO RETRY -- alone in a session ---+
                                 |
                                 | the worker dies again (MAX_DEATHS = 2)
                                 v
                              closed (failed: "the worker died … twice")

Retries come before pending clips. Nothing is lost when a clip was committed just before its worker died: the retry
skips it. A worker that dies before it is Ready counts as a false start; MAX_FALSE_STARTS in a row end the run.
"""

from __future__ import annotations

import pickle
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ...data.errors import InputError
from ...data.manifest import Source
from ...data.store.base import Store
from ..encoders.factory import Recipe
from ..options import ExtractOptions
from .messages import ClipBatch, Died, Engine, Event, Halt, NeedClips, Ready, WorkerJob
from .progress import ClipOutcome, ExtractionProgress, Failure, Summary, Tally, check_failures, log_end
from .work_list import work_list

MAX_DEATHS = 2  # the first with other clips, any of which may be the cause; the second alone
MAX_FALSE_STARTS = 3
_BATCH_CLIPS = 16
_POLL_S = 0.2


def find_engine(
    kind: str = "local", *, device: str = "auto", num_workers: int | None = None, address: str | None = None
) -> Engine | None:
    """Returns the engine that options name; None = one worker is enough, and this process can be it.

    Args:
        kind: "local" or "ray".
        device: "auto" and "cuda" stand for all GPUs; any other name for that device alone.
        num_workers: None = one for each GPU, one where there is none.
        address: of a Ray cluster; None = the one of this machine, or a new one.

    Raises:
        InputError: if Ray is not installed, or the cluster has no such devices.
    """
    if kind == "ray":
        from .ray_engine import RayEngine

        return RayEngine(address, device=device, num_workers=num_workers)
    devices = _local_devices(device, num_workers)
    if len(devices) == 1:
        return None
    from .local_engine import LocalEngine

    return LocalEngine(devices)


def _local_devices(device: str, num_workers: int | None) -> list[str]:
    devices = [f"cuda:{k}" for k in range(_num_gpus())] if device in ("auto", "cuda") else []
    devices = devices or ["cpu" if device == "auto" else device]
    return [devices[k % len(devices)] for k in range(num_workers or len(devices))]


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def extract_with(
    engine: Engine,
    sources: Sequence[Source],
    store: Store,
    recipe: Recipe,
    *,
    options: ExtractOptions | None = None,
    progress: Callable[[ExtractionProgress], None] | None = None,
    stop: threading.Event | None = None,
) -> Summary:
    """Extracts clips with the workers of an engine; the result is that of `extract`, whatever their number.

    Clips of a worker that died are retried, each alone; a clip that kills its worker again is a failure.

    Args:
        engine: closed at the end.
        sources: the clips.
        store: the cache, open for writing.
        recipe: builds the encoders in each worker.
        options: None = the defaults.
        progress: called several times per second, from this thread.
        stop: once set, no further clip is started; those at work are finished.

    Raises:
        InputError: if the encoders are not available or fail, workers would extract different streams or do not
            start, or more clips fail than `max_failures`; committed clips stay.
        OSError: if the store cannot be written; committed clips stay.
    """
    options = options or ExtractOptions()
    if engine.cores_each is not None:
        options = replace(options, num_cores=engine.cores_each)
    job = pickle.dumps(WorkerJob(store.url, Path.cwd(), recipe, options))
    return Scheduler(engine, job, work_list(sources, options), store, options, progress, stop).run()


class Scheduler:
    """One run on several workers; see the text of this module for the states of workers and clips.

    Args:
        engine: starts the workers; closed at the end.
        job: a pickled WorkerJob.
        sources: the clips.
        store: gets the start, the end and the failures of the run in its journal.
        options: of the extraction.
        progress: called several times per second.
        stop: once set, no further clip is started.
    """

    def __init__(
        self,
        engine: Engine,
        job: bytes,
        sources: Sequence[Source],
        store: Store,
        options: ExtractOptions,
        progress: Callable[[ExtractionProgress], None] | None,
        stop: threading.Event | None,
    ) -> None:
        self._engine, self._job, self._store, self._options = engine, job, store, options
        self._progress, self._stop = progress, stop or threading.Event()
        self._tally = Tally.of(sources)
        self._pending = deque(sorted(sources, key=lambda source: -self._tally.sizes[source.clip_id]))
        self._retries: deque[Source] = deque()
        self._deaths: Counter[str] = Counter()  # by clip
        self._starting: set[int] = set()
        self._idle: set[int] = set()
        self._at_work: dict[int, dict[str, Source]] = {}  # by worker in session: clips sent and not closed
        self._parts: dict[int, ExtractionProgress] = {}  # by worker in session: its progress in the session
        self._false_starts = 0
        self._halted = False
        self._summary = Summary()

    def run(self) -> Summary:
        """Runs until all clips are closed; raises as `extract_with` does."""
        try:
            for worker in range(min(self._engine.num_workers, len(self._pending))):
                self._start(worker)
            while self._at_work or (self._has_work() and not self._halted):
                for worker, event in self._engine.events(_POLL_S):
                    self._handle(worker, event)
                if self._stop.is_set() and not self._halted:
                    self._halt()
                self._report()
        finally:
            self._engine.close()
        self._summary.wall_s, self._summary.interrupted = self._tally.elapsed_s, self._halted
        log_end(self._store, self._summary)
        self._store.finish()
        self._summary.failures.sort(key=lambda failure: failure.clip_id)
        return self._summary

    def _has_work(self) -> bool:
        return bool(self._pending or self._retries)

    def _handle(self, worker: int, event: Event) -> None:
        if isinstance(event, Ready):
            self._welcome(worker, event)
        elif isinstance(event, NeedClips):
            clips = self._next_batch()
            self._send(worker, ClipBatch(clips, last=not clips))
        elif isinstance(event, ClipOutcome):
            self._close(event, self._at_work[worker])
        elif isinstance(event, ExtractionProgress):
            self._parts[worker] = event
        elif isinstance(event, Summary):
            self._end_session(worker, event)
        elif isinstance(event, Died):
            self._bury(worker, event)
        else:
            raise event

    def _start(self, worker: int) -> None:
        self._starting.add(worker)
        self._engine.start(worker, self._job)

    def _welcome(self, worker: int, ready: Ready) -> None:
        self._starting.discard(worker)
        self._false_starts, streams = 0, list(ready.streams)
        if not self._summary.streams:
            self._summary.streams = streams
            self._store.log("start", clips=len(self._tally.sizes), streams=streams)
        if streams != self._summary.streams:
            todo = "Give all machines the same packages and like devices, or name the --precision."
            expected = f"the streams of the others, {', '.join(self._summary.streams)}"
            raise InputError(f"worker {worker}", expected=expected, got=", ".join(streams), todo=todo)
        self._begin(worker)

    def _begin(self, worker: int) -> None:
        """Opens a session of a worker without one: a single retry, or batches for as long as it asks."""
        alone = bool(self._retries)
        clips = (self._retries.popleft(),) if alone else self._next_batch()
        if clips:
            self._idle.discard(worker)
            self._at_work[worker] = {}
            self._send(worker, ClipBatch(clips, begin=True, last=alone))
        else:
            self._idle.add(worker)

    def _next_batch(self) -> tuple[Source, ...]:
        """Returns the next pending clips: fewer towards the end, so that all workers end together."""
        fair = len(self._pending) // (8 * self._engine.num_workers)
        num_clips = min(len(self._pending), max(1, min(_BATCH_CLIPS, fair)))
        return tuple(self._pending.popleft() for _ in range(num_clips))

    def _send(self, worker: int, batch: ClipBatch) -> None:
        self._at_work[worker] |= {source.clip_id: source for source in batch.sources}
        self._engine.send(worker, batch)

    def _close(self, outcome: ClipOutcome, at_work: dict[str, Source]) -> None:
        clip_id = outcome.clip_id
        at_work.pop(clip_id, None)
        if outcome.people:
            at_work |= {person.clip_id: person for person in outcome.people}
            self._tally.split(clip_id, outcome.people)
            return
        self._tally.close(clip_id, skipped=outcome.skipped)
        self._summary.count(outcome)
        if outcome.failure:
            check_failures(self._summary.failures, self._options.max_failures)

    def _end_session(self, worker: int, part: Summary) -> None:
        left = self._at_work.pop(worker)
        assert self._halted or not left, f"a worker left {sorted(left)} undone"
        self._parts.pop(worker, None)
        self._count_work(part)
        for name, busy_s in part.busy_s.items():
            self._summary.busy_s[name] += busy_s / self._engine.num_workers
        for modality, size in part.batch_sizes.items():
            self._summary.batch_sizes[modality] = min(size, self._summary.batch_sizes.get(modality, size))
        self._begin(worker)

    def _count_work(self, part: Summary | ExtractionProgress) -> None:
        self._summary.num_frames += part.num_frames
        self._summary.audio_s += part.audio_s

    def _bury(self, worker: int, died: Died) -> None:
        """Handles the death of a worker: retries its clips, wakes idle workers for them, and replaces it."""
        self._idle.discard(worker)
        part, at_work = self._parts.pop(worker, None), self._at_work.pop(worker, {})
        if part:
            self._count_work(part)
        if worker in self._starting:
            self._count_false_start(worker, died)
        for source in at_work.values():
            self._retry(source, died)
        for idle in sorted(self._idle):
            self._begin(idle)
        if self._has_work() and not self._halted:
            self._start(worker)

    def _count_false_start(self, worker: int, died: Died) -> None:
        self._starting.discard(worker)
        self._false_starts += 1
        if self._false_starts == MAX_FALSE_STARTS:
            got = f"one that died {died.how} before it was ready, {MAX_FALSE_STARTS} times"
            todo = "Is the memory enough for all of them? Try fewer --workers."
            raise InputError(f"worker {worker}", expected="one that starts", got=got, todo=todo)

    def _retry(self, source: Source, died: Died) -> None:
        """Queues a clip whose worker died for a session of its own; the second time it is a failure."""
        self._deaths[source.clip_id] += 1
        if self._halted:
            return
        if self._deaths[source.clip_id] < MAX_DEATHS:
            self._retries.append(source)
            return
        todo = "Check that the memory is enough, and run it again."
        got = f"none, the worker died {died.how} twice"
        failure = Failure.of(source.clip_id, InputError(source.clip_id, expected="features", got=got, todo=todo))
        self._store.log_failure(failure.clip_id, failure.reason, streams=self._summary.streams)
        self._close(ClipOutcome(source.clip_id, failure), {})

    def _halt(self) -> None:
        self._halted = True
        self._pending.clear()
        self._retries.clear()
        for worker in self._at_work:
            self._engine.send(worker, Halt())

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._tally.progress(self._summary, self._parts.values()))
