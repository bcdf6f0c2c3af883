"""torch and OpenVINO side by side: images and windows per second of seven encoders, as an extraction computes them.

    python benchmarks/runtimes.py [--visual NAME…] [--audio wav2vec2 whisper] [--rounds 3]

Batches of 32 images, or single windows, as many at once as there are cores, one thread each; the two runtimes take
turns. Printed: items per wall second, CPU milliseconds per item (which other load hardly changes), both as medians, the
gain in each, the least cosine to torch, and the seconds of the conversion. RANDOM WEIGHTS.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
import transformers

from sage_va.benchmarks.frame import Figure, add_json_option, save
from sage_va.data.machine import num_cores
from sage_va.extract.encoders.factory import encoders_from
from sage_va.extract.heap import keep_freed_memory

VISUAL = (
    "resnet18.a1_in1k",
    "resnet50.a1_in1k",
    "tf_efficientnet_lite0.in1k",
    "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "mobilenetv3_small_050.lamb_in1k",
)
AUDIO = {
    "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2FeatureExtractor),  # their defaults: wav2vec2-base,
    "whisper": (transformers.WhisperConfig, transformers.WhisperFeatureExtractor),  # and Whisper-tiny
}
BATCH_SIZE, RUNTIMES = 32, ("torch", "openvino")


def encoder_of(name: str, runtime: str, folder: Path) -> Any:
    if name not in AUDIO:
        return encoders_from(visual=name, visual_weights="random", runtime=runtime, device="cpu")[0]
    config, extractor = (kind() for kind in AUDIO[name])
    config.save_pretrained(folder / name)
    extractor.save_pretrained(folder / name)
    return encoders_from(audio=str(folder / name), audio_weights="random", runtime=runtime, device="cpu")[1]


def items_of(encoder: Any) -> np.ndarray:
    rng = np.random.default_rng(0)
    if encoder.modality == "visual":
        return rng.integers(0, 255, (BATCH_SIZE, *encoder.size, 3), dtype=np.uint8)
    return rng.normal(0, 0.1, (1, encoder.plan.window)).astype(np.float32)


def rates(encoders: dict[str, Any], items: np.ndarray, rounds: int) -> Iterator[tuple[str, float, float]]:
    """Yields runtime, items per second and CPU milliseconds per item."""
    cores = num_cores()
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for number in range(rounds + 1):
            for runtime, encoder in encoders.items():
                wall, cpu = perf_counter(), process_time()
                list(pool.map(encoder.encode, [items] * cores))
                count = cores * len(items)
                if number:  # the first round warms up
                    yield runtime, count / (perf_counter() - wall), 1000 * (process_time() - cpu) / count


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    one, other = (values.reshape(-1, values.shape[-1]).astype(np.float64) for values in (one, other))
    return float(((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).min())


def compare(name: str, rounds: int, folder: Path) -> tuple[float, float]:
    """Prints the line of an encoder; returns the gain in CPU time and the least cosine."""
    encoders = {runtime: encoder_of(name, runtime, folder) for runtime in RUNTIMES}
    items = items_of(encoders["torch"])
    measured = list(rates(encoders, items, rounds))

    def middle(runtime: str, column: int) -> float:
        return median(float(row[column]) for row in measured if row[0] == runtime)

    least = cosine(encoders["torch"].encode(items), encoders["openvino"].encode(items))
    gain = middle("torch", 2) / middle("openvino", 2)
    print(
        f"{name:44} per s {middle('torch', 1):7.2f} / {middle('openvino', 1):7.2f}"
        f"  CPU ms {middle('torch', 2):8.2f} / {middle('openvino', 2):8.2f}  x {gain:.2f}"
        f"  cosine {least:.9f}  converted in {encoders['openvino'].compile_s:.1f} s",
        flush=True,
    )
    return gain, least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visual", nargs="*", default=VISUAL)
    parser.add_argument("--audio", nargs="*", choices=[*AUDIO], default=[*AUDIO])
    parser.add_argument("--rounds", type=int, default=3)
    add_json_option(parser)
    options = parser.parse_args()
    keep_freed_memory()  # as `extract` does
    torch.set_num_threads(1)
    print(f"torch / OpenVINO, float32, RANDOM WEIGHTS, {num_cores()} cores, batches of {BATCH_SIZE} images, one window")
    with tempfile.TemporaryDirectory() as folder:
        results = {name: compare(name, options.rounds, Path(folder)) for name in (*options.visual, *options.audio)}
    middle, least = median(gain for gain, _ in results.values()), min(cosine for _, cosine in results.values())
    print(f"median gain in CPU time: {middle:.2f}; least cosine: {least:.9f}")
    save(
        options.json,
        __file__,
        [
            Figure("median gain of OpenVINO over torch, CPU time of an encoder", middle, "x", at_least=1.3),
            Figure("least cosine of OpenVINO's features to torch's", least, "", at_least=0.9999),
        ],
    )


if __name__ == "__main__":
    main()
