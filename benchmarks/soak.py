"""Hours in one process: extract, train, predict, verify, again and again; memory, handles, threads and files stay flat.

    python benchmarks/soak.py [--hours 2] [--folder FOLDER] [--json]

Every turn makes a cache from small recordings, trains a model on a small cache with synthetic ground truth, predicts
all of its clips, verifies, collects garbage, and removes what it made. The figures compare the median of the last
quarter of the turns with that of the second: the first warms up.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sage_va.benchmarks.fault_cases import make_material
from sage_va.benchmarks.frame import Figure, add_json_option, save

SINK = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
SIGNS = ("memory_mb", "handles", "threads", "files", "seconds")


@dataclass(frozen=True)
class Turn:
    """State of the process after a turn: resident memory, open handles, threads, files that stayed, seconds it took."""

    number: int
    memory_mb: float
    handles: int
    threads: int
    files: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument(
        "--folder", type=Path, help="where to work, and to leave turns.csv; default: a temporary folder"
    )
    add_json_option(parser)
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="soak-"))).resolve()
    os.environ["SAGE_VA_CACHE"] = str(folder / "user")
    if not (folder / "material" / "whole").exists():
        make_material(folder / "material")
        (folder / "material" / "whole").touch()
    began_s = time.monotonic()
    turns = soak(folder, options.hours * 3600)
    drifts = figures(turns, (time.monotonic() - began_s) / 3600)
    for figure in drifts:
        print(f"{figure.name}: {figure.value:.3g} {figure.unit}")
    save(options.json, __file__, drifts)
    if options.folder is None:
        shutil.rmtree(folder)
    sys.exit(not all(figure.met is not False for figure in drifts))


def soak(folder: Path, seconds: float) -> list[Turn]:
    """Takes turns until the time is over; returns the state after each."""
    end_s, turns = time.monotonic() + seconds, list[Turn]()
    with (folder / "turns.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["number", *SIGNS])
        writer.writeheader()
        for number in itertools.count():
            if time.monotonic() > end_s and number >= 4:
                return turns
            began_s = time.monotonic()
            take_turn(folder / "material", folder / "work")
            turns.append(state(number, folder, time.monotonic() - began_s))
            writer.writerow(asdict(turns[-1]))
            file.flush()
    raise AssertionError


def take_turn(material: Path, work: Path) -> None:
    """Does once what a user does, and removes it."""
    work.mkdir()
    cache, run = str(work / "cache.zarr"), str(work / "run")
    trained_on = ("--labels", str(material / "labels"), "--config", str(material / "tiny.yaml"), "--device", "cpu")
    command("extract", str(material / "media"), "--out", cache, "--audio", "logmel", "--device", "cpu")
    command("cache", "verify", cache)
    command("train", str(material / "cache.zarr"), *trained_on, "--out", run)
    command("predict", run, str(material / "cache.zarr"), "--out", str(work / "predictions"), "--device", "cpu")
    command("cache", "gc", cache)
    shutil.rmtree(work)


def command(*words: str) -> None:
    """Runs a command line in this process, silently. click's CliRunner keeps its streams: 20 KB a turn."""
    from sage_va.cli import main as cli

    with contextlib.redirect_stdout(SINK), contextlib.redirect_stderr(SINK):
        code: object = 0
        try:
            cli(list(words), standalone_mode=False)
        except SystemExit as error:
            code = error.code
    assert not code, words


def state(number: int, folder: Path, seconds: float) -> Turn:
    """Returns the state of this process and of its folder, without what waits for the garbage collector."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    memory_mb = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    handles = len(os.listdir("/proc/self/fd"))
    files = sum(1 for path in folder.rglob("*") if path.is_file())
    return Turn(number, memory_mb, handles, threading.active_count(), files, seconds)


def figures(turns: Sequence[Turn], hours: float) -> list[Figure]:
    """Returns what drifted: medians of the last quarter against the second."""
    quarter = max(1, len(turns) // 4)
    early, late = turns[quarter : 2 * quarter], turns[-quarter:]

    def drift(sign: str) -> float:
        return statistics.median(getattr(one, sign) for one in late) - statistics.median(
            getattr(one, sign) for one in early
        )

    growth_mb = drift("memory_mb")
    per_turn_kb = 1024 * growth_mb / max(1, late[0].number - early[0].number)
    return [
        Figure("turns", len(turns)),
        Figure("duration", hours, "h"),
        Figure("memory, median of the last quarter less that of the second", growth_mb, "MB", at_most=50.0),
        Figure("memory per turn between these quarters", per_turn_kb, "KB"),
        Figure("open handles, the same difference", drift("handles"), at_most=0),
        Figure("threads, the same difference", drift("threads"), at_most=0),
        Figure("files, the same difference", drift("files"), at_most=0),
    ]


if __name__ == "__main__":
    main()
