"""The Zarr folder: the contract, plain zarr reads it, damage is named, kills and full disks lose nothing."""

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zarr

from sage_va.data import Clip, DamagedError, FrameClock, InputError, Store, open_store
from sage_va.data.fingerprint import clip_key, json_sha256, sealed
from sage_va.tests.stores import AUDIO_NAME, SHA, VISUAL_NAME, StoreContract, make_track, problems, put, same


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class TestZarrStore(StoreContract):
    @pytest.fixture
    def opened(self, tmp_path: Path) -> Callable[..., Store]:
        return lambda mode="a", name="cache", **terms: open_store(tmp_path / f"{name}.zarr", mode, **terms)

    def test_plain_zarr_reads_it(self, store: Store, tmp_path: Path) -> None:
        put(store, "talk/one.mp4#left", seed=3)
        entry = zarr.open_group(tmp_path / "cache.zarr", mode="r")[f"{VISUAL_NAME}/talk=2Fone.mp4=23left"]
        assert isinstance(entry, zarr.Group)
        assert entry.attrs["commit"] is True
        track, frames = make_track(3), np.asarray(entry["frames"][:])
        assert np.array_equal(np.asarray(entry["values"][:]), track.values, equal_nan=True)
        assert np.array_equal(frames[:, 0], track.times_s)
        assert np.array_equal(frames[:, 1] == 1, track.mask)
        assert np.array_equal(frames[:, 2:], track.quality, equal_nan=True)
        assert entry.attrs["columns"] == [["time_s", "s"], ["mask", "1"], ["score", "1"]]
        put(store, "b", track=make_track(4, dtype=ml_dtypes.bfloat16))
        values = zarr.open_array(tmp_path / "cache.zarr" / VISUAL_NAME / "b/values", mode="r")[:]
        assert same(store.read("b", VISUAL_NAME), make_track(4, dtype=ml_dtypes.bfloat16))
        assert np.array_equal(np.asarray(values).view(ml_dtypes.bfloat16), make_track(4, dtype=ml_dtypes.bfloat16).values, equal_nan=True)

    def test_a_lost_chunk_reads_as_nan_by_plain_zarr_and_is_damage_here(self, store: Store, tmp_path: Path) -> None:
        put(store, "a", track=make_track(1, dtype=ml_dtypes.bfloat16))
        (tmp_path / "cache.zarr" / VISUAL_NAME / "a/values/c/0/0").unlink()
        (tmp_path / "cache.zarr" / VISUAL_NAME / "a/frames/c/0/0").unlink()
        entry = zarr.open_group(tmp_path / "cache.zarr" / VISUAL_NAME / "a", mode="r")
        assert np.isnan(np.asarray(entry["frames"][:])).all()
        assert np.isnan(np.asarray(entry["values"][:]).view(ml_dtypes.bfloat16)).all()
        with pytest.raises(DamagedError, match="expected two readable arrays, got FileNotFoundError"):
            store.read("a", VISUAL_NAME)

    def test_five_files_per_entry(self, store: Store, tmp_path: Path) -> None:
        put(store, "a", track=make_track(0, 3000))
        put(store, "a", "audio")
        files = [p for stream in (VISUAL_NAME, AUDIO_NAME) for p in (tmp_path / "cache.zarr" / stream / "a").rglob("*")]
        assert sum(p.is_file() for p in files) == 10

    def test_unmarked_entries_are_invisible_but_reported(self, store: Store, tmp_path: Path) -> None:
        put(store, "a")
        put(store, "b", "audio")
        (tmp_path / "cache.zarr" / AUDIO_NAME / "a").mkdir()
        assert store.streams("a") == [VISUAL_NAME]
        assert not store.has("a", AUDIO_NAME, SHA)
        assert problems(store) == [("", "", f"{AUDIO_NAME}/a has no record: it was not made by a writer of this cache")]
        put(store, "a", "audio", seed=4)
        assert same(store.read("a", AUDIO_NAME), make_track(4))
        (tmp_path / "cache.zarr" / AUDIO_NAME / "c").mkdir()
        assert store.sweep() == [f"removed {AUDIO_NAME}/c, which has no record"]
        assert problems(store) == []

    def test_an_entry_in_the_place_of_another_is_refused(self, store: Store, tmp_path: Path) -> None:
        put(store, "a", seed=1)
        put(store, "b", seed=2)
        clips = tmp_path / "cache.zarr" / VISUAL_NAME
        shutil.rmtree(clips / "b")
        shutil.copytree(clips / "a", clips / "b")
        with pytest.raises(DamagedError, match=f"b {VISUAL_NAME}: expected the record that was committed, got another"):
            store.read("b", VISUAL_NAME)

    def test_two_creators_and_a_half_made_cache(self, tmp_path: Path) -> None:
        path = tmp_path / "half.zarr"
        (path / ".sage-va/staging").mkdir(parents=True)
        put(open_store(path, "a"), "a")
        assert open_store(path).clip_ids() == ["a"]


def tree(path: Path) -> dict[str, bytes]:
    """Every file of a cache but the journal, and every folder."""
    found = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.name != "journal.jsonl"}
    return {name: b"" if place.is_dir() else place.read_bytes() for name, place in found.items()}


class TestOpening:
    def test_what_is_no_cache_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match=r"no\.zarr: expected a feature cache, got no such folder or not one\. Check"
        ):
            open_store(tmp_path / "no.zarr")
        with pytest.raises(InputError, match=r"expected a cache: \*\.zarr, \*\.h5, .*, got 'cache\.npz'"):
            open_store(tmp_path / "cache.npz", "a")
        (tmp_path / "full.zarr").mkdir()
        (tmp_path / "full.zarr/thesis.tex").write_text("x")
        with pytest.raises(InputError, match="expected a cache or an empty place, got a folder of other files"):
            open_store(tmp_path / "full.zarr", "a")
        (tmp_path / "file.zarr").write_text("x")
        with pytest.raises(InputError, match="expected a cache or an empty place, got a file"):
            open_store(tmp_path / "file.zarr", "a")
        zarr.create_group(tmp_path / "foreign.zarr", attributes={"title": "weather"})
        with pytest.raises(InputError, match="expected a feature cache, got something of another kind"):
            open_store(tmp_path / "foreign.zarr", "a")

    def test_another_schema_is_refused_by_name(self, tmp_path: Path) -> None:
        open_store(tmp_path / "c.zarr", "a")
        rewrite(tmp_path / "c.zarr", {"schema_version": 7})
        with pytest.raises(InputError, match=r"c\.zarr: expected cache schema 1, got schema 7\. Use the version"):
            open_store(tmp_path / "c.zarr")

    def test_a_damaged_root_is_refused(self, tmp_path: Path) -> None:
        open_store(tmp_path / "c.zarr", "a", licence="EULA")
        place = tmp_path / "c.zarr/zarr.json"
        whole = place.read_bytes()
        for flipped in flips(whole):
            place.write_bytes(flipped)
            with pytest.raises(InputError, match=r"expected (the attributes that were written|a feature cache)"):
                open_store(tmp_path / "c.zarr")

    def test_a_cache_that_was_opened_to_read_is_not_written(self, tmp_path: Path) -> None:
        open_store(tmp_path / "c.zarr", "a")
        with pytest.raises(AssertionError):
            put(open_store(tmp_path / "c.zarr"), "a")


def rewrite(path: Path, attrs: dict[str, Any]) -> None:
    body = json.loads((path / "zarr.json").read_text())
    kept = {key: value for key, value in body["attributes"].items() if key != "attrs_sha256"}
    (path / "zarr.json").write_text(json.dumps({**body, "attributes": sealed({**kept, **attrs})}))


def flips(whole: bytes, every: int = 1) -> Iterator[bytes]:
    """The same bytes with one of them changed, for each of them."""
    for k in range(0, len(whole), every):
        yield whole[:k] + bytes([whole[k] ^ 1]) + whole[k + 1 :]


class TestDamage:
    """One clip with two streams; one byte, chunk or record of the visual one is hurt."""

    LONG = "long/" + "x" * 300

    @pytest.fixture(params=["a", LONG], ids=["short", "cut"])
    def hurt(self, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Store, str, Path]:
        store = open_store(tmp_path / "c.zarr", "a")
        clip = Clip(request.param, "ann", 2.5, FrameClock.regular(25, 5))
        put(store, clip.clip_id, clip=clip)
        put(store, clip.clip_id, "audio")
        return store, clip.clip_id, tmp_path / "c.zarr/clips" / clip_key(clip.clip_id)

    def test_every_byte_of_every_array(self, hurt: tuple[Store, str, Path]) -> None:
        store, clip_id, place = hurt
        files = [p for p in (place / VISUAL_NAME).rglob("*") if p.is_file() and "c" in p.relative_to(place).parts]
        assert len(files) == 4
        for path in files:
            whole = path.read_bytes()
            for flipped in flips(whole, 5):
                path.write_bytes(flipped)
                assert [p[:2] for p in problems(store)] == [(clip_id, VISUAL_NAME)]
                with pytest.raises(
                    DamagedError, match=r"expected .*\. Run `sage-va cache verify`, then extract it again"
                ):
                    store.read(clip_id, VISUAL_NAME)
            for short in (whole[:-1], b""):
                path.write_bytes(short)
                assert [p[:2] for p in problems(store)] == [(clip_id, VISUAL_NAME)]
            path.unlink()
            assert [p[:2] for p in problems(store)] == [(clip_id, VISUAL_NAME)]
            path.write_bytes(whole)
        assert problems(store) == []

    def test_every_byte_of_the_record(self, hurt: tuple[Store, str, Path]) -> None:
        store, clip_id, place = hurt
        path = place / VISUAL_NAME / "zarr.json"
        whole = path.read_bytes()
        for k, flipped in enumerate(flips(whole, 2 if clip_id == "a" else 5)):
            path.write_bytes(flipped)
            assert store.streams(clip_id) == [AUDIO_NAME, VISUAL_NAME]
            assert not store.has(clip_id, VISUAL_NAME, SHA)
            with pytest.raises(DamagedError, match=f"{VISUAL_NAME}: expected the record that was committed"):
                store.read(clip_id, VISUAL_NAME)
            if k % 50 == 0:
                assert [p[:2] for p in problems(store)] == [(clip_id, VISUAL_NAME)]
                assert store.clip_ids() == [clip_id]
        with pytest.raises(DamagedError, match=VISUAL_NAME):
            store.clip(clip_id)
        with pytest.raises(DamagedError, match=VISUAL_NAME):
            store.content_sha256()
        put(store, clip_id, clip=Clip(clip_id))
        assert problems(store) == []

    def test_every_byte_of_the_clip(self, hurt: tuple[Store, str, Path]) -> None:
        store, clip_id, place = hurt
        path = place / "zarr.json"
        whole = path.read_bytes()
        for flipped in flips(whole, 11):
            path.write_bytes(flipped)
            found = problems(store)
            assert [p[:2] for p in found] == [(clip_id, "")]
            assert found[0][2] == "attributes of the clip are not those that were written"
        path.unlink()
        assert [p[:2] for p in problems(store)] == [(clip_id, "")]
        put(store, clip_id)
        assert path.read_bytes() == whole
        assert problems(store) == []

    def test_descriptions_of_arrays_cannot_change_what_is_read(self, hurt: tuple[Store, str, Path]) -> None:
        store, clip_id, place = hurt
        before = store.read(clip_id, VISUAL_NAME)
        for name in ("values", "quality"):
            path = place / VISUAL_NAME / name / "zarr.json"
            whole = path.read_bytes()
            for flipped in flips(whole, 17):
                path.write_bytes(flipped)
                with contextlib.suppress(DamagedError):
                    assert same(store.read(clip_id, VISUAL_NAME), before)
            path.write_bytes(whole)

    def test_groups_between(self, hurt: tuple[Store, str, Path]) -> None:
        store, clip_id, place = hurt
        path = place / "visual/zarr.json"
        path.write_bytes(b"{}")
        assert problems(store) == [("", "", f"clips/{place.name}/visual/zarr.json is not what was written")]
        put(store, clip_id, overwrite=True)
        assert problems(store) == []


class Fault:
    """Counts the calls that change a disk; from the n-th on, or at the n-th alone, they raise."""

    CHANGES = ("fsync", "rename", "replace", "mkdir", "write", "unlink", "rmdir")

    def __init__(self, patch: pytest.MonkeyPatch, at: int, error: BaseException, forever: bool) -> None:
        self.at, self.error, self.forever, self.count, self.armed = at, error, forever, 0, True
        for name in self.CHANGES:
            patch.setattr(os, name, self.watched(getattr(os, name)))
        plain = io.open

        def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            return (plain if mode in ("r", "rb") else self.watched(plain))(file, mode, *args, **kwargs)

        patch.setattr(io, "open", opened)

    def watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watching(*args: Any, **kwargs: Any) -> Any:
            if self.armed:
                self.count += 1
                if self.count == self.at or (self.forever and self.count > self.at):
                    raise self.error
            return call(*args, **kwargs)

        return watching


class Death(BaseException):
    """Stands for a kill: nothing after it, no tidying either, reaches the disk."""


FULL = OSError(errno.ENOSPC, "No space left on device")


def everywhere(
    folder: Path,
    work: Callable[[Path], None],
    check: Callable[[Path], None],
    error: BaseException,
    forever: bool,
    every: int,
) -> None:
    """Works on copies of `base.zarr` (or from nothing) with a fault at each call; checks; works again; compares."""
    base, wanted = folder / "base.zarr", folder / "wanted.zarr"

    def fresh(path: Path) -> Path:
        return Path(shutil.copytree(base, path)) if base.exists() else path

    work(fresh(wanted))
    expected, content = tree(wanted), open_store(wanted).content_sha256()
    for at in range(1, 1000, every):
        path = fresh(folder / f"{at}.zarr")
        with pytest.MonkeyPatch.context() as patch:
            fault = Fault(patch, at, error, forever)
            with contextlib.suppress(OSError, Death):
                work(path)
            fault.armed = False
        if (path / "zarr.json").exists():
            assert problems(open_store(path)) == [], at
            check(path)
        work(path)
        assert tree(path) == expected, at
        if fault.count < at:
            break
    assert 50 < at < 500
    assert open_store(path).content_sha256() == content


class TestFaults:
    """Whatever call fails, the cache stays whole, and doing the work again ends as if nothing had happened."""

    @pytest.fixture
    def folder(self) -> Iterator[Path]:
        """In memory where that is possible: hundreds of caches come and go."""
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as made:
            yield Path(made)

    @pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)], ids=["some calls", "all calls"])
    @pytest.mark.parametrize(("error", "forever"), [(FULL, False), (Death(), True)], ids=["full disk", "kill"])
    def test_replacing(self, folder: Path, error: BaseException, forever: bool, every: int) -> None:
        put(open_store(folder / "base.zarr", "a"), "a", seed=1)

        def work(path: Path) -> None:
            put(open_store(path, "a"), "a", seed=2, overwrite=True)

        def check(path: Path) -> None:
            found = open_store(path, "a").read("a", VISUAL_NAME)
            assert same(found, make_track(1)) or same(found, make_track(2))

        everywhere(folder, work, check, error, forever, every)

    @pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)], ids=["some calls", "all calls"])
    @pytest.mark.parametrize(("error", "forever"), [(FULL, False), (Death(), True)], ids=["full disk", "kill"])
    def test_from_nothing(self, folder: Path, error: BaseException, forever: bool, every: int) -> None:
        def work(path: Path) -> None:
            put(open_store(path, "a"), "a")

        everywhere(folder, work, lambda path: None, error, forever, every)

    def test_the_old_entry_comes_back_if_the_new_one_could_not_be_placed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = open_store(tmp_path / "c.zarr", "a")
        put(store, "a", seed=1)
        plain = Path.rename

        def rename(self: Path, target: Path) -> Path:
            if self.name == "new":
                raise FULL
            return plain(self, target)

        monkeypatch.setattr(Path, "rename", rename)
        with pytest.raises(OSError, match="No space left"):
            put(store, "a", seed=2, overwrite=True)
        assert same(store.read("a", VISUAL_NAME), make_track(1))

    def test_all_is_on_disk_before_it_is_visible(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = open_store(tmp_path / "c.zarr", "a")
        synced: set[str] = set()
        monkeypatch.setattr(os, "fsync", lambda descriptor: synced.add(os.readlink(f"/proc/self/fd/{descriptor}")))
        plain = Path.rename

        def rename(self: Path, target: Path) -> Path:
            assert {str(p) for p in [self, *self.rglob("*")]} <= synced
            return plain(self, target)

        monkeypatch.setattr(Path, "rename", rename)
        put(store, "a", track=make_track(0, 1100))
        assert {str(p) for p in [tmp_path / "c.zarr/clips", tmp_path / "c.zarr/clips/a/visual"]} <= synced

    def test_a_live_writer_is_not_tidied_away(self, tmp_path: Path) -> None:
        store = open_store(tmp_path / "c.zarr", "a")
        with store._temporary() as temporary:  # type: ignore[attr-defined]
            open_store(tmp_path / "c.zarr", "a")
            assert temporary.is_dir()
            killed = temporary.with_name(f"{temporary.name}-killed")
            killed.mkdir()
        assert open_store(tmp_path / "c.zarr").leftovers() == [f".staging/{killed.name}"]
        assert problems(open_store(tmp_path / "c.zarr")) == []
        foreign = killed.with_name("elsewhere-0123")
        foreign.mkdir()
        assert open_store(tmp_path / "c.zarr", "a").leftovers() == [".staging/elsewhere-0123"]


WRITER = textwrap.dedent("""
    import os, random, signal, sys, time
    os.fsync = lambda descriptor: None
    import numpy as np
    from sage_va.data import Clip, Track, open_store, stream_name

    def work(path, jobs):
        store = open_store(path, "a")
        for clip_id, modality in jobs:
            fingerprint = {"modality": modality}
            stream = stream_name(modality, "toy", fingerprint)
            if not store.has(clip_id, stream, "5"):
                rng = np.random.default_rng(len(clip_id))
                track = Track.of(rng.standard_normal((600, 4)).astype(np.float32), np.arange(600) / 25)
                clip = Clip(clip_id, duration_s=24.0 if modality == "visual" else 23.9)
                store.commit(clip, stream, track, fingerprint=fingerprint, source_sha256="5")

    def child(path, jobs):
        pid = os.fork()
        if pid == 0:
            try:
                work(path, jobs)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(1)
            os._exit(0)
        return pid

    def finish(pid):
        return os.waitpid(pid, 0)[1]
""")


def run_writers(code: str, *args: object) -> str:
    script = WRITER + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    """Four processes make one cache: the same clips, different streams, and some of the very same entries."""
    run_writers(
        """
        clips = [f"clip{k}" for k in range(5)]
        all_jobs = [(clip, modality) for clip in clips for modality in ("visual", "audio")]
        crowd = [all_jobs[::2], all_jobs[1::2], all_jobs[::-1], all_jobs]
        codes = [finish(pid) for pid in [child(sys.argv[1], jobs) for jobs in crowd]]
        assert codes == [0] * 4, codes
        assert finish(child(sys.argv[2], all_jobs)) == 0
        """,
        tmp_path / "many.zarr",
        tmp_path / "one.zarr",
    )
    many, one = open_store(tmp_path / "many.zarr"), open_store(tmp_path / "one.zarr")
    assert problems(many) == []
    assert many.content_sha256() == one.content_sha256()
    assert tree(tmp_path / "many.zarr") == tree(tmp_path / "one.zarr")


def test_killed_writers_resume(tmp_path: Path) -> None:
    """SIGKILL at random moments, again and again; then the work ends as in an uninterrupted run."""
    killed = run_writers(
        """
        jobs = [(f"clip{k}", modality) for k in range(12) for modality in ("visual", "audio")]
        assert finish(child(sys.argv[2], jobs)) == 0
        random.seed(int(sys.argv[3]))
        killed = 0
        for _ in range(12):
            pair = [child(sys.argv[1], jobs), child(sys.argv[1], jobs[::-1])]
            time.sleep(random.uniform(0.01, 0.15))
            for pid in pair:
                os.kill(pid, signal.SIGKILL)
            killed += sum(finish(pid) == signal.SIGKILL for pid in pair)
        open_store(sys.argv[1], "a")
        problems = [p for _, _, p in open_store(sys.argv[1]).verify() if p]
        assert not problems, problems
        assert finish(child(sys.argv[1], jobs)) == 0
        print(killed)
        """,
        tmp_path / "killed.zarr",
        tmp_path / "whole.zarr",
        0,
    )
    assert int(killed) > 3
    killed_store, whole = open_store(tmp_path / "killed.zarr"), open_store(tmp_path / "whole.zarr")
    assert problems(killed_store) == []
    assert killed_store.content_sha256() == whole.content_sha256()
    assert tree(tmp_path / "killed.zarr") == tree(tmp_path / "whole.zarr")


def test_the_journal_tells_what_happened(tmp_path: Path) -> None:
    store = open_store(tmp_path / "c.zarr", "a")
    put(store, "a")
    store.log_failure("b", "no face")
    lines = [json.loads(line) for line in (tmp_path / "c.zarr/journal.jsonl").read_text().splitlines()]
    assert [(line["event"], line["clip_id"]) for line in lines] == [("commit", "a"), ("failure", "b")]


def test_golden_identity() -> None:
    """The hash that names a stream must never change by accident: caches would go stale."""
    assert json_sha256({"b": [1, 2.5, None, True], "a": "ü"})[:16] == "5cffe7b225626127"
