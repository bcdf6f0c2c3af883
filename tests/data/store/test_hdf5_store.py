"""The cache as HDF5: the contract, plain h5py reads it, every flipped byte is named, one file for sharing."""

import json
import os
import pickle
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest

from sage_va.data import Clip, DamagedError, FrameClock, InputError, Store, open_store
from sage_va.data.atomic import part_of
from sage_va.data.store.entry import Entry
from sage_va.data.store.hdf5_layout import SEAL_BYTES, entry_of, put_entry, sealed_bytes
from sage_va.data.store.hdf5_store import restore, write_single
from sage_va.data.store.ledger import Ledger
from sage_va.data.store.staging import Staging
from sage_va.testing import AUDIO_NAME, SHA, VISUAL_NAME, StoreContract, make_track, problems, put, same


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def flips(whole: bytes, every: int) -> Iterator[bytes]:
    """Copies of the bytes with one of them changed, for every n-th, the first and the last."""
    for k in {*range(0, len(whole), every), len(whole) - 1}:
        yield whole[:k] + bytes([whole[k] ^ 1]) + whole[k + 1 :]


def anew(path: Path, content: bytes) -> None:
    """Puts another file in the place, as HDF5 knows an open file by its inode."""
    path.unlink()
    path.write_bytes(content)


def entries_of(store: Store) -> Iterator[Entry]:
    return (store.entry(clip_id, stream) for stream in store.streams() for clip_id in store.clip_ids(stream))


def single(path: Path, store: Store) -> Store:
    written = list(write_single(path, store.root(), store.aliases(), entries_of(store)))
    assert len(written) == len(list(entries_of(store)))
    return open_store(path)


class TestHdf5Folder(StoreContract):
    @pytest.fixture
    def opened(self, tmp_path: Path) -> Callable[..., Store]:
        return lambda mode="a", name="cache", **terms: open_store(tmp_path / f"{name}.h5", mode, **terms)

    def test_plain_h5py_reads_an_entry(self, store: Store, tmp_path: Path) -> None:
        put(store, "talk/one.mp4#left", seed=3)
        with h5py.File(tmp_path / "cache.h5" / VISUAL_NAME / "talk=2Fone.mp4=23left.h5") as entry:
            check_plain(entry, 3)
            assert entry["values"].chunks is entry["values"].compression is None
        put(store, "b", track=make_track(4, dtype=ml_dtypes.bfloat16))
        with h5py.File(tmp_path / "cache.h5" / VISUAL_NAME / "b.h5") as entry:
            values = entry["values"][:]
        assert values.dtype == np.uint16
        assert np.array_equal(
            values.view(ml_dtypes.bfloat16), make_track(4, dtype=ml_dtypes.bfloat16).values, equal_nan=True
        )

    def test_the_index_shows_all_entries_wherever_the_folder_goes(self, store: Store, tmp_path: Path) -> None:
        put(store, "a", seed=3)
        put(store, "b/ü #1", "audio", seed=4)
        assert not (tmp_path / "cache.h5/index.h5").exists()
        store.finish()
        moved = shutil.move(tmp_path / "cache.h5", tmp_path / "elsewhere.h5")
        with h5py.File(Path(moved) / "index.h5") as index:
            check_plain(index[VISUAL_NAME]["a"], 3)
            check_plain(index[f"{AUDIO_NAME}/b=2F=C3=BC=20=231"], 4)

    def test_the_index_is_made_anew_and_equal_content_gives_equal_bytes(self, store: Store, tmp_path: Path) -> None:
        put(store, "a")
        put(store, "b")
        store.finish()
        path = tmp_path / "cache.h5/index.h5"
        whole = path.read_bytes()
        store.discard("b", VISUAL_NAME)
        assert problems(store) == []  # a stale index does no harm
        assert store.sweep() == ["made index.h5 anew"]
        assert path.read_bytes() != whole
        put(store, "b")
        path.unlink()
        assert problems(store) == []
        store.finish()
        assert path.read_bytes() == whole
        assert store.sweep() == []

    def test_equal_entries_are_equal_bytes_at_any_time(self, store: Store, tmp_path: Path) -> None:
        path = tmp_path / "cache.h5" / VISUAL_NAME / "a.h5"
        put(store, "a")
        first = path.read_bytes()
        start = int(time.time())
        while int(time.time()) == start:
            time.sleep(0.05)  # HDF5 dates things by the second
        put(store, "a", overwrite=True)
        assert path.read_bytes() == first

    def test_a_clock_of_any_rate_fits_in_a_record(self, store: Store, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        clock = FrameClock(Fraction(1, 90000), np.cumsum(rng.integers(1, 9000, 20_000)))
        put(store, "a", clip=Clip("a", clock=clock))
        restored = store.clip("a").clock
        assert restored is not None
        assert np.array_equal(restored.pts, clock.pts)
        assert problems(store) == []
        with h5py.File(tmp_path / "cache.h5" / VISUAL_NAME / "a.h5") as entry:
            assert len(entry.attrs["record"]) > 100_000
            assert FrameClock.from_json(json.loads(entry.attrs["record"])["clip"]["clock"]).pts[-1] == clock.pts[-1]

    @pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.exhaustive)])
    def test_every_byte_of_an_entry(self, store: Store, tmp_path: Path, every: int) -> None:
        put(store, "a")
        put(store, "b")
        put(store, "a", "audio")
        path = tmp_path / "cache.h5" / VISUAL_NAME / "a.h5"
        whole = path.read_bytes()
        for flipped in flips(whole, every):
            anew(path, flipped)
            assert store._verify_entry(VISUAL_NAME, "a", Ledger(()))[2] is not None
            if (record := store._load_record(VISUAL_NAME, "a")) and store.has("a", VISUAL_NAME, SHA):
                assert record["stream"] == VISUAL_NAME
        assert [p[:2] for p in problems(store)] == [("a", VISUAL_NAME)]
        for length in range(0, len(whole), 197):
            anew(path, whole[:length])
            assert [p[:2] for p in problems(store)] == [("a", VISUAL_NAME)]
            assert not store.has("a", VISUAL_NAME, SHA)
            with pytest.raises(DamagedError, match="expected the record that was committed, got another"):
                store.read("a", VISUAL_NAME)
        put(store, "a")
        assert path.read_bytes() == whole
        assert problems(store) == []

    def test_what_surrounds_the_arrays_is_named_too(self, store: Store, tmp_path: Path) -> None:
        put(store, "a")
        path = tmp_path / "cache.h5" / VISUAL_NAME / "a.h5"
        whole = path.read_bytes()
        anew(path, whole[:400] + b"x" + whole[401:])
        assert same(store.read("a", VISUAL_NAME), make_track(0))
        assert problems(store) == [("a", VISUAL_NAME, "expected the file that was written, got another")]

    def test_arrays_of_another_form_are_refused(self, store: Store, tmp_path: Path) -> None:
        put(store, "a")
        entry = store.entry("a", VISUAL_NAME)
        wide = Entry(entry.record, np.zeros((9, 9), np.float16), entry.frames)
        path = tmp_path / "cache.h5" / VISUAL_NAME / "a.h5"
        anew(path, sealed_bytes("entry", lambda file: put_entry(file, wide)))
        with pytest.raises(DamagedError, match=r"got ValueError: 'values' of shape \(9, 9\), float16"):
            store.read("a", VISUAL_NAME)

    def test_every_byte_of_the_index(self, store: Store, tmp_path: Path) -> None:
        put(store, "a")
        store.finish()
        path = tmp_path / "cache.h5/index.h5"
        whole = path.read_bytes()
        for changed in [*flips(whole, 13), whole[:-1], whole[:600], b""]:
            path.write_bytes(changed)
            assert problems(store) == [("", "", "index.h5 is not what was written")]
            assert same(store.read("a", VISUAL_NAME), make_track(0))
        assert store.sweep() == ["made index.h5 anew"]
        assert path.read_bytes() == whole

    def test_every_byte_of_the_root(self, store: Store, tmp_path: Path) -> None:
        path = tmp_path / "cache.h5/cache.json"
        whole = path.read_bytes()
        assert restore(tmp_path / "cache.h5") is None
        for changed in [*flips(whole, 1), b"", b"[]"]:
            path.write_bytes(changed)
            with pytest.raises(InputError, match=r"expected (the attributes that were written|a feature cache)"):
                open_store(tmp_path / "cache.h5")
        assert restore(tmp_path / "cache.h5") == "restored cache.json"
        assert path.read_bytes() == whole

    def test_a_folder_in_the_place_of_an_entry(self, store: Store, tmp_path: Path) -> None:
        put(store, "b")
        (tmp_path / "cache.h5" / VISUAL_NAME / "a.h5").mkdir()
        assert store.clip_ids() == ["b"]
        assert problems(store) == [("", "", f"{VISUAL_NAME}/a has no record: no writer of this cache made it")]
        put(store, "a")
        assert same(store.read("a", VISUAL_NAME), make_track(0))
        assert problems(store) == []
        assert store.leftovers() == []

    def test_an_entry_in_the_place_of_another_is_refused(self, store: Store, tmp_path: Path) -> None:
        put(store, "a", seed=1)
        put(store, "b", seed=2)
        folder = tmp_path / "cache.h5" / VISUAL_NAME
        shutil.copy(folder / "a.h5", folder / "b.h5")
        assert [p[:2] for p in problems(store)] == [("b", VISUAL_NAME)]

    def test_the_old_entry_comes_back_after_a_full_disk_or_a_kill(
        self, store: Store, opened: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(store, "a", seed=1)
        plain = Path.rename

        def rename(self: Path, target: Path) -> Path:
            if self.name == "new":
                raise OSError("No space left on device")
            return plain(self, target)

        monkeypatch.setattr(Path, "rename", rename)
        with pytest.raises(OSError, match="No space left"):
            put(store, "a", seed=2, overwrite=True)
        assert same(store.read("a", VISUAL_NAME), make_track(1))
        with monkeypatch.context() as patch:
            patch.setattr(Staging, "_drop", lambda self, temporary: None)  # a kill: nothing clears up
            with pytest.raises(OSError, match="No space left"):
                put(store, "a", seed=2, overwrite=True)
        assert store.clip_ids() == []
        assert same(opened().read("a", VISUAL_NAME), make_track(1))

    def test_two_writers_may_make_the_same_folder(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        put(store, "a")
        plain, late = Path.is_dir, [VISUAL_NAME.split("/")[1]]

        def is_dir(self: Path) -> bool:
            if self.name in late:
                late.clear()  # the first look is just before the other one makes it
                return False
            return plain(self)

        monkeypatch.setattr(Path, "is_dir", is_dir)
        put(store, "b")
        assert store.clip_ids() == ["a", "b"]


def check_plain(entry: h5py.Group, seed: int) -> None:
    """The recipe of the documentation, with h5py alone."""
    values = entry["values"][:]
    frames = entry["frames"][:]
    times_s, mask, quality = frames[:, 0], frames[:, 1] == 1, frames[:, 2:]
    record = json.loads(entry.attrs["record"])
    track = make_track(seed)
    assert np.array_equal(values, track.values, equal_nan=True)
    assert np.array_equal(times_s, track.times_s)
    assert np.array_equal(mask, track.mask)
    assert np.array_equal(quality, track.quality, equal_nan=True)
    assert record["columns"] == [["time_s", "s"], ["mask", "1"], ["score", "1"]]


class TestHdf5File:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Store:
        store = open_store(tmp_path / "source.zarr", "a", licence="EULA", restricted=True)
        put(store, "a", seed=1)
        put(store, "b/ü #1", "audio", seed=2)
        put(store, "x" * 300, seed=3, track=make_track(3, dtype=ml_dtypes.bfloat16))
        store.point(VISUAL_NAME, "visual/mine")
        return store

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "one.h5"

    def test_it_holds_what_the_source_held(self, source: Store, path: Path) -> None:
        file = single(path, source)
        assert file.content_sha256() == source.content_sha256()
        assert file.aliases() == source.aliases()
        assert file.root() == source.root()
        assert file.streams() == source.streams()
        assert file.streams("a") == [VISUAL_NAME]
        assert file.clip_ids() == source.clip_ids()
        for stream in source.streams():
            for clip_id in source.clip_ids(stream):
                assert same(file.read(clip_id, stream), source.read(clip_id, stream))
        assert problems(file) == []
        assert file.has("a", VISUAL_NAME, SHA)
        assert not file.has("b", VISUAL_NAME, SHA)
        assert sorted(p.name for p in path.parent.iterdir()) == ["one.h5", "source.zarr"]
        with pytest.raises(InputError, match=rf"a {AUDIO_NAME}: expected a committed stream, got none"):
            file.read("a", AUDIO_NAME)
        with pytest.raises(InputError, match="expected the licence that the cache was made with, 'EULA', got 'CC0'"):
            open_store(path, licence="CC0")

    def test_it_goes_back_into_a_folder(self, source: Store, path: Path, tmp_path: Path) -> None:
        back = open_store(tmp_path / "back.h5", "a")
        assert len(list(back.add(entries_of(single(path, source))))) == 3
        assert back.content_sha256() == source.content_sha256()

    def test_plain_h5py_reads_it(self, source: Store, path: Path) -> None:
        single(path, source)
        with h5py.File(path) as file:
            check_plain(file[VISUAL_NAME]["a"], 1)
            assert json.loads(file.attrs["cache"])["licence"] == "EULA"
            assert json.loads(file.attrs["aliases"])["visual/mine"] == VISUAL_NAME
        assert path.read_bytes().startswith(b"sage-va cache sha256=")

    def test_equal_entries_make_equal_files(self, source: Store, path: Path, tmp_path: Path) -> None:
        single(path, source)
        start = int(time.time())
        while int(time.time()) == start:
            time.sleep(0.05)
        single(tmp_path / "two.h5", source)
        assert path.read_bytes() == (tmp_path / "two.h5").read_bytes()

    def test_nothing_is_added_to_it(self, source: Store, path: Path) -> None:
        file = single(path, source)
        text = r"one\.h5: expected a cache that can be added to, got a single HDF5 file, which is for sharing\. Copy it"
        with pytest.raises(InputError, match=text):
            open_store(path, "a")
        actions: list[Callable[[], object]] = [
            lambda: put(file, "new"),
            lambda: file.point(VISUAL_NAME, "visual/other"),
            lambda: file.discard("a", VISUAL_NAME),
            lambda: file.log_failure("a", "no face"),
        ]
        for action in actions:
            with pytest.raises(InputError, match=text):
                action()
        assert problems(file) == []

    @pytest.mark.parametrize("every", [37, pytest.param(1, marks=pytest.mark.exhaustive)])
    def test_every_byte(self, source: Store, path: Path, every: int) -> None:
        single(path, source)
        for flipped in flips(path.read_bytes(), every):
            anew(path, flipped)
            assert named(path)

    def test_a_hurt_array_is_named_by_clip(self, source: Store, path: Path) -> None:
        single(path, source)
        whole = path.read_bytes()
        at = whole.index(make_track(1).values.tobytes())
        anew(path, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        damage = problems(open_store(path))
        assert [p[:2] for p in damage] == [("", ""), ("a", VISUAL_NAME)]
        assert damage[0][2] == "the file is not what was written"
        with pytest.raises(DamagedError, match="expected the bytes of 'values' that were committed, got others"):
            open_store(path).read("a", VISUAL_NAME)

    def test_short_files_are_refused(self, source: Store, path: Path) -> None:
        single(path, source)
        whole = path.read_bytes()
        for length in range(8, len(whole), 211):
            anew(path, whole[:length])
            with pytest.raises(DamagedError, match=r"one\.h5: expected the HDF5 file that was written, got OSError"):
                open_store(path)

    def test_what_is_no_cache_is_refused(self, path: Path) -> None:
        with pytest.raises(InputError, match=r"one\.h5: expected a feature cache, got no such folder or not one"):
            open_store(path)
        for content in (b"", b"thesis"):
            path.write_bytes(content)
            with pytest.raises(InputError, match=r"one\.h5: expected a feature cache, got a file that is not HDF5\."):
                open_store(path)
        with h5py.File(path, "w") as file:
            file["temperature"] = [1.0]
        with pytest.raises(InputError, match="expected a feature cache, got something of another kind"):
            open_store(path)
        with h5py.File(path, "a") as file:
            file.attrs["cache"] = [1.0]
        with pytest.raises(InputError, match=r"the HDF5 file that was written, got \w+Error: .*\. Take it again"):
            open_store(path)

    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_a_failure_leaves_the_old_file(self, source: Store, path: Path, count: int) -> None:
        single(path, source)
        whole = path.read_bytes()

        def failing() -> Iterator[Entry]:
            yield from list(entries_of(source))[:count]
            raise DamagedError("c", expected="this", got="that", todo="Repair it.")

        with pytest.raises(DamagedError, match="c: expected this, got that"):
            list(write_single(path, source.root(), {}, failing()))
        abandoned = write_single(path, source.root(), {}, entries_of(source))
        next(abandoned)
        abandoned.close()
        assert path.read_bytes() == whole
        assert sorted(p.name for p in path.parent.iterdir()) == ["one.h5", "source.zarr"]

    def test_a_full_disk_leaves_the_old_file(self, source: Store, path: Path) -> None:
        single(path, source)
        whole = path.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            for size in [*range(0, len(whole), 199), len(whole) - 1]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
                with pytest.raises(OSError, match="File too large"):
                    list(write_single(path, source.root(), source.aliases(), entries_of(source)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert path.read_bytes() == whole
        assert sorted(p.name for p in path.parent.iterdir()) == ["one.h5", "source.zarr"]

    def test_all_is_on_disk_before_it_is_visible(
        self, source: Store, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[str] = []
        monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
        plain, renamed = os.replace, []

        def replace(part: Path, target: Path) -> None:
            assert synced == [str(part_of(path))]
            renamed.append(target)
            plain(part, target)

        monkeypatch.setattr(os, "replace", replace)
        single(path, source)
        assert (renamed, synced[1:]) == ([path], [str(path.parent)])

    def test_one_writer_at_a_time_and_no_trace_of_a_killed_one(self, source: Store, path: Path) -> None:
        part_of(path).write_bytes(b"left by a killed writer")
        first = write_single(path, source.root(), source.aliases(), entries_of(source))
        next(first)
        with pytest.raises(InputError, match=r"one\.h5: another writer is making this file\. Wait"):
            list(write_single(path, source.root(), {}, []))
        assert len(list(first)) == 2
        assert problems(open_store(path)) == []
        path.unlink()
        path.mkdir()
        with pytest.raises(InputError, match=r"one\.h5: expected a place for one file, got a folder\. Choose another"):
            list(write_single(path, source.root(), {}, []))

    def test_a_reader_survives_forks_pickles_and_a_new_file_in_its_place(self, source: Store, path: Path) -> None:
        file = single(path, source)
        before = file.read("a", VISUAL_NAME)
        child = os.fork()
        if child == 0:
            os._exit(0 if same(file.read("a", VISUAL_NAME), before) and len(file._files) == 1 else 1)  # type: ignore[attr-defined]
        assert os.waitpid(child, 0)[1] == 0
        assert same(pickle.loads(pickle.dumps(file)).read("a", VISUAL_NAME), before)
        list(write_single(path, source.root(), {}, []))
        assert same(file.read("a", VISUAL_NAME), before)
        assert open_store(path).clip_ids() == []


def named(path: Path) -> bool:
    """True where opening or `verify` reports the file as damaged, in one line."""
    try:
        damage = []
        for _, _, problem in open_store(path).verify():
            damage += [problem.what] if problem else []
    except InputError as error:
        return "\n" not in str(error)
    return damage[:1] == ["the file is not what was written"]


def test_the_seal_is_the_smallest_user_block() -> None:
    assert sealed_bytes("entry", lambda file: None)[SEAL_BYTES:][:8] == b"\x89HDF\r\n\x1a\n"


@pytest.mark.parametrize("stored", [{}, {"compression": "gzip", "data": np.zeros((1 << 16, 64), "<f4")}])
def test_arrays_that_inflate_are_damage(tmp_path: Path, stored: dict[str, Any]) -> None:
    """A file of kilobytes may declare gigabytes of zeros, compressed or never written."""
    shape = (1 << 16, 64)
    record = {"dtype": "float32", "shape": list(shape), "columns": [["time_s", "s"], ["mask", "1"]]}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("values", shape=shape, dtype="<f4", chunks=(1 << 10, 64), **stored)
        file.create_dataset("frames", data=np.zeros((shape[0], 2)))
        with pytest.raises(ValueError, match=f"'values' of .* bytes for {4 * shape[0] * shape[1]}"):
            entry_of(file, record)
