"""Scaling of extraction with workers: an encoder that sleeps instead of computing stands for a device.

    python benchmarks/scale.py [--workers 1 2 4 8] [--engine local ray] [--clips 320] [--batch-ms 100]

The clock runs from the moment at which all workers have their encoders to the end of the run, so that it leaves out
how long packages take to load. Clips differ in length by a factor of five, as recordings do.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sage_va.benchmarks.frame import Figure, add_json_option, save
from sage_va.data import open_store
from sage_va.data.manifest import find_sources
from sage_va.extract.encoders.factory import Recipe
from sage_va.extract.encoders.timm_encoder import TimmEncoder
from sage_va.extract.engine.local_engine import LocalEngine
from sage_va.extract.engine.messages import Engine
from sage_va.extract.engine.scheduler import extract_with
from sage_va.extract.options import ExtractOptions
from sage_va.tests.encoders import TINY_VIT
from sage_va.tests.media import grey_frames, write_media

BATCH = 32
_LATE_S = 300.0


class Sleeper(TimmEncoder):
    """A device that needs `batch_s` for each batch and no core of this machine."""

    batch_s = 0.0

    def encode(self, items):
        time.sleep(self.batch_s)
        return np.broadcast_to(items.mean(axis=(1, 2, 3), dtype=np.float32)[:, None], (len(items), self.dim)).copy()


def sleeper(device: str, batch_s: float, gate: str, num_workers: int):
    """The factory: returns when all workers are here."""
    encoder = Sleeper(TINY_VIT, weights="random", device=device)
    encoder.batch_s = batch_s
    Path(gate, f"{os.getpid()}").touch()
    late = time.monotonic() + _LATE_S
    while len(os.listdir(gate)) < num_workers:
        if time.monotonic() > late:
            raise RuntimeError(f"only {len(os.listdir(gate))} of {num_workers} workers have come")
        time.sleep(0.01)
    return encoder, None


def write_clips(folder: Path, num_clips: int) -> int:
    """Returns the number of frames."""
    lengths = [16 + 64 * k // num_clips for k in range(num_clips)]
    for k, length in enumerate(lengths):
        write_media(folder / f"{k:04d}.mp4", grey_frames(length))
    return sum(lengths)


def engine_of(kind: str, num_workers: int) -> Engine:
    if kind == "local":
        return LocalEngine(["cpu"] * num_workers)
    from sage_va.extract.engine.ray_engine import RayEngine

    return RayEngine(None, device="cpu", num_workers=num_workers)


def measure(kind: str, num_workers: int, media: Path, batch_s: float) -> tuple[float, str]:
    """Seconds of a run, and the hash of what it made."""
    with tempfile.TemporaryDirectory() as folder:
        gate = Path(folder, "gate")
        gate.mkdir()
        store = open_store(Path(folder, "a.zarr"), "a")
        recipe = Recipe({"batch_s": batch_s, "gate": str(gate), "num_workers": num_workers}, "scale:sleeper")
        options = ExtractOptions(batch_size=BATCH, num_decode_threads=1)
        sources = find_sources([str(media)])
        ends = []

        def report(progress):
            if progress.num_done == len(sources) and not ends:
                ends.append(time.time())

        summary = extract_with(engine_of(kind, num_workers), sources, store, recipe, options=options, progress=report)
        assert not summary.failures, summary.failures
        start = max(path.stat().st_mtime for path in gate.iterdir())
        return ends[0] - start, store.content_sha256()


def report(
    kind: str, workers: Sequence[int], media: Path, num_clips: int, ideal_s: float, batch_s: float
) -> list[Figure]:
    one, figures = None, []
    for num_workers in workers:
        wall_s, sha256 = measure(kind, num_workers, media, batch_s)
        one = one or (wall_s * num_workers, sha256)
        assert sha256 == one[1], "another cache"
        speed_up = one[0] / wall_s
        print(
            f"{kind:5}  {num_workers:7}  {wall_s:7.2f}  {num_clips / wall_s:7.1f}  {speed_up:8.2f}"
            f"  {speed_up / num_workers:10.3f}  {ideal_s / num_workers / wall_s:10.3f}",
            flush=True,
        )
        figures.append(Figure(f"{kind}, {num_workers} workers: clips per second", num_clips / wall_s, "per s"))
        figures.append(Figure(f"{kind}, {num_workers} workers: speed-up per worker", speed_up / num_workers))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--engine", nargs="+", choices=["local", "ray"], default=["local"])
    parser.add_argument("--clips", type=int, default=320)
    parser.add_argument("--batch-ms", type=float, default=100.0)
    add_json_option(parser)
    asked = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAGE_VA_CACHE"] = str(Path(folder, "home"))
        num_frames = write_clips(Path(folder, "media"), asked.clips)
        batch_s = asked.batch_ms / 1000
        ideal_s = num_frames / BATCH * batch_s
        print(f"{asked.clips} clips, {num_frames} frames; the devices alone need {ideal_s:.1f} s of one device")
        print("engine workers  seconds  clips/s  speed-up  efficiency  of devices")
        figures = []
        for kind in asked.engine:
            if kind == "ray":
                import ray  # pyright: ignore[reportMissingImports] - an extra of its own

                ray.init(num_cpus=max(asked.workers), log_to_driver=False)
            figures += report(kind, asked.workers, Path(folder, "media"), asked.clips, ideal_s, batch_s)
        save(asked.json, __file__, figures)


if __name__ == "__main__":
    main()
