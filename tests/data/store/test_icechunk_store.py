"""The Icechunk repository: the contract, history, writers at once, kills, damage, plain reading, object storage."""

import contextlib
import fcntl
import importlib
import random
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import zarr

from sage_va.data import DamagedError, InputError, Store, Track, open_store
from sage_va.data.atomic import locked
from sage_va.testing import AUDIO_NAME, VISUAL_NAME, StoreContract, make_track, problems, put, same
from sage_va.tests.s3 import BUCKET, empty_bucket, needs_s3, s3_server, use_s3

icechunk = pytest.importorskip("icechunk")
store_icechunk = importlib.import_module("sage_va.data.store.icechunk_store")
IcechunkStore = store_icechunk.IcechunkStore


def commits(store: Store) -> list[str]:
    assert isinstance(store, IcechunkStore)
    return [message for _, _, message in store.history()]


class TestIcechunkStore(StoreContract):
    @pytest.fixture
    def opened(self, tmp_path: Path) -> Callable[..., Store]:
        return lambda mode="a", name="cache", **terms: open_store(
            f"icechunk://{tmp_path}/{name}.icechunk", mode, **terms
        )

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
    def test_plain_icechunk_and_zarr_read_it(self, store: Store, tmp_path: Path, dtype: type) -> None:
        track = make_track(3, dtype=dtype)
        put(store, "talk/one.mp4#left", track=track)
        storage = icechunk.local_filesystem_storage(str(tmp_path / "cache.icechunk"))
        session = icechunk.Repository.open(storage).readonly_session("main")
        entry = zarr.open_group(session.store, mode="r")[f"{VISUAL_NAME}/talk=2Fone.mp4=23left"]
        assert isinstance(entry, zarr.Group)
        assert entry.attrs["commit"] is True
        values, frames = np.asarray(entry["values"][:]), np.asarray(entry["frames"][:])
        values = values.view(ml_dtypes.bfloat16) if dtype is ml_dtypes.bfloat16 else values
        assert np.array_equal(values, track.values, equal_nan=True)
        assert np.array_equal(frames[:, 0], track.times_s)
        assert np.array_equal(frames[:, 1] == 1, track.mask)
        assert np.array_equal(frames[:, 2:], track.quality, equal_nan=True)
        assert dict(zarr.open_group(session.store, path="aliases", mode="r").attrs)["visual/toy"] == VISUAL_NAME

    def test_names_that_look_like_chunks(self, opened: Callable[..., Store]) -> None:
        store = opened()
        names = ["c", "0", "c/0/0", "zarr.json", "values", "x/zarr.json"]
        for seed, name in enumerate(names):
            put(store, name, seed=seed)
        assert store.clip_ids() == sorted(names)
        for seed, name in enumerate(names):
            assert same(opened("r").read(name, VISUAL_NAME), make_track(seed))
        assert problems(store) == []

    def test_each_change_is_a_commit(self, store: Store) -> None:
        assert isinstance(store, IcechunkStore)
        put(store, "a")
        put(store, "a")
        store.log_failure("b", "no face")
        store.log_failure("b", "no face")
        store.discard("a", VISUAL_NAME)
        assert commits(store) == [
            f"discard a {VISUAL_NAME}",
            "failure b no face",
            "failure b no face",
            f"commit a {VISUAL_NAME}",
            f"point visual/toy {VISUAL_NAME}",
            "create",
            "Repository initialized",
        ]
        ids, times, _ = zip(*store.history(), strict=True)
        assert len(set(ids)) == 7
        assert datetime.now(UTC) - timedelta(minutes=2) < times[-1] <= times[0]
        events = [(line["event"], line.get("clip_id")) for line in store.journal()]
        failed = [("failure", "b"), ("failure", "b")]
        assert events == [("create", None), ("point", None), ("commit", "a"), *failed, ("discard", "a")]
        assert store.failures()["b"]["reason"] == "no face"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", store.failures()["b"]["time"])
        metadata = store.repository.lookup_snapshot(ids[3]).metadata
        assert (metadata["event"], metadata["clip_id"], metadata["stream"]) == ("commit", "a", VISUAL_NAME)
        assert problems(store) == []

    def test_many_entries_are_one_commit(self, opened: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
        source, store = opened(name="source"), opened()
        for k in range(5):
            put(source, f"c{k}", "audio" if k % 2 else "visual", seed=k)
        entries = [source.entry(clip, stream) for stream in source.streams() for clip in source.clip_ids(stream)]
        put(store, "c0", seed=9)
        num_commits = [len(commits(opened("r"))) for _ in store.add(iter(entries))]
        assert num_commits == [5] * 5
        assert commits(store)[0] == "add 5"
        assert same(store.read("c0", VISUAL_NAME), make_track(9))
        assert store.aliases() == source.aliases()
        monkeypatch.setattr(store_icechunk, "BATCH_ENTRIES", 2)
        other = opened(name="other")
        assert [len(commits(other)) for _ in other.add(iter(entries))] == [3, 3, 4, 4, 5]
        assert other.content_sha256() == source.content_sha256()
        list(other.add(iter(entries)))
        assert len(commits(other)) == 5

    def test_a_reader_stays_at_its_snapshot(self, opened: Callable[..., Store]) -> None:
        store = opened()
        put(store, "a")
        reader = opened("r")
        put(store, "b")
        put(store, "a", seed=7, overwrite=True)
        assert (reader.clip_ids(), opened("r").clip_ids(), store.clip_ids()) == (["a"], ["a", "b"], ["a", "b"])
        assert same(reader.read("a", VISUAL_NAME), make_track(0))
        assert same(opened("r").read("a", VISUAL_NAME), make_track(7))

    def test_a_tag_is_what_was_there_then(self, opened: Callable[..., Store], tmp_path: Path) -> None:
        store = opened()
        assert isinstance(store, IcechunkStore)
        put(store, "a", seed=1)
        snapshot = store.tag("v1")
        put(store, "a", seed=2, overwrite=True)
        url = f"icechunk://{tmp_path}/cache.icechunk"
        for name in ("v1", snapshot):
            tagged = open_store(f"{url}@{name}")
            assert same(tagged.read("a", VISUAL_NAME), make_track(1))
            assert commits(tagged)[0] == f"commit a {VISUAL_NAME}"
            assert len(commits(tagged)) == len(commits(store)) - 1
            with pytest.raises(
                InputError, match=rf"expected a branch to add to, got '{name}', .* leave @{name} out to add"
            ):
                open_store(f"{url}@{name}", "a")
        for mode in ("r", "a"):
            assert same(open_store(f"{url}@main", mode).read("a", VISUAL_NAME), make_track(2))
        with pytest.raises(InputError, match=r"got 'v2'\. There are: main, v1\."):
            open_store(f"{url}@v2")
        for taken in ("v1", "main"):
            with pytest.raises(InputError, match=f"tag '{taken}': expected a new name, got one that is taken"):
                store.tag(taken)
        with pytest.raises(InputError, match=r"tag 'v/1': expected letters, digits"):
            store.tag("v/1")

    def test_a_branch_can_be_added_to(self, opened: Callable[..., Store], tmp_path: Path) -> None:
        store = opened()
        assert isinstance(store, IcechunkStore)
        put(store, "a")
        store.repository.create_branch("trial", store.history()[0][0])
        put(open_store(f"icechunk://{tmp_path}/cache.icechunk@trial", "a"), "b")
        assert opened("r").clip_ids() == ["a"]
        assert open_store(f"icechunk://{tmp_path}/cache.icechunk@trial").clip_ids() == ["a", "b"]

    def test_two_writers_of_one_place(self, opened: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
        """A writer that lost the race for a commit looks again: its own entry is kept, the other's stays as it is."""
        one, two = opened(), opened()
        put(one, "x")
        put(two, "x", "audio")
        plain, lost = icechunk.Session.commit, []

        def commit(session: object, *args: object, **more: object) -> str:
            if not lost:
                lost.append(True)
                two.folder = None  # type: ignore[attr-defined]  # else it would wait for our lock
                put(two, "a", seed=2)
                put(two, "b", seed=2)
            return plain(session, *args, **more)

        entries = [open_store_entry(opened, clip, 1) for clip in ("a", "c")]
        monkeypatch.setattr(icechunk.Session, "commit", commit)
        assert [entry.clip_id for entry in one.add(entries)] == ["a", "c"]
        seeds = {"a": 2, "b": 2, "c": 1, "x": 0}
        assert all(same(one.read(clip, VISUAL_NAME), make_track(seed)) for clip, seed in seeds.items())
        assert one.clip_ids() == sorted(seeds)
        assert problems(one) == []

    def test_sweeping(self, opened: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
        store = opened()
        assert isinstance(store, IcechunkStore)
        put(store, "a", track=make_track(0, 500))
        session = store.repository.writable_session("main")
        zarr.create_array(session.store, name="x", shape=(900,), dtype="f8")[...] = np.random.default_rng(0).random(900)
        assert store.sweep() == []
        monkeypatch.setattr(store_icechunk, "KEEP", timedelta(days=-1))
        assert store.sweep() == ["removed 1 objects that no snapshot needs"]
        assert store.sweep() == []
        assert problems(opened("r")) == []

    def test_what_others_changed_is_told(self, opened: Callable[..., Store]) -> None:
        store = opened()
        assert isinstance(store, IcechunkStore)
        put(store, "a")
        put(store, "b")
        session = store.repository.writable_session("main")
        root = zarr.open_group(session.store, mode="a")
        root["aliases"].attrs["visual/toy"] = "visual/x"
        root[VISUAL_NAME].attrs["note"] = 1
        entry = root[f"{VISUAL_NAME}/b"]
        assert isinstance(entry, zarr.Group)
        del entry["values"]
        root.create_group("Mine")
        root.create_group(f"{VISUAL_NAME}/strange")
        session.commit("by hand")
        store = opened()
        damage = problems(store)
        assert damage[:3] == [
            ("", "", "Mine is not of this cache"),
            ("", "", "aliases are not what was written"),
            ("", "", f"{VISUAL_NAME}/zarr.json is not what was written"),
        ]
        assert [p[:2] for p in damage[3:]] == [("b", VISUAL_NAME), ("strange", VISUAL_NAME)]
        assert damage[3][2].startswith("expected two readable arrays, got ValueError: node not found at")
        assert store.aliases() == {}
        assert store.sweep() == [f"restored {VISUAL_NAME}/zarr.json", "removed the aliases, which were damaged"]
        put(store, "b", overwrite=True)
        assert store.aliases() == {"visual/toy": VISUAL_NAME}
        assert [p[:2] for p in problems(store)] == [("", ""), ("strange", VISUAL_NAME)]

    def test_array_metadata_is_exact(self, opened: Callable[..., Store]) -> None:
        store = opened()
        assert isinstance(store, IcechunkStore)
        put(store, "a")
        session = store.repository.writable_session("main")
        zarr.open_array(session.store, path=f"{VISUAL_NAME}/a/values").attrs["note"] = 1
        session.commit("by hand")
        what = "expected the values/zarr.json that was written, got another"
        assert problems(opened("r")) == [("a", VISUAL_NAME, what)]


def open_store_entry(opened: Callable[..., Store], clip_id: str, seed: int):
    source = opened(name=f"source-{clip_id}")
    put(source, clip_id, seed=seed)
    return source.entry(clip_id, VISUAL_NAME)


class TestOpening:
    def test_what_is_no_cache_is_refused(self, tmp_path: Path) -> None:
        nothing = r"no\.icechunk: expected an Icechunk repository, got none there\. Check the address, or make one"
        with pytest.raises(InputError, match=nothing):
            open_store(f"icechunk://{tmp_path}/no.icechunk")
        with pytest.raises(InputError, match=r"no\.icechunk@v1: expected an Icechunk repository, got none there"):
            open_store(f"icechunk://{tmp_path}/no.icechunk@v1", "a")
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "full").mkdir()
        (tmp_path / "full/thesis.tex").write_text("x")
        (tmp_path / "file").write_text("x")
        for name in ("full", "file"):
            with pytest.raises(InputError, match="expected a cache or an empty place, got other files"):
                open_store(f"icechunk://{tmp_path}/{name}", "a")
            with pytest.raises(InputError, match="expected an Icechunk repository, got none there"):
                open_store(f"icechunk://{tmp_path}/{name}")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "full"]
        for place in ("s3://bucket", "ftp://host/x"):
            with pytest.raises(InputError, match=f"expected a folder, or a bucket and a prefix, got '{place}'"):
                open_store(f"icechunk://{place}")

    def test_a_repository_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "weather")))
        session = repository.writable_session("main")
        zarr.create_group(session.store, path="wind")
        session.commit("wind")
        for mode in ("r", "a"):
            with pytest.raises(InputError, match="expected a feature cache, got something of another kind"):
                open_store(f"icechunk://{tmp_path}/weather", mode)

    def test_relative_places_empty_folders_and_empty_repositories(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        put(open_store("icechunk://team/one", "a"), "a")
        assert open_store(f"icechunk://{tmp_path}/team/one").clip_ids() == ["a"]
        (tmp_path / "empty").mkdir()
        put(open_store("icechunk://empty", "a"), "a")
        icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "bare")))
        put(open_store("icechunk://bare", "a"), "a")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["bare", "empty", "team"]

    def test_without_the_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "icechunk", None)
        monkeypatch.delitem(sys.modules, "sage_va.data.store.icechunk_store")
        monkeypatch.delitem(sys.modules, "sage_va.data.store.icechunk_repo")
        text = r'expected the package icechunk, got none\. Run `pip install "sage-va\[icechunk\]"`\.'
        with pytest.raises(InputError, match=text):
            open_store(f"icechunk://{tmp_path}/x", "a")


def test_a_flipped_byte_anywhere(tmp_path: Path) -> None:
    """All that is read is proven, and all history; files that no reader needs (transaction logs) may change."""
    folder, url = tmp_path / "c", f"icechunk://{tmp_path}/c"
    store = open_store(url, "a")
    assert isinstance(store, IcechunkStore)
    put(store, "small")
    put(store, "large", track=make_track(1, 600))
    store.tag("v1")
    put(store, "large", "audio", track=make_track(2, 700))
    tip, wanted = store.history()[0][0], {pair: store.read(*pair) for pair in PAIRS}
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".sage-va.lock"]
    assert len(files) == 4 + 6 + 2 + 7 + 6
    for path in sorted(files):
        kind = path.relative_to(folder).parts[0]
        needed = kind in ("chunks", "manifests") or "branch.main" in path.parts or path == folder / f"snapshots/{tip}"
        notes = [notices(url, wanted) for _ in flips(path, 5 if needed else 1)]
        if kind == "chunks":
            assert all(len(pairs) == 1 and pairs <= set(PAIRS) for pairs in notes)
        elif needed:
            assert any(notes)
        else:
            assert notes == [{("", "")} if kind == "snapshots" else set()], path
    for _ in flips(folder / "refs/tag.v1/ref.json", 1):
        with pytest.raises(DamagedError, match="c@v1: expected a whole repository, got expected value at line 1"):
            open_store(f"{url}@v1")
    for _ in flips(folder / "refs/branch.main/ref.json", 1):
        with pytest.raises(DamagedError, match=r"expected a whole repository, got expected value .*\. Open an earlier"):
            open_store(url)
    for path in (folder / f"snapshots/{tip}", folder / f"snapshots/{store.history()[3][0]}"):
        path.rename(tmp_path / "aside")
        with pytest.raises(DamagedError, match="expected a whole repository, got No such file"):
            open_store(url, "a").history()  # type: ignore[attr-defined]
        (tmp_path / "aside").rename(path)


PAIRS = [("small", VISUAL_NAME), ("large", VISUAL_NAME), ("large", AUDIO_NAME)]


def flips(path: Path, count: int) -> Iterator[None]:
    """Once per place with one bit of a file changed: at the start, at the end, and between."""
    whole, rng = path.read_bytes(), random.Random(path.name)
    for at in [0, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(count))][:count]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        yield
    path.write_bytes(whole)


def notices(url: str, wanted: dict[tuple[str, str], Track]) -> set[tuple[str, str]]:
    """Returns what is reported as damaged, ("", "") for the cache; all else reads as it was written."""
    try:
        store = open_store(url)
        bad = {p[:2] for p in problems(store)}
    except InputError:
        return {("", "")}
    for pair in wanted:
        try:
            assert same(store.read(*pair), wanted[pair])
        except InputError:
            assert bad, pair
    return bad


WRITER = textwrap.dedent("""
    import os, random, signal, sys, time
    import numpy as np
    from sage_va.data import Clip, Track, open_store, stream_name
    import sage_va.data.store.icechunk_store

    def work(url, jobs):
        store = open_store(url, "a")
        for clip_id, modality in jobs:
            fingerprint = {"modality": modality}
            stream = stream_name(modality, "toy", fingerprint)
            if not store.has(clip_id, stream, "5"):
                rng = np.random.default_rng(len(clip_id))
                track = Track.of(rng.standard_normal((600, 4)).astype(np.float32), np.arange(600) / 25)
                store.commit(Clip(clip_id), stream, track, fingerprint=fingerprint, source_sha256="5")

    def child(url, jobs, then=lambda: None):
        pid = os.fork()
        if pid == 0:
            try:
                work(url, jobs)
                then()
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        return pid

    def jobs(count):
        return [(f"clip{k}", modality) for k in range(count) for modality in ("visual", "audio")]
""")


def run_writers(code: str, *args: object) -> None:
    script = WRITER + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    """Four processes make one repository: different entries, and the very same ones."""
    code = """
    crowd = [jobs(6)[::2], jobs(6)[1::2], jobs(6)[::-1], jobs(6)]
    assert [os.waitpid(pid, 0)[1] for pid in [child(sys.argv[1], some) for some in crowd]] == [0] * 4
    work(sys.argv[2], jobs(6))
    """
    run_writers(code, f"icechunk://{tmp_path}/many", f"icechunk://{tmp_path}/one")
    many, one = open_store(f"icechunk://{tmp_path}/many"), open_store(f"icechunk://{tmp_path}/one")
    assert len(one.clip_ids()) == 6
    assert many.content_sha256() == one.content_sha256()
    assert many.aliases() == one.aliases()
    assert problems(many) == []
    assert sorted(commits(many)) == sorted(commits(one))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["many", "one"]


@pytest.mark.parametrize("rounds", [4, pytest.param(40, marks=pytest.mark.exhaustive)])
def test_killed_writers_resume(tmp_path: Path, rounds: int) -> None:
    """SIGKILL at random moments, again and again; then the work ends as in an uninterrupted run."""
    code = """
    random.seed(0)
    url, rounds = sys.argv[1], int(sys.argv[3])
    for num_clips in range(9, 9 * rounds + 1, 9):
        pair = [child(url, some, signal.pause) for some in (jobs(num_clips), jobs(num_clips)[::-1])]
        time.sleep(random.uniform(0.02, 0.2))
        for pid in pair:
            os.kill(pid, signal.SIGKILL)
        assert [os.waitpid(pid, 0)[1] for pid in pair] == [signal.SIGKILL] * 2
    assert not [p for _, _, p in open_store(url, "a").verify() if p]
    work(url, jobs(num_clips))
    work(sys.argv[2], jobs(num_clips))
    """
    run_writers(code, f"icechunk://{tmp_path}/killed", f"icechunk://{tmp_path}/whole", rounds)
    killed, whole = open_store(f"icechunk://{tmp_path}/killed"), open_store(f"icechunk://{tmp_path}/whole")
    assert problems(killed) == []
    assert killed.content_sha256() == whole.content_sha256()
    assert sorted(commits(killed)) == sorted(commits(whole))


def test_writers_of_a_folder_take_turns(tmp_path: Path) -> None:
    store = open_store(f"icechunk://{tmp_path}/c", "a")
    put(store, "a")
    for work in (lambda: put(store, "b"), lambda: store.discard("a", VISUAL_NAME), lambda: store.tag("v1")):  # type: ignore[attr-defined]
        thread = threading.Thread(target=work)
        before = commits(open_store(store.url))
        with locked(tmp_path / "c/.sage-va.lock", fcntl.LOCK_EX):
            thread.start()
            thread.join(0.2)
            assert thread.is_alive()
            assert commits(open_store(store.url)) == before
        thread.join()
    assert open_store(f"{store.url}@v1").clip_ids() == ["b"]


def test_a_disk_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"icechunk://{tmp_path}/c", "a")
    put(store, "a")
    monkeypatch.setattr(store_icechunk, "locked", lambda path, kind: contextlib.nullcontext(False))
    with pytest.raises(InputError, match=r"c: expected a disk that can lock files, got one that cannot\. Put the"):
        put(store, "b")
    assert open_store(f"icechunk://{tmp_path}/c").clip_ids() == ["a"]


@needs_s3
def test_object_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as port:
        use_s3(monkeypatch, port)
        empty_bucket(port)
        store_in_bucket(f"icechunk://s3://{BUCKET}/va/cache")


def store_in_bucket(url: str) -> None:
    with pytest.raises(InputError, match=r"va/cache: expected an Icechunk repository, got none there"):
        open_store(url)
    text = r"expected storage that answers, got The specified bucket does not exist\. Look at address, network,"
    with pytest.raises(InputError, match=text):
        open_store("icechunk://s3://nowhere/va")
    one, two = open_store(url, "a", licence="EULA"), open_store(url, "a")
    assert isinstance(one, IcechunkStore)
    tracks = [make_track(k, 300) for k in range(3)]
    with ThreadPoolExecutor(2) as pool:  # both commit to one branch; who is late looks again
        jobs = [pool.submit(put, store, f"c{k}", track=tracks[k]) for k in range(3) for store in (one, two)]
        for job in jobs:
            job.result()
    one.tag("v1")
    put(two, "c0", seed=9, overwrite=True)
    store = open_store(url)
    assert store.clip_ids() == ["c0", "c1", "c2"]
    assert problems(store) == []
    assert store.root()["licence"] == "EULA"
    assert same(store.read("c0", VISUAL_NAME), make_track(9))
    assert same(open_store(f"{url}@v1").read("c0", VISUAL_NAME), tracks[0])
    assert len(commits(store)) == 3 + 3 + 1
    client = importlib.import_module("boto3").client("s3")
    chunks = [row["Key"] for row in client.list_objects_v2(Bucket=BUCKET, Prefix="va/cache/chunks/")["Contents"]]
    for key in chunks:
        whole = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        client.put_object(Bucket=BUCKET, Key=key, Body=whole[:-1])
    assert [p[:2] for p in problems(open_store(f"{url}@v1"))] == [(f"c{k}", VISUAL_NAME) for k in range(3)]
    for key in chunks:
        client.delete_object(Bucket=BUCKET, Key=key)
    assert [p[:2] for p in problems(open_store(f"{url}@v1"))] == [(f"c{k}", VISUAL_NAME) for k in range(3)]


@pytest.mark.parametrize("cause", ["dispatch failure", "timed out", "No space left on device (os error 28)"])
def test_storage_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str) -> None:
    store = open_store(f"icechunk://{tmp_path}/c", "a")
    put(store, "a")

    def fails(tree: object, path: str) -> bytes:
        raise icechunk.IcechunkError(f"  x error\n  |-> {cause}\n  `-> the cause\n")

    record = store.record("a", VISUAL_NAME)
    monkeypatch.setattr(store_icechunk.Tree, "read", fails)
    with pytest.raises(ConnectionError, match=r"^the cause$"):
        store._load_entry(VISUAL_NAME, "a", record)
    with pytest.raises(InputError, match=r"expected storage that answers, got the cause\. Look at address") as raised:
        store.read("a", VISUAL_NAME)
    assert not isinstance(raised.value, DamagedError)


@pytest.mark.exhaustive
def test_storage_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Icechunk tries for half a minute, which no setting shortens."""
    use_s3(monkeypatch, 9)
    with pytest.raises(InputError, match="expected storage that answers, got Connection refused"):
        open_store("icechunk://s3://team/va")
