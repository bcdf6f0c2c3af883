"""The field's usual ways, written here as small baselines, beside ours in one run.

    python benchmarks/baselines.py                                # the encoders and cases of the targets
    python benchmarks/baselines.py --encoders resnet18.a1_in1k --clips 12 --seconds 10 --rounds 1

Extraction: as most tools do it, clip after clip: decode all frames, one batch of the clip, the encoder, a `.npy`. Once
with OpenCV and the encoder's own transform per frame (as timm's documentation shows), once leaner with PyAV, which
scales while it converts. Both use all cores inside the encoder (torch's threads). Ours writes the cache: hashes of the
media, timestamps, masks, checksums, synced to disk. The ways take turns; a ratio is the median over the rounds of a
way's time by ours. Other programs on the machine change it.

CCC: torchmetrics' ConcordanceCorrCoef beside ours on the same million steps in parts of 10,000, processor time of one
thread. Its DataLoader over `.npy` is compared in train.py, h5py and zarr read directly in windows.py.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import av
import cv2
import numpy as np
import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn

from sage_va.benchmarks.extract import LONG_CLIPS, SHORT_S, SIZES, spent, workload
from sage_va.benchmarks.frame import Figure, add_json_option, save
from sage_va.data import open_store
from sage_va.data.manifest import Source
from sage_va.extract.encoders.timm_encoder import TimmEncoder
from sage_va.extract.engine.pipeline import extract
from sage_va.extract.heap import keep_freed_memory
from sage_va.fusion.ccc import ccc_of_moments, moments

ENCODERS = ("resnet18.a1_in1k", "mobilenetv3_large_100.ra_in1k", "efficientnet_lite0.ra_in1k")
CCC_STEPS, CCC_PART = 1_000_000, 10_000
AT_LEAST = {"short": 2.0, "long": 1.3}

Way = Callable[[Sequence[Source], Path], int]  # returns the number of frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), help="models of timm")
    parser.add_argument("--cases", nargs="+", choices=["short", "long"], default=["short", "long"])
    parser.add_argument("--clips", type=int, default=40, help="how many short clips")
    parser.add_argument("--seconds", type=float, default=20, help="length of the long clips")
    parser.add_argument("--rounds", type=int, default=3)
    add_json_option(parser)
    options = parser.parse_args()
    keep_freed_memory()  # as the command does
    figures = []
    with tempfile.TemporaryDirectory() as name:
        for case in options.cases:
            num, seconds = (options.clips, SHORT_S) if case == "short" else (LONG_CLIPS, options.seconds)
            sources = workload(Path(name, case), num, seconds, SIZES["360p"])
            for encoder in options.encoders:
                figures += extraction(f"{num} {case} clips", AT_LEAST[case], encoder, sources, options.rounds)
    save(options.json, __file__, [*figures, *agreement()])


def extraction(title: str, at_least: float, encoder: str, sources: Sequence[Source], rounds: int) -> list[Figure]:
    """Times all ways in turns."""
    model = timm.create_model(encoder, pretrained=False, num_classes=0).eval()
    ways: dict[str, Way] = {
        "ours": ours(encoder),
        "OpenCV, transform per frame": by_opencv(model),
        "PyAV": by_pyav(model),
    }
    times_s: dict[str, list[float]] = {name: [] for name in ways}
    cpu_s: dict[str, list[float]] = {name: [] for name in ways}
    counts = [timed(way, sources, times_s[name], cpu_s[name]) for _ in range(rounds) for name, way in ways.items()]
    assert len(set(counts)) == 1, counts
    figures = []
    for name, took in times_s.items():
        ratio = statistics.median(other / own for other, own in zip(took, times_s["ours"], strict=True))
        rate = counts[0] / statistics.median(took)
        print(f"{title:15} {encoder:32} {name:28}{rate:8.1f} frames/s, time by ours {ratio:.2f}", flush=True)
        figures.append(Figure(f"{title}, {encoder}: {name}", rate, "frames/s"))
        if name != "ours":
            cpu = statistics.median(other / own for other, own in zip(cpu_s[name], cpu_s["ours"], strict=True))
            note = f"Processor time by ours: {cpu:.2f} x."
            figures.append(Figure(f"{title}, {encoder}: ours by {name}", ratio, "x", at_least=at_least, note=note))
    return figures


def timed(way: Way, sources: Sequence[Source], times_s: list[float], cpu_s: list[float]) -> int:
    with tempfile.TemporaryDirectory() as folder, spent() as took:
        num_frames = way(sources, Path(folder))
    times_s.append(took.wall_s)
    cpu_s.append(took.cpu_s)
    return num_frames


def ours(name: str) -> Way:
    encoder = TimmEncoder(name, weights="random", device="cpu")

    def way(sources: Sequence[Source], folder: Path) -> int:
        summary = extract(sources, open_store(folder / "cache.zarr", "a"), visual=encoder)
        assert not summary.failures, summary.failures
        return summary.num_frames

    return way


def by_opencv(model: nn.Module) -> Way:
    transform: Any = create_transform(**resolve_model_data_config(model), is_training=False)

    def images(path: Path) -> Tensor:
        capture, frames = cv2.VideoCapture(str(path)), []
        while True:
            there, image = capture.read()
            if not there:
                return torch.stack(frames)
            frames.append(transform(Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))))

    return sequential(model, images)


def by_pyav(model: nn.Module) -> Way:
    config = resolve_model_data_config(model)
    height, width = config["input_size"][1:]
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))

    def images(path: Path) -> Tensor:
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "AUTO"
            pixels = [
                frame.to_ndarray(format="rgb24", width=width, height=height) for frame in container.decode(video=0)
            ]
        return (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255 - mean) / std

    return sequential(model, images)


def sequential(model: nn.Module, images: Callable[[Path], Tensor]) -> Way:
    """Clip after clip: all its images in one batch, its features in one `.npy`."""

    @torch.inference_mode()
    def way(sources: Sequence[Source], folder: Path) -> int:
        num_frames = 0
        for number, source in enumerate(sources):
            features = model(images(source.place)).numpy()
            np.save(folder / f"{number}.npy", features)
            num_frames += len(features)
        return num_frames

    return way


def agreement() -> list[Figure]:
    """CCC of torchmetrics and ours: time and difference."""
    from torchmetrics.regression import ConcordanceCorrCoef

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    truth = torch.sin(torch.arange(CCC_STEPS) / 50).repeat(2, 1)
    prediction = truth + torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    parts = range(0, CCC_STEPS, CCC_PART)
    mask = torch.ones(2, CCC_PART, dtype=torch.bool)

    def theirs() -> Tensor:
        metric = ConcordanceCorrCoef(num_outputs=2)
        for k in parts:
            metric.update(prediction[:, k : k + CCC_PART].T, truth[:, k : k + CCC_PART].T)
        return metric.compute()

    def own() -> Tensor:
        sums = [
            moments(prediction[:, k : k + CCC_PART].double(), truth[:, k : k + CCC_PART].double(), mask) for k in parts
        ]
        return ccc_of_moments(torch.stack(sums).sum(0))

    times = {name: processor_ms(way) for name, way in (("torchmetrics", theirs), ("ours", own)) for _ in range(2)}
    difference = (theirs() - own()).abs().max().item()
    torch.set_num_threads(threads)
    print(f"CCC of a million steps: {times}, difference {difference:.1e}")
    return [
        *(Figure(f"CCC of a million steps: {name}", took_ms, "CPU ms") for name, took_ms in times.items()),
        Figure("CCC: largest difference from torchmetrics (float32)", difference, at_most=1e-4),
    ]


def processor_ms(way: Callable[[], Tensor]) -> float:
    start = process_time()
    way()
    return 1000 * (process_time() - start)


if __name__ == "__main__":
    main()
