"""Cost of the pipeline itself: `python benchmarks/extract.py --overhead`.

*Packing*: chunks of 224 x 224 images that cost nothing to make go through the whole pipeline, to an encoder that
returns at once and into a cache: queue, batches, rows to their clips, commit. Frames per second of wall time.

*Interpreter*: drawn videos of 224 x 224 go through the whole pipeline, to the same encoder. From the CPU time of the
process from the first clip to the last commit, the time of these calls is taken off, as the calling thread's CPU time
around each: FFmpeg's demuxing, decoding and scaling (its own threads are turned off), OpenCV's three passes for the
quality signals, and the encoder's `embed`. So is the cost of counting, measured by as many empty calls. The rest, per
frame, is the pipeline itself: Python and what it calls in NumPy (all copies of pixels), hashing, threads, writing.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import thread_time
from typing import Any
from unittest.mock import patch

import numpy as np

from extract import spent, workload
from sage_va.data import open_store
from sage_va.data.machine import num_cores
from sage_va.data.manifest import Source
from sage_va.extract import VisualEncoder
from sage_va.extract.decode import frames, recording
from sage_va.extract.decode.frames import Frames
from sage_va.extract.decode.request import DecodeResult
from sage_va.extract.engine.clip_decoder import ClipDecoder
from sage_va.extract.engine.pipeline import extract
from sage_va.extract.media_hashes import Medium
from sage_va.extract.options import ExtractOptions

SIDE, DIM, BATCH, CHUNK = 224, 384, 128, 32
CLIPS, SECONDS = 4, 60  # drawn
PACKED_CLIPS, PACKED_CHUNKS = 20, 100
ROUNDS = 3


class Instant(VisualEncoder):
    """Returns at once."""

    name, dim, size = "instant", DIM, (SIDE, SIDE)

    def embed(self, items: Any) -> Any:
        return np.zeros((len(items), DIM), np.float32)


def print_overhead() -> None:
    print(f"{num_cores()} cores, {SIDE} px, batches of {BATCH}, encoder that returns at once; best of {ROUNDS}")
    with tempfile.TemporaryDirectory() as place:
        rates = [packing(Path(place, f"packed-{k}.zarr")) for k in range(ROUNDS)]
        print(f"packing      {max(rates):8.0f} frames/s  (all: {', '.join(f'{rate:.0f}' for rate in rates)})")
        sources = workload(Path(place, "clips"), CLIPS, SECONDS, (SIDE, SIDE))
        costs = [interpreter(sources, Path(place, f"{k}.zarr")) for k in range(ROUNDS)]
    best = min(costs, key=lambda cost: cost["the pipeline itself"])
    for part, each_s in best.items():
        print(f"{part:20} {1e6 * each_s:7.1f} CPU us a frame")


def packing(cache: Path) -> float:
    """Returns frames per second of a run whose decoders hand out chunks without filling them."""

    def parts(self: Any, clip: Any, beat: Callable[[], None]) -> Iterator[Any]:
        clip.medium, clip.needs = Medium("0" * 64, 0, "0" * 64), ("visual",)
        num = PACKED_CHUNKS * CHUNK
        for _ in range(PACKED_CHUNKS):
            beat()
            pixels = self._buffers.take((CHUNK, SIDE, SIDE, 3), np.dtype(np.uint8))
            yield Frames(pixels, np.zeros((CHUNK, 2), np.float32))
        yield DecodeResult(None, 0.0, num / 25, np.arange(num) / 25, np.arange(num), None, {}, {})

    sources = [Source(f"{k:03}", path=Path(__file__)) for k in range(PACKED_CLIPS)]
    with patch.object(ClipDecoder, "parts", parts), spent() as took:
        summary = extract(sources, open_store(cache, "a"), visual=Instant(), options=ExtractOptions(batch_size=BATCH))
    assert not summary.failures, summary.failures
    return summary.num_frames / took.wall_s


class Meter:
    """CPU seconds of calls, by name."""

    def __init__(self) -> None:
        self._spent_s: defaultdict[str, list[float]] = defaultdict(list)

    @property
    def spent_s(self) -> dict[str, float]:
        return {name: sum(spent_s) for name, spent_s in self._spent_s.items()}

    def counting_s(self) -> float:
        """Returns what as many empty calls cost, without what they count themselves, and the wrapped packets."""
        other, num_calls = Meter(), sum(map(len, self._spent_s.values()))
        empty = other.timed("", lambda: None)
        with spent() as took:
            for _ in range(num_calls):
                empty()
            for _ in range(num_calls // 4):  # a packet has a decode of its own; its demux, scaling and OpenCV have not
                _Wrapped(None, decode=other.timed("", lambda: None))
        return took.cpu_s - sum(other.spent_s.values())

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        note = self._spent_s[name].append

        def around(*args: Any, **kwargs: Any) -> Any:
            start = thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                note(thread_time() - start)

        return around


class _Wrapped:
    """An object of which some methods are timed."""

    def __init__(self, inner: Any, **methods: Any) -> None:
        self._inner = inner
        self.__dict__ |= methods

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __enter__(self) -> _Wrapped:
        self._inner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._inner.__exit__(*error)


def interpreter(sources: list[Source], cache: Path) -> dict[str, float]:
    """Returns CPU seconds per frame: of the whole, of the calls that are taken off, and the rest."""
    meter, open_media, reformatter = Meter(), recording.open_media, frames.VideoReformatter

    def opened(*args: Any) -> _Wrapped:
        container = open_media(*args)

        def demux(streams: Any) -> Iterator[_Wrapped]:
            step = meter.timed("FFmpeg", container.demux(streams).__next__)
            while True:
                try:
                    packet = step()
                except StopIteration:
                    return
                yield _Wrapped(packet, decode=meter.timed("FFmpeg", packet.decode))

        return _Wrapped(container, demux=demux)

    def scaler() -> _Wrapped:
        inner = reformatter()
        return _Wrapped(inner, reformat=meter.timed("FFmpeg", inner.reformat))

    with ExitStack() as stack:
        stack.enter_context(patch.object(recording, "open_media", opened))
        stack.enter_context(patch.object(frames, "VideoReformatter", scaler))
        stack.enter_context(patch.object(frames, "measure", meter.timed("OpenCV", frames.measure)))
        stack.enter_context(patch.object(Instant, "embed", meter.timed("encoder", Instant.embed)))
        options = ExtractOptions(batch_size=BATCH, num_decode_threads=num_cores())  # each decoder on one thread
        store = open_store(cache, "a")
        took = stack.enter_context(spent())
        summary = extract(sources, store, visual=Instant(), options=options)
    assert not summary.failures, summary.failures
    off = {**meter.spent_s, "counting": meter.counting_s()}
    parts = {"the whole": took.cpu_s, **off, "the pipeline itself": took.cpu_s - sum(off.values())}
    return {name: cpu_s / summary.num_frames for name, cpu_s in parts.items()}
