"""Would other defaults suit small data sets better? Five data sets: chosen on four of them, scored on the fifth.

    python benchmarks/defaults.py SERIES.npz MEDIA_CACHE RECORDINGS --out FOLDER
        [--seeds 2] [--jobs 1] [--settings tiny,"dropout .1",…] [--table]

Data sets: `drawn` and `ambiguous` of synthetic.py, 12 clips each; `film-1` and `film-2`, the first and the last four
runs of the studyforrest series; `loudness`, the cache of an extraction of RECORDINGS, whose arousal is the loudness and
whose valence is the brightness of the sound, so that the voice knows nearly all and the face a little. Each is
cross-validated with the preset `tiny` and with each of SETTINGS, variant `sage`. For each data set in turn, the setting
with the best mean gain over `tiny` on the other four is taken, and its gain on this one counts. Resumes.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from sage_va.benchmarks.studyforrest import MODALITIES, sage_va, write_labels
from sage_va.benchmarks.synthetic import SyntheticData, synthesise
from sage_va.data import open_store
from sage_va.fusion.config import load_config
from sage_va.fusion.experiments.compare import compare
from sage_va.fusion.experiments.runs import SCORE, read_score
from sage_va.fusion.experiments.table import Difference, VariantRow, tabulate

TINY = "tiny"
SETTINGS: dict[str, tuple[str, ...]] = {
    TINY: (),
    "dropout .1": ("model.dropout=0.1", "model.input_dropout=0.1"),
    "no dropout": ("model.dropout=0", "model.input_dropout=0"),
    "dim 64": ("model.dim=64",),
    "no transformer": ("model.layers=0",),
    "weight decay .01": ("train.weight_decay=0.01",),
    "learning rate 3e-3": ("train.learning_rate=0.003",),
    "60 epochs": ("train.epochs=60",),
    "modality dropout .1": ("train.modality_dropout=0.1",),
    "span dropout .3": ("train.span_dropout=0.3",),
}
FILM = ("data.grid_hz=1", "data.window_s=100", "data.hop_s=100", "split.by=clip")
DRAWN = ("data.grid_hz=5", "data.window_s=12", "data.hop_s=8")
LOUDNESS = ("data.grid_hz=5", "data.window_s=4", "data.hop_s=2", "split.by=clip")
RATE, LABEL_HZ, FRAME = 16_000, 25, 1600
LOUDNESS_DB, BRIGHTNESS_HZ = (-60.0, -10.0), (200.0, 4000.0)


@dataclass(frozen=True)
class DataSet:
    """A cache, the folder of its labels, the settings that its length demands, and the folds of cross-validation."""

    cache: Path
    labels: Path
    settings: tuple[str, ...]
    folds: int


def film(series: Path, folder: Path, runs: Sequence[int]) -> DataSet:
    """Four runs of the studyforrest series; all eight are in the cache, and four have labels."""
    cache, labels = folder / "film.zarr", folder / f"film-{runs[0]}"
    for modality in MODALITIES:
        sage_va("cache", "import", str(series), "--stream", f"{modality}/lowlevel", "--hz", "25", "--key", modality,
                "--out", str(cache), "--licence", "CC0-1.0")  # fmt: skip
    write_labels(np.load(series), labels, "none")
    for run in range(1, 9):
        if run not in runs:
            (labels / f"run{run}.csv").unlink(missing_ok=True)
    return DataSet(cache, labels, FILM, len(runs))


def drawn(folder: Path, ambiguous: bool) -> DataSet:
    """Twelve clips of twelve subjects."""
    place = folder / ("ambiguous" if ambiguous else "drawn")
    if not (place / "truth.npz").exists():
        place.mkdir(parents=True, exist_ok=True)
        synthesise(place, SyntheticData(clips=12, subjects=12, ambiguous=ambiguous, seed=100))
    return DataSet(place / "cache.zarr", place / "labels", DRAWN, 3)


def loudness(cache: Path, recordings: Path, folder: Path) -> DataSet:
    """The recordings of a cache that are not silent, with loudness and brightness of their sound as labels."""
    labels = folder / "loudness"
    labels.mkdir(parents=True, exist_ok=True)
    for clip_id in open_store(cache).clip_ids():
        sound = sound_of(next(recordings.glob(f"{clip_id}*")))
        if sound is not None and sound[1].any():
            write_sound_labels(labels / f"{clip_id}.csv", *sound)
    return DataSet(cache, labels, LOUDNESS, 5)


def sound_of(path: Path) -> tuple[float, NDArray[np.float32]] | None:
    """The time of the first sample of a recording, and all samples at 16 kHz; None where there is no sound."""
    resampler = av.AudioResampler("flt", "mono", RATE)
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        blocks = list(container.decode(container.streams.audio[0]))
        parts = [part.to_ndarray()[0] for block in [*blocks, None] for part in resampler.resample(block)]
    return float(blocks[0].time or 0), np.concatenate(parts)


def write_sound_labels(path: Path, start_s: float, samples: NDArray[np.float32]) -> None:
    """Writes a label 25 times a second: arousal the power and valence the spectral centroid of 100 ms, both by their
    logarithm, averaged over half a second, within −1 … 1.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[:: RATE // LABEL_HZ]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME), axis=1)) ** 2 + 1e-9
    centroid = power @ np.fft.rfftfreq(FRAME, 1 / RATE) / power.sum(1)
    decibels = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-9)
    shown = [scaled(np.log(centroid), *np.log(BRIGHTNESS_HZ)), scaled(decibels, *LOUDNESS_DB)]
    times = start_s + (np.arange(len(frames)) * (RATE // LABEL_HZ) + FRAME / 2) / RATE
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["time_s", "valence", "arousal"])
        writer.writerows([f"{cell:.5f}" for cell in row] for row in zip(times, *shown, strict=True))


def scaled(values: NDArray[np.floating], low: float, high: float) -> NDArray[np.float64]:
    """Averages over half a second, and maps low … high to −1 … 1."""
    width = min(LABEL_HZ // 2, len(values))
    smooth = np.convolve(np.pad(values, (width // 2, (width - 1) // 2), "edge"), np.ones(width) / width, "valid")
    return np.clip(2 * (smooth - low) / (high - low) - 1, -1, 1)


def score(data: DataSet, folder: Path, names: Sequence[str], seeds: int, jobs: int) -> list[VariantRow]:
    """Cross-validates the settings that are not done yet; returns a row for each, with its gain over `tiny`."""
    scores = []
    for name in names:
        out = folder / name.replace(" ", "-")
        config = load_config(None, [*data.settings, *SETTINGS[name]], TINY)
        compare(open_store(data.cache), data.labels, out, config, ["sage"],
                num_seeds=seeds, folds=data.folds, jobs=jobs)  # fmt: skip
        scores += [replace(read_score(path), variant=name) for path in sorted(out.rglob(SCORE))]
    return tabulate(scores, list(names), TINY, data.folds).rows


def gain(row: VariantRow) -> Difference | None:
    """The gain over `tiny` in mean CCC; None for `tiny` itself."""
    return row.raw_difference["mean"] if row.raw_difference else None


def mean_gain(row: VariantRow) -> float:
    """Mean of that gain; 0 for `tiny`."""
    difference = gain(row)
    return difference.mean if difference else 0.0


def left_out(rows: Mapping[str, Sequence[VariantRow]]) -> dict[str, tuple[str, Difference | None]]:
    """For each data set the setting that is best on all others, and its gain on this one."""
    gains = {name: {row.variant: mean_gain(row) for row in table} for name, table in rows.items()}
    chosen = {}
    for name, table in rows.items():
        others = [gains[other] for other in rows if other != name]
        best = max((row.variant for row in table), key=lambda setting: statistics.mean(o[setting] for o in others))
        chosen[name] = (best, next(gain(row) for row in table if row.variant == best))
    return chosen


def table(rows: Mapping[str, Sequence[VariantRow]]) -> str:
    """The gains of all settings, and what leaving one out chooses, as Markdown."""
    lines = ["| setting | " + " | ".join(rows) + " | mean gain |", "|" + " --- |" * (len(rows) + 2)]
    for parts in zip(*rows.values(), strict=True):
        gains = [gain(row) for row in parts]
        cells = [f"{row.raw['mean'].mean:.3f}" if g is None else shown(g) for row, g in zip(parts, gains, strict=True)]
        known = [g.mean for g in gains if g]
        lines.append(f"| {parts[0].variant} | {' | '.join(cells)} | {statistics.mean(known):+.3f} |" if known else
                     f"| `{parts[0].variant}`, CCC | {' | '.join(cells)} | – |")  # fmt: skip
    cells = [f"{name}: {shown(g) if g else 0}" for name, g in left_out(rows).values()]
    mean = statistics.mean(g.mean if g else 0.0 for _, g in left_out(rows).values())
    return "\n".join([*lines, f"| best on the other four | {' | '.join(cells)} | {mean:+.3f} |"])


def shown(difference: Difference) -> str:
    """A gain with its interval."""
    low, high = difference.interval
    return f"{difference.mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", type=Path)
    parser.add_argument("media_cache", type=Path)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder; resumes one that exists")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--settings", default=",".join(SETTINGS))
    options = parser.parse_args()
    data: dict[str, Callable[[], DataSet]] = {
        "drawn": lambda: drawn(options.out, False),
        "ambiguous": lambda: drawn(options.out, True),
        "film-1": lambda: film(options.series, options.out, range(1, 5)),
        "film-2": lambda: film(options.series, options.out, range(5, 9)),
        "loudness": lambda: loudness(options.media_cache, options.recordings, options.out),
    }
    names, sets = options.settings.split(","), {name: make() for name, make in data.items()}
    for num in range(1, len(names) + 1):  # all data sets with one setting, then the next: a stop leaves whole rows
        rows = {
            name: score(item, options.out / "runs" / name, names[:num], options.seeds, options.jobs)
            for name, item in sets.items()
        }
        print(f"\n{names[num - 1]}\n{table(rows)}", flush=True)


if __name__ == "__main__":
    main()
