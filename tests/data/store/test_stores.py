"""The Zarr folder: the contract, plain zarr reads it, and every damage is named, of every byte of every file."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zarr

from sage_va.data import Clip, DamagedError, FrameClock, InputError, Store, Track, open_store
from sage_va.data.atomic import write_new
from sage_va.data.hashing import array_sha256, json_sha256, sealed
from sage_va.data.journal import append_line, damaged_lines, read_lines
from sage_va.data.store.entry import Entry
from sage_va.data.store.fingerprint import clip_key
from sage_va.data.store.folder_store import FolderStore
from sage_va.data.store.ledger import MISSING
from sage_va.data.store.zarr_layout import encode, group_attrs, group_file
from sage_va.data.store.zarr_store import restore
from sage_va.testing import AUDIO_NAME, SHA, VISUAL, VISUAL_NAME, StoreContract, make_track, problems, put, same
from sage_va.tests.stores import flips, tree

LONG = "long/" + "x" * 300
SAMPLED = pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.exhaustive)], ids=["some", "all"])


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
        assert np.array_equal(
            np.asarray(values).view(ml_dtypes.bfloat16), make_track(4, dtype=ml_dtypes.bfloat16).values, equal_nan=True
        )

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
        assert problems(store) == [("", "", f"{AUDIO_NAME}/a has no record: no writer of this cache made it")]
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

    def test_an_alias_that_nobody_would_see_is_refused(self, store: Store) -> None:
        with pytest.raises(InputError, match=r"alias 'visual/\.x': expected MODALITY/NAME of the stream"):
            store.point(VISUAL_NAME, "visual/.x")

    def test_two_creators_and_a_half_made_cache(self, tmp_path: Path) -> None:
        path = tmp_path / "half.zarr"
        (path / ".sage-va/staging").mkdir(parents=True)
        put(open_store(path, "a"), "a")
        assert open_store(path).clip_ids() == ["a"]


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
        place = tmp_path / "c.zarr/zarr.json"
        attrs = group_attrs(place.read_bytes())
        del attrs["attrs_sha256"]
        place.write_bytes(group_file(sealed({**attrs, "schema_version": 7})))
        with pytest.raises(InputError, match=r"c\.zarr: expected cache schema 1, got schema 7\. Use the version"):
            open_store(tmp_path / "c.zarr")

    def test_a_damaged_root_is_refused(self, tmp_path: Path) -> None:
        open_store(tmp_path / "c.zarr", "a", licence="EULA")
        place = tmp_path / "c.zarr/zarr.json"
        whole = place.read_bytes()
        for damaged in [*flips(whole), *(whole[:k] for k in range(0, len(whole), 7))]:
            place.write_bytes(damaged)
            for mode in ("r", "a")[: 1 + (len(damaged) < len(whole))]:
                with pytest.raises(InputError, match=r"expected (the attributes that were written|a feature cache)"):
                    open_store(tmp_path / "c.zarr", mode)
        place.unlink()
        with pytest.raises(InputError, match="expected a feature cache, got no such folder or not one"):
            open_store(tmp_path / "c.zarr")

    def test_a_cache_that_lost_its_root_is_not_made_anew(self, tmp_path: Path) -> None:
        """It would lose its licence."""
        put(open_store(tmp_path / "c.zarr", "a", licence="EULA", restricted=True), "a")
        (tmp_path / "c.zarr/zarr.json").unlink()
        with pytest.raises(
            DamagedError, match=r"expected the zarr\.json of the cache, got none\. Run `sage-va cache rep"
        ):
            open_store(tmp_path / "c.zarr", "a")
        assert restore(tmp_path / "c.zarr") == "restored zarr.json"
        assert open_store(tmp_path / "c.zarr", "a").root()["restricted"] is True

    def test_a_cache_that_was_opened_to_read_is_not_written(self, tmp_path: Path) -> None:
        open_store(tmp_path / "c.zarr", "a")
        with pytest.raises(AssertionError):
            put(open_store(tmp_path / "c.zarr"), "a")


def rewrite(path: Path, attrs: dict[str, Any]) -> None:
    body = json.loads((path / "zarr.json").read_text())
    kept = {key: value for key, value in body["attributes"].items() if key != "attrs_sha256"}
    (path / "zarr.json").write_text(json.dumps({**body, "attributes": sealed({**kept, **attrs})}))


def files_of(root: Path) -> dict[str, Path]:
    """Every file of a cache by its path, but the root and the journal, and the lock, whose content is nothing."""
    files = {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*")) if p.is_file()}
    others = ("zarr.json", ".sage-va/journal.jsonl", ".sage-va/staging/lock")
    return {name: path for name, path in files.items() if name not in others}


class TestDamage:
    """One entry; each of its cache's files is hurt in every way."""

    @pytest.fixture(params=["a", LONG], ids=["short id", "cut id"])
    def hurt(self, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Store, Path, str]:
        store = open_store(tmp_path / "c.zarr", "a")
        put(store, request.param, clip=Clip(request.param, "ann", 2.5, FrameClock.regular(25, 5)), report={"É": [1.5]})
        return store, tmp_path / "c.zarr", request.param

    @staticmethod
    def named(place: str, clip_id: str) -> tuple[str, str]:
        """Returns what `verify` must name for damage at a place."""
        key = clip_key(clip_id)
        if not place.startswith(f"{VISUAL_NAME}/{key}"):
            return "", ""
        return (key if place == f"{VISUAL_NAME}/{key}/zarr.json" and "~" in key else clip_id), VISUAL_NAME

    @SAMPLED
    def test_every_byte_of_every_file(self, hurt: tuple[Store, Path, str], every: int) -> None:
        store, root, clip_id = hurt
        assert len(files_of(root)) == 8
        for place, path in files_of(root).items():
            whole = path.read_bytes()
            for content in [*flips(whole, every), whole[:-1], whole[: len(whole) // 2], b"", whole + b"\n", b"[]"]:
                path.write_bytes(content)
                damage = problems(store)
                assert [p[:2] for p in damage] == [self.named(place, clip_id)], (place, content)
                if not damage[0][1]:
                    assert damage[0][2] == f"{place} is not what was written"
            path.write_bytes(whole)
        assert problems(store) == []

    def test_every_deleted_file(self, hurt: tuple[Store, Path, str]) -> None:
        store, root, clip_id = hurt
        entry = f"{VISUAL_NAME}/{clip_key(clip_id)}"
        for place, path in files_of(root).items():
            whole = path.read_bytes()
            path.unlink()
            if place.startswith(".sage-va"):
                assert problems(store) == []
            elif place == f"{entry}/zarr.json":
                what = f"{entry} has no record: no writer of this cache made it"
                assert problems(store) == [("", "", what), (clip_id, VISUAL_NAME, MISSING)]
            else:
                assert [p[:2] for p in problems(store)] == [self.named(place, clip_id)]
            path.write_bytes(whole)
        assert problems(store) == []

    @SAMPLED
    def test_a_damaged_record_is_made_again(self, hurt: tuple[Store, Path, str], every: int) -> None:
        store, root, clip_id = hurt
        path = root / VISUAL_NAME / clip_key(clip_id) / "zarr.json"
        whole = path.read_bytes()
        for content in [*flips(whole, every), whole[:-1], b"", b"[]", b"{}"]:
            path.write_bytes(content)
            assert store.streams(clip_id) == [VISUAL_NAME]
            assert not store.has(clip_id, VISUAL_NAME, SHA)
            with pytest.raises(
                DamagedError, match=rf"{VISUAL_NAME}: expected the record that was committed, got another"
            ):
                store.read(clip_id, VISUAL_NAME)
        with pytest.raises(DamagedError, match=VISUAL_NAME):
            store.clip(clip_id)
        with pytest.raises(DamagedError, match=VISUAL_NAME):
            store.content_sha256()
        put(store, clip_id)
        assert problems(store) == []
        assert store.leftovers() == []

    @SAMPLED
    def test_a_damaged_array_is_refused(self, hurt: tuple[Store, Path, str], every: int) -> None:
        store, root, clip_id = hurt
        for name in ("values", "frames"):
            path = root / VISUAL_NAME / clip_key(clip_id) / name / "c/0/0"
            whole = path.read_bytes()
            for content in [*flips(whole, every), whole[:-1], whole + b"0", b""]:
                path.write_bytes(content)
                with pytest.raises(DamagedError, match=r"expected .*\. Run `sage-va cache repair`, then extract again"):
                    store.read(clip_id, VISUAL_NAME)
            path.write_bytes(whole)

    def test_descriptions_of_arrays_cannot_change_what_is_read(self, hurt: tuple[Store, Path, str]) -> None:
        store, root, clip_id = hurt
        before = store.read(clip_id, VISUAL_NAME)
        for name in ("values", "frames"):
            (root / VISUAL_NAME / clip_key(clip_id) / name / "zarr.json").write_bytes(b"{}")
            assert same(store.read(clip_id, VISUAL_NAME), before)

    def test_what_verify_names_can_be_taken_out(self, hurt: tuple[Store, Path, str]) -> None:
        store, root, clip_id = hurt
        entry = root / VISUAL_NAME / clip_key(clip_id)
        for place in ("zarr.json", "values/zarr.json", "values/c/0/0", "frames/zarr.json", "frames/c/0/0"):
            (entry / place).write_bytes(b"{}")
            [(named, stream, _)] = problems(store)
            store.discard(named, stream)
            assert problems(store) == []
            assert not entry.exists()
            put(store, clip_id)
            assert same(store.read(clip_id, VISUAL_NAME), make_track(0))

    def test_sweep_mends_what_is_not_of_an_entry(self, hurt: tuple[Store, Path, str]) -> None:
        store, root, _ = hurt
        before = tree(root)
        groups = ["visual/zarr.json", f"{VISUAL_NAME}/zarr.json"]
        for content in (b"", b"{}", None):
            for place in groups:
                (root / place).unlink() if content is None else (root / place).write_bytes(content)
            assert store.sweep() == [f"restored {place}" for place in groups]
            assert tree(root) == before
        alias = ".sage-va/aliases/visual/toy.json"
        for content in (b"", b"[]", b'{"alias": "visual/toy"}', json.dumps(sealed({"stream": VISUAL_NAME})).encode()):
            (root / alias).write_bytes(content)
            assert problems(store) == [("", "", f"{alias} is not what was written")]
            assert store.aliases() == {}
            assert store.resolve("visual/toy") == VISUAL_NAME
            assert store.sweep() == [f"removed {alias}, which was damaged"]
            store.point(VISUAL_NAME)
        assert tree(root) == before
        assert store.sweep() == []

    def test_all_beside_the_tree_may_be_lost(self, hurt: tuple[Store, Path, str]) -> None:
        _, root, clip_id = hurt
        shutil.rmtree(root / ".sage-va")
        store = open_store(root, "a")
        assert problems(store) == []
        assert store.resolve("visual/toy") == VISUAL_NAME
        assert store.sweep() == []
        store.log_failure("b", "no face")
        put(store, "b")
        assert store.clip_ids() == sorted(["b", clip_id])


Change = Callable[[dict[str, Any], Any, Any], Any]


def cell(name: str, row: int, column: int, value: float) -> Change:
    """Puts a value into `values` or `frames`."""
    return lambda record, values, frames: {"values": values, "frames": frames}[name].__setitem__((row, column), value)


def field(name: str, value: object) -> Change:
    """Puts another value into the record; None takes it out."""
    return lambda record, values, frames: record.pop(name) if value is None else record.update({name: value})


DISAGREE = "expected finite values under the mask and NaN outside it, got 1 frames that break this"
CLOCK = "expected finite, strictly increasing times, got times that stand still or go back"
RECORD = "expected the record that was committed, got another"


class TestWrongContent:
    """Entries whose checksums all hold, made by a writer that was wrong: `verify` names them, and does not fall."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        store = open_store(tmp_path / "c.zarr", "a")
        put(store, "b", seed=1)
        return store

    @staticmethod
    def craft(store: Store, change: Change) -> None:
        mask = np.array([1, 1, 0, 1, 1], bool)
        track = Track.of(np.ones((5, 3), np.float16), np.arange(5) / 25, mask, {"score": ("1", np.ones(5))})
        entry = Entry.of(Clip("a"), VISUAL_NAME, track, fingerprint=VISUAL, source_sha256=SHA)
        change(entry.record, entry.values, entry.frames)
        if "checksums" in entry.record:
            entry.record["checksums"] = {"values": array_sha256(entry.values), "frames": array_sha256(entry.frames)}
        for name, content in encode(entry).items():
            write_new(Path(store.url) / VISUAL_NAME / "a" / name, content)

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            pytest.param(cell("values", 0, 1, np.nan), DISAGREE, id="NaN under the mask"),
            pytest.param(cell("values", 0, 1, np.inf), DISAGREE, id="Inf under the mask"),
            pytest.param(cell("values", 2, 1, 0.0), DISAGREE, id="zero outside the mask"),
            pytest.param(cell("frames", 2, 1, 1.0), "expected 4 valid frames, got 5", id="mask too wide"),
            pytest.param(cell("frames", 2, 1, 0.5), "expected a mask of 0 and 1, got other numbers", id="half a mask"),
            pytest.param(
                cell("frames", 2, 1, np.nan), "expected a mask of 0 and 1, got other numbers", id="NaN in mask"
            ),
            pytest.param(cell("frames", 3, 0, 0.04), CLOCK, id="time goes back"),
            pytest.param(cell("frames", 1, 0, 0.0), CLOCK, id="time stands still"),
            pytest.param(cell("frames", 4, 0, np.inf), CLOCK, id="time without end"),
            pytest.param(cell("frames", 4, 0, np.nan), CLOCK, id="no time"),
            pytest.param(field("num_valid", 5), "expected 5 valid frames, got 4", id="wrong count"),
            pytest.param(field("schema_version", 2), "expected cache schema 1, got schema 2", id="schema"),
            pytest.param(field("clip", {"clip_id": "z"}), RECORD, id="another clip"),
            pytest.param(field("stream", AUDIO_NAME), RECORD, id="another stream"),
            *(
                pytest.param(field(name, None), "", id=f"no {name}")
                for name in Entry.of(
                    Clip("a"), VISUAL_NAME, make_track(1), fingerprint=VISUAL, source_sha256=SHA
                ).record
                if name not in ("commit", "report")
            ),
            pytest.param(
                field("dtype", "float8"),
                "expected the record that was committed, got one whose 'dtype' is malformed",
                id="dtype",
            ),
            pytest.param(field("shape", [5, 4]), "expected two readable arrays, got ValueError", id="shape"),
            pytest.param(
                field("columns", [["time_s", "s"], ["mask"], ["score", "1"]]), "expected", id="ragged columns"
            ),
            pytest.param(field("columns", [["mask", "1"], ["time_s", "s"], ["score", "1"]]), "expected", id="columns"),
        ],
    )
    def test_wrong_content_is_named(self, store: Store, change: Change, what: str) -> None:
        self.craft(store, change)
        [damage] = problems(store)
        assert damage[:2] == ("a", VISUAL_NAME)
        assert damage[2].startswith(what)
        with pytest.raises(InputError):
            store.read("a", VISUAL_NAME)
        assert same(store.read("b", VISUAL_NAME), make_track(1))

    def test_a_stream_that_is_not_named_after_its_fingerprint(self, store: Store) -> None:
        self.craft(store, field("fingerprint", {"layer": 3}))
        [(clip_id, stream, what)] = problems(store)
        assert (clip_id, stream) == ("a", VISUAL_NAME)
        assert what.startswith("expected <modality>/<alias>-<first 8 hex of its fingerprint>, got fingerprint")

    def test_the_crafted_entry_itself_is_sound(self, store: Store) -> None:
        self.craft(store, field("report", {"seen": 5}))
        assert problems(store) == []
        assert store.record("a", VISUAL_NAME)["report"] == {"seen": 5}

    @pytest.mark.parametrize("name", ["thesis.tex", "values/thesis.tex", "values/c/0/1", ".DS_Store"])
    def test_strange_files_beside_an_entry(self, store: Store, tmp_path: Path, name: str) -> None:
        place = tmp_path / "c.zarr" / VISUAL_NAME / "b" / name
        place.write_text("x")
        assert problems(store) == [("b", VISUAL_NAME, f"expected the files of an entry, got {name} added")]

    @pytest.mark.parametrize("name", ["=00", "=zz", "a~0123456789abcdef", "%41", "A B"])
    def test_entries_under_names_that_no_clip_has(self, store: Store, tmp_path: Path, name: str) -> None:
        place = tmp_path / "c.zarr" / VISUAL_NAME
        shutil.copytree(place / "b", place / name)
        [(_, stream, what)] = problems(store)
        assert stream == VISUAL_NAME
        assert what.startswith("expected")


class TestJournal:
    """Lines that were cut short are none of anyone's business; lines that were changed are."""

    @pytest.fixture
    def journal(self, tmp_path: Path) -> Path:
        for clip_id in ("J*-a", "J*-ü", "J*-c"):  # one bit makes a line's end of each of J, * and -
            append_line(tmp_path / "journal.jsonl", {"event": "failure", "clip_id": clip_id})
        return tmp_path / "journal.jsonl"

    @staticmethod
    def clips(journal: Path) -> list[str]:
        return [line["clip_id"] for line in read_lines(journal)]

    def test_the_journal_tells_what_happened(self, tmp_path: Path) -> None:
        store = open_store(tmp_path / "c.zarr", "a")
        put(store, "a")
        store.log_failure("b", "no face")
        store.discard("a", VISUAL_NAME)
        lines = [line for line in read_lines(tmp_path / "c.zarr/.sage-va/journal.jsonl") if line["event"] != "create"]
        assert [(line["event"], line["clip_id"]) for line in lines] == [
            ("commit", "a"),
            ("failure", "b"),
            ("discarding", "a"),
            ("discard", "a"),
        ]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line["time"]) for line in lines)

    def test_a_line_that_was_cut_short_is_no_problem(self, journal: Path) -> None:
        whole = journal.read_bytes()
        last = whole.rindex(b"\n", 0, -1) + 1
        for length in range(last, len(whole)):
            journal.write_bytes(whole[:length])
            assert damaged_lines(journal) == []
            append_line(journal, {"event": "failure", "clip_id": "d"})
            assert damaged_lines(journal) == []
            assert self.clips(journal) == ["J*-a", "J*-ü", *(["J*-c"] if length == len(whole) - 1 else []), "d"]

    def test_every_bit_of_every_line(self, journal: Path) -> None:
        whole = journal.read_bytes()
        ends = np.cumsum([len(line) + 1 for line in whole.split(b"\n")])
        for k, flipped in enumerate(flips(whole, bits=8)):
            journal.write_bytes(flipped)
            numbers = damaged_lines(journal)
            line = int(np.searchsorted(ends, k // 8, side="right")) + 1
            assert numbers, (k, flipped)
            assert numbers[0] in (line, line + 1), (k, flipped)
            if k % 8 == 0:
                append_line(journal, {"event": "failure", "clip_id": "d"})
                assert damaged_lines(journal) == numbers
                assert self.clips(journal)[-1] == "d"

    def test_other_bytes_of_equal_meaning_are_damage(self, journal: Path) -> None:
        whole = journal.read_bytes()
        for old, new in ((b", ", b",\t"), (b'": ', b'":\r'), (b'"0', b'"+'), (b'"0', b'" '), (b"J", b"\\u004a")):
            journal.write_bytes(whole.replace(old, new, 1))
            assert damaged_lines(journal) == [1], new

    def test_a_lost_journal_is_no_problem(self, tmp_path: Path) -> None:
        store = open_store(tmp_path / "c.zarr", "a")
        put(store, "a")
        journal = tmp_path / "c.zarr/.sage-va/journal.jsonl"
        journal.write_bytes(b"")
        assert problems(store) == []
        journal.unlink()
        assert problems(store) == []
        store.log_failure("b", "no face")
        assert [line["event"] for line in read_lines(journal)] == ["failure"]

    def test_damaged_lines_are_named_and_taken_out(self, tmp_path: Path) -> None:
        store = open_store(tmp_path / "c.zarr", "a")
        for clip_id in ("J*-a", "J*-b"):
            store.log_failure(clip_id, "no face")
        assert isinstance(store, FolderStore)
        assert store._restore_journal() == []
        journal = tmp_path / "c.zarr/.sage-va/journal.jsonl"
        whole = journal.read_bytes()
        lines = whole.splitlines(keepends=True)
        start, end = len(lines[0]), len(lines[0] + lines[1])
        for flipped in [whole[:start] + line + b"\n" + whole[end:] for line in flips(lines[1][:-1], 5, bits=8)]:
            journal.write_bytes(flipped)
            named = damaged_lines(journal)
            places = [f".sage-va/journal.jsonl line {number} is not what was written" for number in named]
            assert problems(store) == [("", "", what) for what in places]
            done = f"removed damaged lines from .sage-va/journal.jsonl: {', '.join(map(str, named))}"
            assert store._restore_journal() == [done]
            assert problems(store) == []
            assert [line.get("clip_id") for line in read_lines(journal)] == [None, "J*-b"]


class TestRestore:
    """The root comes back from the journal as it was, byte by byte."""

    def test_from_every_damage(self, tmp_path: Path) -> None:
        put(open_store(tmp_path / "c.zarr", "a", licence="EULA", restricted=True), "a")
        before, root = tree(tmp_path / "c.zarr"), tmp_path / "c.zarr/zarr.json"
        whole = root.read_bytes()
        assert restore(tmp_path / "c.zarr") is None
        for content in [*flips(whole), whole[:-1], b"", b"[]", None]:
            root.unlink() if content is None else root.write_bytes(content)
            assert restore(tmp_path / "c.zarr") == "restored zarr.json"
            assert tree(tmp_path / "c.zarr") == before
        assert open_store(tmp_path / "c.zarr").root()["licence"] == "EULA"

    def test_without_a_journal(self, tmp_path: Path) -> None:
        open_store(tmp_path / "c.zarr", "a")
        (tmp_path / "c.zarr/zarr.json").unlink()
        journal = tmp_path / "c.zarr/.sage-va/journal.jsonl"
        for content in (journal.read_bytes()[:-20], b"", None):
            journal.unlink() if content is None else journal.write_bytes(content)
            text = r"expected the cache's attributes in its journal, got none there\. Take zarr\.json from a copy"
            with pytest.raises(InputError, match=text):
                restore(tmp_path / "c.zarr")

    def test_terms_of_a_try_that_failed_do_not_come_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Killed after the journal's line and before the root; then made under other terms."""

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(FolderStore, "_put_file", killed)
            with pytest.raises(KeyboardInterrupt):
                open_store(tmp_path / "c.zarr", "a", licence="CC0")
        open_store(tmp_path / "c.zarr", "a", licence="EULA", restricted=True)
        before = tree(tmp_path / "c.zarr")
        (tmp_path / "c.zarr/zarr.json").unlink()
        restore(tmp_path / "c.zarr")
        assert tree(tmp_path / "c.zarr") == before


def test_golden_identity() -> None:
    """The hash that names a stream must never change by accident: caches would go stale."""
    assert json_sha256({"b": [1, 2.5, None, True], "a": "ü"})[:16] == "5cffe7b225626127"
