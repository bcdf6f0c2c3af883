"""Several workers make the cache that one makes, whatever happens to them."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from sage_va.data import InputError, open_store
from sage_va.data.manifest import Source, find_sources
from sage_va.extract.encoders.factory import Recipe
from sage_va.extract.encoders.timm_encoder import TimmEncoder
from sage_va.extract.engine import local_engine, scheduler
from sage_va.extract.engine.local_engine import LocalEngine
from sage_va.extract.engine.messages import ClipBatch, Died, Halt, NeedClips, Ready, WorkerJob
from sage_va.extract.engine.pipeline import extract
from sage_va.extract.engine.progress import ClipOutcome, Failure, Summary
from sage_va.extract.engine.scheduler import extract_with, find_engine
from sage_va.extract.engine.workers import Inbox, serve
from sage_va.extract.options import ExtractOptions
from sage_va.tests.encoders import TINY_VIT
from sage_va.tests.media import noisy_frames, write_media

OPTIONS = ExtractOptions(batch_size=8, num_decode_threads=2)
HERE = "sage_va.tests.extract.engine.test_scheduler"
STREAMS = ("visual/toy-00000000",)


class Mortal(TimmEncoder):
    """Kills its process when it sees a white image, and, once in all processes, at its third batch."""

    def __init__(self, device, flag=None):
        self.flag, self.count = flag, 0
        super().__init__(TINY_VIT, weights="random", device=device)

    def encode(self, items):
        self.count += 1
        if self.flag and self.count == 4:  # the first is the encoder's own trial
            try:
                os.close(os.open(self.flag, os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
        if (np.median(items, axis=(1, 2, 3)) > 240).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(items)


def mortal(device, flag=None):
    return Mortal(device, flag), None


def dead(device):
    os._exit(7)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    for k in range(9):
        write_media(folder / f"s{k}/clip.mp4", noisy_frames(20 - k, seed=k))
    (folder / "bad.mp4").write_bytes(b"not a video" * 50)
    return folder


@pytest.fixture(scope="module")
def whole(media, tmp_path_factory):
    """One process, uninterrupted."""
    store = open_store(tmp_path_factory.mktemp("whole") / "whole.zarr", "a")
    vit = TimmEncoder(TINY_VIT, weights="random", device="cpu")
    summary = extract(find_sources([str(media)]), store, visual=vit, options=OPTIONS)
    assert (summary.num_done, len(summary.failures)) == (9, 1)
    return store, summary


def journal(store, event):
    return [line for line in store.journal() if line["event"] == event]


def check_same(store, summary, whole):
    """Nothing lost, nothing doubled, nothing else."""
    expected, by_one = whole
    assert store.content_sha256() == expected.content_sha256()
    assert not [problem for *_, problem in store.verify() if problem]
    assert summary.failures == by_one.failures
    assert summary.num_done + summary.num_skipped == 9
    commits = [(line["clip_id"], line["stream"]) for line in journal(store, "commit")]
    assert sorted(set(commits)) == sorted(commits)
    assert [line["clips"] for line in journal(store, "start")] == [10]
    assert summary.streams == store.streams() == by_one.streams


def with_white(media, folder):
    white = write_media(folder / "white.mp4", noisy_frames(3) // 50 + 250)
    return [*find_sources([str(media)]), Source("white.mp4", path=white)]


def plain_recipe():
    return Recipe({"visual": TINY_VIT, "visual_weights": "random"})


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [*(pytest.param(n, marks=pytest.mark.exhaustive) for n in (1, 2)), 3])
def test_workers_make_the_same_cache(media, whole, tmp_path, num_workers):
    store, reports = open_store(tmp_path / "a.zarr", "a"), []
    engine = LocalEngine(["cpu"] * num_workers)
    sources = find_sources([str(media)])
    summary = extract_with(engine, sources, store, plain_recipe(), options=OPTIONS, progress=reports.append)
    check_same(store, summary, whole)
    assert summary.num_done == 9
    assert summary.num_frames == whole[1].num_frames == reports[-1].num_frames
    assert (reports[-1].num_done, reports[-1].num_failed, reports[-1].num_clips) == (9, 1, 10)
    assert summary.busy_s["encode"] > 0


def test_a_killed_worker_costs_nothing(media, whole, tmp_path):
    """One of two is killed at its third batch."""
    store, flag = open_store(tmp_path / "a.zarr", "a"), str(tmp_path / "flag")
    recipe = Recipe({"flag": flag}, f"{HERE}:mortal")
    summary = extract_with(LocalEngine(["cpu"] * 2), find_sources([str(media)]), store, recipe, options=OPTIONS)
    assert Path(flag).exists()
    check_same(store, summary, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", ["a.zarr", *(pytest.param(f, marks=pytest.mark.exhaustive) for f in ("a.h5", "icechunk://a"))]
)
def test_a_deadly_clip_costs_only_itself(media, whole, tmp_path, monkeypatch, form):
    """One worker is killed at its third batch too, and all that meet the white clip."""
    if form.startswith("icechunk"):
        pytest.importorskip("icechunk", reason="Icechunk is not installed")
    monkeypatch.chdir(tmp_path)
    sources = with_white(media, tmp_path)
    store, flag = open_store(form, "a"), str(tmp_path / "flag")
    recipe = Recipe({"flag": flag}, f"{HERE}:mortal")
    summary = extract_with(LocalEngine(["cpu"] * 2), sources, store, recipe, options=OPTIONS)
    store = open_store(form)  # Icechunk shows what was there when it was opened
    bad, deadly = summary.failures
    assert bad == whole[1].failures[0]
    assert deadly.clip_id == "white.mp4"
    assert deadly.reason.startswith("expected features, got none, the worker died with signal 9 (SIGKILL) twice.")
    assert store.content_sha256() == whole[0].content_sha256()
    assert summary.num_done + summary.num_skipped == 9
    assert not [problem for *_, problem in store.verify() if problem]
    commits = [line["clip_id"] for line in journal(store, "commit")]
    assert sorted(set(commits)) == sorted(commits)
    assert set(store.failures()) == {"bad.mp4", "white.mp4"}


@pytest.mark.slow
def test_what_workers_cannot_start_with_is_one_error(tmp_path, monkeypatch):
    store, sources = open_store(tmp_path / "a.zarr", "a"), [Source("a", path=tmp_path / "a.mp4")]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"worker 0: expected one that starts, got one that died with exit code 7 bef"):
        extract_with(LocalEngine(["cpu"]), sources, store, Recipe({}, f"{HERE}:dead"))


# --- the scheduler alone, with workers that are only pretended


class Pretended:
    """Workers without processes. `fate(clip_id, alone)` is "done", "skipped", "failed", "die" or an exception."""

    def __init__(self, num_workers, fate=lambda clip_id, alone: "done", streams=None, false_starts=0):
        self.num_workers, self.fate, self.false_starts, self.cores_each = num_workers, fate, false_starts, None
        self.streams = streams or {}
        self.said, self.order, self.starts, self.batches, self.closed = deque(), [], 0, [], False
        self.halted = set()

    def start(self, worker, job):
        self.starts += 1
        if self.starts <= self.false_starts:
            self.said.append((worker, Died("with signal 11 (SIGSEGV)")))
        else:
            self.said.append((worker, Ready(self.streams.get(worker, STREAMS))))

    def send(self, worker, order):
        if isinstance(order, Halt):
            self.halted.add(worker)
            return
        self.batches.append([source.clip_id for source in order.sources])
        for source in order.sources:
            fate = self.fate(source.clip_id, order.last)
            self.order.append(source.clip_id)
            if fate == "die":
                self.said.append((worker, Died("with signal 9 (SIGKILL)")))
                return
            if isinstance(fate, Exception):
                self.said.append((worker, fate))
                return
            failure = Failure(source.clip_id, "bad") if fate == "failed" else None
            if isinstance(fate, tuple):
                self.said.append((worker, ClipOutcome(source.clip_id, people=fate)))
                for person in fate:
                    self.said.append((worker, ClipOutcome(person.clip_id)))
            else:
                self.said.append((worker, ClipOutcome(source.clip_id, failure, skipped=fate == "skipped")))
        over = order.last or worker in self.halted
        self.said.append((worker, Summary(num_frames=1) if over else NeedClips()))

    def events(self, timeout_s):
        if self.said:
            yield self.said.popleft()

    def close(self):
        self.closed = True


def pretend(engine, tmp_path, num_clips=20, **others):
    sources = []
    for k in range(num_clips):
        path = tmp_path / f"{k}.mp4"
        path.write_bytes(b"x" * (k + 1))
        sources.append(Source(f"{k}", path=path))
    store = open_store(tmp_path / "a.zarr", "a")
    options = ExtractOptions(**others.pop("options", {}))
    summary = extract_with(engine, sources, store, Recipe({}), options=options, **others)
    assert engine.closed
    return summary, store


def test_the_largest_come_first_and_the_last_alone(tmp_path):
    engine = Pretended(2)
    summary, _ = pretend(engine, tmp_path, 100)
    assert engine.order == [f"{k}" for k in range(99, -1, -1)]
    assert len(engine.batches[0]) == 100 // 16
    assert [len(batch) for batch in engine.batches if batch][-20:] == [1] * 20
    assert (summary.num_done, summary.failures, summary.streams) == (100, [], list(STREAMS))
    assert engine.starts == 2


def test_more_workers_than_clips_are_not_started(tmp_path):
    engine = Pretended(8)
    assert pretend(engine, tmp_path, 3)[0].num_done == 3
    assert engine.starts == 3
    assert pretend(Pretended(8), tmp_path, 0)[0].num_done == 0


def test_a_clip_that_kills_is_tried_twice_and_the_second_time_alone(tmp_path):
    alone = []

    def fate(clip_id, last):
        if clip_id in ("7", "8"):
            alone.append((clip_id, last))
            return "die"
        return "done"

    summary, store = pretend(Pretended(3, fate), tmp_path)
    assert [failure.clip_id for failure in summary.failures] == ["7", "8"]
    assert sorted(alone) == [("7", False), ("7", True), ("8", False), ("8", True)]
    assert summary.num_done == 18
    (line,) = [line for line in journal(store, "failure") if line["clip_id"] == "7"]
    assert "the worker died with signal 9 (SIGKILL) twice" in line["reason"]
    assert (line["source_sha256"], line["streams"]) == ("", list(STREAMS))


def test_workers_that_do_not_start_end_the_run(tmp_path):
    assert pretend(Pretended(1, false_starts=2), tmp_path)[0].num_done == 20
    with pytest.raises(InputError, match=r"one that starts, got one that died with signal 11 \(SIGSEGV\) before"):
        pretend(Pretended(1, false_starts=3), tmp_path)


def test_workers_that_would_make_other_streams_are_refused(tmp_path):
    engine = Pretended(2, streams={1: ("visual/toy-11111111",)})
    with pytest.raises(InputError, match=r"worker 1: expected the streams of the others, visual/toy-0+, got vis"):
        pretend(engine, tmp_path)
    assert engine.closed


def test_errors_of_workers_end_the_run(tmp_path):
    engine = Pretended(2, lambda clip_id, alone: OSError(28, "No space left on device") if clip_id == "5" else "done")
    with pytest.raises(OSError, match="No space left"):
        pretend(engine, tmp_path)
    assert engine.closed


def test_too_many_failures_of_all_workers_end_the_run(tmp_path):
    engine = Pretended(3, lambda clip_id, alone: "failed" if int(clip_id) % 2 else "skipped")
    with pytest.raises(InputError, match=r"extract: expected at most 4 failures, got 5, the last .*: bad\. Mend"):
        pretend(engine, tmp_path, options={"max_failures": 4})
    summary, _ = pretend(Pretended(3, engine.fate), tmp_path)
    assert (summary.num_skipped, len(summary.failures)) == (10, 10)


def test_a_clip_may_turn_out_to_be_people(tmp_path):
    people = (Source("3#0"), Source("3#1"))
    reports = []
    engine = Pretended(2, lambda clip_id, alone: people if clip_id == "3" else "done")
    summary, _ = pretend(engine, tmp_path, 4, progress=reports.append)
    assert (summary.num_done, reports[-1].num_clips) == (5, 5)


def test_asked_to_stop_nothing_more_is_handed_out(tmp_path):
    engine, stop = Pretended(2), threading.Event()

    def report(progress):
        if progress.num_done > 3:
            stop.set()

    summary, _ = pretend(engine, tmp_path, 60, progress=report, stop=stop)
    assert 4 <= summary.num_done < 20
    assert engine.halted


def test_an_inbox_asks_once_and_ends_with_its_session():
    messages, batches = [], []
    inbox = Inbox(messages.append)
    inbox.put(ClipBatch((Source("a"),), begin=True))
    inbox.wait()
    takers = [threading.Thread(target=lambda: batches.append(inbox.take())) for _ in range(4)]
    for taker in takers:
        taker.start()
    while not messages:
        time.sleep(0.001)
    inbox.put(ClipBatch((Source("b"),), last=True))
    for taker in takers:
        taker.join(300)
    assert messages == [NeedClips()]
    assert [source and source.clip_id for source in batches] == ["a", "b", None, None]
    inbox.put(Halt())
    inbox.put(ClipBatch((Source("c"),), begin=True))
    inbox.wait()
    assert inbox.take() is None


def test_devices_of_this_machine(monkeypatch):
    monkeypatch.setattr(scheduler, "_num_gpus", lambda: 2)
    assert scheduler._local_devices("auto", None) == ["cuda:0", "cuda:1"]
    assert scheduler._local_devices("auto", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert scheduler._local_devices("cuda:1", None) == ["cuda:1"]
    assert scheduler._local_devices("cpu", 2) == ["cpu", "cpu"]
    assert find_engine(device="cpu") is None
    assert find_engine(device="cpu", num_workers=2).num_workers == 2
    shares = [local_engine._share(k, 2) for k in range(2)]
    assert sorted(core for share in shares for core in share) or len(os.sched_getaffinity(0)) == 1


def test_workers_on_a_processor_share_its_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(local_engine, "num_cores", lambda: 6)
    assert [LocalEngine(["cpu"] * k).cores_each for k in (1, 2, 4, 9)] == [6, 3, 1, 1]
    assert LocalEngine(["cuda:0", "cuda:1"]).cores_each is None
    engine, jobs = Pretended(2), []
    engine.cores_each, start = 3, engine.start
    engine.start = lambda worker, job: (jobs.append(pickle.loads(job)), start(worker, job))
    pretend(engine, tmp_path)
    assert [job.options.num_cores for job in jobs] == [3, 3]


@pytest.mark.parametrize("num_cores", [1, 3])
def test_a_worker_starts_no_more_encoder_threads_than_its_share(media, tmp_path, monkeypatch, num_cores):
    vit, _ = plain_recipe().make("cpu")
    changed, now, num_running = threading.Condition(), [], []

    def slow(pixels):
        with changed:
            now.append(1)
            num_running.append(len(now))
            changed.notify_all()
            assert changed.wait_for(lambda: max(num_running) >= num_cores, 300)
        time.sleep(0.02)  # one more would come in
        with changed:
            now.pop()
        return np.zeros((len(pixels), vit.dim), np.float32)

    monkeypatch.setattr(vit, "encode", slow)
    options = ExtractOptions(batch_size=4, num_cores=num_cores)
    extract(find_sources([str(media)]), open_store(tmp_path / "a.zarr", "a"), visual=vit, options=options)
    assert max(num_running) == num_cores


def test_without_ray_the_engine_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'engine: Ray is not installed\. Install .*"sage-va\[ray\]"'):
        find_engine("ray")


def test_a_worker_in_another_folder_or_without_the_cache_is_refused(tmp_path):
    messages = []
    options = ExtractOptions()
    job = WorkerJob(str(tmp_path / "no.zarr"), tmp_path / "gone", Recipe({}), options)
    serve(pickle.dumps(job), "cpu", Inbox(messages.append), messages.append)
    job = WorkerJob(str(tmp_path / "no.zarr"), Path.cwd(), Recipe({}), options)
    serve(pickle.dumps(job), "cpu", Inbox(messages.append), messages.append)
    elsewhere, nowhere = messages
    assert "expected the folder of the run, got No such file" in str(elsewhere)
    assert "no.zarr: expected a" in str(nowhere)
    assert not (tmp_path / "no.zarr").exists()


ABANDONED = """
    import sys
    from sage_va.data import open_store
    from sage_va.data.manifest import find_sources
    from sage_va.extract.engine.scheduler import extract_with
    from sage_va.extract.encoders.factory import Recipe
    from sage_va.extract.engine.local_engine import LocalEngine

    if __name__ == "__main__":
        engine = LocalEngine(["cpu"] * 2)
        report = lambda progress: print(progress.num_done, *[p.pid for p in engine._processes.values()], flush=True)
        recipe = Recipe({"visual": "NAME", "visual_weights": "random"})
        extract_with(engine, find_sources(sys.argv[1:2]), open_store(sys.argv[2], "a"), recipe, progress=report)
"""


@pytest.mark.slow
def test_workers_do_not_outlive_the_run(media, whole, tmp_path):
    """The process that hands out the clips is killed: its workers end, and the next run goes on."""
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(ABANDONED).replace("NAME", TINY_VIT))
    command = [sys.executable, str(script), str(media), str(tmp_path / "a.zarr")]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
    pids: list[str] = []
    for line in run.stdout:
        done, *pids = line.split()
        if int(done) >= 1:
            break
    run.kill()
    run.wait()
    late = time.monotonic() + 300
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < late, "a worker lives on"
        time.sleep(0.05)
    store = open_store(tmp_path / "a.zarr", "a")
    summary = extract_with(LocalEngine(["cpu"]), find_sources([str(media)]), store, plain_recipe(), options=OPTIONS)
    assert summary.num_skipped >= 1
    assert store.content_sha256() == whole[0].content_sha256()


# --- Ray


@pytest.mark.slow
def test_ray_loses_an_actor_and_nothing_else(ray, media, whole, tmp_path):
    store, flag = open_store(tmp_path / "a.zarr", "a"), str(tmp_path / "flag")
    engine = find_engine("ray", device="cpu", num_workers=3)
    recipe = Recipe({"flag": flag}, f"{HERE}:mortal")
    summary = extract_with(engine, find_sources([str(media)]), store, recipe, options=OPTIONS)
    assert Path(flag).exists()
    check_same(store, summary, whole)


@pytest.mark.slow
def test_a_clip_that_kills_ray_actors_is_a_failure(ray, media, whole, tmp_path):
    sources = with_white(media, tmp_path)
    store = open_store(tmp_path / "a.zarr", "a")
    engine = find_engine("ray", device="cpu", num_workers=2)
    summary = extract_with(engine, sources, store, Recipe({}, f"{HERE}:mortal"), options=OPTIONS)
    _, deadly = summary.failures
    assert deadly.clip_id == "white.mp4"
    assert deadly.reason.startswith("expected features, got none, the worker died (Worker unexpectedly exits")
    assert store.content_sha256() == whole[0].content_sha256()


def test_an_answer_that_ray_lost_is_the_death_of_its_worker(monkeypatch):
    """A machine that is gone takes answers with it that were not fetched yet."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    lost, killed = mock.Mock(side_effect=ray.exceptions.ObjectLostError("aa", None, "")), mock.Mock()
    fake = SimpleNamespace(
        nodes=lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}],
        remote=lambda actor: mock.MagicMock(),
        wait=lambda answers, **_: (answers, []),
        get=lost,
        kill=killed,
        exceptions=ray.exceptions,
    )
    monkeypatch.setattr("sage_va.extract.engine.ray_engine.connect", lambda address: (fake, False))
    engine = find_engine("ray", device="cpu")
    engine.start(0, b"")
    ((worker, event),) = engine.events(1.0)
    assert (worker, type(event).__name__) == (0, "Died")
    killed.assert_called_once()
    assert not list(engine.events(0.0))


@pytest.mark.slow
def test_ray_has_the_devices_that_are_asked_for(ray):
    with pytest.raises(InputError, match="num_workers: expected at most 4, got 9"):
        find_engine("ray", device="cpu", num_workers=9)
    with pytest.raises(InputError, match="device: expected auto, cpu or cuda, got cuda:1 and 0 GPUs"):
        find_engine("ray", device="cuda:1")
    assert find_engine("ray").num_workers == 1
