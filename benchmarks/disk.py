"""The cost of committing many small clips, and of verifying large ones, on a real disk.

    python benchmarks/disk.py [--clips 10000] [--single 500] [--gigabytes 0.5] [--folder FOLDER]

Committing: clips of one step, one by one and in groups as `cache import`, `cache copy` and a fast extraction form them;
milliseconds that pass and waits for the disk (fsync and syncfs) per clip. Verifying: `cache verify` of long clips
beside a sequential read of a flat file of as many bytes, and beside the bare SHA-256 of the same files, in turns, none
in the page cache. A disk that reads faster than the cores hash is out of reach of the first of these two.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np

from sage_va.benchmarks.frame import Figure, add_json_option, save
from sage_va.data import Clip, Store, Track, atomic, open_store, stream_name
from sage_va.data.hashing import file_sha256
from sage_va.data.store.entry import Entry
from sage_va.data.store.groups import in_groups

FINGERPRINT = {"encoder": {"name": "face"}}
STREAM = stream_name("visual", "face", FINGERPRINT)
LAYOUTS = {"Zarr folder": "c.zarr", "HDF5 folder": "c.h5"}
DIM, LONG_FRAMES = 768, 5000
ROUNDS = 3
PART_BYTES = 8 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10_000, help="clips committed in groups")
    parser.add_argument("--single", type=int, default=500, help="clips committed one by one")
    parser.add_argument("--gigabytes", type=float, default=0.5, help="of the cache that is verified")
    parser.add_argument(
        "--folder", type=Path, help="where to work, on the disk to measure; default: a temporary folder"
    )
    add_json_option(parser)
    options = parser.parse_args()
    figures = []
    for layout, name in LAYOUTS.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            figures += committing(layout, Path(folder, name), options.clips, options.single)
    for layout, name in LAYOUTS.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            figures += verifying(layout, Path(folder, name), options.gigabytes)
    save(options.json, __file__, figures)


def committing(layout: str, path: Path, num: int, num_single: int) -> list[Figure]:
    """Commits one-step clips to a new cache, one by one, then in groups."""
    store = open_store(path, "a")
    one_by_one = timed(lambda: [store.commit_all([entry]) for entry in entries("single", num_single, 1)], num_single)

    def in_turn() -> None:
        for group in in_groups(entries("group", num, 1)):
            store.commit_all(group)

    together = timed(in_turn, num)
    assert len(store.clip_ids()) == num + num_single
    figures = []
    for way, (each_ms, waits) in {"one by one": one_by_one, "in groups": together}.items():
        print(f"{layout:12} {way:11}{each_ms:8.2f} ms a clip, {waits:6.2f} waits for the disk", flush=True)
        figures.append(Figure(f"commit a one-step clip: {layout}, {way}", each_ms, "ms"))
        figures.append(Figure(f"waits for the disk per clip: {layout}, {way}", waits))
    gain = one_by_one[1] / together[1]
    figures += catalogue(layout, store)
    return [*figures, Figure(f"waits for the disk, one by one by groups: {layout}", gain, "x", at_least=10)]


def catalogue(layout: str, store: Store) -> list[Figure]:
    """Reads all records, and the journal."""
    start, clip_ids = time.process_time(), store.clip_ids()
    for clip_id in clip_ids:
        store.record(clip_id, STREAM)
    record_ms = 1000 * (time.process_time() - start) / len(clip_ids)
    start, num_lines = time.process_time(), sum(1 for _ in store.journal())
    line_ms = 1000 * (time.process_time() - start) / num_lines
    print(f"{layout:12} record {record_ms:.3f} ms, line of the journal {line_ms:.3f} ms", flush=True)
    return [
        Figure(f"read a record: {layout}", record_ms, "CPU ms"),
        Figure(f"read a line of the journal: {layout}", line_ms, "CPU ms"),
    ]


def timed(work: Callable[[], object], num: int) -> tuple[float, float]:
    """Milliseconds and waits for the disk, each for one of `num` clips."""
    with counted_waits() as waits:
        start = time.perf_counter()
        work()
        took_s = time.perf_counter() - start
    return 1000 * took_s / num, len(waits) / num


@contextmanager
def counted_waits() -> Iterator[list[int]]:
    waits: list[int] = []
    fsync, sync_all = os.fsync, atomic.sync_file_system
    with (
        mock.patch.object(os, "fsync", lambda descriptor: (waits.append(1), fsync(descriptor))),
        mock.patch.object(atomic, "sync_file_system", lambda descriptor: (waits.append(1), sync_all(descriptor))),
    ):
        yield waits


def entries(prefix: str, num: int, num_frames: int) -> Iterator[Entry]:
    values = np.random.default_rng(0).standard_normal((num_frames, DIM)).astype(np.float16)
    track = Track.of(values, np.arange(num_frames) / 25)
    for k in range(num):
        yield Entry.of(Clip(f"{prefix}{k:06}"), STREAM, track, fingerprint=FINGERPRINT, source_sha256="5")


def verifying(layout: str, path: Path, gigabytes: float) -> list[Figure]:
    """Verifies a cache, and reads a flat file of the same number of bytes."""
    store = open_store(path, "a")
    num = max(1, round(gigabytes * 1e9 / (LONG_FRAMES * DIM * 2)))
    list(store.add(entries("long", num, LONG_FRAMES)))
    files = [file for file in path.rglob("*") if file.is_file()]
    num_bytes, flat = sum(file.stat().st_size for file in files), path.parent / "flat"
    with flat.open("wb") as file:
        for _ in range(num_bytes // PART_BYTES):
            file.write(os.urandom(PART_BYTES))
        os.fsync(file.fileno())
    by_read, by_hash, rates = [], [], []
    for _ in range(ROUNDS):
        read_s, verify_s = cold([flat], lambda: read(flat)), cold(files, lambda: verify(store))
        hash_s = cold(files, lambda: hash_all(files))
        by_read.append(read_s / verify_s * num_bytes / flat.stat().st_size)
        by_hash.append(hash_s / verify_s)
        rates.append(num_bytes / 1e6 / verify_s)
    rate, of_disk, of_hash = (statistics.median(values) for values in (rates, by_read, by_hash))
    print(f"{layout:12} verify {rate:8.0f} MB/s, by a sequential read {of_disk:.2f}, by SHA-256 alone {of_hash:.2f}")
    return [
        Figure(f"verify: {layout}", rate, "MB/s"),
        Figure(f"verify by sequential disk speed: {layout}", of_disk, "x", at_least=0.8),
        Figure(f"verify by SHA-256 of the same files, as many at once: {layout}", of_hash, "x", at_least=0.8),
    ]


def hash_all(files: list[Path]) -> None:
    """Computes the SHA-256 of each file once: the least that a comparison of checksums can do."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(file_sha256, files))


def cold(files: list[Path], work: Callable[[], object]) -> float:
    """Seconds that work takes on files that are not in the page cache."""
    for place in files:
        with place.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(PART_BYTES):
            pass


def verify(store: Store) -> None:
    assert not [problem for _, _, problem in store.verify() if problem]


if __name__ == "__main__":
    main()
