"""Detection, encoding and audio together, in turns; and what `--detect-every` finds of the faces that every image has.

    python benchmarks/faces.py RECORDINGS… [--clip-s 2] [--rounds 2] [--ways now every-3 openvino both]
    python benchmarks/faces.py RECORDINGS… --recall

RetinaFace, tf_efficientnet_lite0 and Whisper-tiny, RANDOM WEIGHTS but for the detector, on cuts of recordings with
faces. The ways take turns in one process; each prints wall seconds, CPU seconds (which other load hardly changes) and
their ratio to `before`, which decodes with half as many threads as cores. Nothing is remembered between two runs.

`--recall` compares the faces of the largest person with those of a run that looks at every image: images looked at,
recall, images with a face that the full run does not have, and offset of the five landmarks as a share of the face's
size (mean, 95 % and largest over images with a face; 0 where the image was looked at).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import cv2
import numpy as np
import transformers

from sage_va.benchmarks.frame import Figure, add_json_option, save
from sage_va.data import open_store
from sage_va.data.hashing import file_sha256
from sage_va.data.machine import num_cores
from sage_va.data.manifest import Source, find_sources
from sage_va.extract.encoders.factory import encoders_from
from sage_va.extract.engine.pipeline import extract
from sage_va.extract.faces.between import MAX_EVERY
from sage_va.extract.faces.detection import detect_faces
from sage_va.extract.faces.detectors import Detector, open_detector
from sage_va.extract.faces.finder import FaceFinder
from sage_va.extract.faces.tracking import PersonTrack, choose_person
from sage_va.extract.options import ExtractOptions

VISUAL = "tf_efficientnet_lite0.in1k"
CUTS = 3  # of a recording, at most


@dataclass(frozen=True)
class Way:
    """A way to extract: `--detect-every`; the runtime, of the detector too; decoder threads, None = the default."""

    every: int = 1
    runtime: str = "torch"
    threads: int | None = None


WAYS = {
    "before": Way(threads=max(1, min(8, num_cores() // 2))),
    "now": Way(),
    "every-3": Way(every=3),
    "openvino": Way(runtime="openvino"),
    "both": Way(every=3, runtime="openvino"),
}


def cuts(paths: Sequence[str], clip_s: float) -> list[Source]:
    """Clips of `clip_s` seconds; a recording that begins later than at 0 is taken whole."""
    sources = find_sources(paths)
    spans = [(source, k) for source in sources for k in range(CUTS) if k == 0 or length_s(source) > (k + 1) * clip_s]
    return [
        Source(
            f"{source.clip_id}-{k}",
            path=source.path,
            start_s=start_s(source) + k * clip_s,
            end_s=end_s(source, k, clip_s),
        )
        for source, k in spans
    ]


def start_s(source: Source) -> float:
    import av

    with av.open(str(source.path)) as container:
        stream = container.streams.video[0]
        return float((stream.start_time or 0) * (stream.time_base or 0))


def end_s(source: Source, cut: int, clip_s: float) -> float:
    return start_s(source) + (cut + 1) * clip_s


def length_s(source: Source) -> float:
    import av

    with av.open(str(source.path)) as container:
        return (container.duration or 0) / av.time_base


def write_whisper(folder: Path) -> Path:
    """A directory of Whisper-tiny's shape, without weights."""
    config = transformers.WhisperConfig()  # its defaults are those of tiny
    config.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)
    return folder


def run(sources: list[Source], way: Way, encoders: tuple[Any, Any]) -> tuple[float, float, int]:
    """Returns wall seconds, CPU seconds and frames."""
    detector = "retinaface" if way.runtime == "torch" else "retinaface-openvino"
    finder = FaceFinder.of(detector, every=way.every)
    options = ExtractOptions(faces="detect", finder=finder, num_decode_threads=way.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAGE_VA_CACHE"] = folder  # no detection of an earlier run
        store = open_store(Path(folder) / "cache.zarr", "a")
        wall, cpu = perf_counter(), process_time()
        summary = extract(sources, store, visual=encoders[0], audio=encoders[1], options=options)
        took = perf_counter() - wall, process_time() - cpu
    assert not summary.failures, summary.failures
    return *took, summary.num_frames


def compare(sources: list[Source], names: Sequence[str], rounds: int, folder: Path) -> list[Figure]:
    audio, random = str(write_whisper(folder)), "random"
    built = {
        runtime: encoders_from(
            visual=VISUAL, visual_weights=random, audio=audio, audio_weights=random, runtime=runtime, device="cpu"
        )
        for runtime in {WAYS[name].runtime for name in names}
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            wall_s, cpu_s, num_frames = run(sources, WAYS[name], built[WAYS[name].runtime])
            took[name].append((wall_s, cpu_s))
            print(f"  {name:10} {num_frames} frames  wall {wall_s:6.1f} s  CPU {cpu_s:6.1f} s", flush=True)
    figures = []
    for column, kind in enumerate(("wall", "CPU")):
        medians = {name: float(np.median([one[column] for one in took[name]])) for name in names}
        figures += [
            Figure(f"{kind} time of `before` by that of `{name}`", medians[names[0]] / medians[name], "x")
            for name in names[1:]
        ]
    return figures


class Counting:
    """A detector that counts the images that it gets."""

    num_images = 0

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self.name, self.weights_sha256, self.settings = detector.name, detector.weights_sha256, detector.settings

    def detect(self, images: Sequence[Any]) -> Any:
        Counting.num_images += len(images)
        return self._detector.detect(images)


def largest(sources: list[Source], every: int) -> list[PersonTrack]:
    finder = FaceFinder(lambda: Counting(open_detector("retinaface")), every=every)
    Counting.num_images = 0
    return [choose_person(detect_faces(one, file_sha256(one.path or Path()), finder), None) for one in sources]


def offset(one: np.ndarray, other: np.ndarray) -> float:
    points = (one - other)[4:14].reshape(5, 2)
    return float(np.hypot(*points.T).mean() / np.sqrt(one[2] * one[3]))


def recall(sources: list[Source]) -> list[Figure]:
    full = largest(sources, 1)
    num_images, num_faces, figures = Counting.num_images, sum(len(person.images) for person in full), []
    for every in (2, 3, 5, 8, MAX_EVERY):
        some = largest(sources, every)
        rows = [
            (dict(zip(a.images, a.rows, strict=True)), dict(zip(b.images, b.rows, strict=True)))
            for a, b in zip(full, some, strict=True)
        ]
        offsets = [offset(before[k], after[k]) for before, after in rows for k in before if k in after]
        num_extra = sum(len(set(after) - set(before)) for before, after in rows)
        share = Counting.num_images / num_images
        print(
            f"  every {every:2}: looked at {share:.3f}  recall {len(offsets) / num_faces:.4f} of {num_faces}"
            f"  extra {num_extra}"
            f"  offset mean {np.mean(offsets):.4f}  95 % {np.percentile(offsets, 95):.4f}  largest {max(offsets):.3f}",
            flush=True,
        )
        figures.append(Figure(f"recall with --detect-every {every}", len(offsets) / num_faces, "", at_least=0.99))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+")
    parser.add_argument("--clip-s", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=[*WAYS], default=[*WAYS])
    parser.add_argument("--recall", action="store_true")
    add_json_option(parser)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.recall:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["SAGE_VA_CACHE"] = folder
            save(options.json, __file__, recall(find_sources(options.recordings)))
        return
    sources = cuts(options.recordings, options.clip_s)
    print(f"RetinaFace, {VISUAL}, Whisper-tiny, RANDOM WEIGHTS, {num_cores()} cores, {len(sources)} clips")
    names = list(dict.fromkeys(["before", *options.ways]))
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(sources, names, options.rounds, Path(folder))
    for figure in figures:
        print(f"  {figure.name}: {figure.value:.2f} {figure.unit}")
    save(options.json, __file__, figures)


if __name__ == "__main__":
    main()
