"""Estimates of the reaction lag on real ratings that are delayed by a known time.

    python benchmarks/lag.py SERIES.npz --out FOLDER

SERIES as for `studyforrest.py`. Its labels are written as they are, and 1.4, 3 and 5 s late; `labels.lag_s=estimate`
sees all runs, then all but one.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from studyforrest import NUM_RUNS, sage_va, write_labels

from sage_va.data import open_store
from sage_va.fusion.config import load_config
from sage_va.fusion.training.labelled import load_labelled
from sage_va.fusion.training.lag import estimate_lag_s

DELAYS_S = (0.0, 1.4, 3.0, 5.0)


def delay_labels(source: Path, folder: Path, delay_s: float) -> None:
    """Writes the same labels, each `delay_s` later."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*.csv"):
        with path.open(newline="") as file:
            head, *rows = csv.reader(file)
        with (folder / path.name).open("w", newline="") as file:
            csv.writer(file).writerows([head, *([float(time_s) + delay_s, *cells] for time_s, *cells in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder; resumes one that exists")
    arguments = parser.parse_args()
    out = arguments.out
    cache = str(out / "cache.zarr")
    for modality in ("visual", "audio"):
        sage_va("cache", "import", str(arguments.series), "--stream", f"{modality}/lowlevel", "--hz", "25",
                "--key", modality, "--out", cache, "--licence", "CC0-1.0")  # fmt: skip
    write_labels(np.load(arguments.series), out / "labels", "none")
    print("delay  all runs  all but one")
    for delay_s in DELAYS_S:
        labels = out / f"labels-{delay_s:g}"
        delay_labels(out / "labels", labels, delay_s)
        corpus = load_labelled(open_store(cache), labels, load_config(None, ["data.grid_hz=25"])).corpus
        runs = range(NUM_RUNS)
        each = [estimate_lag_s(corpus, [run for run in runs if run != other]) for other in runs]
        print(f"{delay_s:5g}  {estimate_lag_s(corpus, runs):8g}  {' '.join(f'{lag_s:g}' for lag_s in each)}")


if __name__ == "__main__":
    main()
