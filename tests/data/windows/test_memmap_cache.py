"""The memory-mapped cache: equals a direct read, is built once, is used only when whole, and can go at any time."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from sage_va.data import Clip, DamagedError, FrameClock, Grid, InputError, Store, Track, open_store, stream_name
from sage_va.data.atomic import HOST, locked
from sage_va.data.hashing import file_sha256
from sage_va.data.windows import checked_files
from sage_va.data.windows import memmap_cache as module
from sage_va.data.windows.corpus import Corpus
from sage_va.data.windows.load import choose_streams, load_corpus, read_clips
from sage_va.data.windows.memmap_cache import mapped_corpora, mapped_folder, open_mapped, remove, stale_mapped
from sage_va.data.windows.to_grid import OnGrid
from sage_va.tests.waiting import MOST_S, until

FACE = {"modality": "visual", "encoder": {"name": "face"}}
VOICE = {"modality": "audio", "encoder": {"name": "voice"}}
FACES, VOICES = stream_name("visual", "face", FACE), stream_name("audio", "voice", VOICE)
DAY_S = 24 * 3600


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that is empty; no test can cut the power, so none waits for the disk."""
    monkeypatch.setenv("SAGE_VA_CACHE", str(tmp_path / "user"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return tmp_path / "user" / "training"


def put(store: Store, clip_id: str, seed: int = 0, dtype: Any = np.float16, clock: FrameClock | None = None) -> None:
    rng = np.random.default_rng(seed)
    times, mask = np.arange(60) / 25, rng.random(60) < 0.8
    values = rng.standard_normal((60, 4)).astype(dtype)
    face = Track.of(values, times, mask, {"score": ("1", rng.random(60)), "blur": ("1", rng.random(60))})
    voice = Track.of(rng.standard_normal((150, 3)).astype(np.float32), 0.01 + np.arange(150) / 50)
    clip = Clip(clip_id, clock=clock)
    store.commit(clip, FACES, face, fingerprint=FACE, source_sha256="5", overwrite=True)
    store.commit(clip, VOICES, voice, fingerprint=VOICE, source_sha256="5", overwrite=True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(tmp_path / "c.zarr", "a")
    for k in range(3):
        put(store, f"clip{k}", k)
    return store


def load(store: Store, clip_ids: list[str] | None = None, **options: Any) -> Corpus:
    streams = choose_streams(store, ["visual", "audio"])
    return load_corpus(store, streams, clip_ids or store.clip_ids(), **{"grid_hz": 25.0, **options})


def same(one: Corpus, other: Corpus) -> bool:
    def tensors(corpus: Corpus) -> list[torch.Tensor]:
        return [*corpus.values, *corpus.quality, corpus.mask, corpus.va, corpus.va_mask]

    pairs = list(zip(tensors(one), tensors(other), strict=True))
    alike = all(a.dtype == b.dtype and torch.equal(a.float().nan_to_num(9), b.float().nan_to_num(9)) for a, b in pairs)
    return alike and one.grids == other.grids and one.clips == other.clips and (one.offsets == other.offsets).all()


def leftovers() -> list[str]:
    return os.listdir(mapped_folder() / "building")


class TestForm:
    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
    def test_mapped_or_read_the_corpus_is_the_same(self, tmp_path: Path, dtype: Any) -> None:
        store = open_store(tmp_path / "t.zarr", "a")
        for k in range(3):
            put(store, f"clip{k}", k, dtype)
        direct = load(store, keep=False)
        assert mapped_corpora() == []
        assert same(load(store), direct)
        assert same(load(store), direct)
        assert direct.values[0].dtype == getattr(torch, np.dtype(dtype).name)
        assert direct.values[0].isfinite().all()
        assert (direct.values[0][~direct.mask[:, 0]] == 0).all()
        track = store.read("clip1", FACES)
        first = direct.values[0][direct.steps(1)][:60][torch.from_numpy(track.mask)]
        assert np.array_equal(first.float().numpy(), track.values[track.mask].astype(np.float32))

    def test_flat_files_that_say_where_they_come_from(self, store: Store) -> None:
        corpus = load(store)
        (entry,) = mapped_corpora()
        assert entry.meta is not None
        assert entry.store == str(Path(store.url).resolve())
        assert entry.meta["streams"] == [FACES, VOICES]
        assert [clip["clip_id"] for clip in entry.meta["clips"]] == ["clip0", "clip1", "clip2"]
        assert entry.num_bytes == sum(path.stat().st_size for path in entry.path.iterdir())
        values = np.fromfile(entry.path / "values-0", np.float16).reshape(-1, 4)
        assert np.array_equal(values, corpus.values[0].numpy())
        assert {path.name for path in entry.path.iterdir()} == {
            "meta.json", "checked.json", "mask", "values-0", "values-1", "quality-0", "quality-1",
        }  # fmt: skip
        assert leftovers() == []

    def test_the_second_time_only_records_are_read(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        first = load(store)
        monkeypatch.setattr(type(store), "_load_entry", lambda *_: pytest.fail("read an array"))
        assert same(load(store), first)

    def test_nobody_can_change_the_file(self, store: Store) -> None:
        corpus = load(store)
        corpus.values[0].zero_()
        corpus.mask.zero_()
        assert load(store).values[0].any()
        assert load(store).mask.any()

    def test_whatever_decides_the_values_names_the_form(self, store: Store) -> None:
        load(store)
        load(store)
        assert len(mapped_corpora()) == 1
        load(store, ["clip0", "clip1"])
        load(store, ["clip1", "clip0"])
        load(store, grid_hz=50)
        load_corpus(store, choose_streams(store, ["audio", "visual"]), store.clip_ids(), grid_hz=25)
        assert len(mapped_corpora()) == 5
        put(store, "clip0", 7)
        assert same(load(store), load(store, keep=False))
        assert len(mapped_corpora()) == 6

    def test_a_frame_clock_that_another_stream_brings_is_another_grid(self, tmp_path: Path) -> None:
        store = open_store(tmp_path / "k.zarr", "a")
        voice = Track.of(np.ones((50, 3), np.float32), 0.01 + np.arange(50) / 50)
        store.commit(Clip("a"), VOICES, voice, fingerprint=VOICE, source_sha256="5")
        audio = choose_streams(store, ["audio"])
        assert load_corpus(store, audio, ["a"], grid_hz=25).num_steps == 26
        clip = Clip("a", clock=FrameClock(Fraction(1, 25), np.arange(75)))
        face = Track.of(np.ones((75, 4), np.float16), np.arange(75) / 25)
        store.commit(clip, FACES, face, fingerprint=FACE, source_sha256="5")
        assert load_corpus(store, audio, ["a"], grid_hz=25).num_steps == 75

    @pytest.mark.parametrize("hurt", ["short", "long", "gone", "seal", "no json", "version"])
    def test_a_damaged_form_is_made_again(self, store: Store, hurt: str) -> None:
        first = load(store, keep=False)
        load(store)
        (entry,) = mapped_corpora()
        values, meta = entry.path / "values-1", entry.path / "meta.json"
        if hurt in ("short", "long"):
            values.write_bytes(values.read_bytes()[:-1] if hurt == "short" else values.read_bytes() + b"?")
        elif hurt == "gone":
            values.unlink()
        else:
            old, new = {
                "seal": ("clip1", "clip9"),
                "no json": ("{", "["),
                "version": (f'"version": {module.VERSION}', '"version": 0'),
            }[hurt]
            meta.write_text(meta.read_text().replace(old, new))
        assert mapped_corpora()[0].meta is None
        assert same(load(store), first)
        assert mapped_corpora()[0].meta == entry.meta
        assert leftovers() == []

    @pytest.mark.parametrize("name", ["mask", "values-0", "values-1", "quality-0"])
    def test_a_flipped_byte_is_never_trained_on(self, store: Store, name: str) -> None:
        """Before checksums, half of all flips gave other features and no word of it."""
        direct = load(store, keep=False)
        load(store)
        (entry,) = mapped_corpora()
        for place in (0, -1):
            content = bytearray((entry.path / name).read_bytes())
            content[place] ^= 1
            (entry.path / name).write_bytes(content)
            assert same(load(store), direct)

    def test_a_whole_file_is_hashed_once_and_again_after_a_week(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hashed: list[str] = []

        def counting(path: Path) -> str:
            hashed.append(path.name)
            return file_sha256(path)

        monkeypatch.setattr(checked_files, "file_sha256", counting)
        load(store)
        load(store)
        assert hashed == []
        monkeypatch.setattr(checked_files, "WEEK_S", 0.0)
        load(store)
        assert sorted(hashed) == ["mask", "quality-0", "quality-1", "values-0", "values-1"]

    def test_damage_in_the_cache(self, store: Store) -> None:
        path = Path(store.url) / FACES / "clip1"
        good = (path / "values/c/0/0").read_bytes()
        (path / "values/c/0/0").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(DamagedError, match=f"clip1 {FACES}: expected the bytes of 'values'"):
            load(store)
        assert (mapped_corpora(), leftovers()) == ([], [])
        (path / "values/c/0/0").write_bytes(good)
        load(store)
        (path / "zarr.json").write_text((path / "zarr.json").read_text().replace('"float16"', '"float32"'))
        with pytest.raises(DamagedError, match=f"clip1 {FACES}: expected the record that was committed"):
            load(store)

    def test_a_clip_that_changes_while_it_is_read(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        whole, record = type(store)._load_entry, store.record("clip0", FACES)

        def replaced_first(self: Store, stream: str, key: str, known: dict[str, Any]) -> Any:
            track = Track.of(np.full((9, record["shape"][1]), 7, np.float16), np.arange(9.0))
            facts = {"fingerprint": record["fingerprint"], "source_sha256": "other"}
            monkeypatch.undo()
            store.commit(store.clip("clip0"), FACES, track, **facts, overwrite=True)
            return whole(self, stream, key, known)

        monkeypatch.setattr(type(store), "_load_entry", replaced_first)
        text = f"clip0 {FACES}: the cache changed while it was being read. Run again when no writer is active."
        with pytest.raises(InputError, match=text):
            load(store)

    @pytest.mark.parametrize("keep", [True, False])
    def test_each_record_and_each_entry_is_read_once(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, keep: bool
    ) -> None:
        streams = choose_streams(store, ["visual", "audio"])
        places = sorted((stream.name, clip_id) for stream in streams for clip_id in store.clip_ids())
        records, entries = list[tuple[str, ...]](), list[tuple[str, ...]]()
        load_record, load_entry = type(store)._load_record, type(store)._load_entry
        monkeypatch.setattr(
            type(store), "_load_record", lambda self, *place: records.append(place) or load_record(self, *place)
        )
        monkeypatch.setattr(
            type(store),
            "_load_entry",
            lambda self, *place: entries.append(place[:2]) or load_entry(self, *place),
        )
        load_corpus(store, streams, store.clip_ids(), grid_hz=25, keep=keep)
        assert sorted(records) == sorted(entries) == places
        records.clear()
        clips = read_clips(store, store.clip_ids())
        load_corpus(store, choose_streams(store, ["visual", "audio"], clips), clips, grid_hz=25, keep=keep)
        assert sorted(records) == places
        assert len(entries) == len(places) * (1 if keep else 2)

    @pytest.mark.parametrize(
        ("variable", "below"), [("SAGE_VA_CACHE", ""), ("XDG_CACHE_HOME", "sage-va"), ("HOME", ".cache/sage-va")]
    )
    def test_where_forms_lie(self, variable: str, below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("SAGE_VA_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv(variable, str(tmp_path / "own"))
        assert mapped_folder() == tmp_path / "own" / below / "training"

    def test_it_may_be_larger_than_memory(self, tmp_path: Path) -> None:
        steps = 4 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024
        with (tmp_path / "values").open("wb") as file:
            file.truncate(steps * 1024)
        array = module._mapped(tmp_path / "values", "float16", [steps, 512])
        array[-1, -1] = 1
        assert array[-1, -2:].tolist() == [0, 1]


def laid(seed: int = 0, num_steps: int = 5) -> OnGrid:
    values = np.full((num_steps, 2), seed, np.float32)
    return OnGrid([Grid(25.0, 0, num_steps)], {"values-0": values, "quality-0": np.zeros((num_steps, 0), np.float32)})


class TestMaking:
    def open(self, store: Store, parts: Iterator[OnGrid], num_clips: int = 3) -> OnGrid:
        clips = [{"clip_id": f"clip{k}", "records": [], "span_s": []} for k in range(num_clips)]
        return open_mapped(store, [], 25.0, clips, parts)

    def test_clip_by_clip(self, store: Store) -> None:
        """Only the last clip, and the one being made, are in memory at once."""
        alive: list[weakref.ref[Any]] = []

        def parts() -> Iterator[OnGrid]:
            for k in range(20):
                assert sum(ref() is not None for ref in alive) <= 1
                part = laid(k)
                alive.append(weakref.ref(part.arrays["values-0"]))
                yield part
                del part

        mapped = self.open(store, parts(), 20)
        assert mapped.arrays["values-0"][::5, 0].tolist() == list(range(20))
        assert mapped.arrays["quality-0"].shape == (100, 0)

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
    def test_a_disk_that_refuses(self, store: Store, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(module, "_append", refuse)
        text = (
            f"{mapped_folder()}: expected a folder with room for the memory-mapped cache, got {os.strerror(code)}. Free"
        )
        with pytest.raises(InputError, match=text):
            load(store)
        assert (mapped_corpora(), leftovers()) == ([], [])

    def test_a_place_that_is_no_folder(self, store: Store, user_cache: Path) -> None:
        user_cache.parent.write_text("")
        with pytest.raises(InputError, match=r"expected a folder with room .*, got Not a directory\. Free some space"):
            load(store)

    def test_what_the_cache_refuses_is_not_blamed_on_the_disk(self, store: Store) -> None:
        def parts() -> Iterator[OnGrid]:
            yield laid()
            raise PermissionError("theirs")

        with pytest.raises(PermissionError, match="theirs"):
            self.open(store, parts())
        assert leftovers() == []

    def start(self, store: Store, parts: str) -> subprocess.Popen[str]:
        code = f"""
        import sys, time, numpy as np
        from sage_va.data import Grid, open_store
        from sage_va.data.windows.to_grid import OnGrid
        from sage_va.data.windows.memmap_cache import open_mapped

        def laid(k):
            values = np.full((5, 2), k, np.float32)
            return OnGrid([Grid(25.0, 0, 5)], {{"values-0": values, "quality-0": np.zeros((5, 0), np.float32)}})

        def parts():
            print("making", flush=True)
            for k in range(3):
                yield laid(k)
                {parts}

        clips = [{{"clip_id": f"clip{{k}}", "records": [], "span_s": []}} for k in range(3)]
        found = open_mapped(open_store({store.url!r}), [], 25.0, clips, parts())
        print(found.arrays["values-0"][::5, 0].tolist())
        """
        command = [sys.executable, "-c", textwrap.dedent(code)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def test_several_at_once_make_one(self, store: Store) -> None:
        builders = [self.start(store, "time.sleep(0.2)") for _ in range(3)]
        said = sorted(builder.communicate(timeout=MOST_S)[0].splitlines() for builder in builders)
        assert said == [["[0.0, 1.0, 2.0]"], ["[0.0, 1.0, 2.0]"], ["making", "[0.0, 1.0, 2.0]"]]
        assert len(mapped_corpora()) == 1
        assert leftovers() == []

    def test_without_locks_the_first_rename_decides(self, store: Store) -> None:
        def parts() -> Iterator[OnGrid]:
            yield laid(0)
            (place,) = (mapped_folder() / "building").iterdir()
            monkeypatch.undo()
            other = mapped_folder() / place.name.split(".")[0]
            monkeypatch.setattr(module, "folders", lambda _: [])
            module._build(other, {"version": module.VERSION, "grid_hz": 25.0, "clips": [{}]}, iter([laid(5)]))

        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(module, "folders", lambda _: [])
            mapped = self.open(store, parts(), 1)
        assert mapped.arrays["values-0"].tolist() == [[5, 5]] * 5
        assert leftovers() == []

    def test_what_a_killed_builder_left_is_cleared(self, store: Store) -> None:
        builder = self.start(store, "time.sleep(600)")
        assert builder.stdout
        assert builder.stdout.readline() == "making\n"
        until(leftovers)
        module.clear_leftovers()
        assert len(leftovers()) == 1, "a living builder's folder stays"
        builder.send_signal(signal.SIGKILL)
        builder.communicate()
        assert mapped_corpora() == []
        mapped = self.open(store, iter([laid(k) for k in range(3)]))
        assert mapped.arrays["values-0"][::5, 0].tolist() == [0, 1, 2]
        assert leftovers() == []

    def test_folders_of_other_hosts_stay_a_week(self, store: Store) -> None:
        load(store)
        ours, theirs, old = (mapped_folder() / "building" / f"{'0' * 64}.{host}-1" for host in (HOST, "else", "old"))
        for place in (ours, theirs, old):
            place.mkdir()
        os.utime(old, (0, time.time() - 8 * DAY_S))
        module.clear_leftovers()
        assert leftovers() == [theirs.name]


class TestGoing:
    def test_opening_marks_the_use(self, store: Store) -> None:
        begun_s = time.time() - 1  # a disk's clock may be coarse
        load(store)
        (entry,) = mapped_corpora()
        assert entry.used_s > begun_s
        os.utime(entry.path / "meta.json", (0, 0))
        assert mapped_corpora()[0].used_s == 0
        load(store)
        assert mapped_corpora()[0].used_s > begun_s

    def test_the_unused_and_the_damaged_are_stale(self, store: Store) -> None:
        load(store)
        assert stale_mapped(store, DAY_S) == stale_mapped(None, DAY_S) == []
        (entry,) = mapped_corpora()
        os.utime(entry.path / "meta.json", (0, time.time() - 2 * DAY_S))
        assert [f.path for f in stale_mapped(None, DAY_S)] == [entry.path]
        assert stale_mapped(None, 3 * DAY_S) == []
        (entry.path / "mask").unlink()
        assert [f.path for f in stale_mapped(None, 3 * DAY_S)] == [entry.path]

    @pytest.mark.parametrize("change", ["another", "gone", "damaged"])
    def test_a_form_that_its_cache_no_longer_gives_is_stale(self, store: Store, change: str, tmp_path: Path) -> None:
        load(store)
        load(store, ["clip0"])
        if change == "another":
            put(store, "clip1", 9)
        elif change == "gone":
            store.discard("clip1", VOICES)
        else:
            (Path(store.url) / FACES / "clip1/zarr.json").write_text("{}")
        assert stale_mapped(open_store(tmp_path / "other.zarr", "a"), DAY_S) == []
        assert [len(entry.meta["clips"]) for entry in stale_mapped(store, DAY_S) if entry.meta] == [3]

    def test_removing(self, store: Store) -> None:
        corpus, kept = load(store), load(store, ["clip0"])
        expected = corpus.values[0].sum()
        (mapped_folder() / "building" / f"{'0' * 64}.{HOST}-1").mkdir()
        small, large = sorted(mapped_corpora(), key=lambda entry: entry.num_bytes)
        assert remove([large]) == [large]
        assert [entry.path for entry in mapped_corpora()] == [small.path]
        assert leftovers() == []
        assert corpus.values[0].sum() == expected, "who has it open keeps it"
        with locked(module._lock(small.path.name), 2):
            assert remove([small]) == []
        assert same(load(store, ["clip0"]), kept)

    def test_nothing_made_nothing_listed(self) -> None:
        assert (mapped_corpora(), stale_mapped(None, 0), remove([])) == ([], [], [])


def test_a_file_that_is_written_to_while_it_is_hashed_is_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"good")
    checksums = {"a": file_sha256(tmp_path / "a")}

    def then_changed(path: Path) -> str:
        sha256 = file_sha256(path)
        path.write_bytes(b"evil")
        return sha256

    with monkeypatch.context() as late:
        late.setattr(checked_files, "file_sha256", then_changed)
        assert checked_files.are_whole(tmp_path, checksums)
    assert not checked_files.are_whole(tmp_path, checksums)


def test_each_file_is_hashed_again_after_a_week_whatever_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    checksums = {name: file_sha256(tmp_path / name) for name in ("a", "b")}
    hashed: list[str] = []
    monkeypatch.setattr(checked_files, "file_sha256", lambda path: hashed.append(path.name) or file_sha256(path))
    now_s = time.time()
    for day in range(0, 13, 6):
        monkeypatch.setattr(checked_files.time, "time", lambda day=day: now_s + day * DAY_S)
        (tmp_path / "b").touch()
        assert checked_files.are_whole(tmp_path, checksums)
    assert hashed == ["a", "b", "b", "a", "b"]
