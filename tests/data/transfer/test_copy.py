"""Copying: every form to every other, only what is missing, nothing overwritten, cuts and kills lose nothing."""

import base64
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import ml_dtypes
import numpy as np
import pytest
import yaml
from fsspec.implementations.dirfs import DirFileSystem

from sage_va.data import Clip, DamagedError, InputError, Store, open_store, stream_name
from sage_va.data.store import remote
from sage_va.data.store.pack_store import PackStore
from sage_va.data.store.remote import OutageError, Remote
from sage_va.data.transfer import copy as copy_module
from sage_va.data.transfer import push_packs as push
from sage_va.data.transfer.copy import Copied, copy
from sage_va.data.transfer.dataset_card import MARK, card
from sage_va.testing import AUDIO_NAME, VISUAL, VISUAL_NAME, make_track, problems, put, same
from sage_va.tests.s3 import (
    BUCKET,
    CREDENTIALS,
    Proxy,
    empty_bucket,
    forget_clients,
    needs_s3,
    s3_server,
    use_s3,
    web_server,
)

FORMS = ("c.zarr", "c.h5", "folder.h5", "c.zarr.zip", "c.packs", "icechunk")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.01, 0.01))
    monkeypatch.setenv("SAGE_VA_CACHE", str(tmp_path / "home"))


def fill(path: Path, clips: int = 3, **terms: Any) -> Store:
    store = open_store(path, "a", **terms)
    for k in range(clips):
        put(store, f"talk/{k}", seed=k, clip=Clip(f"talk/{k}", "ann", 1.5))
        put(store, f"talk/{k}", "audio", seed=100 + k)
    return store


@pytest.fixture
def source(tmp_path: Path) -> Store:
    store = fill(tmp_path / "source.zarr", licence="EULA")
    put(store, "x" * 300, seed=4, track=make_track(4, dtype=ml_dtypes.bfloat16))
    return store


def place(folder: Path, form: str) -> str:
    """An address for a form; a folder of HDF5 files has to be there, or it would be one file."""
    if form == "icechunk":
        pytest.importorskip("icechunk", reason="icechunk is not installed")
        return f"icechunk://{folder / 'c.icechunk'}"
    if form == "folder.h5":
        open_store(folder / form, "a", licence="EULA")
    return str(folder / form)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_to_every_other(source: Store, tmp_path: Path, form: str) -> None:
    pairs = len(source.streams("x" * 300)) + 6
    first = place(tmp_path, form)
    wanted = source.content_sha256()
    assert copy(source, first).content_sha256 == wanted
    for other in FORMS:
        folder = tmp_path / "others"
        folder.mkdir(exist_ok=True)
        second = place(folder, other)
        done = copy(first, second)
        assert (done.copied, done.skipped, done.failures, done.content_sha256) == (pairs, 0, [], wanted), other
        again = copy(first, second)
        assert (again.copied, again.skipped, again.failures, again.content_sha256) == (0, pairs, [], wanted), other
        assert (again.bytes, again.objects) == (0, 0)
        store = open_store(second)
        assert problems(store) == [], other
        assert (store.aliases(), store.root()["licence"]) == (source.aliases(), "EULA")
        assert same(store.read("talk/1", VISUAL_NAME), make_track(1))


def test_only_what_is_missing_is_read(source: Store, tmp_path: Path) -> None:
    copy(source, str(tmp_path / "c.zarr"), clips=["talk/1"])
    read: list[str] = []
    done = copy(source, str(tmp_path / "c.zarr"), clips=["talk/*"], progress=read.append)
    assert (done.copied, done.skipped) == (4, 2)
    assert sorted(read) == ["talk/0", "talk/0", "talk/2", "talk/2"]
    assert done.bytes == sum(source.entry(f"talk/{k}", s).nbytes for k in (0, 2) for s in (VISUAL_NAME, AUDIO_NAME))


def test_clips_and_streams_are_chosen(source: Store, tmp_path: Path) -> None:
    assert copy(source, str(tmp_path / "a.zarr"), clips=["talk/0", "*/2"]).copied == 4
    assert open_store(tmp_path / "a.zarr").clip_ids() == ["talk/0", "talk/2"]
    assert copy(source, str(tmp_path / "b.packs"), streams=["audio"]).copied == 3
    store = open_store(tmp_path / "b.packs")
    assert (store.streams(), store.aliases()) == ([AUDIO_NAME], {"audio/toy": AUDIO_NAME})
    with pytest.raises(InputError, match=r"clip 'talks/\*': expected a clip_id or a pattern of some, got no match"):
        copy(source, str(tmp_path / "c.zarr"), clips=["talk/1", "talks/*"])
    with pytest.raises(InputError, match="stream 'odour': expected the name of one stream, got 0"):
        copy(source, str(tmp_path / "c.zarr"), streams=["odour"])
    assert not (tmp_path / "c.zarr").exists()


@pytest.mark.parametrize("form", ["c.zarr", "c.zarr.zip", "c.packs"])
def test_what_is_there_is_never_overwritten(source: Store, tmp_path: Path, form: str) -> None:
    other = open_store(tmp_path / "other.zarr", "a", licence="EULA")
    put(other, "talk/0", seed=50, source_sha256="0" * 64)
    put(other, "talk/1", seed=51)
    copy(other, str(tmp_path / form))
    done = copy(source, str(tmp_path / form))
    assert (done.copied, done.skipped) == (5, 0)
    assert [(clip_id, stream) for clip_id, stream, _ in done.failures] == [
        ("talk/0", VISUAL_NAME),
        ("talk/1", VISUAL_NAME),
    ]
    assert [reason.split(" there ")[0] for *_, reason in done.failures] == [
        "made from another medium than the one",
        f"{tmp_path / form} has other values",
    ]
    assert same(open_store(tmp_path / form).read("talk/0", VISUAL_NAME), make_track(50))


@pytest.mark.parametrize("form", ["c.zarr", "c.zarr.zip", "c.packs", "c.h5"])
@pytest.mark.parametrize("name", ["values/c/0/0", "zarr.json"])
def test_a_damaged_entry_is_listed_and_the_others_are_copied(
    source: Store, tmp_path: Path, form: str, name: str
) -> None:
    path = tmp_path / "source.zarr" / VISUAL_NAME / "talk=2F1" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = copy(source, str(tmp_path / form))
    assert (done.copied, len(done.failures)) == (6, 1)
    assert done.failures[0][:2] == ("talk/1", VISUAL_NAME)
    assert done.failures[0][2].startswith("expected the ")
    assert problems(open_store(tmp_path / form)) == []


def test_a_damaged_pack_of_the_source_is_listed(source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "PACK_BYTES", 1)
    copy(source, str(tmp_path / "c.packs"))
    pack = min((tmp_path / "c.packs/packs").iterdir())
    pack.write_bytes(pack.read_bytes()[:-100])
    done = copy(str(tmp_path / "c.packs"), str(tmp_path / "d.zarr"))
    assert done.copied == 6
    assert done.failures == [("", "", f"packs/{pack.name}: BadZipFile: File is not a zip file")]
    healed = copy(source, str(tmp_path / "c.packs"))
    assert (healed.copied, healed.skipped, healed.content_sha256) == (
        1,
        6,
        None if not healed else source.content_sha256(),
    )


class TestTerms:
    @pytest.mark.parametrize("form", ["c.zarr", "c.zarr.zip", "c.packs", "c.h5", "icechunk"])
    def test_they_are_inherited(self, tmp_path: Path, form: str) -> None:
        source = fill(tmp_path / "s.zarr", 1, licence="EULA", restricted=True)
        copy(source, place(tmp_path, form))
        root = open_store(place(tmp_path, form)).root()
        assert (root["licence"], root["restricted"]) == ("EULA", True)

    @pytest.mark.parametrize("form", ["c.zarr", "c.zarr.zip", "c.packs", "c.h5"])
    @pytest.mark.parametrize("terms", [{"licence": "CC0"}, {"licence": None}, {"licence": "EULA", "restricted": True}])
    def test_other_terms_are_refused(self, source: Store, tmp_path: Path, form: str, terms: dict[str, Any]) -> None:
        copy(fill(tmp_path / "other.zarr", 1, **terms), str(tmp_path / form))
        text = r"expected the (licence|restricted) that the cache was made with, .*, got .*Leave it out, or choose"
        with pytest.raises(InputError, match=text):
            copy(source, str(tmp_path / form))
        with pytest.raises(InputError, match=text):
            copy(str(tmp_path / form), str(tmp_path / "source.zarr"))
        assert len(open_store(tmp_path / form).clip_ids()) == 1

    @pytest.mark.parametrize("url", ["s3://b/c", "hf://datasets/me/c", "gs://b/c", "icechunk://s3://b/c"])
    def test_restricted_features_stay_unless_permitted(self, tmp_path: Path, url: str) -> None:
        source = fill(tmp_path / "s.zarr", 1, restricted=True)
        text = (
            r"expected a place on this machine for .*, which is restricted, got one .* elsewhere.*--i-have-permission"
        )
        with pytest.raises(InputError, match=text):
            copy(source, url)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://h/c", r"expected a destination that can be written, got https://\. Copy to a \.packs folder"),
        ("memory://c", r"expected a local path or a prefix behind s3://, gs:// or hf://, got memory://"),
        ("foo://c", r"expected a known kind of address, got ValueError: Protocol not known: foo"),
        ("c.txt", r"expected a cache: \*\.zarr"),
    ],
)
def test_other_destinations_are_refused(source: Store, url: str, text: str) -> None:
    with pytest.raises(InputError, match=text):
        copy(source, url)


def test_a_folder_of_other_files_is_refused(source: Store, tmp_path: Path) -> None:
    (tmp_path / "c.packs").mkdir()
    (tmp_path / "c.packs/thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"c.packs: expected a cache or an empty place, got a folder with thesis\.tex"):
        copy(source, str(tmp_path / "c.packs"))
    assert os.listdir(tmp_path / "c.packs") == ["thesis.tex"]


def test_aliases_that_exist_stay(source: Store, tmp_path: Path) -> None:
    other = stream_name("visual", "toy", {**VISUAL, "layer": 3})
    put(source, "talk/0", seed=9, fingerprint={**VISUAL, "layer": 3})
    source.point(VISUAL_NAME)
    source.point(other, "visual/deep")
    for form in ("c.zarr", "c.packs", "c.zarr.zip"):
        copy(source, str(tmp_path / form), streams=[other])
        assert open_store(tmp_path / form).aliases() == {"visual/deep": other, "visual/toy": other}
        copy(source, str(tmp_path / form))
        aliases = open_store(tmp_path / form).aliases()
        assert aliases == {"audio/toy": AUDIO_NAME, "visual/deep": other, "visual/toy": other}


class TestSingleFiles:
    @pytest.mark.parametrize("form", ["c.zarr.zip", "c.h5"])
    def test_they_grow_as_a_whole(self, source: Store, tmp_path: Path, form: str) -> None:
        path = tmp_path / form
        copy(source, str(path), streams=["visual"])
        before = path.stat()
        assert copy(source, str(path), streams=["visual"]).skipped == 4
        assert path.stat() == before
        done = copy(source, str(path))
        assert (done.copied, done.skipped, done.content_sha256) == (3, 4, source.content_sha256())
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".c")] == []

    @pytest.mark.parametrize("form", ["c.zarr.zip", "c.h5"])
    def test_a_damaged_one_is_not_replaced(self, source: Store, tmp_path: Path, form: str) -> None:
        path = tmp_path / form
        copy(source, str(path), clips=["talk/1"], streams=["visual"])
        values = source.entry("talk/1", VISUAL_NAME).values.tobytes()
        content = path.read_bytes()
        assert content.count(values) == 1
        path.write_bytes(content.replace(values, values[::-1]))
        damaged = path.read_bytes()
        with pytest.raises(DamagedError, match=f"talk/1 {VISUAL_NAME}: expected the bytes of 'values'"):
            copy(source, str(path))
        assert path.read_bytes() == damaged


def test_bounded_memory(source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more entries are asked for than `jobs` ahead of the one that is being written."""
    pairs = [(f"talk/{k % 3}", VISUAL_NAME) for k in range(20)]
    asked: list[str] = []
    plain = source._load_entry
    monkeypatch.setattr(source, "_load_entry", lambda *a: asked.append(a[1]) or plain(*a))
    job = copy_module._Job(source, str(tmp_path / "c.zarr"), pairs, 3, None)
    for written, _ in enumerate(job._proven(pairs)):
        time.sleep(0.005)
        assert len(asked) <= written + 3
    assert len(asked) == 20


@pytest.mark.parametrize("keeper", ["S3", "Google", "hub", "none"])
def test_a_checksum_of_the_place_spares_reading_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeper: str
) -> None:
    path = tmp_path / "pack"
    path.write_bytes(b"hello")
    sha256 = hashlib.sha256(b"hello").hexdigest()
    md5 = hashlib.md5(b"hello")
    stated = {
        "S3": {"ETag": f'"{md5.hexdigest()}"'},
        "Google": {"md5Hash": base64.b64encode(md5.digest()).decode()},
        "hub": {"lfs": SimpleNamespace(sha256=sha256)},
        "none": {"ETag": '"0x8D"'},
    }
    read_back: list[str] = []
    monkeypatch.setattr(Remote, "info", lambda self, name: {"size": 5, **stated[keeper]})
    monkeypatch.setattr(Remote, "chunks", lambda self, name, size: read_back.append(name) or [b"hel", b"lo"])
    assert Remote(str(tmp_path)).proves("pack", sha256, path)
    assert read_back == (["pack"] if keeper == "none" else [])
    path.write_bytes(b"hallo")
    other = hashlib.sha256(b"hallo").hexdigest()
    assert not Remote(str(tmp_path)).proves("pack", other, path)


def test_what_killed_writers_left_is_told_and_cleared(source: Store, tmp_path: Path) -> None:
    copy(source, str(tmp_path / "c.packs"), clips=["talk/1"])
    (tmp_path / "c.packs/.sage-va/staging/0123").mkdir()
    assert open_store(tmp_path / "c.packs").leftovers() == [".sage-va/staging/0123"]
    copy(source, str(tmp_path / "c.packs"))
    assert open_store(tmp_path / "c.packs").leftovers() == []


def test_a_full_disk_is_an_error_at_once(source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(push.PackWriter, "add", full)
    with pytest.raises(OSError, match="No space left"):
        copy(source, str(tmp_path / "c.packs"))
    assert problems(open_store(tmp_path / "c.packs")) == []
    assert not list((tmp_path / "c.packs/.sage-va/staging").glob("*/*"))


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with s3_server() as port:
        yield port


class TestS3:
    """Against a real server on loopback."""

    pytestmark = needs_s3

    @pytest.fixture
    def source(self, tmp_path: Path) -> Store:
        return fill(tmp_path / "source.zarr", 2, licence="EULA")

    @pytest.fixture
    def s3(self, server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        empty_bucket(server)
        use_s3(monkeypatch, server)
        yield f"s3://{BUCKET}/cache"
        forget_clients()

    def test_push_and_pull(self, source: Store, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        read_back: list[str] = []
        plain = Remote.chunks
        monkeypatch.setattr(
            Remote, "chunks", lambda self, name, size: read_back.append(name) or plain(self, name, size)
        )
        done = copy(source, s3)
        assert (done.copied, done.objects, done.content_sha256) == (4, 5, source.content_sha256())
        assert read_back == [], "the server's checksum is proof enough"
        assert copy(source, s3) == Copied(skipped=4, content_sha256=source.content_sha256())
        assert problems(open_store(s3)) == []
        pulled = copy(s3, str(tmp_path / "c.zarr"))
        assert (pulled.copied, pulled.content_sha256) == (4, source.content_sha256())
        assert open_store(tmp_path / "c.zarr").aliases() == source.aliases()

    @pytest.mark.slow
    def test_large_packs_go_in_parts(self, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote, "PART_BYTES", 5 << 20)
        store = open_store(tmp_path / "big.zarr", "a")
        put(store, "a", track=make_track(1, 5800, 1000))
        read_back: list[str] = []
        plain = Remote.chunks
        monkeypatch.setattr(
            Remote, "chunks", lambda self, name, size: read_back.append(name) or plain(self, name, size)
        )
        assert copy(store, s3).content_sha256 == store.content_sha256()
        assert read_back == []
        place = Remote(s3)
        (name,) = place.sizes("packs")
        assert place.info(f"packs/{name}")["ETag"].strip('"').endswith("-3")
        assert same(open_store(s3).read("a", VISUAL_NAME), store.read("a", VISUAL_NAME))

    def test_what_arrives_changed_is_refused(self, source: Store, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = Remote.put

        def put_changed(self: Remote, name: str, path: Path) -> None:
            content = path.read_bytes()
            other = path.with_name("other")
            other.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
            plain(self, name, other)

        monkeypatch.setattr(Remote, "put", put_changed)
        text = r"packs/\w{16}\.zip: expected the pack of that name, got other bytes\. Delete that object and do"
        with pytest.raises(InputError, match=text):
            copy(source, s3)
        monkeypatch.undo()

    def test_bucket_and_rights(self, source: Store, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(InputError, match="s3://absent/x: expected a feature cache, got none there"):
            open_store("s3://absent/x")
        with pytest.raises(InputError, match=r"expected a bucket or dataset repository that exists, got none\. Make"):
            copy(source, "s3://absent/x")
        with pytest.raises(InputError, match=r"expected a local path or a prefix behind s3://.*, got a single file"):
            copy(source, f"{s3}.zarr.zip")

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError("Access Denied")

        place = Remote(s3)
        monkeypatch.setattr(place.fs, "cat_file", refuse)
        with pytest.raises(OutageError, match=r"expected access, got PermissionError: Access Denied\. Check the cred"):
            open_store(s3)

    def test_two_people_push_at_once(
        self, source: Store, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(push, "PACK_BYTES", 1)
        other = open_store(tmp_path / "other.zarr", "a", licence="EULA")
        put(other, "other", seed=7)
        put(other, "talk/0", seed=0, clip=Clip("talk/0", "ann", 1.5))
        failures: list[BaseException] = []

        def work(store: Store) -> None:
            try:
                copy(store, s3)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(store,)) for store in (source, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        both = str(tmp_path / "both.zarr")
        copy(source, both)
        wanted = copy(other, both).content_sha256
        store = open_store(s3)
        assert isinstance(store, PackStore)
        assert (store.content_sha256(), problems(store)) == (wanted, [])
        assert push.Push(Remote(s3), {}, {})._read("index.json")["packs"] == [
            {"name": Path(pack.name).name, "bytes": pack.size} for pack in store.packs
        ]

    @pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
    def test_cut_at_random(
        self, source: Store, s3: str, server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
    ) -> None:
        """Push and pull through a line that breaks: each ends well, or in one line and goes on when said again."""
        monkeypatch.setattr(push, "PACK_BYTES", 1)
        monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
        rng = random.Random(seed)
        with Proxy(server, lambda: rng.randrange(1, 16_000)) as proxy:
            use_s3(monkeypatch, proxy.port)
            pushed = self.until_done(lambda: copy(source, s3))
            pulled = self.until_done(lambda: copy(s3, str(tmp_path / "c.zarr")))
        assert proxy.cuts > 2
        use_s3(monkeypatch, server)
        assert (pushed.content_sha256, pulled.content_sha256) == (source.content_sha256(),) * 2
        assert problems(open_store(s3)) == problems(open_store(tmp_path / "c.zarr")) == []

    @staticmethod
    def until_done(work: Callable[[], Copied]) -> Copied:
        for _ in range(50):
            with contextlib.suppress(OutageError):
                return work()
        raise AssertionError("no end")

    def test_a_server_that_is_away_is_named(
        self, source: Store, s3: str, server: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
        with Proxy(server, lambda: 1) as proxy:
            use_s3(monkeypatch, proxy.port)
            text = rf"{s3}/cache\.json: expected an answer, got .*Check the connection and do the same again: what has"
            for work in (lambda: open_store(s3), lambda: copy(source, s3)):
                with pytest.raises(OutageError, match=text) as raised:
                    work()
                assert "\n" not in str(raised.value)

    @pytest.mark.parametrize(
        "status",
        ["500 Internal Error", "503 Slow Down", pytest.param("502 Bad Gateway", marks=pytest.mark.exhaustive)],
    )
    def test_a_server_that_is_busy_is_asked_again(
        self, source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
    ) -> None:
        """Each kind of request to each object is refused twice, then answered."""
        monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
        asked = Counter[tuple[str, str]]()

        def fault(environ: dict[str, Any]) -> str | None:
            request = environ["REQUEST_METHOD"], environ["PATH_INFO"] + environ["QUERY_STRING"]
            asked[request] += 1
            return status if asked[request] <= 2 and "/busy" in request[1] else None

        with s3_server(fault) as port:
            use_s3(monkeypatch, port)
            empty_bucket(port)
            url = f"s3://{BUCKET}/busy-{status[:3]}"
            assert copy(source, url).copied == 4
            assert problems(open_store(url)) == []
            assert copy(url, str(tmp_path / "pulled.zarr")).content_sha256 == source.content_sha256()
        assert min(asked.values()) >= 1
        assert max(asked.values()) < 40

    def test_a_server_that_stays_busy_is_named(self, source: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
        with s3_server(lambda environ: "500 Internal Error" if "/away" in environ["PATH_INFO"] else None) as port:
            use_s3(monkeypatch, port)
            empty_bucket(port)
            with pytest.raises(OutageError, match=r"expected an answer, got .*Check the connection and do the same"):
                copy(source, f"s3://{BUCKET}/away")

    def test_an_interrupted_push_goes_on_with_what_is_missing(
        self, source: Store, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(push, "PACK_BYTES", 1)
        plain, sent = Remote.put, list[str]()

        def put_two(self: Remote, name: str, path: Path) -> None:
            if len(sent) == 2:
                raise OutageError(self.url, expected="an answer", got="none", todo="Do it again.")
            sent.append(name)
            plain(self, name, path)

        monkeypatch.setattr(Remote, "put", put_two)
        with pytest.raises(OutageError):
            copy(source, s3)
        assert open_store(s3).streams() == [AUDIO_NAME]
        monkeypatch.setattr(Remote, "put", plain)
        done = copy(source, s3)
        assert (done.copied, done.skipped, done.content_sha256) == (2, 2, source.content_sha256())
        assert problems(open_store(s3)) == []

    def test_a_killed_push_goes_on(self, s3: str, server: int, tmp_path: Path) -> None:
        source = fill(tmp_path / "many.zarr", 12)
        script = textwrap.dedent("""
            import os, signal, sys
            from sage_va.data.store.remote import Remote
            from sage_va.data.transfer import push_packs
            from sage_va.data.transfer.copy import copy
            push_packs.PACK_BYTES = 1
            put, sent = Remote.put, []

            def put_some(*words):
                put(*words)
                sent.append(words)
                if len(sent) == 4:
                    os.kill(os.getpid(), signal.SIGKILL)

            Remote.put = put_some
            copy(sys.argv[1], sys.argv[2])
        """)
        environment = {**os.environ, **CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server}"}
        command = [sys.executable, "-c", script, str(tmp_path / "many.zarr"), s3]
        assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
        assert len(list((tmp_path / "home/push").iterdir())) >= 2, "the lock, and what the killed process left"
        there = len([1 for stream in open_store(s3).streams() for _ in open_store(s3).clip_ids(stream)])
        assert 0 < there < 24
        assert problems(open_store(s3)) == []
        done = copy(source, s3)
        assert (done.copied, done.skipped, done.content_sha256) == (24 - there, there, source.content_sha256())
        assert problems(open_store(s3)) == []
        assert [path.name for path in (tmp_path / "home/push").iterdir()] == ["lock"]


def test_pull_from_a_web_server(source: Store, tmp_path: Path) -> None:
    copy(source, str(tmp_path / "c.packs"))
    with web_server(tmp_path) as port:
        done = copy(f"http://127.0.0.1:{port}/c.packs", str(tmp_path / "d.zarr"))
    assert (done.copied, done.content_sha256) == (7, source.content_sha256())


class StandInForTheHub(DirFileSystem):
    """Not the hub: a local folder that answers to hf://, with its paths."""

    protocol = "hf"
    cachable = False
    folder = ""

    def __init__(self, **_: Any) -> None:
        super().__init__(path=self.folder, fs=fsspec.filesystem("file", auto_mkdir=True))

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("hf://").rstrip("/")


class TestHub:
    @pytest.fixture
    def hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "hub").mkdir()
        monkeypatch.setattr(StandInForTheHub, "folder", str(tmp_path / "hub"))
        monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "hf", StandInForTheHub)
        return tmp_path / "hub/datasets/me/features"

    def test_push_writes_a_card_and_pull_works(self, source: Store, hub: Path, tmp_path: Path) -> None:
        url = "hf://datasets/me/features/v1"
        assert copy(source, url).content_sha256 == source.content_sha256()
        text = (hub / "README.md").read_text()
        header = yaml.safe_load(text.split("---")[1])
        assert (header["license"], header["license_name"]) == ("other", "eula")
        assert "extra_gated_prompt" not in header
        assert f"| visual/toy | 3 | bfloat16, float16 | 4 | 20 | ? | toy | {VISUAL_NAME[-8:]} |" in text
        assert f"sage-va cache copy {url} features.zarr" in text
        assert "UNTRAINED" not in text
        assert copy(url, str(tmp_path / "c.zarr")).content_sha256 == source.content_sha256()
        assert copy(source, url).objects == 0

    def test_the_card_marks_untrained_encoders(self, source: Store) -> None:
        fingerprint = {"encoder": {"name": "toy", "weights": "random"}}
        name = stream_name("audio", "raw", fingerprint)
        source.commit(Clip("a"), name, make_track(3), fingerprint=fingerprint, source_sha256="0" * 64)
        assert f"> **UNTRAINED ENCODER (random weights): {name}.**" in card(source, "hf://datasets/me/features")

    def test_the_way_of_reading_that_the_card_shows_works(self, source: Store, hub: Path) -> None:
        copy(source, "hf://datasets/me/features", streams=["visual"])
        code = (hub / "README.md").read_text().split("```python\n")[1].split("```")[0]
        (pack,) = (hub / "packs").iterdir()
        names: dict[str, Any] = {}
        exec(code.replace("packs/<name>.zip", str(pack)), names)
        assert np.asarray(names["frames"]).shape == (5, 3)

    def test_restricted_features_ask_for_access(self, hub: Path, tmp_path: Path) -> None:
        source = fill(tmp_path / "s.zarr", 1, licence="cc-by-nc-4.0", restricted=True)
        copy(source, "hf://datasets/me/features", permission=True)
        text = (hub / "README.md").read_text()
        header = yaml.safe_load(text.split("---")[1])
        assert header["license"] == "cc-by-nc-4.0"
        assert "right to use that data" in header["extra_gated_prompt"]
        assert header["extra_gated_fields"]["Name"] == "text"
        assert "**Restricted:**" in text

    def test_a_card_of_ones_own_stays(self, source: Store, hub: Path) -> None:
        hub.mkdir(parents=True)
        (hub / "README.md").write_text("mine")
        copy(source, "hf://datasets/me/features")
        assert (hub / "README.md").read_text() == "mine"
        (hub / "README.md").write_text(f"{MARK}\nold")
        copy(source, "hf://datasets/me/features")
        assert "visual/toy" in (hub / "README.md").read_text()

    def test_other_repositories_are_refused(self, source: Store, hub: Path) -> None:
        with pytest.raises(
            InputError, match=r"hf://me/model: expected hf://datasets/USER/NAME\[/PATH\], got another address"
        ):
            copy(source, "hf://me/model")
