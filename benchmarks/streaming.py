"""The time of one streaming step, by preset: `StreamingModel.step` with full memory, on one thread.

    python benchmarks/streaming.py [--presets tiny base large] [--steps 300]

`sage` with two streams of 384 and 768 dimensions. Processor time, so that other programs do not count: median, and the
99th percentile. At 25 steps per second each may take 40 ms.
"""

from __future__ import annotations

import argparse
from time import process_time

import numpy as np
import torch

from sage_va.benchmarks.frame import Figure, add_json_option, save
from sage_va.data.windows.corpus import Stream
from sage_va.fusion.config import load_config
from sage_va.fusion.models.variants import build_model
from sage_va.fusion.streaming import StreamingModel

STREAMS = [Stream(f"{name}/drawn@0", name, name, dim, (), {}) for name, dim in (("visual", 384), ("audio", 768))]
STEP_MS = 40.0  # at 25 steps per second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=["tiny", "base", "large"], default=["tiny", "base", "large"])
    parser.add_argument("--steps", type=int, default=300, help="measured steps, after the memory is full")
    add_json_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    save(options.json, __file__, [figure for preset in options.presets for figure in measured(preset, options.steps)])


def measured(preset: str, num_steps: int) -> list[Figure]:
    config = load_config(None, ["model.causal=true"], preset)
    torch.manual_seed(0)
    model = StreamingModel(build_model(STREAMS, config.model))
    rng, took_ms = np.random.default_rng(0), []
    for _ in range(config.model.memory_steps + num_steps):
        values = [rng.standard_normal(stream.dim).astype(np.float32) for stream in STREAMS]
        start = process_time()
        model.step(values)
        took_ms.append(1000 * (process_time() - start))
    middle, slow = np.quantile(took_ms[config.model.memory_steps :], [0.5, 0.99])
    print(f"{preset:6} median {middle:6.2f} ms, 99 % below {slow:6.2f} ms", flush=True)
    return [
        Figure(f"a streaming step: {preset}, median", float(middle), "CPU ms", at_most=STEP_MS),
        Figure(f"a streaming step: {preset}, 99th percentile", float(slow), "CPU ms", at_most=STEP_MS),
    ]


if __name__ == "__main__":
    main()
