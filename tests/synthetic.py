"""A small cache with synthetic ground truth: latent valence-arousal in noisy linear streams, through the store API."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sage_va.data import Clip, FrameClock, Grid, Track, open_store, stream_name
from sage_va.data.labels import Truth
from sage_va.data.windows.corpus import Corpus, Stream, Windows

TINY = {
    "data": {"window_s": 2.4, "hop_s": 1.6},
    "model": {"dim": 16, "heads": 2, "tcn_blocks": 2, "layers": 1, "dropout": 0.0},
    "train": {"epochs": 12, "batch_size": 8, "learning_rate": 5e-3, "crossfit_epochs": 4, "crossfit_folds": 2},
}


def tiny(**sections: Mapping[str, Any]) -> dict[str, Any]:
    """`TINY` with keys of sections replaced: `tiny(model={"variant": "concat"}, seed=1)`."""
    merged: dict[str, Any] = {**TINY}
    for name, value in sections.items():
        merged[name] = {**TINY.get(name, {}), **value} if isinstance(value, Mapping) else value
    return merged


@dataclass(frozen=True)
class Kind:
    """The recipe of a stream: its rate, width, noise, share of steps that are masked, and whether it only memorises.

    A stream that memorises holds a code of its clip and valence-arousal with a sign drawn for that clip: a model
    trained on the clip can learn the sign, no other can.
    """

    hz: float = 25.0
    dim: int = 8
    noise: float = 0.3
    masked: float = 0.1
    memorises: bool = False
    quality: bool = True
    dtype: type[np.floating[Any]] = np.float16


USUAL = {"visual/face": Kind(), "audio/voice": Kind(hz=50.0, dim=6, noise=0.5)}


def latent(rng: np.random.Generator, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Times (at 100 Hz) and smooth valence-arousal within ±0.9."""
    times = np.arange(round(seconds * 100)) / 100
    rates, phases = rng.uniform(0.15, 0.6, (3, 2)), rng.uniform(0, 2 * np.pi, (3, 2))
    waves = np.sin(2 * np.pi * rates * times[:, None, None] + phases).mean(1)
    return times, np.clip(waves + rng.uniform(-0.3, 0.3, 2), -0.9, 0.9)


def fingerprint_of(name: str, weights: str = "trained") -> dict[str, Any]:
    """A stand-in for an encoder."""
    return {"encoder": {"name": name, "weights": weights}}


def make_cache(
    folder: Path,
    *,
    num_clips: int = 10,
    seconds: float = 6.0,
    kinds: Mapping[str, Kind] = USUAL,
    subjects: Sequence[str] | None = None,
    weights: str = "trained",
    label_hz: float = 30.0,
    shuffled: bool = False,
    lag_s: float = 0.0,
    seed: int = 0,
) -> tuple[Path, Path]:
    """Writes `cache.zarr` and `labels/` (CSV with times); returns both.

    `shuffled` gives each clip another's labels; `lag_s` makes them late.
    """
    rng = np.random.default_rng(seed)
    store = open_store(folder / "cache.zarr", "a", licence="test")
    maps = {name: rng.standard_normal((2, kind.dim)) for name, kind in kinds.items()}
    truths = [latent(rng, seconds) for _ in range(num_clips)]
    (folder / "labels").mkdir(exist_ok=True)
    for index, (times, va) in enumerate(truths):
        clip = Clip(
            f"clip{index:02}",
            subjects[index] if subjects else None,
            seconds,
            FrameClock.regular(25, round(seconds * 25)),
        )
        for name, kind in kinds.items():
            modality, alias = name.split("/")
            fingerprint = fingerprint_of(name, weights)
            track = _track(rng, kind, times, va, maps[name])
            full = stream_name(modality, alias, fingerprint)
            store.commit(clip, full, track, fingerprint=fingerprint, source_sha256=f"{index}")
        shown = truths[(index + num_clips // 2) % num_clips][1] if shuffled else va
        write_labels(folder / "labels" / f"clip{index:02}.csv", times, shown, label_hz, lag_s)
    return folder / "cache.zarr", folder / "labels"


def add_namesake(cache: Path, clip_id: str) -> str:
    """Adds another recording of the same name in the folder `new`, without labels; returns its id."""
    store, name = open_store(cache, "a"), f"new/{clip_id}"
    for stream in store.streams():
        clip = replace(store.clip(clip_id), clip_id=name)
        fingerprint = store.record(clip_id, stream)["fingerprint"]
        store.commit(clip, stream, store.read(clip_id, stream), fingerprint=fingerprint, source_sha256="another")
    return name


def _track(rng: np.random.Generator, kind: Kind, times: np.ndarray, va: np.ndarray, mixing: np.ndarray) -> Track:
    at = (np.arange(int(times[-1] * kind.hz)) + 0.5) / kind.hz
    latents = np.column_stack([np.interp(at, times, va[:, d]) for d in range(2)])
    mask = np.ones(len(at), bool)
    width = round(kind.masked * len(at))
    start = rng.integers(len(at) - width + 1)
    mask[start : start + width] = False
    if kind.memorises:
        code = np.repeat(rng.standard_normal((1, kind.dim - 2)), len(at), axis=0)
        values = np.column_stack([code, latents * rng.choice([-1, 1])])
    else:
        values = latents @ mixing + kind.noise * rng.standard_normal((len(at), kind.dim))
    level = {"score": ("1", rng.random(len(at)))} if kind.quality else None
    return Track.of(values.astype(kind.dtype), at.astype(np.float64), mask, level)


def write_labels(path: Path, times: np.ndarray, va: np.ndarray, hz: float, lag_s: float = 0.0) -> None:
    """A CSV of `time_s,valence,arousal` at `hz`, `lag_s` late."""
    at = np.arange(int(times[-1] * hz)) / hz
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = zip(at, *(np.interp(at - lag_s, times, va[:, d]) for d in range(2)), strict=True)
        csv.writer(file).writerows(
            [("time_s", "valence", "arousal"), *([f"{cell:.6f}" for cell in row] for row in rows)]
        )


def streams_of(dims: Sequence[int] = (8, 6), qualities: Sequence[int] = (1, 0)) -> list[Stream]:
    """Stream descriptions without a cache: visual, audio, then further visual ones."""
    streams = []
    for m, (dim, num) in enumerate(zip(dims, qualities, strict=True)):
        modality = "audio" if m == 1 else "visual"
        names = tuple(f"q{i}" for i in range(num))
        streams.append(Stream(f"{modality}/s{m}-00000000", f"s{m}", modality, dim, names, {}))
    return streams


def random_windows(
    streams: Sequence[Stream], num_windows: int = 3, length: int = 20, *, seed: int = 0, valid: float = 0.8
) -> Windows:
    """Windows of random features, masks and labels, all inside their clips."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_windows, length)
    mask = torch.rand(*shape, len(streams), generator=generator) < valid
    return Windows(
        [torch.randn(*shape, s.dim, generator=generator) for s in streams],
        [torch.randn(*shape, len(s.quality_names), generator=generator) for s in streams],
        mask,
        torch.ones(shape, dtype=torch.bool),
        torch.rand(*shape, 2, generator=generator) * 2 - 1,
        torch.rand(shape, generator=generator) < 0.9,
        torch.arange(num_windows * length).reshape(shape),
    )


def random_corpus(
    streams: Sequence[Stream], lengths: Sequence[int], *, hz: float = 25.0, seed: int = 0, label_hz: float = 30.0
) -> Corpus:
    """A corpus in memory whose features are random and whose labels lie at `label_hz`."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    total = int(offsets[-1])
    mask = torch.from_numpy(rng.random((total, len(streams))) < 0.8)
    grids = [Grid(hz, int(rng.integers(3)), length) for length in lengths]
    truths: list[Truth | None] = []
    for grid in grids:
        times = grid.times_s[0] + np.arange(round(grid.num_steps / hz * label_hz)) / label_hz
        truths.append(
            Truth(times, rng.uniform(-1, 1, (len(times), 2)).astype(np.float32), rng.random(len(times)) < 0.9)
        )
    return Corpus(
        [Clip(f"clip{i:02}") for i in range(len(lengths))],
        list(streams),
        grids,
        offsets,
        [torch.from_numpy(rng.standard_normal((total, s.dim)).astype(np.float32)) for s in streams],
        [torch.from_numpy(rng.standard_normal((total, len(s.quality_names))).astype(np.float32)) for s in streams],
        mask,
        torch.from_numpy(rng.uniform(-1, 1, (total, 2)).astype(np.float32)),
        torch.ones(total, dtype=torch.bool),
        truths,
    )
