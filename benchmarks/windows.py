"""The speed of reading windows from a cache, and of opening a large one.

    python benchmarks/windows.py [--clips 60] [--frames 2000] [--listed 10000] [--folder FOLDER]

Random windows of 300 x 768 float16, in batches of 32, from a warm page cache: raw memory map, ours (values, mask,
quality and labels, as the trainer gets them), h5py on one contiguous data set, and the zarr package on our Zarr
folder. The ways take turns in every round; a ratio is the median over the rounds of a way's time by the raw map's.

Then the time from starting Python to having listed all clips of a cache with two streams.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
import zarr

from sage_va.data import Clip, Store, Track, open_store, stream_name
from sage_va.data.labels import Truth
from sage_va.data.store.entry import Entry
from sage_va.data.store.fingerprint import clip_key
from sage_va.data.store.hdf5_store import write_single
from sage_va.data.windows.corpus import cut
from sage_va.data.windows.load import choose_streams, load_corpus

DIM, WINDOW, BATCH, HZ = 768, 300, 32, 25.0
MODALITIES = {"visual": {"encoder": {"name": "face"}}, "audio": {"encoder": {"name": "voice"}}}
LISTING = "import sys; from sage_va.data import open_store; print(len(open_store(sys.argv[1]).clip_ids()))"

Reader = Callable[[np.ndarray], object]  # takes the clip and the first step in it of each window of a batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=60, help="clips that windows are cut from")
    parser.add_argument("--frames", type=int, default=2000, help="frames of each")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, default=8, help="batches of each way in each round")
    parser.add_argument("--listed", type=int, default=10_000, help="clips of the cache that is opened")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    arguments = parser.parse_args()
    os.fsync = lambda descriptor: None  # nothing here has to survive a power cut, and no time to write is measured
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        os.environ["SAGE_VA_CACHE"] = str(folder / "user")
        print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, numpy {np.__version__}")
        if arguments.clips:
            store = filled(folder / "windows.zarr", arguments.clips, arguments.frames)
            compare(readers(store, folder, arguments.frames), arguments)
        if arguments.listed:
            listings(folder, arguments.listed)


def filled(path: Path, num_clips: int, num_frames: int) -> Store:
    """A Zarr folder of one stream of random features with one quality signal."""
    store, rng = open_store(path, "a"), np.random.default_rng(0)
    name = stream_name("visual", "face", MODALITIES["visual"])
    for k in range(num_clips):
        values = rng.standard_normal((num_frames, DIM), np.float32).astype(np.float16)
        track = Track.of(values, np.arange(num_frames) / HZ, None, {"score": ("1", rng.random(num_frames))})
        store.commit(Clip(f"clip{k:05}"), name, track, fingerprint=MODALITIES["visual"], source_sha256="5")
    return store


def readers(store: Store, folder: Path, num_frames: int) -> dict[str, Reader]:
    """The ways to read a batch."""
    clip_ids = store.clip_ids()
    times = np.arange(num_frames) / HZ
    truth = Truth(times, np.zeros((num_frames, 2), np.float32), np.ones(num_frames, bool))
    corpus = load_corpus(
        store, choose_streams(store, ["visual"]), clip_ids, grid_hz=HZ, truths=dict.fromkeys(clip_ids, truth)
    )
    flat, single = folder / "flat", folder / "single.h5"
    corpus.values[0].numpy().tofile(flat)
    raw = np.memmap(flat, np.float16, "r", shape=(corpus.num_steps, DIM))
    with h5py.File(single, "w") as file:
        file["values"] = raw
    hdf5 = h5py.File(single, "r")["values"]
    assert isinstance(hdf5, h5py.Dataset)
    stream = store.resolve("visual")
    tree = zarr.open_group(store.url, mode="r")
    arrays = [tree[f"{stream}/{clip_key(clip_id)}/values"] for clip_id in clip_ids]
    kept = np.empty((BATCH, WINDOW, DIM), np.float16)

    def ours(batch: np.ndarray) -> object:
        starts = batch[:, 0] * num_frames + batch[:, 1]
        return cut(corpus, np.stack([starts, (batch[:, 0] + 1) * num_frames], axis=1), WINDOW)

    def copied(source: h5py.Dataset | np.memmap, out: np.ndarray, batch: np.ndarray) -> np.ndarray:
        for row, (clip, step) in enumerate(batch.tolist()):
            start = clip * num_frames + step
            out[row] = source[start : start + WINDOW]
        return out

    def by_zarr(batch: np.ndarray) -> object:
        return np.stack([arrays[clip][step : step + WINDOW] for clip, step in batch.tolist()])

    return {
        "raw memory map": lambda batch: copied(raw, np.empty_like(kept), batch),
        "the same, one batch kept": lambda batch: copied(raw, kept, batch),
        "sage-va": ours,
        "h5py, one file": lambda batch: copied(hdf5, np.empty_like(kept), batch),
        "zarr, our folder": by_zarr,
    }


def compare(ways: dict[str, Reader], arguments: argparse.Namespace) -> None:
    rng = np.random.default_rng(1)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(arguments.rounds + 1):
        size = (arguments.batches, BATCH)
        clips, steps = rng.integers(arguments.clips, size=size), rng.integers(arguments.frames - WINDOW + 1, size=size)
        order = list(ways) if number % 2 else list(ways)[::-1]
        for name in order:
            took_s = timed(ways[name], np.stack([clips, steps], axis=2))
            if number:  # the first round warms up
                times[name].append(took_s)
    print(f"{'windows':28}{'per s':>10}{'by raw':>8}  (spread of the ratio)")
    for name, times_s in times.items():
        ratios = sorted(raw / took for raw, took in zip(times["raw memory map"], times_s, strict=True))
        per_s = arguments.batches * BATCH / statistics.median(times_s)
        print(f"{name:28}{per_s:10,.0f}{statistics.median(ratios):8.2f}  {ratios[0]:.2f} to {ratios[-1]:.2f}")


def timed(way: Reader, batches: np.ndarray) -> float:
    started = time.perf_counter()
    for batch in batches:
        way(batch)
    return time.perf_counter() - started


def listings(folder: Path, num_clips: int) -> None:
    """Times of starting Python, opening a cache of two streams and listing its clips."""
    forms = {"Zarr folder": "listed.zarr", "HDF5 folder": "listed.h5", "HDF5 file": "single.h5"}
    openers = {"Python and imports alone": lambda: run("import sage_va.data")}
    for form, name in forms.items():
        path = folder / "listed" / name
        path.parent.mkdir(exist_ok=True)
        fill_listed(path, form, num_clips)
        openers[form] = lambda path=path: run(LISTING, str(path), wanted=str(num_clips))
    print(f"\nopen and list {num_clips:,} clips in a new process: median of 5, s   elapsed   of a CPU")
    for form, way in openers.items():
        elapsed, busy = zip(*(timed_once(way) for _ in range(5)), strict=True)
        print(f"{form:62}{statistics.median(elapsed):10.2f}{statistics.median(busy):11.2f}")


def fill_listed(path: Path, form: str, num_clips: int) -> None:
    """One entry of one frame under many names: listing reads names alone."""
    clip_ids = [f"part/clip{k:05}.mp4" for k in range(num_clips)]
    if form == "HDF5 file":
        entries = (entry_of(modality, clip_id) for modality in MODALITIES for clip_id in clip_ids)
        for _ in write_single(path, open_store(path.with_name("listed.zarr")).root(), {}, entries):
            pass
        return
    store = open_store(path, "a")
    for entry in store.add([entry_of(modality, "one") for modality in MODALITIES]):
        (source,) = (path / entry.stream).glob("one*")
        for clip_id in clip_ids:
            place = source.with_name(clip_key(clip_id) + source.suffix)
            if source.is_dir():
                shutil.copytree(source, place, copy_function=os.link)
            else:
                os.link(source, place)
        store.discard("one", entry.stream)


def entry_of(modality: str, clip_id: str) -> Entry:
    name = stream_name(modality, "listed", MODALITIES[modality])
    track = Track.of(np.ones((1, 1), np.float16), np.zeros(1))
    return Entry.of(Clip(clip_id), name, track, fingerprint=MODALITIES[modality], source_sha256="5")


def run(code: str, *arguments: str, wanted: str = "") -> None:
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == wanted, done.stdout


def timed_once(way: Callable[[], None]) -> tuple[float, float]:
    """Seconds that passed, and that child processes kept a CPU busy."""
    started, before = time.perf_counter(), os.times()
    way()
    after = os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - started, busy


if __name__ == "__main__":
    main()
