"""Packs: what is shared is what was committed, plain zarr reads it, damage is named, an outage is not damage."""

import importlib
import os
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zarr
from zarr.storage import ZipStore

from sage_va.data import Clip, DamagedError, InputError, Store, open_store
from sage_va.data.atomic import json_file, part_of
from sage_va.data.hashing import sealed
from sage_va.data.store import pack_file as pack_form
from sage_va.data.store import remote
from sage_va.data.store.pack_store import PackStore, write_single
from sage_va.data.store.remote import OutageError, Remote
from sage_va.data.transfer import push_packs as push
from sage_va.data.transfer.copy import copy
from sage_va.testing import AUDIO_NAME, VISUAL_NAME, make_track, problems, put, same
from sage_va.tests.s3 import Proxy, web_server

FORMS = ("c.zarr.zip", "c.packs")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.01, 0.01))
    monkeypatch.setenv("SAGE_VA_CACHE", str(tmp_path / "home"))


@pytest.fixture
def source(tmp_path: Path) -> Store:
    store = open_store(tmp_path / "source.zarr", "a", licence="EULA")
    put(store, "a", seed=1, clip=Clip("a", "ann", 1.5))
    put(store, "a", "audio", seed=2)
    put(store, "b/ü #1", "audio", seed=3)
    put(store, "x" * 300, seed=4, track=make_track(4, dtype=ml_dtypes.bfloat16))
    return store


@pytest.fixture
def small(tmp_path: Path) -> Store:
    store = open_store(tmp_path / "small.zarr", "a")
    put(store, "a", seed=1, track=make_track(1, 3, 2))
    put(store, "b", seed=2, track=make_track(2, 3, 2))
    return store


def opened(path: Path) -> PackStore:
    store = open_store(path)
    assert isinstance(store, PackStore)
    return store


def entries(store: Store) -> list[tuple[str, str]]:
    return [(clip_id, stream) for stream in store.streams() for clip_id in store.clip_ids(stream)]


def only_pack(place: Path) -> Path:
    (pack,) = (place / "packs").iterdir()
    return pack


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is read, as it is read."""
    names, plain = list[str](), Remote.read

    def read(self: Remote, name: str, *span: Any) -> bytes:
        names.append(name)
        return plain(self, name, *span)

    monkeypatch.setattr(Remote, "read", read)
    return names


@pytest.mark.parametrize("form", FORMS)
def test_what_is_read_is_what_was_committed(source: Store, tmp_path: Path, form: str) -> None:
    copy(source, str(tmp_path / form))
    store = open_store(tmp_path / form)
    assert entries(store) == entries(source)
    assert all(same(store.read(*pair), source.read(*pair)) for pair in entries(source))
    assert all(store.record(*pair) == source.record(*pair) for pair in entries(source))
    assert store.clip("a") == source.clip("a")
    assert store.aliases() == source.aliases()
    assert store.resolve("visual") == VISUAL_NAME
    assert store.root() == source.root()
    assert store.content_sha256() == source.content_sha256()
    assert problems(store) == []
    with pytest.raises(InputError, match=r"absent .*: expected a committed stream, got none"):
        store.read("absent", VISUAL_NAME)


@pytest.mark.parametrize("form", FORMS)
def test_plain_zarr_reads_a_pack(source: Store, tmp_path: Path, form: str) -> None:
    copy(source, str(tmp_path / form))
    path = tmp_path / form if form.endswith("zip") else only_pack(tmp_path / form)
    group = zarr.open_group(ZipStore(path, mode="r"), mode="r")
    assert group.attrs["licence"] == "EULA"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [f"visual/{name}" for name, _ in group["visual"].groups()] == [VISUAL_NAME]  # type: ignore[union-attr]
    track, frames = make_track(1), np.asarray(group[f"{VISUAL_NAME}/a/frames"][:])  # type: ignore[index]
    assert np.array_equal(np.asarray(group[f"{VISUAL_NAME}/a/values"][:]), track.values, equal_nan=True)  # type: ignore[index]
    assert np.array_equal(frames[:, 0], track.times_s)
    assert group[f"{VISUAL_NAME}/a"].attrs["clip"] == {"clip_id": "a", "subject_id": "ann", "duration_s": 1.5}
    assert zipfile.ZipFile(path).testzip() is None


def test_few_reads(source: Store, tmp_path: Path, reads: list[str]) -> None:
    """A pack is opened by one read and its records come with it; an entry is one read, also when it is verified."""
    copy(source, str(tmp_path / "c.packs"))
    name = f"packs/{only_pack(tmp_path / 'c.packs').name}"
    reads.clear()
    store = open_store(tmp_path / "c.packs")
    assert reads == ["cache.json", name]
    store.content_sha256()
    assert reads == ["cache.json", name]
    store.read("a", AUDIO_NAME)
    assert reads == ["cache.json", name, name]
    reads.clear()
    assert problems(store) == []
    assert reads.count(name) == 1 + len(entries(source))


def test_large_directories_and_records_are_fetched(
    source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(source, str(tmp_path / "c.zarr.zip"))
    monkeypatch.setattr(pack_form, "TAIL_BYTES", 100)
    assert open_store(tmp_path / "c.zarr.zip").content_sha256() == source.content_sha256()


def test_zip64(source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is written behind 4 GiB or 65,535 files."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 10)
    copy(source, str(tmp_path / "c.zarr.zip"))
    monkeypatch.undo()
    assert b"PK\x06\x06" in (tmp_path / "c.zarr.zip").read_bytes()
    store = open_store(tmp_path / "c.zarr.zip")
    assert store.content_sha256() == source.content_sha256()
    assert problems(store) == []
    assert all(same(store.read(*pair), source.read(*pair)) for pair in entries(source))


@pytest.mark.parametrize("form", FORMS)
def test_packs_are_read_only(source: Store, tmp_path: Path, form: str) -> None:
    text = r"expected a cache that can be added to, got packs, made for sharing\. Extract to a \.zarr folder; `sage-va"
    with pytest.raises(InputError, match=text):
        open_store(tmp_path / form, "a")


@pytest.mark.parametrize("name", [*FORMS, "file/c.packs"])
def test_nothing_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=rf"{name}: expected a feature cache, got none there\. Check the address"):
        open_store(tmp_path / name)


def test_other_zips_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("hello", "world")
    with pytest.raises(InputError, match="expected a feature cache, got something of another kind"):
        open_store(tmp_path / "x.zip")
    (tmp_path / "y.zip").write_text("hello")
    with pytest.raises(DamagedError, match=r"expected a pack that can be read, got BadZipFile.*Copy it again from"):
        open_store(tmp_path / "y.zip")


def flips(content: bytes, every: int) -> Iterator[tuple[int, bytes]]:
    for at in sorted(
        {*range(0, len(content), every), *range(max(0, len(content) - 900), len(content), 1 + every // 8)}
    ):
        yield at, content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :]


@pytest.mark.parametrize("every", [131, pytest.param(1, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("form", FORMS)
def test_every_flipped_byte_is_named(small: Store, tmp_path: Path, form: str, every: int) -> None:
    copy(small, str(tmp_path / form))
    path = tmp_path / form if form.endswith("zip") else only_pack(tmp_path / form)
    content = path.read_bytes()
    for at, flipped in flips(content, every):
        path.write_bytes(flipped)
        try:
            store = open_store(tmp_path / form)
        except InputError:  # of one pack, the directory or the root
            assert form.endswith("zip"), at
            continue
        damage = problems(store)
        assert any(path.name in what for clip_id, _, what in damage if not clip_id), at
        damaged = {(clip_id, stream) for clip_id, stream, _ in damage if clip_id}
        for pair in set(entries(store)) - damaged:
            assert same(store.read(*pair), small.read(*pair)), at


@pytest.mark.parametrize("name", ["values/c/0/0", "frames/c/0/0", "values/zarr.json", "zarr.json"])
def test_a_damaged_entry_is_named_and_the_others_are_read(small: Store, tmp_path: Path, name: str) -> None:
    copy(small, str(tmp_path / "c.packs"))
    path = only_pack(tmp_path / "c.packs")
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{VISUAL_NAME}/b/{name}")
    content = bytearray(path.read_bytes())
    content[info.header_offset + 30 + len(info.filename) + info.file_size // 2] ^= 1
    path.write_bytes(content)
    store = open_store(tmp_path / "c.packs")
    assert problems(store)[0] == ("", "", f"packs/{path.name} is not what was written")
    assert [pair[:2] for pair in problems(store)[1:]] == [("b", VISUAL_NAME)]
    assert same(store.read("a", VISUAL_NAME), small.read("a", VISUAL_NAME))
    if name != "values/zarr.json":  # which sage-va does not need to read
        with pytest.raises(DamagedError, match=f"b {VISUAL_NAME}: expected "):
            store.read("b", VISUAL_NAME)


@pytest.mark.parametrize("left", [0, 10, 100, -65, -1])
def test_a_pack_cut_short_is_named_and_the_others_are_read(
    small: Store, tmp_path: Path, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "PACK_BYTES", 1)
    copy(small, str(tmp_path / "c.packs"))
    first, second = sorted((tmp_path / "c.packs/packs").iterdir())
    first.write_bytes(first.read_bytes()[:left])
    store = opened(tmp_path / "c.packs")
    assert [what for *_, what in problems(store) if first.name in what]
    assert f"packs/{first.name}" in store.broken or left == -1
    assert store.clip_ids()
    assert not [what for *_, what in problems(store) if second.name in what]


def test_damaged_indexes_are_read_past_and_named(source: Store, tmp_path: Path) -> None:
    """The list of records only spares reads: the entries themselves decide."""
    copy(source, str(tmp_path / "c.packs"))
    path = only_pack(tmp_path / "c.packs")
    content = path.read_bytes()
    start = content.rindex(b'{"commit"')
    path.write_bytes(content[:start] + b"[" + content[start + 1 :])
    store = open_store(tmp_path / "c.packs")
    assert store.content_sha256() == source.content_sha256()
    assert problems(store) == [("", "", f"packs/{path.name} is not what was written")]


@pytest.mark.parametrize("name", ["aliases.json", "index.json"])
def test_damaged_lists_are_named_and_healed(source: Store, tmp_path: Path, name: str) -> None:
    copy(source, str(tmp_path / "c.packs"))
    path = tmp_path / "c.packs" / name
    content = path.read_bytes()
    for _, flipped in flips(content, 7):
        path.write_bytes(flipped)
        assert problems(open_store(tmp_path / "c.packs")) == [("", "", f"{name} is not what was written")]
    copy(source, str(tmp_path / "c.packs"))
    assert problems(open_store(tmp_path / "c.packs")) == []
    assert path.read_bytes() == content


def test_a_damaged_root_is_refused(source: Store, tmp_path: Path) -> None:
    copy(source, str(tmp_path / "c.packs"))
    path = tmp_path / "c.packs/cache.json"
    for _, flipped in flips(path.read_bytes(), 5):
        path.write_bytes(flipped)
        with pytest.raises(DamagedError, match="expected the attributes that were written, got others"):
            open_store(tmp_path / "c.packs")


def test_a_pack_under_another_name_or_other_terms_is_named(small: Store, tmp_path: Path) -> None:
    copy(small, str(tmp_path / "c.packs"))
    path = only_pack(tmp_path / "c.packs")
    path.rename(path.with_name("0123456789abcdef.zip"))
    assert problems(open_store(tmp_path / "c.packs")) == [
        ("", "", f"packs/{path.name} is missing: copy its clips again"),
        ("", "", "packs/0123456789abcdef.zip is not what was written"),
    ]
    path.with_name("0123456789abcdef.zip").rename(path)
    root = json_file(sealed({**small.root(), "licence": "CC0"}))
    (tmp_path / "c.packs/cache.json").write_bytes(root)
    what = f"packs/{path.name} was made under other terms than those in cache.json"
    assert problems(open_store(tmp_path / "c.packs")) == [("", "", what)]


def test_the_same_entry_in_two_packs_is_harmless(source: Store, small: Store, tmp_path: Path) -> None:
    copy(source, str(tmp_path / "c.packs"))
    copy(source, str(tmp_path / "d.packs"), clips=["a"])
    path = only_pack(tmp_path / "d.packs")
    path.rename(tmp_path / "c.packs/packs" / path.name)
    store = opened(tmp_path / "c.packs")
    assert len(store.packs) == 2
    assert store.content_sha256() == source.content_sha256()
    assert problems(store) == []


def test_packs_are_deterministic(source: Store, tmp_path: Path) -> None:
    for name in "cd":
        copy(source, str(tmp_path / f"{name}.packs"))
    assert only_pack(tmp_path / "c.packs").name == only_pack(tmp_path / "d.packs").name


def test_the_index_decides_where_nothing_can_be_listed(small: Store, tmp_path: Path) -> None:
    copy(small, str(tmp_path / "c.packs"))
    (tmp_path / "c.packs/packs/note.txt").write_text("not ours")
    with web_server(tmp_path) as port:
        url = f"http://127.0.0.1:{port}/c.packs"
        assert open_store(url).content_sha256() == small.content_sha256()
        assert problems(open_store(url)) == []
        path = tmp_path / "c.packs/index.json"
        path.write_bytes(path.read_bytes().replace(b"bytes", b"bites"))
        with pytest.raises(DamagedError, match=r"index.json: expected the list of packs, got another. Let its owner"):
            open_store(url)


def test_one_file_behind_a_web_server(source: Store, tmp_path: Path) -> None:
    copy(source, str(tmp_path / "c.zarr.zip"))
    with web_server(tmp_path) as port:
        store = open_store(f"http://127.0.0.1:{port}/c.zarr.zip")
        assert store.content_sha256() == source.content_sha256()
        assert problems(store) == []
        with pytest.raises(InputError, match=r"nothing.packs: expected a feature cache, got none there"):
            open_store(f"http://127.0.0.1:{port}/nothing.packs")


def test_a_server_without_ranges_is_refused(source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(source, str(tmp_path / "c.zarr.zip"))
    monkeypatch.setattr(pack_form, "TAIL_BYTES", 100)
    with web_server(tmp_path, ranges=False) as port, pytest.raises(OutageError) as raised:
        open_store(f"http://127.0.0.1:{port}/c.zarr.zip")
    assert "c.zarr.zip: expected a server that answers range requests, got all of the file at once" in str(raised.value)


def cuts(*budgets: int | None) -> Callable[[], int | None]:
    left = iter(budgets)
    return lambda: next(left, None)


def test_cut_connections_are_tried_again(source: Store, tmp_path: Path) -> None:
    copy(source, str(tmp_path / "c.packs"))
    with web_server(tmp_path) as port, Proxy(port, cuts(500, 300, 900, 700, 2000)) as proxy:
        store = open_store(f"http://127.0.0.1:{proxy.port}/c.packs")
        assert store.content_sha256() == source.content_sha256()
        assert all(same(store.read(*pair), source.read(*pair)) for pair in entries(source))
        assert proxy.cuts > 2


def test_an_outage_is_not_damage(source: Store, tmp_path: Path) -> None:
    copy(source, str(tmp_path / "c.packs"))
    with web_server(tmp_path) as port:
        budget: list[int | None] = [None]
        with Proxy(port, lambda: budget[0]) as proxy:
            url = f"http://127.0.0.1:{proxy.port}/c.packs"
            store = open_store(url)
            proxy.cut_all()
            budget[0] = 300
            text = (
                rf"{url}/packs/\w+\.zip: expected an answer, got \w+Error.*Check the connection and do the same again"
            )
            with pytest.raises(OutageError, match=text) as raised:
                store.read("a", VISUAL_NAME)
            assert not isinstance(raised.value, DamagedError)
            assert "\n" not in str(raised.value)
            with pytest.raises(OutageError, match="expected an answer"):
                open_store(url)


@pytest.mark.parametrize(("url", "package"), [("s3://b/c", "s3fs"), ("gs://b/c", "gcsfs"), ("https://h/c", "aiohttp")])
def test_missing_packages_are_named(url: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("fsspec.registry")
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, url.split(":")[0], raising=False)
    text = rf'{url}: expected the packages that reach it, got none .*Install it with: pip install "sage-va\[share\]"\.'
    with pytest.raises(InputError, match=text):
        open_store(url)


def test_unknown_addresses_are_refused() -> None:
    with pytest.raises(InputError, match="foo://x: expected a known kind of address, got ValueError: Protocol not"):
        open_store("foo://x")


class TestWriteSingle:
    def test_what_killed_writers_left_goes(self, small: Store, tmp_path: Path) -> None:
        part = part_of(tmp_path / "c.zarr.zip")
        part.write_text("half")
        copy(small, str(tmp_path / "c.zarr.zip"))
        assert not part.exists()

    def test_a_writer_that_fails_leaves_nothing(self, small: Store, tmp_path: Path) -> None:
        path = tmp_path / "c.zarr.zip"
        path.write_bytes(b"old")
        writing = write_single(path, small.root(), {}, (small.entry(*pair) for pair in entries(small)))
        next(writing)
        assert part_of(path).exists()
        with pytest.raises(KeyError):
            writing.throw(KeyError())
        assert path.read_bytes() == b"old"
        assert not part_of(path).exists()
