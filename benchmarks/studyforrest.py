"""Leave one run out on the studyforrest series: all variants beside ridge regression, and controls.

    python benchmarks/studyforrest.py SERIES.npz --out FOLDER [--variants concat,sage,…] [--seeds 3] [--control shifted]

SERIES holds, for 8 runs of a film, `runN/visual` and `runN/audio` at 25 Hz, `runN/label_1hz` (arousal, valence) and
`runN/n_chars_1hz` (0 = no one was rated). Everything goes through the public commands. Controls: `shuffled` deals all
rated seconds anew over all runs; `shifted` moves labels by half of each run, so that runs keep their means.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

NUM_RUNS = 8
MODALITIES = ("visual", "audio")
VARIANTS = (  # the first is what the others are held against
    "concat", "concat-quality", "linear", "visual", "audio", "late", "gmu", "xattn", "jca", "rjca", "dca", "lfan",
    "tagf", "raav", "sage", "sage-no-stage", "sage-no-calibration", "sage-no-separation", "sage-no-tcn",
    "sage-no-transformer",
)  # fmt: skip
SETTINGS = Path(__file__).with_name("studyforrest.yaml")


def write_labels(series: np.lib.npyio.NpzFile, folder: Path, control: str) -> None:
    """One CSV per run; a second in which no one was rated has empty cells."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"run{run}" for run in range(1, NUM_RUNS + 1)]
    rated = {name: series[f"{name}/n_chars_1hz"] > 0 for name in names}
    labels = {name: series[f"{name}/label_1hz"].copy() for name in names}
    if control == "shuffled":
        deck = np.random.default_rng(0).permutation(np.concatenate([labels[name][rated[name]] for name in names]))
        for name, part in zip(names, np.split(deck, np.cumsum([rated[n].sum() for n in names])[:-1]), strict=True):
            labels[name][rated[name]] = part
    if control == "shifted":
        for name in names:
            labels[name][rated[name]] = np.roll(labels[name][rated[name]], rated[name].sum() // 2, axis=0)
    for name in names:
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["time_s", "valence", "arousal"])
            for second, (arousal, valence) in enumerate(labels[name]):
                writer.writerow([second + 0.5, *([valence, arousal] if rated[name][second] else ["", ""])])


def ridge(
    series: np.lib.npyio.NpzFile, modalities: Sequence[str] = MODALITIES, penalty: float = 1000.0
) -> dict[str, float]:
    """CCC of ridge regression from each second's mean and spread of the features, pooled over held-out runs."""
    rows, truth, run_of = [], [], []
    for run in range(1, NUM_RUNS + 1):
        label, rated = series[f"run{run}/label_1hz"], series[f"run{run}/n_chars_1hz"] > 0
        features = np.concatenate([series[f"run{run}/{name}"] for name in modalities], axis=1).astype(np.float64)
        seconds = features[: len(label) * 25].reshape(len(label), 25, -1)
        rows.append(np.concatenate([seconds.mean(1), seconds.std(1)], axis=1)[rated])
        truth.append(label[rated])
        run_of += [run] * int(rated.sum())
    x, y, run_of = np.concatenate(rows), np.concatenate(truth).astype(np.float64), np.array(run_of)
    predicted = np.zeros_like(y)
    for run in range(1, NUM_RUNS + 1):
        training = run_of != run
        scaled = (x - x[training].mean(0)) / (x[training].std(0) + 1e-9)
        gram = scaled[training].T @ scaled[training] + penalty * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, scaled[training].T @ (y[training] - y[training].mean(0)))
        predicted[~training] = scaled[~training] @ weights + y[training].mean(0)
    return {"arousal": ccc(predicted[:, 0], y[:, 0]), "valence": ccc(predicted[:, 1], y[:, 1])}


def ccc(x: np.ndarray, y: np.ndarray) -> float:
    """Lin's coefficient, written a second time on purpose."""
    return float(2 * np.mean((x - x.mean()) * (y - y.mean())) / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))


def sage_va(*command: str) -> None:
    """Runs the public command."""
    subprocess.run([sys.executable, "-m", "sage_va.cli", *command], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder; resumes one that exists")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seeds", default="3")
    parser.add_argument("--control", choices=["none", "shuffled", "shifted"], default="none")
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    arguments = parser.parse_args()
    series, out = np.load(arguments.series), arguments.out
    cache, labels = str(out / "cache.zarr"), out / f"labels-{arguments.control}"
    for modality in MODALITIES:
        sage_va("cache", "import", str(arguments.series), "--stream", f"{modality}/lowlevel", "--hz", "25",
                "--key", modality, "--out", cache, "--licence", "CC0-1.0")  # fmt: skip
    write_labels(series, labels, arguments.control)
    if arguments.control == "none":
        for title, modalities in (("ridge", MODALITIES), *((f"ridge, {name}", [name]) for name in MODALITIES)):
            scores = ridge(series, modalities).items()
            print(title.ljust(16), "  ".join(f"{name} {value:6.3f}" for name, value in scores), flush=True)
    more = [part for assignment in arguments.assignments for part in ("--set", assignment)]
    sage_va("compare", cache, "--labels", str(labels), "--out", str(out / f"runs-{arguments.control}"), "--config",
            str(SETTINGS), "--variants", arguments.variants, "--seeds", arguments.seeds, "--folds", str(NUM_RUNS),
            "--base", arguments.variants.split(",")[0], *more)  # fmt: skip


if __name__ == "__main__":
    main()
