"""Kills: every verb that writes is ended by SIGKILL, again and again, and must then end as if nothing had happened.

    python benchmarks/faults.py [--kills 1000] [--only VERB …] [--folder FOLDER] [--json]      (or: make faults)

A verb runs on small data in a process of its own and is killed at a random moment: a quarter of the time at a moment
drawn evenly over its run, else shortly after one of its calls that open a file for writing, rename, make or remove.
After up to four such kills in one folder, each followed by a check that what is there is whole, the same command runs
to its end. The result is compared with that of a run that was left alone: byte by byte, or, where the layout makes the
bytes differ, by content. `--folder` keeps the work, and rounds that are done are not repeated.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sage_va.benchmarks.fault_cases import CASES, Case, make_material
from sage_va.benchmarks.frame import Figure, add_json_option, save
from sage_va.cli import VERBS

TIME_LIMIT_S = 600.0
BY_EVENT = 0.75  # of the kills follow a call that changes files; the others come at any time
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod"}
LAST_S: dict[str, float] = {}  # of each case, the seconds of the last run that ended before its kill
HEAVY = ("torch", "av", "h5py", "zarr", "icechunk", "optuna", "matplotlib.pyplot", "safetensors.torch")
ROOMS = ("api", "extract.engine.pipeline", "extract.encoders.librosa_encoders", "fusion.experiments.sweep")


@dataclass(frozen=True)
class Round:
    """One folder: how often its command was killed, and whether the end was that of a run left alone."""

    case: str
    seed: int
    kills: int
    finished_early: int
    damaged: int
    equal: bool
    problem: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="in total, in equal parts for all cases")
    parser.add_argument("--only", nargs="*", default=[], help="verbs, or verb:store")
    parser.add_argument("--folder", type=Path, help="where to work; one that is there is resumed")
    add_json_option(parser)
    options = parser.parse_args()
    cases = [case for case in CASES if not options.only or {case.verb, case.name} & set(options.only)]
    folder = options.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    rounds = run_cases(folder.resolve(), cases, options.kills)
    print(table(cases, rounds))
    save(options.json, __file__, figures(cases, rounds))
    if options.folder is None:
        shutil.rmtree(folder)
    sys.exit(not all(one.equal and not one.damaged for one in rounds))


def run_cases(folder: Path, cases: Sequence[Case], num_kills: int) -> list[Round]:
    """Kills until every case has its part; returns all rounds, those of earlier calls too."""
    folder.mkdir(parents=True, exist_ok=True)
    preload()
    if not (folder / "material" / "whole").exists():
        shutil.rmtree(folder / "material", ignore_errors=True)
        in_process(folder, lambda: make_material(folder / "material"))
        (folder / "material" / "whole").touch()
    rounds = list(recorded(folder))
    wanted = -(-num_kills // len(cases))
    for case in cases:
        done = sum(one.kills for one in rounds if one.case == case.name)
        seed = sum(one.case == case.name for one in rounds)
        while done < wanted and seed < 2 * wanted:
            one = kill_and_resume(folder, case, seed, wanted - done)
            with (folder / "rounds.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(one)) + "\n")
            rounds.append(one)
            done, seed = done + one.kills, seed + 1
        print(table([case], rounds).splitlines()[-1], flush=True)
    names = {case.name for case in cases}
    return [one for one in rounds if one.case in names]


def recorded(folder: Path) -> Iterator[Round]:
    """Yields the rounds of earlier calls."""
    if (folder / "rounds.jsonl").exists():
        for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines():
            yield Round(**json.loads(line))


def preload() -> None:
    """Imports what the verbs need, librosa's compiled functions too: every process is a fork of this one."""
    for name in HEAVY:
        importlib.import_module(name)
    for name in (*(f"commands.{place.partition(':')[0]}" for place in VERBS.values()), *ROOMS):
        importlib.import_module(f"sage_va.{name}")


def kill_and_resume(folder: Path, case: Case, seed: int, most: int) -> Round:
    """Kills a command a few times in one folder, lets it end, and compares."""
    chance = random.Random(f"{case.name} {seed}")
    whole = left_alone(folder, case)
    place = folder / "work" / f"{case.folder}-{seed}"
    shutil.rmtree(place, ignore_errors=True)
    start(folder, case, place)
    kills = early = damaged = 0
    problem = ""
    for _ in range(min(case.most_kills, most)):
        began_s = time.monotonic()
        seconds: float = LAST_S[case.name] if case.name in LAST_S else whole["seconds"]
        if not killed(place, case, chance, whole["events"], seconds):
            LAST_S[case.name] = time.monotonic() - began_s
            early += 1
            break
        kills += 1
        wrong = in_process(place, lambda: case.problems(place))
        damaged, problem = damaged + bool(wrong), problem or wrong
    code = run_verb(place, case)
    end = state_of(place, case)
    equal = code == whole["code"] and end == whole["state"]
    if not equal:
        problem = problem or f"exit {code}; " + difference(whole["state"], end)
    if equal and not damaged:
        shutil.rmtree(place)
    return Round(case.name, seed, kills, early, damaged, equal, problem)


def left_alone(folder: Path, case: Case) -> dict[str, Any]:
    """Returns code, state, seconds and number of calls of a run that is not interrupted; kept beside its folder."""
    path = folder / f"{case.folder}.whole.json"
    if not path.exists():
        place = folder / "whole" / case.folder
        shutil.rmtree(place, ignore_errors=True)
        start(folder, case, place)
        began_s = time.monotonic()
        code = run_verb(place, case, counted=place / ".events")
        seconds = time.monotonic() - began_s
        assert code in case.codes, f"{case.name}: exit code {code}:\n{(place / '.log').read_text()[-2000:]}"
        events = int((place / ".events").read_text())
        facts = {"code": code, "state": state_of(place, case), "seconds": seconds, "events": events}
        path.write_text(json.dumps(facts), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def start(folder: Path, case: Case, place: Path) -> None:
    """Copies what a case begins with."""
    place.mkdir(parents=True)
    for name in case.needs:
        source = folder / "material" / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, place / name)


def state_of(place: Path, case: Case) -> dict[str, str]:
    """Returns the state of a folder, as a process of its own sees it."""
    return json.loads(in_process(place, lambda: json.dumps(case.state(place))))


def difference(expected: dict[str, str], got: dict[str, str]) -> str:
    """Returns the first names that differ."""
    names = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
    return ", ".join(names[:5])


def killed(place: Path, case: Case, chance: random.Random, num_events: int, seconds: float) -> bool:
    """Runs a verb and kills it at a random moment; False where it ended before."""
    by_event = num_events > 3 and chance.random() < BY_EVENT
    number = chance.randint(1, num_events) if by_event else 0
    delay_s = chance.uniform(0, 1.5 * seconds / num_events) if by_event else chance.uniform(0, 0.8 * seconds)
    reader, writer = os.pipe()
    pid = fork(place, lambda: verb(case), counter(number, lambda: os.write(writer, b"!")))
    os.close(writer)
    if by_event:
        select.select([reader], [], [], TIME_LIMIT_S)
    ended = wait(pid, min(delay_s, TIME_LIMIT_S))
    os.close(reader)
    return ended is None


def run_verb(place: Path, case: Case, counted: Path | None = None) -> int:
    """Runs a verb to its end; returns its exit code, -1 where it hangs."""
    count = counter(0, lambda: None)
    body = (lambda: (verb(case), counted.write_text(str(count.number)))[0]) if counted else (lambda: verb(case))
    code = wait(fork(place, body, count), TIME_LIMIT_S)
    return -1 if code is None else code


def verb(case: Case) -> int:
    """Runs the command line in this process; returns its exit code."""
    from sage_va.cli import main

    case.settle()
    try:
        main([*case.command], standalone_mode=False)
    except SystemExit as error:
        return int(error.code or 0)
    return 0


class counter:  # noqa: N801 - a function with a memory
    """Counts calls that change files, as Python's audit sees them; at the `target`-th, acts."""

    def __init__(self, target: int, act: Callable[[], object]) -> None:
        self.number, self.target, self.act = 0, target, act

    def __call__(self, event: str, words: tuple) -> None:
        if event in CHANGES or (event == "open" and isinstance(words[2], int) and words[2] & WRITES):
            self.number += 1
            if self.number == self.target:
                self.act()


def fork(place: Path, body: Callable[[], int], hook: counter | None = None) -> int:
    """Starts a process group that runs `body` in a folder; returns its id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        os.chdir(place)
        os.environ["SAGE_VA_CACHE"] = str(place / ".user")
        log = os.open(place / ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if hook:
            sys.addaudithook(hook)
        code = body()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, seconds: float) -> int | None:
    """Returns the exit code of a process; None where it had to be killed after so many seconds."""
    descriptor = os.pidfd_open(pid)
    try:
        ended = bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)
    if not ended:
        os.killpg(pid, signal.SIGKILL) if os.getpgid(pid) == pid else os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    return (
        None if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else os.waitstatus_to_exitcode(status)
    )


def in_process(place: Path, body: Callable[[], object]) -> str:
    """Runs something in a process of its own, and returns its text."""
    reader, writer = os.pipe()

    def send() -> int:
        with os.fdopen(writer, "w", encoding="utf-8") as file:
            file.write(str(body() or ""))
        return 0

    pid = fork(place, send)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as file:
        text = file.read()
    code = wait(pid, TIME_LIMIT_S)
    assert code == 0, f"{place}: exit code {code}:\n{(place / '.log').read_text()[-2000:]}"
    return text


def table(cases: Sequence[Case], rounds: Sequence[Round]) -> str:
    """Returns a row for each verb and store, of the folders in which something was killed."""
    lines = [
        "| verb | store | kills | resumed | equal | by | damaged or lost |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    sums: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for one in (one for one in rounds if one.kills):
        sums[one.case].update(kills=one.kills, resumed=1, equal=int(one.equal), lost=one.damaged + (not one.equal))
    for case in cases:
        row = sums[case.name]
        cells = [case.verb, case.store, row["kills"], row["resumed"], row["equal"], case.compared_by, row["lost"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def figures(cases: Sequence[Case], rounds: Sequence[Round]) -> list[Figure]:
    """Returns the figures of all cases."""
    total = [
        Figure("kills", sum(one.kills for one in rounds), at_least=1000),
        Figure("folders that ended otherwise than one left alone", sum(not one.equal for one in rounds), at_most=0),
        Figure("kills after which something was damaged", sum(one.damaged for one in rounds), at_most=0),
    ]
    for case in cases:
        kills = sum(one.kills for one in rounds if one.case == case.name)
        total.append(Figure(f"kills of {case.verb}, {case.store}", kills, note=f"compared by {case.compared_by}"))
    return total


if __name__ == "__main__":
    main()
