"""Comparison of variants over seeds and folds, cell by cell, so that it can be stopped and resumed: `sage-va compare`.

    lock OUT --> plan all cells --> check every cell --> work through the open ones --> tabulate --> write the table
        |                                |                    |              |
        held by another: refused         other settings:      a cell fails:  Ctrl-C: no table; the same command
                                         refused              listed         resumes with the cells that are left

A worker takes one cell after the other; see runs.py for the states of a cell. Local workers ignore Ctrl-C: the parent
ends them, and they end when the parent dies.

Parts of a comparison (`--shard K/N`) share the lock, and a whole one excludes all others. The last part to end makes
the table: it finds that no cell is open, and that it can have the lock alone. If two end at once, one of them can.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from ...data.atomic import try_lock
from ...data.errors import InputError, first_line
from ...data.shard import part_of
from ...data.store.base import Store
from ...data.windows.memmap_cache import address_of
from ..config import Config, check_config
from ..result import Result
from ..run_folder import SPLIT
from ..training.labelled import settle_grid, settle_split
from .runs import SCORE, Bench, BenchSettings, Cell, plan, read_score
from .table import ComparisonTable, tabulate
from .table_files import write_table
from .workers import Work, Workers, find_workers

LOCK, ERRORS = ".lock", ".crossfit"
CellProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class FailedCell(Result):
    """A cell that failed: its folder, and why."""

    cell: str
    reason: str


@dataclass(frozen=True)
class Comparison(Result):
    """The result of `compare`.

    num_trained: cells done in this call; num_skipped: those done before. unlabelled: clips without labels; unused:
    label files without a clip. left_out: a line for each clip with a malformed record. table: None after Ctrl-C, and
    for a part while others are open.
    """

    out: str
    num_cells: int
    num_trained: int
    num_skipped: int
    unlabelled: list[str]
    unused: list[str]
    left_out: list[str]
    failures: list[FailedCell]
    interrupted: bool
    table: ComparisonTable | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields, and those of the table beside them, as plain values; no rows without a table."""
        values = super().to_json()
        table = values.pop("table")
        return {**values, **(table or {"rows": []})}


def compare(
    store: Store,
    labels: Path,
    out: Path,
    config: Config,
    variants: Sequence[str],
    *,
    num_seeds: int = 5,
    folds: int | None = None,
    base: str | None = None,
    jobs: int | None = None,
    device: str = "cpu",
    engine: str = "local",
    ray_address: str | None = None,
    shard: str | None = None,
    progress: CellProgress = lambda num_done, num_cells: None,
) -> Comparison:
    """Trains and scores each variant with each seed (on each fold), and writes one table of all.

    A seed decides the split besides the weights: all variants of a seed share folds, and seeds have different ones.
    With folds, every clip is tested once per seed. Cells that are done in `out` are not done again.

    Args:
        store: the feature cache.
        labels: folder of label files.
        out: folder of the runs, `VARIANT/seed-S` or `VARIANT/seed-S/fold-K`, and of the table.
        config: of every cell, but for variant, seed and fold.
        variants: names, the rows of the table.
        num_seeds: seeds 0, 1, ….
        folds: cross-validation; None = as `config.split` says.
        base: the variant that the others are compared with; None = `concat` if it takes part, else the first.
        jobs: processes; None = one per core, or one where the device is no CPU; on Ray, as many as there is room for.
        device: where to compute; on Ray "auto", "cpu" or "cuda".
        engine: "local", or "ray" for the workers of a cluster.
        ray_address: of the cluster; None = the one of this machine, or a new one.
        shard: `K/N` = only the K-th of N parts of the cells.
        progress: called with the number of open cells that are done, and of all open cells.

    Raises:
        InputError: if variants, clips and split do not go together, or `out` holds other results.
    """
    names = list(dict.fromkeys(variants))
    base = base or ("concat" if "concat" in names else names[0])
    if base not in names:
        raise InputError("--base", expected=f"one of {', '.join(names)}", got=base, todo="Add it to --variants.")
    folds = folds or (config.split.folds if config.split.fold is None else None)
    with contextlib.closing(find_workers(engine, jobs=jobs, device=device, ray_address=ray_address)) as workers:
        config = settle_split(workers.settled(config), store, labels, drawn=folds is not None)
        config, _ = settle_grid(config, store, labels)
        cells = plan(config, names, num_seeds, folds, out)
        part = cells if shard is None else part_of(cells, shard)
        with _locked(out, shard is None) as lock:
            streams, errors = of_all(store, config, names), out.resolve() / ERRORS
            bench = Bench(BenchSettings(address_of(store), labels.resolve(), streams, workers.device, errors))
            for cell in cells:
                bench.check(cell)
            comparison = _done(workers, bench, part, str(out), progress)
            if comparison.interrupted or not (shard is None or _is_last(lock, cells)):
                return comparison
            table = tabulate([read_score(cell.path / SCORE) for cell in cells if cell.done], names, base, folds)
            comparison = replace(comparison, table=table)
            write_table(table, out, comparison.to_json())
            return comparison


def _is_last(lock: IO[str], cells: Sequence[Cell]) -> bool:
    """Returns True if no cell is open, nor any other part of the comparison at work; the lock is then exclusive."""
    return all(cell.done for cell in cells) and try_lock(lock, fcntl.LOCK_EX)


def _done(workers: Workers, bench: Bench, cells: Sequence[Cell], out: str, progress: CellProgress) -> Comparison:
    """Works through the open ones of some cells; returns the comparison so far, without a table."""
    left = [cell for cell in cells if not cell.done]
    failures, interrupted = _work(workers, bench, left, progress)
    return Comparison(
        out,
        num_cells=len(cells),
        num_trained=sum(cell.done for cell in left),
        num_skipped=len(cells) - len(left),
        unlabelled=bench.labelled.unlabelled,
        unused=bench.labelled.unused,
        left_out=bench.labelled.left_out,
        failures=failures,
        interrupted=interrupted,
    )


def of_all(store: Store, config: Config, variants: Sequence[str]) -> Config:
    """Returns a configuration with the streams of all variants: `concat` takes every one, a single variant its own."""
    num_streams = len(config.data.streams) or len({name.split("/")[0] for name in store.streams()})
    variant = variants[0] if num_streams < 2 else "concat"
    return check_config({**config.model_dump(), "model": {"variant": variant}}, variant)


def _work(
    workers: Workers, bench: Bench, cells: Sequence[Cell], progress: CellProgress
) -> tuple[list[FailedCell], bool]:
    """Works through cells; returns those that failed, and True if Ctrl-C ended it."""
    failures = list[FailedCell]()
    here, there = functools.partial(_attempt, bench), functools.partial(_in_worker, bench.settings)
    ended = workers.spread(Work(here, there, cells, bench.waits, lambda cell, reason: reason))
    try:
        progress(0, len(cells))
        for num_done, (cell, reason) in enumerate(ended, 1):
            if reason is not None:
                failures.append(FailedCell(str(cell.path), reason))
            progress(num_done, len(cells))
    except KeyboardInterrupt:
        return failures, True
    finally:
        ended.close()
    return failures, False


bench_of = functools.lru_cache(maxsize=1)(Bench)


def _in_worker(settings: BenchSettings, cell: Cell) -> str | None:
    return _attempt(bench_of(settings), cell)


def _attempt(bench: Bench, cell: Cell) -> str | None:
    try:
        bench.do(cell)
    except InputError as error:
        return str(error)
    except Exception as error:  # of a variant of the user's own, or of the device
        return first_line(error)
    return None


@contextlib.contextmanager
def _locked(out: Path, alone: bool) -> Iterator[IO[str]]:
    """Locks the folder: a comparison is alone in it, and so are all parts of one; yields the file of the lock."""
    if out.is_file() or (out / SPLIT).exists():
        got = "a file" if out.is_file() else "a run"
        raise InputError(out, expected="the folder of a comparison", got=got, todo="Choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("w") as file:
        if not try_lock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
            todo = "Wait for it, or choose another --out."
            raise InputError(out, "another comparison is at work in this folder", todo=todo)
        yield file
