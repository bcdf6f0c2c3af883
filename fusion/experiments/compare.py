"""`sage-va compare`: variants side by side over seeds and folds, cell by cell, so that it can be stopped and go on."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import torch

from ...data.errors import InputError, first_line
from ...data.machine import num_cores
from ...data.store.base import Store
from ...data.windows.memmap_cache import address_of
from ..config import Config, check_config
from ..run_folder import SPLIT
from ..training.labelled import settle_split
from ..training.trainer import settled
from .runs import SCORE, Bench, Cell, Job, plan, read_json
from .table import tabulate, write_table

LOCK = ".lock"
Progress = Callable[[int, int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


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
    progress: Progress = lambda num_done, num_cells: None,
) -> dict[str, Any]:
    """Trains and scores each variant with each seed (on each fold), and writes one table of all.

    A seed decides the split besides the weights: all variants of a seed share folds, and seeds have different ones.
    With folds, every clip is tested once per seed. What `out` holds already is not done again.

    Args:
        store: the feature cache.
        labels: folder of label files.
        out: folder of the runs, `VARIANT/seed-S` or `VARIANT/seed-S/fold-K`, and of the table.
        config: of every cell, but for variant, seed and fold.
        variants: names, the rows of the table.
        num_seeds: seeds 0, 1, ….
        folds: cross-validation; None = as `config.split` says.
        base: what the others are compared with; None = `concat` if it takes part, else the first.
        jobs: processes; None = one per core, or one where the device is no CPU.
        device: where to compute.
        progress: told how many of the open cells are through.

    Returns:
        The table (see `tabulate`) with `out`, `num_cells`, `num_trained`, `failures`, `interrupted`. After Ctrl-C there
        is no table: `rows` is empty.

    Raises:
        InputError: if variants, clips and split do not go together, or `out` holds other results.
    """
    names = list(dict.fromkeys(variants))
    base = base or ("concat" if "concat" in names else names[0])
    if base not in names:
        raise InputError("--base", expected=f"one of {', '.join(names)}", got=base, todo="Add it to --variants.")
    folds = folds or (config.split.folds if config.split.fold is None else None)
    config = settle_split(settled(config, torch.device(device)), store, labels, drawn=folds is not None)
    cells = plan(config, names, num_seeds, folds, out)
    with _alone(out):
        bench = Bench(Job(address_of(store), labels.resolve(), of_all(store, config, names), device))
        for cell in cells:
            bench.check(cell)
        left = [cell for cell in cells if not cell.done]
        failures, interrupted = _work(bench, left, jobs or num_jobs(device), progress)
        found = {
            "out": str(out),
            "num_cells": len(cells),
            "num_trained": sum(cell.done for cell in left),
            "num_skipped": len(cells) - len(left),
            "unlabelled": bench.found.unlabelled,
            "unused": bench.found.unused,
            "failures": failures,
            "interrupted": interrupted,
        }
        if interrupted:
            return {**found, "rows": []}
        found |= tabulate([read_json(cell.path / SCORE) for cell in cells if cell.done], names, base, folds)
        write_table(found, out)
        return found


def of_all(store: Store, config: Config, variants: Sequence[str]) -> Config:
    """A configuration whose streams are those of all variants: `concat` takes every one, a single variant its own."""
    num_streams = len(config.data.streams) or len({name.split("/")[0] for name in store.streams()})
    variant = variants[0] if num_streams < 2 else "concat"
    return check_config({**config.model_dump(), "model": {"variant": variant}}, variant)


def _work(bench: Bench, cells: Sequence[Cell], jobs: int, progress: Progress) -> tuple[list[dict[str, str]], bool]:
    """Does cells; returns those that failed, each with its reason, and whether Ctrl-C ended it."""
    failures = []
    if jobs == 1:
        ended = in_this_process(functools.partial(_attempt, bench), cells)
    else:
        ended = in_processes(functools.partial(_in_worker, bench.job), cells, jobs)
    try:
        progress(0, len(cells))
        for num_done, (cell, reason) in enumerate(ended, 1):
            if reason is not None:
                failures.append({"cell": str(cell.path), "reason": reason})
            progress(num_done, len(cells))
    except KeyboardInterrupt:
        return failures, True
    finally:
        ended.close()
    return failures, False


def in_this_process(do: Callable[[Item], Result], items: Sequence[Item]) -> Generator[tuple[Item, Result], None, None]:
    """Each item with what `do` makes of it, by one thread as in a worker: the number of threads changes last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for item in items:
            yield item, do(item)
    finally:
        torch.set_num_threads(before)


def in_processes(
    do: Callable[[Item], Result], items: Sequence[Item], jobs: int
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with what `do` makes of it in one of so many processes, as they end.

    Raises:
        InputError: if a process dies.
    """
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(jobs, len(items)) or 1, multiprocessing.get_context("spawn"), _begin)
    try:
        doing = {pool.submit(do, item): item for item in items}
        for future in as_completed(doing):
            yield doing[future], future.result()
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        if not isinstance(error, BrokenProcessPool):
            raise
        todo = "Lower --jobs if memory ran out, and run it again: what is done is kept."
        raise InputError(f"--jobs {jobs}", expected="processes that live", got="one that died", todo=todo) from None
    pool.shutdown()


def _begin() -> None:
    """A worker leaves Ctrl-C to its parent, ends with it, and takes one core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


bench_of = functools.lru_cache(maxsize=1)(Bench)


def _in_worker(job: Job, cell: Cell) -> str | None:
    return _attempt(bench_of(job), cell)


def _attempt(bench: Bench, cell: Cell) -> str | None:
    try:
        bench.do(cell)
    except InputError as error:
        return str(error)
    except Exception as error:  # what a variant of the user's own does, or the device
        return first_line(error)
    return None


def num_jobs(device: str) -> int:
    """How many processes are at work unless somebody says so: one per core, or one where the device is no CPU."""
    if device != "cpu":
        return 1
    return num_cores()


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keeps a second comparison out of the folder, which would clear what is in work here."""
    if out.is_file() or (out / SPLIT).exists():
        got = "a file" if out.is_file() else "a run"
        raise InputError(out, expected="the folder of a comparison", got=got, todo="Choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            todo = "Wait for it, or choose another --out."
            raise InputError(out, expected="no comparison at work", got="one", todo=todo) from None
        except OSError:  # a file system without locks
            pass
        yield
