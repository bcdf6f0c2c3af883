"""Runs per hour of `compare` on all cores, this version against another one, in turns.

    git worktree add ../before v0.1.0                    # or another commit
    python benchmarks/fleet.py --against ../before       # 20 variants x 3 folds, about ten minutes on two idle cores
    python benchmarks/fleet.py --against ../before --dim 640 --variants sage,sage-no-stage,concat,late

Both versions compare the same variants on the same drawn cache (`synthetic.py`) with the preset tiny, as whole
commands: start, imports, loading, cross-fitting, training, scoring and the table. Runs per hour are of wall time. CPU
seconds a run count all processes of a command; other programs on the machine change them less, so the ratio is theirs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from sage_va.benchmarks.frame import ROOT, Figure, add_json_option, save
from sage_va.benchmarks.synthetic import SyntheticData, synthesise
from sage_va.fusion.models.variants import VARIANTS

TARGET = 2.0


@dataclass(frozen=True)
class Cost:
    """The cost of one command: its runs, wall seconds, and CPU seconds of all its processes."""

    num_runs: int
    wall_s: float
    cpu_s: float

    @property
    def runs_per_hour(self) -> float:
        """Finished runs per hour of wall time."""
        return 3600 * self.num_runs / self.wall_s

    @property
    def cpu_s_per_run(self) -> float:
        """CPU seconds of all processes, per finished run."""
        return self.cpu_s / self.num_runs


def compare_once(checkout: Path, data: Path, out: Path, options: argparse.Namespace) -> Cost:
    """Runs `sage-va compare` of a checkout on the drawn cache."""
    words = ["compare", data / "cache.zarr", "--labels", data / "labels", "--variants", options.variants, "--out", out]
    words += ["--seeds", options.seeds, "--folds", options.folds, "--preset", "tiny", "--device", options.device]
    words += ["--jobs", options.jobs] if options.jobs else []
    environment = {**os.environ, "PYTHONPATH": str(checkout / ".pkg"), "SAGE_VA_CACHE": str(data / "user")}
    command = [sys.executable, "-m", "sage_va.cli", *map(str, words)]
    started, before = perf_counter(), os.times()
    subprocess.run(command, env=environment, cwd=data, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(len(list(out.rglob("score.json"))), perf_counter() - started, cpu_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, help="checkout of the other version")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--jobs", type=int, help="default: that of compare, one per core")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a clip")
    parser.add_argument("--dim", type=int, default=16, help="of each of the two streams")
    parser.add_argument("--rounds", type=int, default=1)
    add_json_option(parser)
    options = parser.parse_args()
    checkouts = {"before": options.against.resolve(), "now": ROOT}
    costs = defaultdict[str, list[Cost]](list)
    with tempfile.TemporaryDirectory() as folder:
        drawn = {"clips": options.clips, "subjects": options.clips, "seconds": options.seconds, "dim": options.dim}
        synthesise(Path(folder), SyntheticData(**drawn))
        for number in range(options.rounds):
            for name, checkout in list(checkouts.items())[:: -1 if number % 2 else 1]:
                cost = compare_once(checkout, Path(folder), Path(folder) / f"{name}-{number}", options)
                costs[name].append(cost)
                print(
                    f"round {number}, {name:6}: {cost.num_runs} runs, {cost.runs_per_hour:.0f} an hour, "
                    f"{cost.cpu_s_per_run:.2f} CPU s a run",
                    flush=True,
                )
    hourly = {name: statistics.median(cost.runs_per_hour for cost in each) for name, each in costs.items()}
    cpu_s = {name: statistics.median(cost.cpu_s_per_run for cost in each) for name, each in costs.items()}
    gain = cpu_s["before"] / cpu_s["now"]
    print(f"CPU seconds a run: {cpu_s['before']:.2f} before, {cpu_s['now']:.2f} now: {gain:.2f} x the runs")
    figures = [Figure(f"runs per hour, {name}", round(value), "") for name, value in hourly.items()]
    figures += [Figure(f"CPU seconds a run, {name}", round(value, 2), "s") for name, value in cpu_s.items()]
    save(options.json, __file__, [*figures, Figure("runs per CPU second, now : before", round(gain, 2), "x", TARGET)])


if __name__ == "__main__":
    main()
