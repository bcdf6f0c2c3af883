"""The speed of reading windows from a cache, beside a raw memory map, h5py and zarr.

    python benchmarks/windows.py [--clips 60] [--frames 2000] [--folder FOLDER]

Random windows of 300 x 768 float16, in batches of 32, from a warm page cache: raw memory maps, ours (values alone, and
with mask, quality and labels, as the trainer gets them), h5py on one contiguous data set, and the zarr package on our
Zarr folder. The ways take turns in every round; a ratio is the median over the rounds of the raw map's time by a way's.
What the trainer gets is compared with memory maps of the same arrays too: the target is the speed of copying.
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

RAW, RAW_ALL = "raw memory map", "raw memory maps of values, mask, quality and labels"
OURS = "sage-va, with mask, quality and labels"
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
    tensors = [corpus.values[0], corpus.quality[0], corpus.mask, corpus.va, corpus.va_mask]
    maps = [mapped(tensor.numpy(), folder / f"flat{k}") for k, tensor in enumerate(tensors)]
    raw, single = maps[0], folder / "single.h5"
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

    def all_copied(batch: np.ndarray) -> object:
        return [copied(source, np.empty((BATCH, WINDOW, *source.shape[1:]), source.dtype), batch) for source in maps]

    def by_zarr(batch: np.ndarray) -> object:
        return np.stack([arrays[clip][step : step + WINDOW] for clip, step in batch.tolist()])

    return {
        RAW: lambda batch: copied(raw, np.empty_like(kept), batch),
        "the same, one batch kept": lambda batch: copied(raw, kept, batch),
        "sage-va, values alone": values_alone,
        RAW_ALL: all_copied,
        OURS: ours,
        "h5py, one file": lambda batch: copied(hdf5, np.empty_like(kept), batch),
        "zarr, our folder": by_zarr,
    }


def mapped(array: np.ndarray, path: Path) -> np.memmap:
    """Writes an array to a flat file; returns the file mapped into memory."""
    array.tofile(path)
    return np.memmap(path, array.dtype, "r", shape=array.shape)


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
    print(f"{'windows':55}{'per s':>10}")
    for name, times_s in times.items():
        print(f"{name:55}{arguments.batches * BATCH / statistics.median(times_s):10,.0f}")
    peers = [(name, RAW) for name in ways if name != RAW] + [(OURS, RAW_ALL)]
    return [ratio(way, peer, times) for way, peer in peers]


def ratio(way: str, peer: str, times: dict[str, list[float]]) -> Figure:
    """Returns the speed of a way as a multiple of its peer's."""
    ratios = sorted(peer_s / way_s for peer_s, way_s in zip(times[peer], times[way], strict=True))
    same_arrays = (way == OURS) == (peer == RAW_ALL)  # only then is it a fair target
    at_least = 1.0 if way.startswith("sage-va") and same_arrays else None
    print(f"{way} by {peer}: {statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f}")
    return Figure(f"windows by {peer}: {way}", statistics.median(ratios), "x", at_least=at_least)


def timed(way: Reader, batches: np.ndarray) -> float:
    """Seconds; with one thread those of the processor, so that other programs do not count."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    for batch in batches:
        way(batch)
    return clock() - started


if __name__ == "__main__":
    main()
