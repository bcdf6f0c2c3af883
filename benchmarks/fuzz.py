"""Fuzzing of every parser: random changes of good files, led by coverage where atheris is installed.

    python benchmarks/fuzz.py [--seconds 60] [--only labels.csv …] [--json]

Each parser gets so many seconds in a process of its own. The promise is that of `tests/fuzz/targets.py`: it returns, or
raises InputError, in bounded time. What breaks it is written to `tests/fuzz/corpus/<parser>/`, where the tests replay
it; mend the parser, and keep the file. The extra `fuzz` (atheris, on Linux) adds guidance by coverage.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sage_va.benchmarks.frame import Figure, add_json_option, save

MOST_S = 10.0  # that one content may take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each parser")
    parser.add_argument("--only", nargs="*", default=[], help="names of parsers")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    add_json_option(parser)
    options = parser.parse_args()
    if options.one:
        fuzz(options.one, options.seconds)
        return
    from sage_va.tests.fuzz.targets import targets

    names = [target.name for target in targets() if not options.only or target.name in options.only]
    figures, broken = list[Figure](), 0
    for name in names:
        result = in_process(name, options.seconds)
        broken += result["broken"]
        print(f"{name}: {result['tried']} contents, {result['broken']} broke the promise", flush=True)
        figures.append(Figure(f"contents tried, {name}", result["tried"]))
    figures.append(Figure("contents that broke the promise", broken, at_most=0))
    save(options.json, __file__, figures)
    sys.exit(broken > 0)


def in_process(name: str, seconds: float) -> dict[str, int]:
    """Fuzzes one parser in a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"tried"')]
    if not lines:
        print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
        return {"tried": 0, "broken": 1}
    return json.loads(lines[-1])


class Trial:
    """Tries contents on one parser, and keeps what breaks the promise: one file for each place in our code."""

    def __init__(self, name: str, seconds: float) -> None:
        from sage_va.tests.fuzz import targets

        self.module = targets
        self.target = next(target for target in targets.targets() if target.name == name)
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.end_s, self.tried, self.places = time.monotonic() + seconds, 0, set[str]()

    def __call__(self, content: bytes) -> None:
        began_s = time.monotonic()
        try:
            self.module.run(self.target, content, self.folder)
            problem = "slow" if time.monotonic() - began_s > MOST_S else ""
        except Exception as error:
            problem = f"{type(error).__name__} {place_of(error)}"
            if problem not in self.places:
                print(f"{self.target.name}: {problem}: {str(error)[:200]}", file=sys.stderr)
        self.tried += 1
        if problem and problem not in self.places:
            self.places.add(problem)
            keep(self.module.CORPUS / self.target.name.replace("/", "-"), content)

    @property
    def over(self) -> bool:
        """True when the time is over."""
        return time.monotonic() > self.end_s

    def report(self) -> None:
        """Prints the result for the process above."""
        print(json.dumps({"tried": self.tried, "broken": len(self.places)}), flush=True)


def place_of(error: BaseException) -> str:
    """Returns file and line of the innermost call of ours."""
    place, trace = "", error.__traceback__
    while trace:
        name = trace.tb_frame.f_code.co_filename
        if "site-packages" not in name and "/lib/python" not in name:
            place = f"{Path(name).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def keep(folder: Path, content: bytes) -> None:
    """Writes a content under the start of its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha256(content).hexdigest()[:12]).write_bytes(content)


def fuzz(name: str, seconds: float) -> None:
    """Fuzzes one parser: guided by coverage every second time that a change is made, where atheris is there."""
    if importlib.util.find_spec("atheris") is None:
        trial = Trial(name, seconds)
        for content in trial.module.mutations(trial.target, seed=time.time_ns()):
            if trial.over:
                break
            trial(content)
        trial.report()
        return
    guided(name, seconds)


def guided(name: str, seconds: float) -> None:
    """Fuzzes with atheris: it sees which branches of our parsers a content reaches, and keeps those that reach more."""
    import os

    atheris: Any = importlib.import_module("atheris")

    with atheris.instrument_imports(include=["sage_va.data", "sage_va.fusion"]):
        trial = Trial(name, seconds)
    corpus = trial.folder / "corpus"
    for content in (*trial.target.seeds, *trial.module.saved(trial.target)):
        keep(corpus, content)
    changes = trial.module.mutations(trial.target, seed=time.time_ns())

    def change(content: bytes, most: int, seed: int) -> bytes:
        changed = next(changes) if seed % 2 else atheris.Mutate(content, len(content))
        return changed[:most]

    def one(content: bytes) -> None:
        trial(content)
        if trial.over:
            trial.report()
            os._exit(0)

    options = ["-close_fd_mask=0", "-max_len=65536", "-verbosity=0", "-timeout=60", str(corpus)]
    atheris.Setup([sys.argv[0], *options], one, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
