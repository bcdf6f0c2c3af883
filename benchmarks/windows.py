"""The speed of reading windows from a cache, beside a raw memory map, h5py and zarr.

    python benchmarks/windows.py [--clips 60] [--frames 2000] [--folder FOLDER]

Random windows of 300 x 768 float16, in batches of 32, from a warm page cache: raw memory map, ours (values, mask,
quality and labels, as the trainer gets them), h5py on one contiguous data set, and the zarr package on our Zarr
folder. The ways take turns in every round; a ratio is the median over the rounds of a way's time by the raw map's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
import zarr

from sage_va.benchmarks.frame import Figure, add_json_option, save
from sage_va.data import Clip, Store, Track, open_store, stream_name
from sage_va.data.labels import Truth
from sage_va.data.store.fingerprint import clip_key
from sage_va.data.windows.corpus import cut, windows_of
from sage_va.data.windows.load import choose_streams, load_corpus

DIM, WINDOW, BATCH, HZ = 768, 300, 32, 25.0
FINGERPRINT = {"encoder": {"name": "face"}}

Reader = Callable[[np.ndarray], object]  # takes the clip and the first step in it of each window of a batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=60, help="clips that windows are cut from")
    parser.add_argument("--frames", type=int, default=2000, help="frames of each")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, default=8, help="batches of each way in each round")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--threads", type=int, help="of torch; with 1, processor time is measured; default: all cores")
    add_json_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    os.fsync = lambda descriptor: None  # nothing here has to survive a power cut, and no time to write is measured
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        os.environ["SAGE_VA_CACHE"] = str(folder / "user")
        print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, numpy {np.__version__}")
        store = filled(folder / "windows.zarr", arguments.clips, arguments.frames)
        figures = compare(readers(store, folder, arguments.frames), arguments)
    save(arguments.json, __file__, figures)


def filled(path: Path, num_clips: int, num_frames: int) -> Store:
    """A Zarr folder of one stream of random features with one quality signal."""
    store, rng = open_store(path, "a"), np.random.default_rng(0)
    name = stream_name("visual", "face", FINGERPRINT)
    for k in range(num_clips):
        values = rng.standard_normal((num_frames, DIM), np.float32).astype(np.float16)
        track = Track.of(values, np.arange(num_frames) / HZ, None, {"score": ("1", rng.random(num_frames))})
        store.commit(Clip(f"clip{k:05}"), name, track, fingerprint=FINGERPRINT, source_sha256="5")
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

    def values_alone(batch: np.ndarray) -> object:
        return windows_of(corpus.values[0], torch.from_numpy(batch[:, 0] * num_frames + batch[:, 1]), WINDOW)

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
        "sage-va, values alone": values_alone,
        "sage-va, with mask, quality and labels": ours,
        "h5py, one file": lambda batch: copied(hdf5, np.empty_like(kept), batch),
        "zarr, our folder": by_zarr,
    }


def compare(ways: dict[str, Reader], arguments: argparse.Namespace) -> list[Figure]:
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
    print(f"{'windows':40}{'per s':>10}{'by raw':>8}  (spread of the ratio)")
    figures = []
    for name, times_s in times.items():
        ratios = sorted(raw / took for raw, took in zip(times["raw memory map"], times_s, strict=True))
        per_s = arguments.batches * BATCH / statistics.median(times_s)
        print(f"{name:40}{per_s:10,.0f}{statistics.median(ratios):8.2f}  {ratios[0]:.2f} to {ratios[-1]:.2f}")
        at_least = 1.0 if name.startswith("sage-va") else None
        if name != "raw memory map":
            title = f"windows by raw memory map: {name}"
            figures.append(Figure(title, statistics.median(ratios), "x", at_least=at_least))
    return figures


def timed(way: Reader, batches: np.ndarray) -> float:
    """Seconds; with one thread those of the processor, so that other programs do not count."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    for batch in batches:
        way(batch)
    return clock() - started


if __name__ == "__main__":
    main()
