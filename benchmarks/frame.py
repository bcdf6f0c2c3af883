"""Figures with targets, and the JSON that a benchmark writes of them: machine, versions, commit, command, date.

A benchmark fits in with three lines:

    parser = argparse.ArgumentParser(...)
    add_json_option(parser)                                     # --json: also write benchmarks/results/<program>.json
    ...
    save(options.json, __file__, [Figure("windows by raw memory map", 1.02, "x", at_least=1.0)])

and a line in PROGRAMS of bench.py, which runs all of them and writes docs/performance.md from the JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sage_va.data.machine import num_cores

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("numpy", "torch", "av", "opencv-python-headless", "timm", "transformers", "zarr", "h5py", "torchmetrics")
STARTED = datetime.now(UTC)


@dataclass(frozen=True)
class Figure:
    """One measured number, and the target that it is held against.

    Args:
        name: what was measured, unique in its program; for people.
        value: None where it cannot be measured on this machine (a GPU figure on a CPU machine).
        unit: `s`, `x` (a ratio), `%`, `ms`, …; "" for a count.
        at_least: target; None = there is none from below.
        at_most: target; None = there is none from above.
        note: what limits or explains the figure, in one sentence.
    """

    name: str
    value: float | None
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Returns None where there is no target or no value."""
        if self.value is None or (self.at_least is None and self.at_most is None):
            return None
        low, high = self.at_least, self.at_most
        return (low is None or self.value >= low) and (high is None or self.value <= high)


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--json`."""
    parser.add_argument("--json", action="store_true", help="also write the figures to benchmarks/results/")


def save(wanted: bool, program: str, figures: Sequence[Figure], results: Path = RESULTS) -> None:
    """Writes the JSON of a program, in place of an older one; does nothing where it is not wanted.

    Args:
        wanted: value of `--json`.
        program: `__file__` of the benchmark.
        figures: with different names.
        results: the folder for the JSON.
    """
    if not wanted:
        return
    assert len({figure.name for figure in figures}) == len(figures), "a name stands for one figure"
    assert all(figure.value is None or math.isfinite(figure.value) for figure in figures), "JSON has no NaN"
    results.mkdir(exist_ok=True)
    content = {**facts(program), "figures": [asdict(figure) for figure in figures]}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    (results / f"{Path(program).stem}.json").write_text(f"{text}\n", encoding="utf-8")


def figures_of(result: Mapping[str, Any]) -> list[Figure]:
    """Returns the figures in the JSON of a program."""
    return [Figure(**figure) for figure in result["figures"]]


def value_of(program: str, name: str) -> float:
    """Returns a measured figure by the name of its program and its own, for a program that builds on it.

    Raises:
        LookupError: if it has not been measured.
    """
    result = json.loads((RESULTS / f"{program}.json").read_text(encoding="utf-8"))
    for figure in figures_of(result):
        if figure.name == name and figure.value is not None:
            return figure.value
    raise LookupError(f"{program}: {name}")


def facts(program: str) -> dict[str, Any]:
    """Returns what a figure depends on besides the code: command, time, commit, machine and versions."""
    words = [word for word in sys.argv[1:] if word != "--json"]
    return {
        "command": " ".join(["python", f"benchmarks/{Path(program).name}", *words]),
        "date": STARTED.strftime("%Y-%m-%d"),
        "seconds": round((datetime.now(UTC) - STARTED).total_seconds()),
        "commit": commit(),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **versions()},
    }


def commit() -> str:
    """Returns the checkout's commit, with `+ changes` where Python files differ from it; "" outside of a checkout."""
    try:
        head = _git("rev-parse", "--short=10", "HEAD").strip()
        return f"{head} + changes" if _git("status", "--porcelain", "--", "*.py") else head
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def machine() -> dict[str, Any]:
    """Returns processor, cores, memory, system, accelerator, and the load of other programs at the start."""
    cpu = re.search(r"model name\s*: (.*)", _text("/proc/cpuinfo"))
    memory_kb = re.search(r"MemTotal:\s*(\d+)", _text("/proc/meminfo"))
    flags = {"avx2", "avx512f", "avx512_bf16", "amx_tile"} & set(_text("/proc/cpuinfo").split())
    return {
        "cpu": " ".join([cpu[1] if cpu else platform.processor(), f"({', '.join(sorted(flags)) or 'no AVX2'})"]),
        "cores": num_cores(),
        "memory_gb": round(int(memory_kb[1]) / 2**20) if memory_kb else None,
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "gpu": _gpu(),
        "load_at_start": round(LOAD, 1),
    }


LOAD = os.getloadavg()[0]


def _gpu() -> str | None:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True
        )
    except OSError:
        return None
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def versions() -> dict[str, str]:
    """Returns the versions of the packages that matter for speed, of those that are installed."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed
