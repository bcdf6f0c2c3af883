"""Leave one run out on the studyforrest series: SAGE beside ridge regression, with shuffled labels as a control.

    python benchmarks/studyforrest.py SERIES.npz [--out FOLDER] [--variants sage,concat] [--shuffled]

SERIES holds, for 8 runs of a film, `runN/visual` and `runN/audio` at 25 Hz, `runN/label_1hz` (arousal, valence) and
`runN/n_chars_1hz` (0 = nobody was rated). Everything goes through the public commands.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

NUM_RUNS = 8
SETTINGS = Path(__file__).with_name("studyforrest.yaml")


def write_labels(series: np.lib.npyio.NpzFile, folder: Path, shuffled: bool) -> None:
    """One CSV per run; a second in which nobody was rated has empty cells. Shuffling permutes all rated seconds."""
    folder.mkdir(parents=True)
    names = [f"run{run}" for run in range(1, NUM_RUNS + 1)]
    every_rated = np.concatenate([series[f"{name}/label_1hz"][series[f"{name}/n_chars_1hz"] > 0] for name in names])
    deck = iter(np.random.default_rng(0).permutation(every_rated) if shuffled else every_rated)
    for run in range(1, NUM_RUNS + 1):
        label, rated = series[f"run{run}/label_1hz"].copy(), series[f"run{run}/n_chars_1hz"] > 0
        label[rated] = [next(deck) for _ in range(rated.sum())]
        with (folder / f"run{run}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["time_s", "valence", "arousal"])
            for second, (arousal, valence) in enumerate(label):
                cells = [valence, arousal] if rated[second] else ["", ""]
                writer.writerow([second + 0.5, *cells])


def ridge(series: np.lib.npyio.NpzFile, penalty: float = 1000.0) -> dict[str, float]:
    """CCC of ridge regression from each second's mean and spread of all features, pooled over held-out runs."""
    rows, truth, run_of = [], [], []
    for run in range(1, NUM_RUNS + 1):
        label, rated = series[f"run{run}/label_1hz"], series[f"run{run}/n_chars_1hz"] > 0
        features = np.concatenate([series[f"run{run}/visual"], series[f"run{run}/audio"]], axis=1).astype(np.float64)
        seconds = features[: len(label) * 25].reshape(len(label), 25, -1)
        rows.append(np.concatenate([seconds.mean(1), seconds.std(1)], axis=1)[rated])
        truth.append(label[rated])
        run_of += [run] * int(rated.sum())
    x, y, run_of = np.concatenate(rows), np.concatenate(truth).astype(np.float64), np.array(run_of)
    predicted = np.zeros_like(y)
    for run in range(1, NUM_RUNS + 1):
        seen = run_of != run
        scaled = (x - x[seen].mean(0)) / (x[seen].std(0) + 1e-9)
        gram = scaled[seen].T @ scaled[seen] + penalty * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, scaled[seen].T @ (y[seen] - y[seen].mean(0)))
        predicted[~seen] = scaled[~seen] @ weights + y[seen].mean(0)
    return {"arousal": ccc(predicted[:, 0], y[:, 0]), "valence": ccc(predicted[:, 1], y[:, 1])}


def ccc(x: np.ndarray, y: np.ndarray) -> float:
    """Lin's coefficient, written a second time on purpose."""
    return float(2 * np.mean((x - x.mean()) * (y - y.mean())) / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))


def sage_va(*command: str) -> str:
    """Runs the public command and returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "sage_va.cli", *command], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--variants", default="sage,concat,visual,audio")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--shuffled", action="store_true", help="permute the labels: the score must be about 0")
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    arguments = parser.parse_args()
    series = np.load(arguments.series)
    out = arguments.out or Path(tempfile.mkdtemp(prefix="studyforrest-"))
    cache, labels = str(out / "cache.zarr"), out / "labels"
    for modality in ("visual", "audio"):
        sage_va("cache", "import", str(arguments.series), "--stream", f"{modality}/lowlevel", "--hz", "25",
                "--key", modality, "--out", cache, "--licence", "CC0-1.0")  # fmt: skip
    write_labels(series, labels, arguments.shuffled)
    if not arguments.shuffled:
        print("ridge".ljust(16), "  ".join(f"{name} {value:6.3f}" for name, value in ridge(series).items()), flush=True)
    more = [part for assignment in arguments.assignments for part in ("--set", assignment)]
    for variant in arguments.variants.split(","):
        for seed in range(arguments.seeds):
            run = str(out / f"{variant}-{seed}")
            sage_va("train", cache, "--labels", str(labels), "--out", run, "--config", str(SETTINGS),
                    "--variant", variant, "--seed", str(seed), "--set", f"split.folds={NUM_RUNS}", *more)  # fmt: skip
            print(f"{variant} seed {seed}".ljust(16), _row(json.loads(sage_va("eval", run, "--json"))), flush=True)


def _row(score: dict) -> str:
    cells = []
    for name in ("raw", "smoothed"):
        for target in ("arousal", "valence"):
            low, high = score[name]["interval"][target]
            cells.append(f"{name} {target} {score[name]['ccc'][target]:6.3f} [{low:5.2f}, {high:5.2f}]")
    return "  ".join(cells)


if __name__ == "__main__":
    main()
