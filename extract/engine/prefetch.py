"""Clips decoded ahead of the encoders, several at a time, in a queue that is bounded in bytes."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from time import perf_counter
from types import TracebackType
from typing import Protocol, Self, TypeAlias

import numpy as np

from ...data.errors import InputError
from ...data.machine import num_cores
from ...data.manifest import Source
from ..batch import BytesQueue, ClosedError
from ..decode.audio import Samples
from ..decode.frames import Frames
from ..decode.reader import Ending, Wanted, decode
from ..decode.watchdog import STALL_S, GivenUpError, Watchdog
from ..encoders.audio_windows import Window, Windower
from ..encoders.base import AudioEncoder, VisualEncoder
from ..faces.finder import decode_person, sightings, split
from ..faces.tracking import Sightings
from ..identity import ExtractOptions, Medium
from ..media_hashes import MediaHashes
from .assemble import Assembly
from .progress import Failure

QUEUE_BYTES = 32 << 20
MAX_WORKERS = 8

Part: TypeAlias = Frames | Window | Ending | Failure | tuple[Source, ...] | None
_Event: TypeAlias = tuple[Assembly, Part] | None  # None: a thread has ended


class Backlog(Protocol):
    """The clips that are still to be started; asked by several threads."""

    def take(self) -> Source | None:
        """The next clip, waiting for it if it must; None = there is no more."""
        ...

    def next(self, sources: Sequence[Source]) -> None:
        """Clips that were found in another come before all others."""
        ...

    def stop(self) -> None:
        """From now on there is no more, also for those who wait."""
        ...


class Listed:
    """A backlog that is known from the start."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._todo = deque(sources)

    def take(self) -> Source | None:
        with contextlib.suppress(IndexError):
            return self._todo.popleft()
        return None

    def next(self, sources: Sequence[Source]) -> None:
        self._todo.extendleft(reversed(sources))

    def stop(self) -> None:
        self._todo.clear()


class DecodeAhead:
    """Iterates over (clip, part) as decoder threads make them; leaving its `with` block stops and joins them.

    The parts of a clip come in order, those of several clips interleaved: Frames and Windows, then the Ending, or
    instead of it the Failure that ended the clip. A sole None says that the clip needs nothing; a sole tuple, that the
    people found in it are clips of their own, which follow.

    Args:
        sources: the clips, started in this order; or a backlog that others fill.
        visual: encoder that images are made for.
        audio: encoder that windows are cut for.
        needs: modalities that a clip still needs; called in the threads.
    """

    def __init__(
        self,
        sources: Sequence[Source] | Backlog,
        visual: VisualEncoder | None,
        audio: AudioEncoder | None,
        options: ExtractOptions,
        needs: Callable[[Source, Medium], tuple[str, ...]],
    ) -> None:
        self._visual, self._audio, self._options, self._needs = visual, audio, options, needs
        self._hashes = MediaHashes(rehash=options.rehash)
        self._todo = Listed(sources) if isinstance(sources, Sequence) else sources
        self._queue: BytesQueue[_Event] = BytesQueue(QUEUE_BYTES)
        self._lock = threading.Lock()
        self._busy_s = 0.0
        self._num_cores = options.num_cores or num_cores()
        wanted = options.num_decode_threads or max(1, min(MAX_WORKERS, self._num_cores // 2))
        self._num_workers = max(1, min(wanted, len(sources))) if isinstance(sources, Sequence) else wanted
        self._watchdog: Watchdog[Assembly] = Watchdog(self._give_up)
        self._at_work: dict[Assembly, threading.Thread] = {}
        self._threads = [self._thread() for _ in range(self._num_workers)]

    @property
    def busy_s(self) -> float:
        """Seconds of work, not of waiting, per thread."""
        return self._busy_s / self._num_workers

    def __enter__(self) -> Self:
        self._watchdog.__enter__()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.close()
        self._todo.stop()
        self._watchdog.__exit__(kind, error, traceback)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(STALL_S)

    def __iter__(self) -> Iterator[tuple[Assembly, Part]]:
        running = self._num_workers
        while running:
            event = self._queue.get()
            if event is None:
                running -= 1
            else:
                yield event

    def stop(self) -> None:
        """Starts no further clip; those in work go on."""
        self._todo.stop()

    def _thread(self) -> threading.Thread:
        return threading.Thread(target=self._work, name="decode", daemon=True)  # one that hangs must not keep us alive

    def _give_up(self, clip: Assembly) -> None:
        """Fails a clip whose thread hangs, and puts another thread in its place."""
        error = InputError(
            clip.source.clip_id,
            expected="a recording that decodes",
            got=f"nothing for {STALL_S:.0f} s from the decoder",
            todo="Repair it or write it again, e.g. `ffmpeg -i IN OUT.mp4`.",
        )
        with self._lock:
            self._threads.remove(self._at_work[clip])
            self._threads.append(self._thread())
        with contextlib.suppress(ClosedError):
            self._queue.put((clip, Failure.of(clip.source.clip_id, error)))
        self._threads[-1].start()

    def _work(self) -> None:
        try:
            while (source := self._todo.take()) is not None:
                self._decode(Assembly(source, self._options.dtype))
            self._queue.put(None)
        except (ClosedError, GivenUpError):
            pass

    def _decode(self, clip: Assembly) -> None:
        start, waited_s = perf_counter(), 0.0
        self._at_work[clip] = threading.current_thread()
        try:
            for part in self._parts(clip):
                self._watchdog.rest(clip)
                waited_s += self._queue.put((clip, part), part.num_bytes if isinstance(part, Frames | Window) else 0)
                if clip.failed:
                    break
                if isinstance(part, tuple):
                    self._todo.next(part)
                self._watchdog.beat(clip)
        except (ClosedError, GivenUpError):
            raise
        except Exception as error:  # whatever a medium does to a decoder is a failure of that clip alone
            self._watchdog.rest(clip)
            waited_s += self._queue.put((clip, Failure.of(clip.source.clip_id, error)))
        finally:
            with self._lock:
                self._busy_s += perf_counter() - start - waited_s
            self._watchdog.rest(clip)
            del self._at_work[clip]

    def _parts(self, clip: Assembly) -> Iterator[Part]:
        clip.medium = Medium.of(clip.source, self._hashes)
        if self._options.person == "all" and clip.source.person is None:
            yield tuple(split(clip.source, self._sightings(clip, clip.medium)))
            return
        clip.needs = self._needs(clip.source, clip.medium)
        if not clip.needs:
            yield None
            return
        visual = self._visual if "visual" in clip.needs else None
        audio = self._audio if "audio" in clip.needs else None
        windower = Windower(audio.plan) if audio else None
        wanted = replace(
            self._wanted(clip),
            shrinker=visual.shrinker() if visual else None,
            sampling_rate=audio.sampling_rate if audio else None,
            faces=self._options.faces,
        )
        for part in self._decoded(clip, clip.medium, wanted, visual):
            if isinstance(part, np.ndarray):
                yield from windower.push(part) if windower else ()
                continue
            if isinstance(part, Ending) and windower:
                yield from windower.finish()
            yield part

    def _decoded(
        self, clip: Assembly, medium: Medium, wanted: Wanted, visual: VisualEncoder | None
    ) -> Iterator[Frames | Samples | Ending]:
        source, finder = clip.source, self._options.finder
        if visual and self._options.faces == "full" and source.person not in (None, "largest"):
            todo = "Extract with --faces detect, or leave the person out of the manifest."
            raise InputError(source.clip_id, expected="the whole image", got=f"person {source.person}", todo=todo)
        if visual is None or finder is None:
            return decode(source, wanted)
        seen = self._sightings(clip, medium)
        return decode_person(source, wanted, seen, lambda face_of: visual.cropper(finder.margin, face_of))

    def _sightings(self, clip: Assembly, medium: Medium) -> Sightings:
        assert self._options.finder is not None, "faces are detected"
        return sightings(clip.source, medium.sha256, self._options.finder, self._wanted(clip))

    def _wanted(self, clip: Assembly) -> Wanted:
        """How to decode; what is to be delivered comes on top."""

        def beat() -> None:
            self._queue.check_open()
            self._watchdog.beat(clip)

        return Wanted(fps=self._options.fps, num_threads=max(1, self._num_cores // self._num_workers), beat=beat)
