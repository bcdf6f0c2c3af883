"""Clips decoded ahead of the encoders, several at a time, into a queue that is bounded in bytes.

    Backlog --take--> decoder thread 1 --+
                      decoder thread 2 --+--put--> BytesQueue (32 MB) --get--> the pipeline's thread
                      …                --+
                      watchdog (replaces a thread that hangs)

A decoder thread works on one clip at a time. The life of a clip in it:

                                      no sign of life for STALL_S
    take() --> AT WORK ------------------------------------------------> GIVEN UP (Failure; a new thread starts,
                | ^                                                        the old one ends at its next sign of life)
     put() waits| |
                v | beat
               RESTING (not watched: the queue is full, or the clip is over)
                |
                +--> over: DecodeResult, None (nothing to do), the clips of its people, or a Failure

Leaving the `with` block closes the queue: threads that wait in `put`, or reach their next packet, get ClosedError and
end.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

from ...data.errors import InputError
from ...data.machine import num_cores
from ...data.manifest import Source
from ..batch import BytesQueue, ClosedError
from ..buffers import Buffers
from ..decode.frames import Frames
from ..decode.watchdog import STALL_S, GivenUpError, Watchdog
from ..encoders.audio_windows import Window
from ..media_hashes import Medium
from ..options import ExtractOptions
from .assemble import Assembly
from .clip_decoder import ClipDecoder, Part
from .progress import Failure
from .work_list import Backlog, ListBacklog

if TYPE_CHECKING:  # it loads torch
    from ..encoders.base import AudioEncoder, VisualEncoder

QUEUE_BYTES, QUEUE_BYTES_ON_GPU = 32 << 20, 256 << 20  # a chunk of 32 images of 518 pixels takes 26 MB
MAX_THREADS = 8  # more do not decode faster; detecting faces takes a core each

_Item: TypeAlias = tuple[Assembly, Part] | None  # None: a thread has ended


def num_decoders(options: ExtractOptions) -> int:
    """Returns the number of decoder threads: as many as cores, at most `MAX_THREADS` unless faces are detected."""
    cores = options.num_cores or num_cores()
    return options.num_decode_threads or (cores if options.finder else min(MAX_THREADS, cores))


class Prefetcher:
    """Iterates over (clip, part) as decoder threads produce them; leaving its `with` block stops and joins them.

    The parts of a clip come in order, those of several clips interleaved: see `ClipDecoder.parts`. A Failure takes the
    place of the remaining parts.

    Args:
        sources: the clips, started in this order; or a backlog that others fill.
        visual: encoder that images are prepared for.
        audio: encoder that windows are cut for.
        options: of the extraction.
        needs: returns the modalities that a clip still needs; called in the threads.
        buffers: lends the memory of the images.
    """

    def __init__(
        self,
        sources: Sequence[Source] | Backlog,
        visual: VisualEncoder | None,
        audio: AudioEncoder | None,
        options: ExtractOptions,
        needs: Callable[[Source, Medium], tuple[str, ...]],
        buffers: Buffers,
    ) -> None:
        cores = options.num_cores or num_cores()
        wanted = num_decoders(options)
        self._num_threads = max(1, min(wanted, len(sources))) if isinstance(sources, Sequence) else wanted
        on_gpu = visual is not None and visual.device.type == "cuda"
        # Beside a GPU the last clip would wait for a single thread; on a CPU a second one takes time from the encoder.
        each = max(min(2, cores) if on_gpu else 1, cores // self._num_threads)
        self._decoder = ClipDecoder(visual, audio, options, needs, each, buffers)
        self._dtype = options.dtype
        self._backlog = ListBacklog(sources) if isinstance(sources, Sequence) else sources
        self._queue: BytesQueue[_Item] = BytesQueue(QUEUE_BYTES_ON_GPU if on_gpu else QUEUE_BYTES)
        self._lock = threading.Lock()
        self._busy_s = 0.0
        self._watchdog: Watchdog[Assembly] = Watchdog(self._give_up)
        self._at_work: dict[Assembly, threading.Thread] = {}
        self._threads = [self._new_thread() for _ in range(self._num_threads)]

    @property
    def busy_s(self) -> float:
        """Seconds of work, without waiting, per thread."""
        return self._busy_s / self._num_threads

    def __enter__(self) -> Self:
        self._watchdog.__enter__()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.close()
        self._backlog.stop()
        self._watchdog.__exit__(kind, error, traceback)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(STALL_S)

    def __iter__(self) -> Iterator[tuple[Assembly, Part]]:
        num_running = self._num_threads
        while num_running:
            item = self._queue.get()
            if item is None:
                num_running -= 1
            else:
                yield item

    def stop(self) -> None:
        """Starts no further clip; those at work are finished."""
        self._backlog.stop()

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._work, name="decode", daemon=True)  # one that hangs must not keep us alive

    def _work(self) -> None:
        try:
            while (source := self._backlog.take()) is not None:
                self._decode(Assembly(source, self._dtype))
            self._queue.put(None)
        except (ClosedError, GivenUpError):
            pass

    def _decode(self, clip: Assembly) -> None:
        start, waited_s = perf_counter(), [0.0]
        self._at_work[clip] = threading.current_thread()
        try:
            self._put_parts(clip, waited_s)
        except (ClosedError, GivenUpError):
            raise
        except Exception as error:  # whatever a medium does to a decoder is a failure of that clip alone
            self._put(clip, Failure.of(clip.source.clip_id, error), waited_s)
        finally:
            with self._lock:
                self._busy_s += perf_counter() - start - sum(waited_s)
            self._watchdog.rest(clip)
            del self._at_work[clip]

    def _put_parts(self, clip: Assembly, waited_s: list[float]) -> None:
        def beat() -> None:
            self._queue.check_open()
            self._watchdog.beat(clip)

        for part in self._decoder.parts(clip, beat):
            self._put(clip, part, waited_s)
            if clip.failed:
                return
            if isinstance(part, tuple):
                self._backlog.put_first(part)
            self._watchdog.beat(clip)

    def _put(self, clip: Assembly, part: Part, waited_s: list[float]) -> None:
        self._watchdog.rest(clip)
        waited_s.append(self._queue.put((clip, part), part.num_bytes if isinstance(part, Frames | Window) else 0))

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
            self._threads.append(self._new_thread())
        with contextlib.suppress(ClosedError):
            self._queue.put((clip, Failure.of(clip.source.clip_id, error)))
        self._threads[-1].start()
