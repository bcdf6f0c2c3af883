"""Caches made to do harm: no name in them leads out of the place that is copied, imported or exported to."""

import json
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sage_va.data import Clip, DamagedError, InputError, Store, open_store
from sage_va.data.atomic import contained, json_file
from sage_va.data.hashing import json_sha256, sealed
from sage_va.data.store.entry import Entry
from sage_va.data.store.fingerprint import check_alias, check_key, check_stream, clip_key, stream_name
from sage_va.data.store.hdf5_layout import LIBVER, SEAL_BYTES, put_entry, put_json, put_seal
from sage_va.data.store.pack_file import PACK_ALIASES, RECORDS
from sage_va.data.store.pack_file import SEAL_BYTES as PACK_SEAL_BYTES
from sage_va.data.store.remote import Remote
from sage_va.data.store.root import new_root
from sage_va.data.store.zarr_layout import META, encode, group_file
from sage_va.data.transfer.copy import copy
from sage_va.data.transfer.exporter import export
from sage_va.data.transfer.importer import import_features
from sage_va.testing import SHA, VISUAL, VISUAL_NAME, make_track, put

HASH = json_sha256(VISUAL)[:8]
DESTINATIONS = (
    "sub/out.zarr",
    "sub/out.h5",
    "sub/folder.h5/",
    "sub/out.zarr.zip",
    "sub/out.packs",
    "icechunk://sub/out",
)
STREAMS = (
    f"../victim-{HASH}",
    f"/escaped-{HASH}",
    f"visual/..-{HASH}",
    f"visual/.hidden-{HASH}",
    f"visual/a\\b-{HASH}",
    f"visual/a\nb-{HASH}",
    f"visual/a b-{HASH}",
    f"visual/C:-{HASH}",
    f"Sound/a-{HASH}",
    "visual/no-hash",
    f"visual/{'x' * 300}-{HASH}",
)
KEYS = ("..", "=2E=2E=2Fx", "=2Fx", "a\\b", "a b", "a=00", "zarr.json", ".x", "x" * 200)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Works in an empty folder, four deep; nothing may appear above the destination, nor in the file system's root."""
    work = tmp_path / "1" / "2" / "work"
    (work / "sub").mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setenv("SAGE_VA_CACHE", str(tmp_path / "cache"))
    root = set(os.listdir("/"))
    yield
    assert set(os.listdir("/")) == root
    assert {p.name for p in work.iterdir()} <= {"sub", "bad.zarr.zip", "bad.packs", "bad.h5", "source"}
    places = {"out", "out.zarr", "out.h5", "folder.h5", "out.zarr.zip", "out.packs", "c.zarr", "other.h5", "secret.npy"}
    assert {p.name for p in (work / "sub").iterdir()} <= places
    above = {p for p in tmp_path.rglob("*") if work not in p.parents and tmp_path / "cache" not in p.parents}
    assert above == {tmp_path / "1", tmp_path / "1/2", work, tmp_path / "cache"} & above


def entry_of(stream: str, clip_id: str = "a") -> Entry:
    """An entry in good order but for the name of its stream and clip."""
    entry = Entry.of(Clip("a"), VISUAL_NAME, make_track(1), fingerprint=VISUAL, source_sha256=SHA)
    record = {**entry.record, "stream": stream, "clip": {**entry.record["clip"], "clip_id": clip_id}}
    return Entry(record, entry.values, entry.frames)


def make_pack(path: Path, stream: str, key: str, entry: Entry, aliases: Any = None, mode: int = 0o644) -> Path:
    """A pack as we write it, sealed and all, with a place of any name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    members = {META: group_file(sealed(root()))}
    members |= {f"{stream}/{key}/{name}": content for name, content in encode(entry).items()}
    members[PACK_ALIASES] = json_file(sealed({"aliases": aliases or {}}))
    members[RECORDS] = json.dumps(sealed(entry.record), ensure_ascii=False).encode() + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = b"0" * PACK_SEAL_BYTES
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, mode << 16
            archive.writestr(info, content)
    return path


def make_packs(folder: Path, stream: str, key: str, entry: Entry) -> Path:
    path = make_pack(folder / "packs" / f"{'0' * 16}.zip", stream, key, entry)
    (folder / "cache.json").write_bytes(json_file(sealed(root())))
    (folder / "aliases.json").write_bytes(json_file(sealed({"aliases": {}})))
    (folder / "index.json").write_bytes(
        json_file(sealed({"packs": [{"name": path.name, "bytes": path.stat().st_size}]}))
    )
    return folder


def make_h5(path: Path, stream: str, key: str, entry: Entry) -> Path:
    """A single HDF5 file whose links have any names; slashes in them make groups."""
    with h5py.File(path, "w", libver=LIBVER, userblock_size=SEAL_BYTES) as file:
        put_entry(file.require_group(f"{stream}/{key}"), entry)
        put_json(file, "cache", root())
        put_json(file, "aliases", {})
    put_seal(path, "cache")
    return path


def root() -> dict[str, Any]:
    return {name: value for name, value in new_root(None, False).items() if name != "attrs_sha256"}


def refused(source: str, destination: str) -> str:
    """Returns the complaint about a copy, which must leave nothing behind but an empty cache."""
    if destination.endswith("/"):
        open_store(destination.rstrip("/"), "a") if not destination.startswith("icechunk") else None
        Path(destination).mkdir(exist_ok=True)
    try:
        done = copy(source, destination)
    except InputError as error:
        return str(error)
    assert done.copied == 0
    assert done.failures
    assert open_store(destination.rstrip("/")).streams() == []
    return " ".join(reason for *_, reason in done.failures)


class TestNames:
    @pytest.mark.parametrize("stream", STREAMS)
    def test_streams(self, stream: str) -> None:
        with pytest.raises(InputError, match="stream"):
            check_stream(stream)

    @pytest.mark.parametrize("key", [*KEYS, "", "a/b", "a\0b", "é"])
    def test_keys(self, key: str) -> None:
        if key in ("=2E=2E=2Fx", "=2Fx", "a=00"):
            check_key(key)  # harmless as a name; the clip it stands for is refused
            return
        with pytest.raises(InputError, match="key"):
            check_key(key)

    @pytest.mark.parametrize(
        "alias", ["visual/../x", "../x", "visual/", "visual/.x", "visual/a\0", "visual/a\\b", "visual/" + "x" * 300, 7]
    )
    def test_aliases(self, alias: Any) -> None:
        with pytest.raises(InputError, match="alias"):
            check_alias(alias)

    def test_names_of_ours_pass(self) -> None:
        for alias in ("dinov2-s", "a.b", "Ünï code", "x" * 230):
            stream = stream_name("visual", alias, VISUAL)
            assert check_stream(stream) == stream
        for clip_id in ("a.mp4", "Ordner/zwei ü#left", "~x", "_y", "zarr.json", "x" * 999, "C:/x"):
            assert check_key(clip_key(clip_id))
        with pytest.raises(InputError, match="the name is longer than 230 bytes"):
            stream_name("visual", "x" * 231, VISUAL)
        assert check_alias("visual/best 2 (ü)") == "visual/best 2 (ü)"

    @pytest.mark.parametrize("part", ["..", "a/../../b", "/etc", "a\0", "", ".", "a//b", "a\\..\\b", "a/."])
    def test_contained(self, part: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="this name leads out of"):
            contained(tmp_path, part)
        assert contained(tmp_path, "a/b", "c") == tmp_path / "a" / "b" / "c"


@pytest.mark.parametrize("destination", DESTINATIONS)
@pytest.mark.parametrize("stream", STREAMS)
def test_streams_of_a_pack_stay_inside(stream: str, destination: str) -> None:
    make_pack(Path("bad.zarr.zip"), stream, "a", entry_of(stream))
    assert "stream" in refused("bad.zarr.zip", destination)


@pytest.mark.parametrize("destination", DESTINATIONS)
def test_streams_of_packs_stay_inside(destination: str) -> None:
    stream = STREAMS[0]
    make_packs(Path("bad.packs"), stream, "a", entry_of(stream))
    assert "stream" in refused("bad.packs", destination)


@pytest.mark.parametrize("destination", DESTINATIONS)
@pytest.mark.parametrize("key", KEYS)
def test_keys_of_a_pack_stay_inside(key: str, destination: str) -> None:
    make_pack(Path("bad.zarr.zip"), VISUAL_NAME, key, entry_of(VISUAL_NAME, "../a"))
    assert refused("bad.zarr.zip", destination)


@pytest.mark.parametrize("destination", DESTINATIONS)
@pytest.mark.parametrize("stream", [f"visual/..-{HASH}", f"visual/.hidden-{HASH}", f"visual/a b-{HASH}"])
def test_streams_of_an_hdf5_file_stay_inside(stream: str, destination: str) -> None:
    make_h5(Path("bad.h5"), stream, "a", entry_of(stream))
    assert "stream" in refused("bad.h5", destination)


def test_links_in_an_hdf5_file_are_not_followed() -> None:
    """An external link would read a file of this machine, a soft one the same entry under another name."""
    make_h5(Path("sub/other.h5"), VISUAL_NAME, "a", entry_of(VISUAL_NAME))
    with h5py.File("bad.h5", "w", libver=LIBVER, userblock_size=SEAL_BYTES) as file:
        put_json(file, "cache", root())
        put_json(file, "aliases", {})
        file.require_group(VISUAL_NAME)["a"] = h5py.ExternalLink(
            str(Path("sub/other.h5").resolve()), f"{VISUAL_NAME}/a"
        )
        file["audio"] = h5py.SoftLink("/visual")
    put_seal(Path("bad.h5"), "cache")
    assert "link" in refused("bad.h5", "sub/out.zarr")


def elsewhere(group: h5py.Group, kind: str, entry: Entry, other: Path) -> None:
    """Puts the values of an entry into another file, in one of the ways that HDF5 has."""
    values = entry.values
    if kind == "external storage":
        other.write_bytes(values.tobytes())
        group.create_dataset("values", values.shape, values.dtype, external=str(other))
        return
    with h5py.File(other, "w") as file:
        file["values"] = values
    if kind == "a virtual dataset":
        layout = h5py.VirtualLayout(values.shape, values.dtype)
        layout[...] = h5py.VirtualSource(str(other), "values", values.shape)
        group.create_virtual_dataset("values", layout)
    else:
        group["values"] = h5py.ExternalLink(str(other), "values")


ELSEWHERE = ["external storage", "a virtual dataset", "an external link", "a soft link"]


@pytest.mark.parametrize("kind", ELSEWHERE)
@pytest.mark.parametrize("single", [True, False])
def test_values_of_an_hdf5_file_lie_in_it(kind: str, single: bool) -> None:
    """Else a cache from elsewhere could show the bytes of any file of this machine."""
    entry = entry_of(VISUAL_NAME)
    path = Path("bad.h5")
    if not single:
        put(open_store(path, "a"), "good")
        (path / VISUAL_NAME).mkdir(parents=True, exist_ok=True)
    place = path if single else path / VISUAL_NAME / "a.h5"
    with h5py.File(place, "w", libver="latest", userblock_size=SEAL_BYTES) as file:
        if single:
            put_json(file, "cache", root())
            put_json(file, "aliases", {})
        group = file.require_group(f"{VISUAL_NAME}/a") if single else file
        if kind == "a soft link":
            group["others"] = entry.values
            group["values"] = h5py.SoftLink("others")
        else:
            elsewhere(group, kind, entry, Path("sub/other.h5").resolve())
        group.create_dataset("frames", data=entry.frames)
        put_json(group, "record", entry.record)
    put_seal(place, "cache" if single else "entry")
    store = open_store(path)
    with pytest.raises(DamagedError, match=r"^a visual/.*(in another file|has a link in it)"):
        store.read("a", VISUAL_NAME)
    assert [row.clip_id for _, _, row in store.verify() if row] == ["a"]


@pytest.mark.parametrize("kind", ELSEWHERE[:2])
def test_features_of_another_file_are_not_imported(kind: str) -> None:
    Path("source").mkdir()
    with h5py.File("source/a.h5", "w") as file:
        elsewhere(file, kind, entry_of(VISUAL_NAME), Path("sub/other.h5").resolve())
    store = open_store("sub/out.zarr", "a")
    result = import_features(store, Path("source"), stream="visual/x", hz=25)
    assert not result.clips
    assert "in another file" in result.failures[0].reason


def test_members_that_claim_to_be_links_are_bytes() -> None:
    entry = entry_of(VISUAL_NAME)
    make_pack(Path("bad.zarr.zip"), VISUAL_NAME, "a", entry, mode=stat.S_IFLNK | 0o777)
    assert copy("bad.zarr.zip", "sub/out.zarr").copied == 1
    assert not [path for path in Path("sub/out.zarr").rglob("*") if path.is_symlink()]


def test_compressed_members_are_refused() -> None:
    """A megabyte that becomes a gigabyte would fill the memory before any checksum is read."""
    make_pack(Path("bad.zarr.zip"), VISUAL_NAME, "a", entry_of(VISUAL_NAME))
    with zipfile.ZipFile("bad.zarr.zip", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("more", b"0" * 10_000)
    with pytest.raises(DamagedError, match="more is compressed"):
        open_store("bad.zarr.zip")


@pytest.mark.parametrize("destination", DESTINATIONS)
@pytest.mark.parametrize("alias", ["visual/../../victim", "../victim", "visual/a\0", "visual/\\x"])
def test_aliases_stay_inside(alias: str, destination: str) -> None:
    make_pack(Path("bad.zarr.zip"), VISUAL_NAME, "a", entry_of(VISUAL_NAME), {alias: VISUAL_NAME})
    assert "alias" in refused("bad.zarr.zip", destination)


@pytest.mark.parametrize("aliases", [["visual/a"], {"visual/a": 3}, {"visual/a": "../x"}])
def test_aliases_of_another_kind_are_damage(aliases: Any) -> None:
    make_pack(Path("bad.zarr.zip"), VISUAL_NAME, "a", entry_of(VISUAL_NAME), aliases)
    with pytest.raises(DamagedError, match="alias"):
        open_store("bad.zarr.zip").aliases()


@pytest.mark.parametrize("packs", [None, {"name": 1}, [3], [{"name": "x"}], [{"name": "x", "bytes": "many"}]])
def test_an_index_of_another_kind_is_damage(packs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_packs(Path("bad.packs"), VISUAL_NAME, "a", entry_of(VISUAL_NAME))
    (folder / "index.json").write_bytes(json_file(sealed({"packs": packs})))
    plain = Remote.__init__

    def init(self: Remote, url: str) -> None:
        plain(self, url)
        self.can_list = False

    monkeypatch.setattr(Remote, "__init__", init)
    with pytest.raises(DamagedError, match=r"index\.json: expected the list of packs"):
        open_store("bad.packs")


@pytest.mark.parametrize("stream", [f"visual/../../victim-{HASH}", f"visual/x/../../../victim-{HASH}"])
@pytest.mark.parametrize("url", ["sub/out.zarr", "sub/out.h5", "icechunk://sub/out"])
def test_own_writers_are_checked_too(stream: str, url: str) -> None:
    store = open_store(url, "a")
    with pytest.raises(InputError, match="stream"):
        store.commit(Clip("a"), stream, make_track(1), fingerprint=VISUAL, source_sha256=SHA)
    with pytest.raises(InputError, match="alias"):
        store.point(VISUAL_NAME, "visual/../../victim")


class TestImport:
    @pytest.fixture
    def store(self) -> Store:
        return open_store("sub/out.zarr", "a")

    @pytest.mark.parametrize("name", ["../victim", "/escaped", "a/../../victim", "x\\..\\victim", "a\nb"])
    @pytest.mark.parametrize("kind", ["npz", "h5", "safetensors"])
    def test_names_of_arrays_stay_inside(self, name: str, kind: str, store: Store) -> None:
        values = np.ones((3, 2), np.float32)
        Path("source").mkdir()
        path = Path(f"source/bad.{kind}")
        if kind == "npz":
            with zipfile.ZipFile(path, "w") as archive, archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, values)
        elif kind == "safetensors":
            from safetensors.numpy import save_file

            save_file({name: values}, path)
        else:
            with h5py.File(path, "w") as file:
                file.create_dataset(name, data=values)
        result = import_features(store, path, stream="visual/toy", hz=10)
        assert len(result.clips) + len(result.failures) == 1
        if kind != "h5" or name == "a\nb":  # HDF5 makes groups of slashes, and has no way up
            assert result.failures

    def test_an_index_of_exported_files_stays_inside(self, store: Store) -> None:
        Path("source").mkdir()
        np.save("sub/secret.npy", np.ones((3, 2), np.float32))
        facts = {"stream": "x", "clips": {"a": "../sub/secret.npy"}, "licence": None, "restricted": False}
        Path("source/cache.json").write_text(json.dumps(facts))
        result = import_features(store, Path("source"), stream="visual/toy", hz=10)
        assert (result.clips, [row.clip_id for row in result.failures]) == ([], ["a"])

    @pytest.mark.parametrize("clips", [{"a": ["x"]}, {"a": 3}, ["a"]])
    def test_an_index_of_another_kind_is_refused(self, clips: Any, store: Store) -> None:
        Path("source").mkdir()
        np.save("source/a.npy", np.ones((3, 2), np.float32))
        facts = {"stream": "x", "clips": clips, "licence": None, "restricted": False}
        Path("source/cache.json").write_text(json.dumps(facts))
        with pytest.raises(InputError, match=r"cache\.json: expected the facts of an export"):
            import_features(store, Path("source"), stream="visual/toy", hz=10)


class TestExport:
    @pytest.mark.parametrize("form", ["npy", "csv"])
    def test_files_stay_inside(self, form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Even where a store would let a bad id through, the place of the file is asserted."""
        store = open_store("sub/c.zarr", "a")
        put(store, "a")
        monkeypatch.setattr("sage_va.data.transfer.exporter._file_name", lambda clip_id: f"../victim/{clip_id}")
        with pytest.raises(InputError, match="this name leads out of"):
            export(store, Path("sub/out"), stream=VISUAL_NAME, file_format=form)
