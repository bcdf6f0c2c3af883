"""One run on several workers: clips are handed out as workers ask for them, and again when a worker dies."""

from __future__ import annotations

import pickle
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ...data.errors import InputError
from ...data.manifest import Source
from ...data.store.base import Store
from ..identity import ExtractOptions, size_of
from .pipeline import work_list
from .progress import Failure, Outcome, Progress, Summary, Tally, check_failures
from .workers import Ask, Died, Engine, Event, Halt, Handed, Job, LocalEngine, Ready, Recipe

MAX_DEATHS = 2  # the first is in company, so that any of several clips may be the cause; the second is alone
MAX_FALSE_STARTS = 3
_PARCEL = 16
_LOOK_EVERY_S = 0.2


def find_engine(
    kind: str = "local", *, device: str = "auto", num_workers: int | None = None, address: str | None = None
) -> Engine | None:
    """The engine that options name; None = one worker is enough, so let it be this process.

    Args:
        kind: "local" or "ray".
        device: "auto" and "cuda" are all GPUs; any other is that device alone.
        num_workers: None = one for each GPU, one where there is none.
        address: of a Ray cluster; None = the one of this machine, or a new one.

    Raises:
        InputError: if Ray is not installed, or the cluster has no such devices.
    """
    if kind == "ray":
        from .ray_engine import RayEngine

        return RayEngine(address, device=device, num_workers=num_workers)
    devices = _local_devices(device, num_workers)
    return LocalEngine(devices) if len(devices) > 1 else None


def _local_devices(device: str, num_workers: int | None) -> list[str]:
    num_gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    found = [f"cuda:{k}" for k in range(num_gpus)] or ["cpu" if device == "auto" else device]
    return [found[k % len(found)] for k in range(num_workers or len(found))]


def extract_with(
    engine: Engine,
    sources: Sequence[Source],
    store: Store,
    recipe: Recipe,
    *,
    options: ExtractOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> Summary:
    """`extract.pipeline.extract` by the workers of an engine, with the same result however many they are.

    What a worker had in hand when it died is done again, each clip alone; one that kills its worker again is a failure.

    Raises:
        InputError: if the encoders cannot be had or break down, workers would make different streams or do not start,
            or more clips fail than `max_failures`; what was committed before stays.
        OSError: if the store cannot be written; what was committed before stays.
    """
    options = options or ExtractOptions()
    if engine.cores_each is not None:
        options = replace(options, num_cores=engine.cores_each)
    job = Job(store.url, Path.cwd(), recipe, options)
    return _Run(engine, pickle.dumps(job), work_list(sources, options), store, options, progress, stop).go()


class _Run:
    def __init__(
        self,
        engine: Engine,
        job: bytes,
        sources: Sequence[Source],
        store: Store,
        options: ExtractOptions,
        progress: Callable[[Progress], None] | None,
        stop: threading.Event | None,
    ) -> None:
        self._engine, self._job, self._store, self._options = engine, job, store, options
        self._progress, self._stop = progress, stop or threading.Event()
        self._tally = Tally({source.clip_id: size_of(source.path) for source in sources})
        self._pending = deque(sorted(sources, key=lambda source: -self._tally.sizes[source.clip_id]))
        self._suspects: deque[Source] = deque()  # one of them has killed its worker
        self._deaths: Counter[str] = Counter()
        self._starting: set[int] = set()
        self._idle: set[int] = set()
        self._hands: dict[int, dict[str, Source]] = {}  # by worker in session: clips handed out and not yet closed
        self._parts: dict[int, Progress] = {}  # by worker in session: what it has encoded in it
        self._false_starts = 0
        self._halted = False
        self._summary = Summary()
        self._closed: set[str] = set()

    def go(self) -> Summary:
        try:
            for worker in range(min(self._engine.num_workers, len(self._pending))):
                self._start(worker)
            while self._hands or ((self._pending or self._suspects) and not self._halted):
                for worker, event in self._engine.events(_LOOK_EVERY_S):
                    self._hear(worker, event)
                if self._stop.is_set() and not self._halted:
                    self._halt()
                self._tell()
        finally:
            self._engine.close()
        self._store.finish()
        self._summary.wall_s = self._tally.elapsed_s
        self._summary.failures.sort(key=lambda failure: failure.clip_id)
        return self._summary

    def _hear(self, worker: int, event: Event) -> None:
        if isinstance(event, Ready):
            self._welcome(worker, event)
        elif isinstance(event, Ask):
            parcel = self._parcel()
            self._hand(worker, Handed(parcel, last=not parcel))
        elif isinstance(event, Outcome):
            self._close(event, self._hands[worker])
        elif isinstance(event, Progress):
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
        """Gives a worker that has nothing to do a session: of one suspect alone, or of as many clips as it asks for."""
        alone = bool(self._suspects)
        parcel = (self._suspects.popleft(),) if alone else self._parcel()
        if parcel:
            self._idle.discard(worker)
            self._hands[worker] = {}
            self._hand(worker, Handed(parcel, begin=True, last=alone))
        else:
            self._idle.add(worker)

    def _parcel(self) -> tuple[Source, ...]:
        """Clips to hand out at once: fewer towards the end, so that all workers end together."""
        many = len(self._pending) // (8 * self._engine.num_workers)
        return tuple(self._pending.popleft() for _ in range(min(len(self._pending), max(1, min(_PARCEL, many)))))

    def _hand(self, worker: int, handed: Handed) -> None:
        self._hands[worker] |= {source.clip_id: source for source in handed.sources}
        self._engine.send(worker, handed)

    def _close(self, outcome: Outcome, hand: dict[str, Source]) -> None:
        clip_id, summary = outcome.clip_id, self._summary
        hand.pop(clip_id, None)
        if outcome.people:
            hand |= {person.clip_id: person for person in outcome.people}
            self._tally.split(clip_id, outcome.people)
            return
        self._closed.add(clip_id)
        self._tally.close(clip_id, skipped=outcome.skipped)
        if outcome.failure:
            summary.failures.append(outcome.failure)
            check_failures(summary.failures, self._options.max_failures)
        elif outcome.skipped:
            summary.num_skipped += 1
        else:
            summary.num_done += 1
            summary.without_face += [clip_id] * outcome.without_face

    def _end_session(self, worker: int, part: Summary) -> None:
        left = self._hands.pop(worker)
        assert self._halted or not left, f"a worker left {sorted(left)} undone"
        self._parts.pop(worker, None)
        self._summary.num_frames += part.num_frames
        self._summary.audio_s += part.audio_s
        for name, busy_s in part.busy_s.items():
            self._summary.busy_s[name] += busy_s / self._engine.num_workers
        self._begin(worker)

    def _bury(self, worker: int, died: Died) -> None:
        self._idle.discard(worker)
        part, hand = self._parts.pop(worker, None), self._hands.pop(worker, {})
        if part:
            self._summary.num_frames += part.num_frames
            self._summary.audio_s += part.audio_s
        if worker in self._starting:
            self._starting.discard(worker)
            self._false_starts += 1
            if self._false_starts == MAX_FALSE_STARTS:
                got = f"one that died {died.how} before it was ready, {MAX_FALSE_STARTS} times"
                todo = "Is the memory enough for all of them? Try fewer --workers."
                raise InputError(f"worker {worker}", expected="one that starts", got=got, todo=todo)
        for source in hand.values():
            self._suspect(source, died)
        for idle in sorted(self._idle):
            self._begin(idle)
        if (self._pending or self._suspects) and not self._halted:
            self._start(worker)

    def _suspect(self, source: Source, died: Died) -> None:
        self._deaths[source.clip_id] += 1
        if self._halted:
            return
        if self._deaths[source.clip_id] < MAX_DEATHS:
            self._suspects.append(source)
            return
        todo = "See whether the memory was enough, and run it again."
        got = f"none, the worker died {died.how} twice"
        error = InputError(source.clip_id, expected="features", got=got, todo=todo)
        failure = Failure.of(source.clip_id, error)
        self._store.log_failure(failure.clip_id, failure.reason, streams=self._summary.streams)
        self._close(Outcome(source.clip_id, failure), {})

    def _halt(self) -> None:
        self._halted = True
        self._pending.clear()
        self._suspects.clear()
        for worker in self._hands:
            self._engine.send(worker, Halt())

    def _tell(self) -> None:
        if self._progress is None:
            return
        self._progress(self._tally.progress(self._summary, self._parts.values()))
