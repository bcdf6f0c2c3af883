"""Speed of an extraction beside the speeds of its parts alone, and the memory that a longer clip takes.

    python benchmarks/extract.py                                     # under five minutes on two cores
    python benchmarks/extract.py --cases short-360p short-720p --clips 100
    python benchmarks/extract.py --cases long-360p long-720p --seconds 600
    python benchmarks/extract.py --arithmetic
    python benchmarks/extract.py --overhead

For drawn videos, many short or three long: the encoder alone (images ready in memory), decoding alone, the whole, and

    efficiency = share of the whole's CPU time that the encoder alone and decoding alone would take
               x share of the cores that it asked for: its threads that run or could run, at most as many as cores

A process of its own counts these threads fifty times per second, so the second factor does not fall with whatever else
runs on the machine. On an idle one it is the share of the cores that the whole had, which is printed too.

Case `memory`: the peak memory of a clip and of one ten times as long, each in a process of its own, with a small
encoder. `--arithmetic` compares ways to compute: cosine to plain float32, and speed. `--overhead` is explained in
overhead.py. RANDOM WEIGHTS throughout: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import perf_counter, process_time

import av
import numpy as np
import torch

from sage_va.benchmarks.frame import Figure, add_json_option, save
from sage_va.data import open_store
from sage_va.data.machine import num_cores
from sage_va.data.manifest import Source, find_sources
from sage_va.extract.decode.frames import Frames
from sage_va.extract.decode.reader import decode
from sage_va.extract.decode.request import DecodeOptions
from sage_va.extract.encoders.timm_encoder import TimmEncoder
from sage_va.extract.engine.pipeline import extract
from sage_va.extract.heap import keep_freed_memory
from sage_va.extract.options import ExtractOptions

FPS = 25
SIZES = {"360p": (640, 360), "720p": (1280, 720)}
SHORT_S, LONG_CLIPS = 3, 3
CASES = [f"{kind}-{size}" for kind in ("short", "long") for size in SIZES]
ROUNDS = 5
MEMORY_S, MEMORY_ENCODER = 20, "mobilenetv3_small_050.lamb_in1k"


@dataclass
class Spent:
    """Seconds of wall and of CPU time."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


@contextmanager
def spent() -> Iterator[Spent]:
    usage, wall, cpu = Spent(), perf_counter(), process_time()
    yield usage
    usage.wall_s, usage.cpu_s = perf_counter() - wall, process_time() - cpu


def draw(path: Path, seconds: float, size: tuple[int, int]) -> Path:
    """A video of blocks that wander over a noisy ground."""
    width, height = size
    noise = np.random.default_rng(0).integers(0, 255, (height + 64, width + 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, FPS)
        if stream.codec_context.name == "libx264":
            stream.options = {"preset": "veryfast", "crf": "28"}
        ground = np.kron(noise[::16, ::16], np.ones((16, 16, 1), np.uint8))
        for number in range(round(seconds * FPS)):
            top, left = number % 48, (number // 2) % 48
            image = np.ascontiguousarray(ground[top : top + height, left : left + width])
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def workload(folder: Path, num: int, seconds: float, size: tuple[int, int]) -> list[Source]:
    folder.mkdir()
    first = draw(folder / "000.mp4", seconds, size)
    for number in range(1, num):
        shutil.copy(first, folder / f"{number:03}.mp4")
    return find_sources([str(folder)])


def encoder_alone(encoder: TimmEncoder, batch_size: int) -> tuple[float, float]:
    """Images a second, and CPU seconds an image, with as many batches at once as the pipeline has."""
    batch = np.random.default_rng(0).integers(0, 255, (batch_size, *encoder.size, 3), dtype=np.uint8)
    cores = num_cores()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(encoder.encode, [batch] * cores))
        num = ROUNDS * cores
        with spent() as took:
            list(pool.map(encoder.encode, [batch] * num))
    torch.set_num_threads(before)
    return num * batch_size / took.wall_s, took.cpu_s / (num * batch_size)


def decode_alone(sources: list[Source], encoder: TimmEncoder) -> tuple[int, Spent]:
    """Images, and what it took to decode and shrink them, with all cores."""

    def one(source: Source) -> int:
        parts = decode(source, DecodeOptions(encoder.letterbox(), num_threads=1))
        return sum(len(part.pixels) for part in parts if isinstance(part, Frames))

    with spent() as took, ThreadPoolExecutor(num_cores()) as pool:
        num_images = sum(pool.map(one, sources))
    return num_images, took


@contextmanager
def cores_wanted() -> Iterator[list[float]]:
    """Yields a list that holds, after the block, the share of the cores that this process asked for."""
    command = [sys.executable, "-S", "-c", _COUNTING, str(os.getpid()), str(num_cores())]
    shares = list[float]()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        yield shares
        shares.append(float(watcher.communicate()[0]))


_COUNTING = """
import os, select, sys
tasks, cores, counts = f"/proc/{sys.argv[1]}/task", int(sys.argv[2]), []
while not select.select([sys.stdin], [], [], 0.02)[0]:
    num = 0
    for task in os.listdir(tasks):
        try:
            num += open(f"{tasks}/{task}/stat").read().rpartition(")")[2].split()[0] == "R"
        except OSError:
            pass
    counts.append(min(num, cores) / cores)
print(sum(counts) / len(counts))
"""


def whole(sources: list[Source], encoder: TimmEncoder, batch_size: int, folder: Path) -> tuple[str, Spent, float]:
    store = open_store(folder / "cache.zarr", "a")
    with cores_wanted() as wanted, spent() as took:
        summary = extract(sources, store, visual=encoder, options=ExtractOptions(batch_size=batch_size))
    assert not summary.failures, summary.failures
    return ", ".join(f"{part} {busy_s:.1f} s" for part, busy_s in summary.busy_s.items()), took, wanted[0]


def measure(title: str, sources: list[Source], encoder: TimmEncoder, batch_size: int) -> list[Figure]:
    rate, cpu_each_s = encoder_alone(encoder, batch_size)
    num_images, decoding = decode_alone(sources, encoder)
    with tempfile.TemporaryDirectory() as folder:
        busy, took, wanted = whole(sources, encoder, batch_size, Path(folder))
    useful = (cpu_each_s * num_images + decoding.cpu_s) / took.cpu_s
    print(f"\n{title}: {num_images} images")
    print(f"  encoder alone   {rate:8.1f} images/s  {1000 * cpu_each_s:7.2f} CPU ms an image")
    each_ms = 1000 * decoding.cpu_s / num_images
    print(f"  decoding alone  {num_images / decoding.wall_s:8.1f} images/s  {each_ms:7.2f} CPU ms an image")
    print(f"  whole           {num_images / took.wall_s:8.1f} images/s  wall {took.wall_s:.1f} s ({busy})")
    had = took.cpu_s / (num_cores() * took.wall_s)
    print(f"  efficiency      {useful * wanted:8.3f}  = {useful:.3f} x {wanted:.3f} (it had {had:.3f})", flush=True)
    return [
        Figure(f"{title}, {encoder.name}: whole", num_images / took.wall_s, "images/s"),
        Figure(f"{title}, {encoder.name}: efficiency", useful * wanted, at_least=0.97),
    ]


def peak_mb(clip: Path, name: str, batch_size: int) -> float:
    """Peak memory of an extraction of a clip in a process of its own."""
    arguments = [sys.executable, __file__, "--encoder", name, "--batch-size", str(batch_size), "--peak-of", str(clip)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env={**os.environ})
    return float(done.stdout.split()[-1])


def print_peak(clip: Path, encoder: TimmEncoder, batch_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole(find_sources([str(clip)]), encoder, batch_size, Path(folder))
    status = Path("/proc/self/status").read_text()  # the system's ru_maxrss starts from the parent's
    peak_kb = re.search(r"VmHWM:\s+(\d+)", status)
    assert peak_kb, "Linux"
    print(int(peak_kb[1]) / 1024)


def memory(batch_size: int, folder: Path) -> Figure:
    peaks = [
        peak_mb(draw(folder / f"{seconds}.mp4", seconds, SIZES["360p"]), MEMORY_ENCODER, batch_size)
        for seconds in (MEMORY_S, 10 * MEMORY_S)
    ]
    figures = ", ".join(
        f"{seconds} s {peak:.0f} MB" for seconds, peak in zip((MEMORY_S, 10 * MEMORY_S), peaks, strict=True)
    )
    print(f"\npeak memory, {MEMORY_ENCODER}: {figures}: x {peaks[1] / peaks[0]:.3f}")
    return Figure("peak memory of a clip ten times as long", peaks[1] / peaks[0], "x", at_most=1.05, note=f"{figures}.")


def print_arithmetic(name: str, batch_size: int) -> None:
    """Eager float32 as the extractor has it, and other ways, one thread."""
    torch.set_num_threads(1)
    encoder = TimmEncoder(name, weights="random", device="cpu", precision="float32")
    half = TimmEncoder(name, weights="random", device="cpu", precision="bfloat16")
    plain = TimmEncoder(name, weights="random", device="cpu", precision="float32")
    plain._model = plain._model.to(memory_format=torch.contiguous_format)
    fast = TimmEncoder(name, weights="random", device="cpu", precision="float32")
    fast._model = torch.compile(fast._model)
    images = np.random.default_rng(0).integers(0, 255, (batch_size, *encoder.size, 3), dtype=np.uint8)
    expected, base_s = encoder.encode(images), 0.0
    print(f"\n{name}, batch {batch_size}, one thread")
    for title, way in {
        "float32": encoder,
        "weights not channels_last": plain,
        "bfloat16": half,
        "compiled": fast,
    }.items():
        with spent() as first:
            embeddings = way.encode(images)
        took_s = min(timed(way.encode, images) for _ in range(3))
        base_s = base_s or took_s
        cosine = (embeddings * expected).sum(1) / np.linalg.norm(embeddings, axis=1) / np.linalg.norm(expected, axis=1)
        same = "same bits" if np.array_equal(embeddings, expected) else f"cosine {cosine.min():.6f}"
        each_ms = 1000 * took_s / batch_size
        print(
            f"  {title:28}{each_ms:8.2f} ms an image  x {base_s / took_s:.2f}  {same}, first {first.wall_s:.1f} s",
            flush=True,
        )


def timed(call: Callable[[np.ndarray], object], images: np.ndarray) -> float:
    with spent() as took:
        call(images)
    return took.wall_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet18.a1_in1k", help="a model of timm")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--cases", nargs="+", choices=[*CASES, "memory"], default=["short-360p", "long-720p", "memory"])
    parser.add_argument("--clips", type=int, default=20, help="how many short clips")
    parser.add_argument("--seconds", type=float, default=20, help="length of the long clips")
    parser.add_argument("--arithmetic", action="store_true")
    parser.add_argument("--overhead", action="store_true")
    add_json_option(parser)
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    name, batch_size = options.encoder, options.batch_size
    keep_freed_memory()  # as the command does
    if options.arithmetic:
        print_arithmetic(name, batch_size)
        return
    if options.overhead:
        from overhead import print_overhead  # it imports this file

        print_overhead()
        return
    encoder = TimmEncoder(name, weights="random", device="cpu")
    if options.peak_of:
        print_peak(options.peak_of, encoder, batch_size)
        return
    figures: list[Figure] = []
    print(f"{name}, RANDOM WEIGHTS, {num_cores()} cores, batches of {batch_size}")
    with tempfile.TemporaryDirectory() as place:
        for case in options.cases:
            if case == "memory":
                figures.append(memory(batch_size, Path(place)))
                continue
            kind, size = case.split("-")
            num, seconds = (options.clips, SHORT_S) if kind == "short" else (LONG_CLIPS, options.seconds)
            sources = workload(Path(place, case), num, seconds, SIZES[size])
            figures += measure(f"{num} {kind} clips of {seconds:g} s, {size}", sources, encoder, batch_size)
    save(options.json, __file__, figures)


if __name__ == "__main__":
    main()
