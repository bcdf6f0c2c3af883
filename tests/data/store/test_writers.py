"""Caches in folders under several processes at once, some of them killed: nothing is lost, and work can be resumed."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sage_va.data import open_store
from sage_va.testing import problems
from sage_va.tests.stores import tree

WRITER = textwrap.dedent("""
    import os, random, signal, sys, time
    os.fsync = lambda descriptor: None
    import h5py, numpy as np, zarr
    from sage_va.data import Clip, Track, atomic, open_store, stream_name
    atomic.sync_file_system = lambda descriptor: None

    def work(path, jobs, seed, reported, hurry, times=1):
        \"\"\"Commits one by one, and in groups of five; reports what is committed, not before.\"\"\"
        chance, store, group = random.Random(seed), open_store(path, "a"), []
        jobs = jobs * times
        jobs = chance.sample(jobs, len(jobs))
        for number, (clip_id, modality) in enumerate(jobs):
            rng = np.random.default_rng(len(clip_id))
            track = Track.of(rng.standard_normal((600, 4)).astype(np.float32), np.arange(600) / 25)
            clip = Clip(clip_id, duration_s=24.0 if modality == "visual" else 23.9)
            fingerprint = {"modality": modality}
            stream = stream_name(modality, "toy", fingerprint)
            overwrite = times > 1 or not hurry and chance.random() < 0.3
            facts = dict(fingerprint=fingerprint, source_sha256="5", overwrite=overwrite)
            if chance.random() < 0.5:
                store.commit(clip, stream, track, **facts)
                os.write(reported, f"{clip_id} {stream}\\n".encode())
            else:
                entry = store.prepare(clip, stream, track, **facts)
                group += [entry] if entry else []
            if len(group) == 5 or number + 1 == len(jobs):
                store.commit_all(group, overwrite=times > 1)
                for entry in group:
                    os.write(reported, f"{entry.clip_id} {entry.stream}\\n".encode())
                group = []
            if not hurry and chance.random() < 0.1:
                store.sweep()
        store.finish()

    def child(path, jobs, seed, **options):
        reported = os.open(f"{path}.reported", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        pid = os.fork()
        if pid == 0:
            try:
                work(path, jobs, seed, reported, **{"hurry": False, **options})
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        os.close(reported)
        return pid

    def finish(pid):
        return os.waitpid(pid, 0)[1]

    def check(path):
        \"\"\"All that a writer reported as committed is there, whole.\"\"\"
        store = open_store(path, "a")
        assert store.leftovers() == []
        with open(f"{path}.reported") as lines:
            reported = {tuple(line.split()) for line in lines}
        for clip_id, stream in reported:
            store.read(clip_id, stream)
        problems = [p for _, _, p in store.verify() if p]
        assert not problems, problems
        return len(reported)

    def at_once(path, writers):
        \"\"\"Each makes the very same entries, in an order of its own, some of them twice.\"\"\"
        codes = [finish(pid) for pid in [child(path, jobs, k) for k in range(writers)]]
        assert codes == [0] * writers, codes
        assert check(path) == len(jobs)
        open_store(path, "a").finish()

    def killed(path, writers, rounds):
        \"\"\"Killed at random moments, again and again, once some have reported a commit; then resumed by one.\"\"\"
        for _ in range(rounds):
            start = size(path)
            pids = [child(path, jobs, random.random(), times=1000) for _ in range(writers)]
            enough, late = start + 30 * random.randint(1, 4), time.monotonic() + 300
            while size(path) < enough:
                assert time.monotonic() < late, "no writer gets on"
                time.sleep(0.001)
            for pid in pids:
                time.sleep(random.uniform(0, 0.02))
                os.kill(pid, signal.SIGKILL)
            assert [finish(pid) for pid in pids] == [signal.SIGKILL] * writers  # none had come to its end
            assert check(path) > 0
        assert finish(child(path, jobs, 0, hurry=True)) == 0
        check(path)

    def size(path):
        return os.path.getsize(f"{path}.reported") if os.path.exists(f"{path}.reported") else 0

    folder, form, rounds, clips = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    jobs = [(f"clip{k}", modality) for k in range(clips) for modality in ("visual", "audio")]
    random.seed(0)
    assert finish(child(f"{folder}/whole.{form}", jobs, 0, hurry=True)) == 0
    for writers in (2, 4, 8):
        at_once(f"{folder}/{writers} at once.{form}", writers)
        killed(f"{folder}/{writers} killed.{form}", writers, rounds)
""")


@pytest.mark.parametrize(("rounds", "clips"), [(2, 4), pytest.param(20, 12, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("form", ["zarr", "h5"])
def test_writers_lose_nothing(tmp_path: Path, form: str, rounds: int, clips: int) -> None:
    """2, 4 and 8 at once, left alone and killed: each cache ends as that of one writer who was never interrupted."""
    script = [sys.executable, "-c", WRITER, tmp_path, form, rounds, clips]
    done = subprocess.run([*map(str, script)], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    whole = tmp_path / f"whole.{form}"
    assert len(open_store(whole).clip_ids()) == clips
    for path in (tmp_path / f"{writers} {how}.{form}" for writers in (2, 4, 8) for how in ("at once", "killed")):
        assert problems(open_store(path)) == []
        assert open_store(path).content_sha256() == open_store(whole).content_sha256()
        assert tree(path) == tree(whole)
