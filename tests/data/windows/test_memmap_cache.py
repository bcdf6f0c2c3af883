"""The training form: equals what is read directly, is made once, is trusted only when whole, and can go at any time."""

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
from sage_va.data.windows import memmap_cache as module
from sage_va.data.windows.corpus import Corpus, choose_streams, load_corpus
from sage_va.data.windows.memmap_cache import forms, open_form, remove, stale_forms, training_folder
from sage_va.data.windows.to_grid import Laid

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
    seen = Track.of(values, times, mask, {"score": ("1", rng.random(60)), "blur": ("1", rng.random(60))})
    heard = Track.of(rng.standard_normal((150, 3)).astype(np.float32), 0.01 + np.arange(150) / 50)
    clip = Clip(clip_id, clock=clock)
    store.commit(clip, FACES, seen, fingerprint=FACE, source_sha256="5", overwrite=True)
    store.commit(clip, VOICES, heard, fingerprint=VOICE, source_sha256="5", overwrite=True)


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
    return os.listdir(training_folder() / "building")


class TestForm:
    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
    def test_mapped_or_read_the_corpus_is_the_same(self, tmp_path: Path, dtype: Any) -> None:
        store = open_store(tmp_path / "t.zarr", "a")
        for k in range(3):
            put(store, f"clip{k}", k, dtype)
        direct = load(store, keep=False)
        assert forms() == []
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
        (form,) = forms()
        assert form.meta is not None
        assert form.store == str(Path(store.url).resolve())
        assert form.meta["streams"] == [FACES, VOICES]
        assert [clip["clip_id"] for clip in form.meta["clips"]] == ["clip0", "clip1", "clip2"]
        assert form.num_bytes == sum(path.stat().st_size for path in form.path.iterdir())
        values = np.fromfile(form.path / "values-0", np.float16).reshape(-1, 4)
        assert np.array_equal(values, corpus.values[0].numpy())
        assert {path.name for path in form.path.iterdir()} == {
            "meta.json", "mask", "values-0", "values-1", "quality-0", "quality-1",
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
        assert len(forms()) == 1
        load(store, ["clip0", "clip1"])
        load(store, ["clip1", "clip0"])
        load(store, grid_hz=50)
        load_corpus(store, choose_streams(store, ["audio", "visual"]), store.clip_ids(), grid_hz=25)
        assert len(forms()) == 5
        put(store, "clip0", 7)
        assert same(load(store), load(store, keep=False))
        assert len(forms()) == 6

    def test_a_frame_clock_that_another_stream_brings_is_another_grid(self, tmp_path: Path) -> None:
        store = open_store(tmp_path / "k.zarr", "a")
        heard = Track.of(np.ones((50, 3), np.float32), 0.01 + np.arange(50) / 50)
        store.commit(Clip("a"), VOICES, heard, fingerprint=VOICE, source_sha256="5")
        audio = choose_streams(store, ["audio"])
        assert load_corpus(store, audio, ["a"], grid_hz=25).num_steps == 26
        clip = Clip("a", clock=FrameClock(Fraction(1, 25), np.arange(75)))
        seen = Track.of(np.ones((75, 4), np.float16), np.arange(75) / 25)
        store.commit(clip, FACES, seen, fingerprint=FACE, source_sha256="5")
        assert load_corpus(store, audio, ["a"], grid_hz=25).num_steps == 75

    @pytest.mark.parametrize("hurt", ["short", "long", "gone", "seal", "no json", "version"])
    def test_a_damaged_form_is_made_again(self, store: Store, hurt: str) -> None:
        first = load(store, keep=False)
        load(store)
        (form,) = forms()
        values, meta = form.path / "values-1", form.path / "meta.json"
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
        assert forms()[0].meta is None
        assert same(load(store), first)
        assert forms()[0].meta == form.meta
        assert leftovers() == []

    def test_damage_in_the_cache(self, store: Store) -> None:
        path = Path(store.url) / FACES / "clip1"
        good = (path / "values/c/0/0").read_bytes()
        (path / "values/c/0/0").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(DamagedError, match=f"clip1 {FACES}: expected the bytes of 'values'"):
            load(store)
        assert (forms(), leftovers()) == ([], [])
        (path / "values/c/0/0").write_bytes(good)
        load(store)
        (path / "zarr.json").write_text((path / "zarr.json").read_text().replace('"float16"', '"float32"'))
        with pytest.raises(DamagedError, match=f"clip1 {FACES}: expected the record that was committed"):
            load(store)

    def test_a_clip_that_changes_meanwhile(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = type(store)._load_entry

        def replaced_first(self: Store, stream: str, key: str, record: dict[str, Any]) -> Any:
            found = whole(self, stream, key, record)
            found.record["report"] = {"frames": 1}
            return found

        monkeypatch.setattr(type(store), "_load_entry", replaced_first)
        text = f"clip0 {FACES}: expected features that stay, got others meanwhile. Start again when nobody writes"
        with pytest.raises(InputError, match=text):
            load(store)

    @pytest.mark.parametrize(
        ("variable", "below"), [("SAGE_VA_CACHE", ""), ("XDG_CACHE_HOME", "sage-va"), ("HOME", ".cache/sage-va")]
    )
    def test_where_forms_lie(self, variable: str, below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("SAGE_VA_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv(variable, str(tmp_path / "own"))
        assert training_folder() == tmp_path / "own" / below / "training"

    def test_it_may_be_larger_than_memory(self, tmp_path: Path) -> None:
        steps = 4 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024
        with (tmp_path / "values").open("wb") as file:
            file.truncate(steps * 1024)
        array = module._mapped(tmp_path / "values", "float16", [steps, 512])
        array[-1, -1] = 1
        assert array[-1, -2:].tolist() == [0, 1]


def laid(seed: int = 0, num_steps: int = 5) -> Laid:
    values = np.full((num_steps, 2), seed, np.float32)
    return Laid([Grid(25.0, 0, num_steps)], {"values-0": values, "quality-0": np.zeros((num_steps, 0), np.float32)})


class TestMaking:
    def open(self, store: Store, parts: Iterator[Laid], num_clips: int = 3) -> Laid:
        clips = [{"clip_id": f"clip{k}", "records": [], "span_s": []} for k in range(num_clips)]
        return open_form(store, [], 25.0, clips, parts)

    def test_clip_by_clip(self, store: Store) -> None:
        """Only the last clip, and the one being made, are in memory at once."""
        alive: list[weakref.ref[Any]] = []

        def parts() -> Iterator[Laid]:
            for k in range(20):
                assert sum(ref() is not None for ref in alive) <= 1
                part = laid(k)
                alive.append(weakref.ref(part.arrays["values-0"]))
                yield part
                del part

        found = self.open(store, parts(), 20)
        assert found.arrays["values-0"][::5, 0].tolist() == list(range(20))
        assert found.arrays["quality-0"].shape == (100, 0)

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
    def test_a_disk_that_refuses(self, store: Store, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(module, "_append", refuse)
        text = f"{training_folder()}: expected a folder with room for the training form, got {os.strerror(code)}. Free"
        with pytest.raises(InputError, match=text):
            load(store)
        assert (forms(), leftovers()) == ([], [])

    def test_a_place_that_is_no_folder(self, store: Store, user_cache: Path) -> None:
        user_cache.parent.write_text("")
        with pytest.raises(InputError, match=r"expected a folder with room .*, got Not a directory\. Free some space"):
            load(store)

    def test_what_the_cache_refuses_is_not_blamed_on_the_disk(self, store: Store) -> None:
        def parts() -> Iterator[Laid]:
            yield laid()
            raise PermissionError("theirs")

        with pytest.raises(PermissionError, match="theirs"):
            self.open(store, parts())
        assert leftovers() == []

    def start(self, store: Store, parts: str) -> subprocess.Popen[str]:
        code = f"""
        import sys, time, numpy as np
        from sage_va.data import Grid, open_store
        from sage_va.data.windows.to_grid import Laid
        from sage_va.data.windows.memmap_cache import open_form

        def laid(k):
            values = np.full((5, 2), k, np.float32)
            return Laid([Grid(25.0, 0, 5)], {{"values-0": values, "quality-0": np.zeros((5, 0), np.float32)}})

        def parts():
            print("making", flush=True)
            for k in range(3):
                yield laid(k)
                {parts}

        clips = [{{"clip_id": f"clip{{k}}", "records": [], "span_s": []}} for k in range(3)]
        found = open_form(open_store({store.url!r}), [], 25.0, clips, parts())
        print(found.arrays["values-0"][::5, 0].tolist())
        """
        command = [sys.executable, "-c", textwrap.dedent(code)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def test_several_at_once_make_one(self, store: Store) -> None:
        builders = [self.start(store, "time.sleep(0.2)") for _ in range(3)]
        said = sorted(builder.communicate(timeout=60)[0].splitlines() for builder in builders)
        assert said == [["[0.0, 1.0, 2.0]"], ["[0.0, 1.0, 2.0]"], ["making", "[0.0, 1.0, 2.0]"]]
        assert len(forms()) == 1
        assert leftovers() == []

    def test_without_locks_the_first_rename_decides(self, store: Store) -> None:
        def parts() -> Iterator[Laid]:
            yield laid(0)
            (place,) = (training_folder() / "building").iterdir()
            monkeypatch.undo()
            other = training_folder() / place.name.split(".")[0]
            monkeypatch.setattr(module, "folders", lambda _: [])
            module._make(other, {"version": module.VERSION, "grid_hz": 25.0, "clips": [{}]}, iter([laid(5)]))

        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(module, "folders", lambda _: [])
            found = self.open(store, parts(), 1)
        assert found.arrays["values-0"].tolist() == [[5, 5]] * 5
        assert leftovers() == []

    def test_what_a_killed_builder_left_is_cleared(self, store: Store) -> None:
        builder = self.start(store, "time.sleep(60)")
        assert builder.stdout
        assert builder.stdout.readline() == "making\n"
        deadline = time.monotonic() + 30
        while not leftovers() and time.monotonic() < deadline:
            time.sleep(0.01)
        module.clear_leftovers()
        assert len(leftovers()) == 1, "a living builder's folder stays"
        builder.send_signal(signal.SIGKILL)
        builder.communicate()
        assert forms() == []
        found = self.open(store, iter([laid(k) for k in range(3)]))
        assert found.arrays["values-0"][::5, 0].tolist() == [0, 1, 2]
        assert leftovers() == []

    def test_folders_of_other_hosts_stay_a_week(self, store: Store) -> None:
        load(store)
        ours, theirs, old = (training_folder() / "building" / f"{'0' * 64}.{host}-1" for host in (HOST, "else", "old"))
        for place in (ours, theirs, old):
            place.mkdir()
        os.utime(old, (0, time.time() - 8 * DAY_S))
        module.clear_leftovers()
        assert leftovers() == [theirs.name]


class TestGoing:
    def test_opening_marks_the_use(self, store: Store) -> None:
        load(store)
        (form,) = forms()
        assert time.time() - form.used_s < 60
        os.utime(form.path / "meta.json", (0, 0))
        assert forms()[0].used_s == 0
        load(store)
        assert time.time() - forms()[0].used_s < 60

    def test_the_unused_and_the_damaged_are_stale(self, store: Store) -> None:
        load(store)
        assert stale_forms(store, DAY_S) == stale_forms(None, DAY_S) == []
        (form,) = forms()
        os.utime(form.path / "meta.json", (0, time.time() - 2 * DAY_S))
        assert [f.path for f in stale_forms(None, DAY_S)] == [form.path]
        assert stale_forms(None, 3 * DAY_S) == []
        (form.path / "mask").unlink()
        assert [f.path for f in stale_forms(None, 3 * DAY_S)] == [form.path]

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
        assert stale_forms(open_store(tmp_path / "other.zarr", "a"), DAY_S) == []
        assert [len(form.meta["clips"]) for form in stale_forms(store, DAY_S) if form.meta] == [3]

    def test_removing(self, store: Store) -> None:
        corpus, kept = load(store), load(store, ["clip0"])
        expected = corpus.values[0].sum()
        (training_folder() / "building" / f"{'0' * 64}.{HOST}-1").mkdir()
        small, large = sorted(forms(), key=lambda form: form.num_bytes)
        assert remove([large]) == [large]
        assert [form.path for form in forms()] == [small.path]
        assert leftovers() == []
        assert corpus.values[0].sum() == expected, "who has it open keeps it"
        with locked(module._lock(small.path.name), 2):
            assert remove([small]) == []
        assert same(load(store, ["clip0"]), kept)

    def test_nothing_made_nothing_listed(self) -> None:
        assert (forms(), stale_forms(None, 0), remove([])) == ([], [], [])
