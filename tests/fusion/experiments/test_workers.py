"""Comparisons and sweeps on a Ray cluster and in parts: the same results as in one process, whatever is lost."""

import contextlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sage_va.cli import main
from sage_va.commands.compare import describe_comparison
from sage_va.data import InputError, open_store
from sage_va.fusion.config import Config, check_config
from sage_va.fusion.experiments import ray_workers
from sage_va.fusion.experiments.compare import Comparison, compare
from sage_va.fusion.experiments.ray_workers import RayWorkers
from sage_va.fusion.experiments.search_space import load_space
from sage_va.fusion.experiments.workers import Work, in_processes, in_this_process
from sage_va.tests.synthetic import make_cache, tiny

SHORT = {"epochs": 2, "crossfit_epochs": 1, "crossfit_folds": 2}
LONG = {**SHORT, "epochs": 60, "patience": 60}
SMALL = {"dim": 8, "tcn_blocks": 1, "layers": 0}
OF_A_CALL = {"out", "num_cells", "num_trained", "num_skipped"}
Place = tuple[Path, Path]


def config_of(**train: Any) -> Config:
    return check_config(tiny(train={**SHORT, **train}, model=SMALL), "test")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_cache(tmp_path_factory.mktemp("cache"), num_clips=6, seconds=2.4)


def compared(cache: Place, out: Path, config: Config | None = None, **options: Any) -> Comparison:
    settings: dict[str, Any] = {"num_seeds": 1, "folds": 3, "jobs": 1, **options}
    return compare(open_store(cache[0]), cache[1], out, config or config_of(), ["sage", "concat"], **settings)


def same(out: Path, other: Path) -> None:
    """Fails unless two comparisons have the same models, scores and table, but for seconds."""
    models = sorted(path.relative_to(other) for path in other.rglob("model.safetensors"))
    assert models
    assert models == sorted(path.relative_to(out) for path in out.rglob("model.safetensors"))
    assert all((out / path).read_bytes() == (other / path).read_bytes() for path in models)
    scores = sorted(other.rglob("score.json"))
    assert all(timeless(path) == timeless(out / path.relative_to(other)) for path in scores)
    assert timeless(out / "table.json") == timeless(other / "table.json")


def timeless(path: Path) -> Any:
    values = json.loads(re.sub(r'"seconds(_per_cell)?": [\d.e-]+', '"seconds": 0', path.read_text(encoding="utf-8")))
    return {key: value for key, value in values.items() if key not in OF_A_CALL}


# Parts


def test_the_last_part_makes_the_table(cache: Place, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    compared(cache, whole)
    results = [compared(cache, parts, shard=f"{number}/4") for number in (3, 1, 4, 2)]
    assert [result.num_cells for result in results] == [1, 2, 1, 2]
    assert [result.num_trained for result in results] == [1, 2, 1, 2]
    assert [result.table is None for result in results] == [True, True, True, False]
    assert "no table yet: the last part to end makes it" in describe_comparison(results[0])
    assert results[-1].table is not None
    same(parts, whole)
    again = compared(cache, parts, shard="1/4")
    assert (again.num_trained, again.table == results[-1].table) == (0, True)


def test_a_whole_comparison_makes_the_table_of_parts(cache: Place, tmp_path: Path) -> None:
    config = config_of(epochs=1)
    assert compared(cache, tmp_path / "out", config, shard="1/2").table is None
    (tmp_path / "out/sage/seed-0/fold-0/score.json").unlink()  # as if it had failed
    assert compared(cache, tmp_path / "out", config, shard="2/2").table is None
    result = compared(cache, tmp_path / "out", config)
    assert (result.num_cells, result.num_trained, result.table is None) == (6, 1, False)


def test_parts_work_beside_each_other_and_a_whole_comparison_alone(cache: Place, tmp_path: Path) -> None:
    refusals, out = list[str](), tmp_path / "out"

    def during(num_done: int, num_cells: int) -> None:
        if num_done == 0:
            assert compared(cache, out, config_of(epochs=1), shard="2/2").table is None
            with pytest.raises(InputError) as error:
                compared(cache, out, config_of(epochs=1))
            refusals.append(str(error.value))

    result = compared(cache, out, config_of(epochs=1), shard="1/2", progress=during)
    assert ["another comparison is at work in this folder" in text for text in refusals] == [True]
    assert (result.num_trained, result.table is None) == (3, False)


def test_a_part_that_is_none_is_refused(cache: Place, tmp_path: Path) -> None:
    command = ["compare", cache[0], "--labels", cache[1], "--variants", "visual", "--out", tmp_path / "out"]
    result = CliRunner().invoke(main, [str(word) for word in [*command, "--shard", "3/2"]])
    assert result.exit_code == 1
    assert "--shard: expected K/N with K from 1 to N, got '3/2'" in result.output


# The order of work


def test_items_that_would_wait_are_passed() -> None:
    waiting = {"b", "c"}
    order = [item for item, _ in in_this_process(str.upper, ["a", "b", "c", "d"], lambda item, _: item in waiting)]
    assert order == ["a", "d", "b", "c"]


@pytest.mark.slow
def test_processes_begin_items_in_order() -> None:
    ended = dict(in_processes(abs, [-3, -2, -1], 2, lambda item, running: item == -2 and bool(running)))
    assert ended == {-3: 3, -2: 2, -1: 1}


@pytest.mark.slow
def test_a_signal_to_the_group_does_not_end_a_worker_that_begins(capfd: pytest.CaptureFixture[str]) -> None:
    before, reached = set(multiprocessing.active_children()), set[int]()

    def disturb() -> None:
        while not ended.is_set():
            for process in set(multiprocessing.active_children()) - before:
                if process.pid and process.pid not in reached:
                    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                        os.kill(process.pid, number)
                    reached.add(process.pid)
            time.sleep(0.001)

    ended = threading.Event()
    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        assert dict(in_processes(abs, [-2, -1], 2, lambda item, running: False)) == {-2: 2, -1: 1}
    finally:
        ended.set()
        thread.join()
    assert reached
    assert capfd.readouterr().err == ""


# Ray


def test_without_ray_one_line_says_how_to_get_it(cache: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'engine: Ray is not installed\. Install .*"sage-va\[ray\]"'):
        compared(cache, tmp_path / "out", engine="ray", device="auto")


@contextlib.contextmanager
def killed(out: Path) -> Iterator[list[Path]]:
    """Kills the worker of the first run in `out` that is in the midst of its epochs; yields that run's folder."""
    runs, over = list[Path](), threading.Event()

    def watch() -> None:
        while not runs and not over.is_set():
            for path in out.rglob("metrics.jsonl"):
                if path.read_text(encoding="utf-8").count("\n") > 2 and not (path.parent / "config.json").exists():
                    for pid in workers_at_work():
                        os.kill(pid, signal.SIGKILL)
                    runs.append(path.parent)
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield runs
    finally:
        over.set()
        thread.join()


def workers_at_work() -> list[int]:
    """The processes of this test's own cluster that train."""
    token, pids = os.environ["RAY_AUTH_TOKEN_PATH"].encode(), list[int]()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            at_work = b"ray::_on_one_core" in (folder / "cmdline").read_bytes()
            if at_work and token in (folder / "environ").read_bytes():
                pids.append(int(folder.name))
    return pids


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_ray_loses_a_worker_and_finds_the_same(ray: Any, cache: Place, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    compared(cache, whole, config_of(**LONG))
    with killed(out) as runs:
        result = compared(cache, out, config_of(**LONG), engine="ray", device="auto", jobs=2)
    assert len(runs) == 1
    assert (runs[0] / "score.json").exists()
    assert (result.num_trained, result.failures, result.interrupted) == (6, [], False)
    assert len(list((out / ".crossfit").glob("*.safetensors"))) == 3
    same(out, whole)


@pytest.mark.slow
def test_a_run_that_kills_its_workers_is_a_failure(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_workers, "MAX_DEATHS", 2)
    workers = RayWorkers(None, device="cpu", jobs=1)
    work = Work(os._exit, os._exit, [3], lambda item, running: False, lambda item, reason: (item, reason))
    ended = workers.spread(work)
    ((item, (lost, reason)),) = ended
    assert (item, lost) == (3, 3)
    assert reason.startswith("the worker died 2 times (")


@pytest.mark.slow
def test_an_error_of_a_ray_worker_is_that_of_the_command(
    ray: Any, cache: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    workers = RayWorkers(None, device="cpu", jobs=1)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="a Ray worker: expected the folder of the command, got No such file"):
        list(workers.spread(Work(abs, abs, [1], lambda item, running: False, lambda item, reason: 0)))


@pytest.mark.slow
def test_a_sweep_on_ray_is_a_study_like_any_other(ray: Any, cache: Place, tmp_path: Path) -> None:
    from sage_va.fusion.experiments.sweep import sweep

    (tmp_path / "space.yaml").write_text("train.learning_rate: [0.01, 0.001]\n", encoding="utf-8")
    space = load_space(tmp_path / "space.yaml", config_of())
    store, options = open_store(cache[0]), {"engine": "ray", "device": "auto", "jobs": 2}
    result = sweep(store, cache[1], tmp_path / "out", config_of(), space, num_trials=4, **options)
    assert (result.num_finished, result.failures, result.interrupted) == (4, [], False)
    here = sweep(store, cache[1], tmp_path / "here", config_of(), space, num_trials=4, jobs=1)
    assert [row.params for row in result.rows] == [row.params for row in here.rows]
    assert {row.trial: row.score for row in result.rows} == {row.trial: row.score for row in here.rows}
