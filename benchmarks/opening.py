"""The time to open a cache and list its clips, in every layout, and how it grows with their number.

    python benchmarks/opening.py [--clips 10000 100000] [--layouts "Zarr folder" …] [--folder FOLDER]

A cache of two streams, opened in a new process. Listing reads names alone, so each entry is one small file (in a single
file or pack: one frame) under many names. `open` is the time without starting Python and importing sage_va.data, which
is measured in the same turn. Growth exponent: log(t2 / t1) / log(n2 / n1) of that time, processor time.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from sage_va.benchmarks.frame import Figure, add_json_option, save
from sage_va.data import Clip, Store, Track, open_store, stream_name
from sage_va.data.store import hdf5_store, pack_file, pack_store
from sage_va.data.store.entry import Entry
from sage_va.data.store.fingerprint import clip_key
from sage_va.data.transfer.copy import copy

MODALITIES = {"visual": {"encoder": {"name": "face"}}, "audio": {"encoder": {"name": "voice"}}}
PLACES = {
    "Zarr folder": "listed.zarr",
    "HDF5 folder": "folder.h5",
    "HDF5 file": "single.h5",
    "pack": "listed.zarr.zip",
    "packs": "listed.packs",
}
LISTING = """
import os, sys, time
import sage_va.data
from sage_va.data import open_store
start, cpu = time.perf_counter(), sum(os.times()[:2])
num = len(open_store(sys.argv[1]).clip_ids())
print(num, time.perf_counter() - start, sum(os.times()[:2]) - cpu)
"""
TARGETS_S = {10_000: 1.0, 100_000: 5.0}
ROUNDS = 3
MAX_LINKS = 60_000  # of one file; ext4 allows 65,000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--layouts", nargs="+", choices=list(PLACES), default=list(PLACES))
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    add_json_option(parser)
    options = parser.parse_args()
    os.fsync = lambda descriptor: None  # nothing here has to survive a power cut, and no time to write is measured
    figures = []
    for layout in options.layouts:
        figures += measured(layout, options.clips, options.folder)
    save(options.json, __file__, figures)


def measured(layout: str, nums: list[int], folder: Path | None) -> list[Figure]:
    """Fills, opens and removes a cache of each size."""
    figures, busy = [], []
    for num in nums:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            path = Path(name, PLACES[layout])
            fill(path, layout, [f"part/clip{k:06}.mp4" for k in range(num)])
            runs = [opened(path, num) for _ in range(ROUNDS)]
        elapsed_s, cpu_s = (statistics.median(column) for column in zip(*runs, strict=True))
        busy.append(cpu_s)
        print(f"{layout:14}{num:9,} clips: open {elapsed_s:6.2f} s, processor {cpu_s:6.2f} s", flush=True)
        figures.append(Figure(f"open {num:,} clips: {layout}", cpu_s, "CPU s", at_most=TARGETS_S.get(num)))
    if len(nums) > 1:
        exponent = math.log(busy[-1] / busy[0]) / math.log(nums[-1] / nums[0])
        print(f"{layout:14}grows with the power {exponent:.3f}", flush=True)
        large = nums[-1] >= 100_000
        figures.append(Figure(f"growth exponent: {layout}", exponent, at_most=1.02 if large else None))
    return figures


def opened(path: Path, num: int) -> tuple[float, float]:
    """Seconds that passed, and seconds of the processor."""
    done = subprocess.run([sys.executable, "-c", LISTING, str(path)], check=True, capture_output=True, text=True)
    count, elapsed_s, cpu_s = done.stdout.split()
    assert int(count) == num, done.stdout
    return float(elapsed_s), float(cpu_s)


def fill(path: Path, layout: str, clip_ids: list[str]) -> None:
    if layout in ("Zarr folder", "HDF5 folder"):
        fill_folder(path, clip_ids)
        return
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        few = open_store(Path(name, "few.zarr"), "a")
        if layout == "packs":
            list(few.add(entries(["one"])))
            copy(few, str(path))
            shutil.rmtree(path / "packs")
            (path / "packs").mkdir()
            (path / "index.json").unlink()
        place = Path(name, "all.zip") if layout == "packs" else path
        fill_file(place, few, layout, clip_ids)
        if layout == "packs":
            place.rename(path / "packs" / f"{0:016x}.zip")


def fill_file(path: Path, few: Store, layout: str, clip_ids: list[str]) -> None:
    """Writes one file; the arrays of a clip are encoded once, since listing does not read them."""
    write = hdf5_store.write_single if layout == "HDF5 file" else pack_store.write_single
    files = pack_file.encode(next(entries(["one"])))
    with mock.patch.object(pack_file, "encode", return_value=files):
        for _ in write(path, few.root(), {}, entries(clip_ids)):
            pass


def fill_folder(path: Path, clip_ids: list[str]) -> None:
    store = open_store(path, "a")
    for entry in store.add(entries(["one"])):
        (source,) = (path / entry.stream).glob("one*")
        record = source / "zarr.json" if source.is_dir() else source
        for start in range(0, len(clip_ids), MAX_LINKS):
            twin = path / ".sage-va" / f"{entry.stream.replace('/', '-')}-{start}"
            twin.write_bytes(record.read_bytes())
            for clip_id in clip_ids[start : start + MAX_LINKS]:
                place = source.with_name(clip_key(clip_id) + source.suffix)
                if source.is_dir():
                    place.mkdir()
                    place /= "zarr.json"
                os.link(twin, place)
        store.discard("one", entry.stream)


def entries(clip_ids: list[str]) -> Iterator[Entry]:
    for modality, fingerprint in MODALITIES.items():
        name = stream_name(modality, "listed", fingerprint)
        track = Track.of(np.ones((1, 1), np.float16), np.zeros(1))
        for clip_id in clip_ids:
            yield Entry.of(Clip(clip_id), name, track, fingerprint=fingerprint, source_sha256="5")


if __name__ == "__main__":
    main()
