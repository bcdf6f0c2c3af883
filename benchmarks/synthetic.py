"""A cache with synthetic ground truth: latent valence-arousal in streams whose noise switches with the stage.

    python benchmarks/synthetic.py FOLDER [--clips 48] [--subjects 24] [--seconds 40] [--seed 0] [--equal]
        [--no-quality] [--level] [--ambiguous]

writes `cache.zarr` and `labels/` for the public commands, and `truth.npz`, which no model reads.

A person's valence and arousal are smooth, at a pace of the clip's own. Each stream sees them through one fixed
nonlinear map, together with traits of the subject and the clip that say nothing of them, and adds noise. A clip
passes through stages of some seconds: the person speaks, listens, is occluded, or the place is noisy. In each stage
each stream has its own known ratio of signal to noise. The noise drifts as slowly as the signal does in part, so that
no smoothing removes it, and it fills all dimensions of the stream alike, so that its strength can be seen in them.
Audio runs late by a known lag, and streams drop out for spans.

With `--ambiguous`, a person speaks or listens, and what the quality signals say of a stream depends on which: loudness
is a clear voice while speaking, and music while listening; a turned face is bad only while listening. The audio's
signal `voice` gives the stage away, as a voice detector does.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sage_va.data import Clip, FrameClock, Track, open_store, stream_name

Floats = NDArray[np.float64]

STAGES = ("speaking", "listening", "occluded", "noisy")
SNR_DB = {"visual": (0.0, 9.0, -15.0, 5.0), "audio": (9.0, -15.0, 4.0, -10.0)}
EQUAL_DB = -3.0
AMBIGUOUS_STAGES = ("speaking", "listening")
AMBIGUOUS_DB = {  # by stage, where the evidence (loudness, a turned face) is absent and where it is there
    "visual": ((2.0, 2.0), (9.0, -15.0)),
    "audio": ((-12.0, 9.0), (3.0, -15.0)),
}
EVIDENCE = {"visual": "turned", "audio": "loudness"}
TRUTH_HZ = 100
LABEL_HZ = 25


@dataclass(frozen=True)
class SyntheticData:
    """Settings of the synthetic data.

    streams: `modality/alias` of each; a further stream of a modality has its stages rotated. lag_s: by how much
    audio runs late. noise_s: how long the slow half of the noise stays the same. masked: share of a stream's frames
    that drop out. equal: the same noise everywhere, so that there is nothing to choose; equal_db: its ratio. bad_db:
    the ratio of all stages below 0 dB, in place of their own. quality: whether the cache holds the quality signals
    `clarity`, which hints at the ratio of signal to noise, and `idle`, which does not. level: each step is scaled to
    the same expected power, so that the size of features does not reveal noise. Of two settings with the same seed that
    differ only in ratios, the clips, their signal and the course of their noise are the same. ambiguous: the same
    evidence means another ratio by stage; the signals are then `loudness` and `voice` for audio, `turned` for faces.
    """

    streams: tuple[str, ...] = ("visual/face", "audio/voice")
    clips: int = 48
    subjects: int = 24
    seconds: float = 40.0
    dim: int = 16
    lag_s: float = 0.3
    noise_s: float = 1.0
    masked: float = 0.05
    equal: bool = False
    equal_db: float = EQUAL_DB
    bad_db: float | None = None
    quality: bool = True
    level: bool = False
    ambiguous: bool = False
    seed: int = 0

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages that a clip passes through."""
        return AMBIGUOUS_STAGES if self.ambiguous else STAGES


def synthesise(folder: Path, synthetic: SyntheticData) -> None:
    """Writes `cache.zarr`, `labels/*.csv` and `truth.npz` into a folder that holds none of them.

    truth.npz: `times_s` (T,) at 100 Hz, `streams` (M,), `stages` (K,), `lag_s` (M,), and for each clip
    `CLIP/va` (T, 2), `CLIP/stage` (T,) and `CLIP/snr_db` (T, M).
    """
    rng = np.random.default_rng(synthetic.seed)
    store = open_store(folder / "cache.zarr", "a", licence="CC0-1.0")
    (folder / "labels").mkdir()
    times = np.arange(round(synthetic.seconds * TRUTH_HZ)) / TRUTH_HZ
    traits = rng.standard_normal((synthetic.subjects, 3))
    maps = [_Map(rng, synthetic.dim) for _ in synthetic.streams]
    lags = [synthetic.lag_s if name.startswith("audio/") else 0.0 for name in synthetic.streams]
    truth = {
        "times_s": times,
        "streams": np.array(synthetic.streams),
        "stages": np.array(synthetic.stages),
        "lag_s": lags,
    }
    for index in range(synthetic.clips):
        subject = index % synthetic.subjects
        clip_id, clock = f"clip{index:03}", FrameClock.regular(LABEL_HZ, round(synthetic.seconds * LABEL_HZ))
        clip = Clip(clip_id, f"subject{subject:02}", synthetic.seconds, clock)
        va, stage = _latent(rng, times), _spells(rng, times, len(synthetic.stages), (3, 7))
        trait = 0.4 * traits[subject] + 0.2 * rng.standard_normal(3)
        shown = [_spells(rng, times, 2, (1.5, 4)) if synthetic.ambiguous else stage for _ in synthetic.streams]
        snr = np.column_stack([_snr_db(synthetic, m, stage, shown[m]) for m in range(len(synthetic.streams))])
        for m, name in enumerate(synthetic.streams):
            signals = (
                partial(_hints, rng, name, stage, shown[m]) if synthetic.ambiguous else partial(_clarity_and_idle, rng)
            )
            track = _track(rng, synthetic, maps[m], times - lags[m], va, trait, snr[:, m], signals)
            fingerprint = {"encoder": {"name": name, "weights": "trained"}, "synthetic": asdict(synthetic)}
            modality, alias = name.split("/")
            full = stream_name(modality, alias, fingerprint)
            store.commit(clip, full, track, fingerprint=fingerprint, source_sha256=clip_id)
        truth |= {f"{clip_id}/va": va, f"{clip_id}/stage": stage, f"{clip_id}/snr_db": snr}
        _write_labels(folder / "labels" / f"{clip_id}.csv", times, va)
    np.savez_compressed(folder / "truth.npz", **truth)


def snr_on_grid(truth: np.lib.npyio.NpzFile, clip_id: str, streams: Sequence[str], times_s: Floats) -> Floats:
    """(T, M) true signal-to-noise ratio in decibels at instants; NaN outside the clip. `streams`: aliases wanted."""
    known = truth["streams"].tolist()
    place = np.round(times_s * TRUTH_HZ).astype(np.int64)
    inside = (place >= 0) & (place < len(truth["times_s"]))
    columns = [known.index(name) for name in streams]
    snr_db = truth[f"{clip_id}/snr_db"][place.clip(0, len(truth["times_s"]) - 1)][:, columns]
    return np.where(inside[:, None], snr_db, np.nan)


def _latent(rng: np.random.Generator, times: Floats) -> Floats:
    """(T, 2) within ±0.95: a few slow waves around a level, at a pace of the clip's own."""
    pace = rng.uniform(0.04, 0.2)
    rates, phases = pace * rng.uniform(0.4, 1.6, (5, 2)), rng.uniform(0, 2 * np.pi, (5, 2))
    waves = np.sin(2 * np.pi * rates * times[:, None, None] + phases).sum(1) * 0.35
    return 0.95 * np.tanh(waves + rng.uniform(-0.3, 0.3, 2))


def _spells(
    rng: np.random.Generator, times: Floats, num_kinds: int, lasting_s: tuple[float, float]
) -> NDArray[np.int64]:
    """(T,) a kind for each instant, in spells of some seconds, never the same twice running: stages, or evidence."""
    kinds, kind = np.zeros(len(times), np.int64), int(rng.integers(num_kinds))
    start = 0
    while start < len(times):
        end = start + round(rng.uniform(*lasting_s) * TRUTH_HZ)
        kinds[start:end] = kind
        start, kind = end, (kind + int(rng.integers(1, num_kinds))) % num_kinds
    return kinds


def _snr_db(synthetic: SyntheticData, m: int, stage: NDArray[np.int64], shown: NDArray[np.int64]) -> Floats:
    """(T,) the ratio of stream m, by stage, and where it is ambiguous by the evidence that is shown."""
    modality = synthetic.streams[m].split("/")[0]
    if synthetic.equal:
        return np.full(len(stage), synthetic.equal_db)
    if synthetic.ambiguous:
        return np.array(AMBIGUOUS_DB[modality])[stage, shown]
    nth = sum(name.startswith(f"{modality}/") for name in synthetic.streams[:m])
    own = np.roll(SNR_DB[modality], nth)
    return (own if synthetic.bad_db is None else np.where(own < 0, synthetic.bad_db, own))[stage]


class _Map:
    """Map from valence, arousal and traits to a stream's features: two fixed layers, each dimension of variance 1."""

    def __init__(self, rng: np.random.Generator, dim: int) -> None:
        self.first, self.bias = rng.standard_normal((5, 2 * dim)) * 0.8, rng.standard_normal(2 * dim) * 0.5
        self.second = rng.standard_normal((2 * dim, dim))
        usual = np.column_stack([rng.uniform(-0.9, 0.9, (4096, 2)), 0.5 * rng.standard_normal((4096, 3))])
        raw = np.tanh(usual @ self.first + self.bias) @ self.second
        self.mean, self.scale = raw.mean(0), raw.std(0)

    def __call__(self, va: Floats, trait: Floats) -> Floats:
        """va (T, 2) and trait (3,) -> (T, D)."""
        shown = np.column_stack([va, np.broadcast_to(trait, (len(va), 3))])
        return (np.tanh(shown @ self.first + self.bias) @ self.second - self.mean) / self.scale


def _track(
    rng: np.random.Generator,
    synthetic: SyntheticData,
    show: _Map,
    shown_s: Floats,
    va: Floats,
    trait: Floats,
    snr_db: Floats,
    signals: Callable[[NDArray[np.int64], Floats], dict[str, Floats]],
) -> Track:
    """A stream of one clip at 25 Hz: at `times` it shows what was at `shown_s`, with the noise of `snr_db`."""
    step = TRUTH_HZ // LABEL_HZ
    chosen = np.arange(step // 2, len(va), step)
    source = np.clip(np.round(shown_s[chosen] * TRUTH_HZ).astype(np.int64), 0, len(va) - 1)
    signal, ratio = show(va[source], trait), snr_db[chosen]
    noise = _noise(rng, len(chosen), synthetic.dim, synthetic.noise_s * LABEL_HZ)
    values = signal + 10 ** (-ratio[:, None] / 20) * noise
    if synthetic.level:
        values /= np.sqrt(1 + 10 ** (-ratio[:, None] / 10))
    quality = {name: ("1", signal) for name, signal in signals(chosen, ratio).items()}
    at = chosen / TRUTH_HZ
    mask = _dropouts(rng, len(chosen), synthetic.masked)
    return Track.of(values.astype(np.float16), at, mask, quality if synthetic.quality else None)


def _noise(rng: np.random.Generator, length: int, dim: int, slow_frames: float) -> Floats:
    """(T, D) of variance 1: half white, half a first-order drift that forgets within `slow_frames`."""
    keep = np.exp(-1 / slow_frames)
    white, drive = rng.standard_normal((2, length, dim))
    drift = np.empty_like(drive)
    drift[0] = drive[0]
    for t in range(1, length):
        drift[t] = keep * drift[t - 1] + np.sqrt(1 - keep**2) * drive[t]
    return np.sqrt(0.5) * (white + drift)


def _clarity_and_idle(rng: np.random.Generator, chosen: NDArray[np.int64], snr_db: Floats) -> dict[str, Floats]:
    """Two signals (T,): one in 0 … 1 that rises with the ratio, blurred as much as stages differ, and one of noise."""
    clarity = 1 / (1 + np.exp(-(snr_db + 8 * _noise(rng, len(snr_db), 1, LABEL_HZ)[:, 0]) / 6))
    return {"clarity": clarity, "idle": _noise(rng, len(snr_db), 1, LABEL_HZ)[:, 0]}


def _hints(
    rng: np.random.Generator,
    name: str,
    stage: NDArray[np.int64],
    shown: NDArray[np.int64],
    chosen: NDArray[np.int64],
    snr_db: Floats,
) -> dict[str, Floats]:
    """Signals (T,) within 0 … 1 of an ambiguous stream: its evidence, and for audio the probability of speech."""
    modality = name.split("/")[0]
    present = {EVIDENCE[modality]: shown == 1}
    if modality == "audio":
        present["voice"] = stage == AMBIGUOUS_STAGES.index("speaking")
    blur = _noise(rng, len(snr_db), len(present), LABEL_HZ).T
    pairs = zip(present.items(), blur, strict=True)
    return {signal: 1 / (1 + np.exp(-(6.0 * there[chosen] - 3 + 1.5 * noise))) for (signal, there), noise in pairs}


def _dropouts(rng: np.random.Generator, length: int, share: float) -> NDArray[np.bool_]:
    """(T,) False in spans of half a second to two, about a share of all frames."""
    mask = np.ones(length, bool)
    for _ in range(rng.poisson(share * length / (1.25 * LABEL_HZ))):
        start = int(rng.integers(length))
        mask[start : start + round(rng.uniform(0.5, 2) * LABEL_HZ)] = False
    return mask


def _write_labels(path: Path, times: Floats, va: Floats) -> None:
    chosen = np.arange(0, len(times), TRUTH_HZ // LABEL_HZ)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["time_s", "valence", "arousal"])
        writer.writerows([f"{cell:.5f}" for cell in (times[t], *va[t])] for t in chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = SyntheticData()
    parser.add_argument("folder", type=Path)
    for name in ("clips", "subjects", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(usual, name))
    parser.add_argument("--seconds", type=float, default=usual.seconds)
    parser.add_argument("--streams", default=",".join(usual.streams), help="modality/alias, several by commas")
    parser.add_argument("--equal", action="store_true", help="the same noise everywhere: nothing to choose")
    parser.add_argument("--level", action="store_true", help="the size of features does not reveal noise")
    parser.add_argument("--no-quality", dest="quality", action="store_false", help="no quality signals in the cache")
    parser.add_argument("--ambiguous", action="store_true", help="the same evidence means another noise by stage")
    options = vars(parser.parse_args())
    folder, streams = options.pop("folder"), tuple(options.pop("streams").split(","))
    folder.mkdir(parents=True, exist_ok=True)
    synthesise(folder, SyntheticData(streams=streams, **options))
    print(f"{folder / 'cache.zarr'}\n{folder / 'labels'}\n{folder / 'truth.npz'}")


if __name__ == "__main__":
    main()
