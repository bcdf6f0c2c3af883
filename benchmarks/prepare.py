"""Time of `sage-va prepare` on a corpus of the size of Aff-Wild2, whose recordings and crops are empty files.

    python benchmarks/prepare.py --out FOLDER [--crops 5000]

594 names with 4,750 label rows each, and this many crops: 3 million files need 3 million inodes and some minutes.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from sage_va.data.corpora.affwild2 import AffWild2
from sage_va.data.corpora.prepare import prepare

NUM_TRAIN, NUM_VALIDATION, NUM_CLIPS, NUM_ROWS = 356, 76, 594, 4750


def write_corpus(root: Path, num_crops: int) -> None:
    """Writes recordings, crops and annotations, all but the annotations empty."""
    rows = [f"{k % 100 / 100:.3f},{-(k % 100) / 100:.3f}\n" for k in range(NUM_ROWS)]
    for number in range(NUM_CLIPS):
        name = f"video{number}"
        part = "Train_Set" if number < NUM_TRAIN else "Validation_Set"
        crops, batch = root / "cropped_aligned" / name, root / f"batch{number % 2 + 1}"
        for folder in (crops, batch, root / "VA_Estimation_Challenge" / part):
            folder.mkdir(parents=True, exist_ok=True)
        (batch / f"{name}.mp4").touch()
        for k in range(1, num_crops + 1):
            os.close(os.open(crops / f"{k:05d}.jpg", os.O_CREAT | os.O_WRONLY))
        if number < NUM_TRAIN + NUM_VALIDATION:
            path = root / "VA_Estimation_Challenge" / part / f"{name}.txt"
            path.write_text("".join(["valence,arousal\n", *rows]), encoding="utf-8")
    test = [f"video{number}\n" for number in range(NUM_TRAIN + NUM_VALIDATION, NUM_CLIPS)]
    (root / "VA_test_set_release.txt").write_text("".join(test), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder, which must be new")
    parser.add_argument("--crops", type=int, default=5000, help="per clip")
    arguments = parser.parse_args()
    root = arguments.out / "corpus"
    write_corpus(root, arguments.crops)
    begun = time.perf_counter(), time.process_time()
    report = prepare(AffWild2(), root, arguments.out / "prepared")
    wall_s, cpu_s = time.perf_counter() - begun[0], time.process_time() - begun[1]
    rows, crops = (sum(getattr(clip, name) or 0 for clip in report.clips) for name in ("num_label_rows", "num_crops"))
    print(f"{len(report.clips)} clips, {rows} label rows, {crops} crops: {cpu_s:.1f} s of CPU, {wall_s:.1f} s")


if __name__ == "__main__":
    main()
