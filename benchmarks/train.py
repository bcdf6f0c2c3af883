"""The cost of a training step, of its data, and of the field's way of feeding it.

    python benchmarks/train.py                       # about four minutes on two cores
    python benchmarks/train.py --preset tiny --threads 1    # processor time: for a machine that others use too
    python benchmarks/train.py --steps 2060000 --device cuda --epochs 100    # a cache the size of Aff-Wild2's, whole

Drawn features of a 512-dimensional visual and a 768-dimensional audio stream, float16, laid in clips of 4,000 steps. In
turns, so that all ways meet the same machine:

    resident   the same batch of windows again and again: what the model alone costs
    ours       the trainer: windows cut by index, corrupted, trained on
    loader     the same model fed by torch's DataLoader over one .npy file for each clip and stream

Data cost = what cutting and corrupting take of a step of ours, timed by themselves; so are input dropout, and the loss
with its backward pass. Then seconds an epoch for one, two and four times the steps.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sage_va.benchmarks.frame import Figure, add_json_option, save
from sage_va.data.clip import Clip
from sage_va.data.timebase import Grid
from sage_va.data.windows.corpus import Corpus, Stream, Windows, cut, plan_windows
from sage_va.fusion.config import Config, load_config
from sage_va.fusion.models.base import EncodedModel, Output
from sage_va.fusion.models.sage import Fused
from sage_va.fusion.models.variants import build_model
from sage_va.fusion.training.augment import corrupt
from sage_va.fusion.training.losses import total_loss
from sage_va.fusion.training.trainer import Trainer

STREAMS = [("visual", 512), ("audio", 768)]
CLIP_STEPS = 4000
ROUNDS = 3
PARTS = ("input dropout", "loss")


def drawn(num_steps: int, hz: float) -> Corpus:
    """A corpus of random features and slow random labels."""
    rng = np.random.default_rng(0)
    num_clips = max(2, num_steps // CLIP_STEPS)
    clips = [Clip(f"{number:05}", duration_s=CLIP_STEPS / hz) for number in range(num_clips)]
    grids = [Grid(hz, 0, CLIP_STEPS)] * num_clips
    total = num_clips * CLIP_STEPS
    noise = [torch.from_numpy(rng.standard_normal((CLIP_STEPS, dim), np.float32)).half() for _, dim in STREAMS]
    values = [part.repeat(num_clips, 1) for part in noise]
    va = torch.from_numpy(np.sin(np.arange(total)[:, None] / (50, 70)).astype(np.float32))
    streams = [Stream(f"{name}/drawn@0", name, name, dim, (), {}) for name, dim in STREAMS]
    offsets = np.arange(num_clips + 1) * CLIP_STEPS
    everywhere = torch.ones(total, dtype=torch.bool)
    quality = [torch.zeros(total, 0) for _ in STREAMS]
    mask = everywhere[:, None].repeat(1, len(STREAMS))
    return Corpus(clips, streams, grids, offsets, values, quality, mask, va, everywhere, [None] * num_clips)


class Files(Dataset[tuple[Tensor, ...]]):
    """Windows of features in one .npy file for each clip and stream."""

    def __init__(self, folder: Path, corpus: Corpus, length: int, hop: int) -> None:
        self.folder, self.length, self.va = folder, length, corpus.va.numpy()
        self.starts = [
            (clip, start) for clip in range(len(corpus.clips)) for start in range(0, CLIP_STEPS - length, hop)
        ]
        for clip in range(len(corpus.clips)):
            for m, values in enumerate(corpus.values):
                np.save(folder / f"{clip}-{m}.npy", values[corpus.steps(clip)].numpy())

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        clip, start = self.starts[index]
        parts = [np.load(self.folder / f"{clip}-{m}.npy")[start : start + self.length] for m in range(len(STREAMS))]
        first = clip * CLIP_STEPS + start
        return *(torch.from_numpy(part) for part in parts), torch.from_numpy(self.va[first : first + self.length])


def as_windows(parts: list[Tensor]) -> Windows:
    *values, va = parts
    shape = va.shape[:2]
    inside = torch.ones(shape, dtype=torch.bool)
    steps = torch.zeros(shape, dtype=torch.long)
    mask = inside[..., None].repeat(1, 1, len(values))
    return Windows(values, [torch.zeros(*shape, 0) for _ in values], mask, inside, va, inside, steps)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds; with one thread on a CPU those of the processor, so that other programs do not count."""
    clock = process_time if device.type == "cpu" and torch.get_num_threads() == 1 else perf_counter
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def compare_ways(corpus: Corpus, config: Config, num_steps: int) -> list[Figure]:
    """Prints milliseconds a step: resident, ours, and by a DataLoader; returns them as figures."""
    device, size = corpus.device, config.train.batch_size
    length, hop = config.data.steps_on(corpus)
    trainer = a_trainer(corpus, config)
    plan = plan_windows(corpus, range(len(corpus.clips)), length, hop, np.random.default_rng(0))
    np.random.default_rng(0).shuffle(plan)
    batches = [plan[k * size : (k + 1) * size] for k in range(num_steps)]
    resident = cut(corpus, batches[0], length)

    def data() -> None:
        for rows in batches:
            corrupt(cut(corpus, rows, length), config, trainer.generator, trainer.model.feature_scales)

    ways: dict[str, Callable[[], object]] = {
        "resident batch": lambda: [trainer.step(resident, 1e-4) for _ in batches],
        "ours": lambda: [trainer.step(cut(corpus, rows, length), 1e-4) for rows in batches],
        "data alone": data,
        **parts(trainer, resident, num_steps),
    }
    with tempfile.TemporaryDirectory() as folder:
        few = Files(Path(folder), drawn(20 * CLIP_STEPS, config.data.hz), length, hop)
        for workers in (0, 2):
            loader = DataLoader(few, size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
            source = endless(loader)
            next(source)

            def loaded(source: Iterator[list[Tensor]] = source) -> None:
                for _ in batches:
                    trainer.step(as_windows(next(source)).each(lambda tensor: tensor.to(device)), 1e-4)

            ways[f"DataLoader, {workers} workers"] = loaded
        trainer.step(resident, 1e-4)
        took = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, work in ways.items():
                took[name].append(timed(work, device) / num_steps)
    each_s = {name: statistics.median(times_s) for name, times_s in took.items()}
    print(
        f"{config.model.variant}, {sum(p.numel() for p in trainer.model.parameters()):,} parameters, "
        f"{size} windows of {length}"
    )
    for name, seconds in each_s.items():
        ratio = seconds / each_s["resident batch"]
        print(f"  {name:24}{1000 * seconds:9.1f} ms a step   x {ratio:.3f}", flush=True)
    cost = 100 * each_s["data alone"] / each_s["ours"]
    print(f"  data cost               {cost:9.2f} % of a step of ours")
    shares = {name: 100 * each_s[name] / each_s["ours"] for name in PARTS}
    for name, share in shares.items():
        print(f"  {name:24}{share:9.2f} % of a step of ours")
    apart = {"data alone", *PARTS, *(name for name in each_s if torch.get_num_threads() == 1 and "2 workers" in name)}
    steps = [Figure(f"a step: {name}", 1000 * seconds, "ms") for name, seconds in each_s.items() if name not in apart]
    steps += [Figure(f"{name}, share of a step", share, "%") for name, share in shares.items()]
    return [*steps, Figure("data cost: windows cut and masked, share of a step", cost, "%", at_most=1.0)]


def parts(trainer: Trainer, windows: Windows, num_steps: int) -> dict[str, Callable[[], object]]:
    """Two parts of a step by themselves: input dropout, and the loss with its backward pass."""
    model = trainer.model.train()
    assert isinstance(model, EncodedModel)
    drop = [(encoder.get_submodule("project.1"), values.float()) for encoder, values in zip(
        model.encoders, windows.values, strict=True)]  # fmt: skip
    with torch.no_grad():
        output = model(windows)
    weights = torch.rand_like(output.unimodal[..., 0]).softmax(-1)
    leaves = [value.clone().requires_grad_() for value in (output.va, output.unimodal, weights, weights)]
    fused = Fused(output.fused.features, weights=leaves[2], reliability=leaves[3])

    def loss() -> None:
        output = Output(leaves[0], leaves[1], fused)
        errors = trainer.errors[windows.steps]
        total_loss(output, windows, errors, trainer.sigma, trainer.config.loss)["loss"].backward()

    return {
        "input dropout": lambda: [[layer(values) for layer, values in drop] for _ in range(num_steps)],
        "loss": lambda: [loss() for _ in range(num_steps)],
    }


def endless(loader: DataLoader[tuple[Tensor, ...]]) -> Iterator[list[Tensor]]:
    while True:
        yield from loader


def a_trainer(corpus: Corpus, config: Config) -> Trainer:
    torch.manual_seed(0)
    model = build_model(corpus.streams, config.model).to(corpus.device)
    errors = torch.rand(corpus.mask.shape, device=corpus.device)
    return Trainer(model, corpus, range(len(corpus.clips)), config, errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["tiny", "base", "large"], default="base")
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    parser.add_argument("--steps", type=int, default=80_000, help="of the corpus")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, default=5, help="timed steps of each way and round")
    parser.add_argument("--epochs", type=int, default=0, help="also train so many whole epochs, without validation")
    parser.add_argument("--threads", type=int, help="of torch; with 1, processor time is measured; default: all cores")
    add_json_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    config = load_config(None, ["data.grid_hz=25", *options.assignments], options.preset)
    corpus = drawn(options.steps, config.data.hz).to(torch.device(options.device))
    print(f"{corpus.num_steps:,} steps, {' + '.join(str(dim) for _, dim in STREAMS)} dimensions on {corpus.device}, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    figures = compare_ways(corpus, config, options.batches)
    figures += [epochs(corpus, config, options.epochs)] if options.epochs else growth(corpus, config)
    on_gpu = corpus.device.type == "cuda" and options.epochs == 100 and corpus.num_steps > 2_000_000
    if not on_gpu:
        figures.append(Figure("100 epochs of a cache the size of Aff-Wild2's on a GPU", None, "s", at_most=300))
    save(options.json, __file__, figures)


def epochs(corpus: Corpus, config: Config, num: int) -> Figure:
    """Trains whole epochs, without validation."""
    trainer = a_trainer(corpus, config)
    start = perf_counter()
    speed = 0.0
    for _ in range(num):
        speed = trainer.epoch()["windows_per_s"]
        trainer.course.epoch += 1
    took_s = perf_counter() - start
    print(f"{num} epochs: {took_s:.1f} s, the last at {speed} windows/s")
    name = "100 epochs of a cache the size of Aff-Wild2's on a GPU" if corpus.num_steps > 2_000_000 else f"{num} epochs"
    return Figure(name, took_s, "s", at_most=300 if corpus.device.type == "cuda" else None)


def growth(corpus: Corpus, config: Config) -> list[Figure]:
    """Trains an epoch on one, two and four quarters of the steps."""
    small, each = corpus.num_steps // 4, []
    a_trainer(drawn(small, config.data.hz).to(corpus.device), config).epoch()  # warms up
    for factor in (1, 2, 4):
        trainer = a_trainer(drawn(factor * small, config.data.hz).to(corpus.device), config)
        took_s = timed(trainer.epoch, corpus.device)
        each.append(1e6 * took_s / (factor * small))
        print(f"  {factor * small:9,} steps: {took_s:7.2f} s an epoch, {each[-1]:.1f} s a million")
    name = "an epoch of four times the steps, by four epochs of the steps"
    return [Figure("an epoch of a million steps", each[-1], "s"), Figure(name, each[-1] / each[0], "x")]


if __name__ == "__main__":
    main()
