"""The cost of storing embeddings in fewer bits, and the gain of compressing them.

    python benchmarks/precision.py CACHE [--stream NAME]

CACHE is made by `sage-va extract --store-dtype float32`. For each smaller form of the valid frames: the relative error
of a frame (norm of the error by norm of the frame) and the cosine with the original. For each form and codec of
Zarr v3: bytes before by bytes after, and MB of uncompressed bytes per second, each clip's array being one chunk.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.dtype import UInt8

from sage_va.data import InputError, Store, open_store

SPEC = ArraySpec((1,), UInt8(), np.uint8(0), ArrayConfig("C", False), default_buffer_prototype())


def rounded(dtype: type) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(stored, read back) of values in a floating type."""
    return lambda values: (values.astype(dtype), values.astype(dtype).astype(np.float32))


def by_dimension(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 with a range of its own for each dimension of the stream, from its lowest to its highest value."""
    low, high = values.min(0), values.max(0)
    unit = np.where(high > low, (high - low) / 255, 1)
    stored = (np.rint((values - low) / unit) - 128).astype(np.int8)
    return stored, (stored.astype(np.float32) + 128) * unit + low


FORMS = {
    "float32": rounded(np.float32),
    "float16": rounded(np.float16),
    "bfloat16": rounded(ml_dtypes.bfloat16),
    "int8 per dimension": by_dimension,
}


def codecs(size: int) -> dict[str, BytesBytesCodec]:
    """Codecs by name, for items of a size in bytes."""
    return {
        "zstd 3": ZstdCodec(level=3),
        "blosc lz4 shuffle": BloscCodec(typesize=size, cname="lz4", clevel=5, shuffle="shuffle"),
        "blosc zstd bitshuffle": BloscCodec(typesize=size, cname="zstd", clevel=3, shuffle="bitshuffle"),
        "gzip 5": GzipCodec(level=5),
    }


def clips_of(store: Store, stream: str) -> list[np.ndarray]:
    """The valid frames of each clip, float32."""
    tracks = [store.read(clip_id, stream) for clip_id in store.clip_ids(stream)]
    if tracks[0].values.dtype != np.float32:
        todo = "Extract with --store-dtype float32."
        raise InputError(stream, expected="float32", got=str(tracks[0].values.dtype), todo=todo)
    return [track.values[track.mask] for track in tracks if track.mask.any()]


def print_errors(values: np.ndarray) -> None:
    wide = values.astype(np.float64)
    norm = np.linalg.norm(wide, axis=1)
    print(
        f"{'form':20}{'bytes':>12}{'max error':>12}{'mean error':>12}{'1 - min cos':>13}{'1 - mean cos':>13}  overflow"
    )
    for name, form in FORMS.items():
        stored, back = form(values)
        finite = np.isfinite(back).all(1)
        error = np.linalg.norm(wide - back, axis=1)[finite] / norm[finite]
        lost = 1 - ((wide * back).sum(1) / norm / np.linalg.norm(back.astype(np.float64), axis=1))[finite]
        figures = (error.max(), error.mean(), max(lost.max(), 0), max(lost.mean(), 0))
        cells = "".join(f"{figure:{width}.1e}" for figure, width in zip(figures, (12, 12, 13, 13), strict=True))
        print(f"{name:20}{stored.nbytes:12,}{cells}{(~finite).sum():10}")


def print_codecs(clips: list[np.ndarray]) -> None:
    ends = np.cumsum([len(clip) for clip in clips])[:-1]
    print(f"{'form':20}{'codec':24}{'ratio':>8}{'encode MB/s':>13}{'decode MB/s':>13}")
    for name, form in FORMS.items():
        stored = form(np.concatenate(clips))[0]
        chunks = [np.ascontiguousarray(part) for part in np.split(stored, ends)]
        for title, codec in codecs(stored.dtype.itemsize).items():
            ratio, encode, decode = measured(codec, chunks)
            print(f"{name:20}{title:24}{ratio:8.2f}{encode:13,.0f}{decode:13,.0f}")


def measured(codec: BytesBytesCodec, chunks: list[np.ndarray], rounds: int = 5) -> tuple[float, float, float]:
    """Ratio, and MB per second of encoding and decoding: the medians of several rounds."""
    plain = [SPEC.prototype.buffer.from_bytes(chunk.tobytes()) for chunk in chunks]
    coded = each(codec.encode, plain)
    back = each(codec.decode, coded)
    assert [part.to_bytes() for part in back] == [part.to_bytes() for part in plain]
    size = sum(chunk.nbytes for chunk in chunks)
    encode, decode = (
        size / 1e6 / statistics.median(seconds(method, parts) for _ in range(rounds))
        for method, parts in ((codec.encode, plain), (codec.decode, coded))
    )
    return size / sum(len(part) for part in coded), encode, decode


def each(method: Callable[..., Coroutine[Any, Any, Iterable[Buffer | None]]], parts: list[Buffer]) -> list[Buffer]:
    return [part for part in asyncio.run(method([(part, SPEC) for part in parts])) if part is not None]


def seconds(method: Callable[..., Coroutine[Any, Any, Iterable[Buffer | None]]], parts: list[Buffer]) -> float:
    started = time.perf_counter()
    each(method, parts)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--stream", help="default: all of the cache")
    arguments = parser.parse_args()
    store = open_store(arguments.cache)
    for stream in [store.resolve(arguments.stream)] if arguments.stream else store.streams():
        clips = clips_of(store, stream)
        values = np.concatenate(clips)
        what = f"{len(clips)} clips, {len(values):,} valid frames of {values.shape[1]}, up to {abs(values).max():.3g}"
        print(f"\n{stream}: {what}")
        print_errors(values)
        print()
        print_codecs(clips)


if __name__ == "__main__":
    main()
