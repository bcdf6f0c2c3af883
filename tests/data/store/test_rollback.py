"""An entry that was replaced by an older copy, or deleted, is named from the journal; what the software does is not."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from sage_va.data import Store, open_store
from sage_va.data.maintenance import collect_garbage, repair, verify
from sage_va.data.store import folder_store
from sage_va.data.store.ledger import MISSING, PUT_BACK, Ledger
from sage_va.testing import VISUAL_NAME, put

FOLDERS = ["c.zarr", "c.h5"]


def place_of(store: Store, clip_id: str) -> Path:
    return Path(store.url) / VISUAL_NAME / (clip_id if store.url.endswith(".zarr") else f"{clip_id}.h5")


def copied(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def removed(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()


def accused(store: Store) -> list[tuple[str, str]]:
    return [(problem.clip_id, problem.what) for problem in verify(open_store(store.url)).problems]


def dies(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture(params=FOLDERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    store = open_store(tmp_path / request.param, "a")
    for clip_id in ("a", "b"):
        put(store, clip_id)
    return store


def test_an_older_copy_that_was_put_back_is_named(store: Store, tmp_path: Path) -> None:
    copied(place_of(store, "a"), tmp_path / "older")
    put(store, "a", seed=1, overwrite=True)
    assert accused(store) == []
    removed(place_of(store, "a"))
    copied(tmp_path / "older", place_of(store, "a"))
    assert accused(store) == [("a", PUT_BACK)]
    assert [row.clip_id for row in repair(store.url).requeued] == ["a"]
    put(store, "a", seed=1)
    assert accused(store) == []


def test_a_deleted_entry_is_named(store: Store) -> None:
    removed(place_of(store, "b"))
    assert accused(store) == [("b", MISSING)]
    assert [row.clip_id for row in repair(store.url).requeued] == ["b"]
    assert accused(store) == []
    put(store, "b")
    assert accused(store) == []


def test_a_deleted_stream_is_named_clip_by_clip(store: Store) -> None:
    shutil.rmtree(Path(store.url) / VISUAL_NAME)
    assert accused(store) == [("a", MISSING), ("b", MISSING)]
    assert [len(verify(store, subset=f"{k}/2").problems) for k in (1, 2)].count(2) <= 1


def test_what_the_software_removes_is_not_missed(store: Store) -> None:
    store.discard("a", VISUAL_NAME)
    assert accused(store) == []
    put(store, "b", fingerprint={"modality": "visual", "encoder": {"name": "another"}})
    assert [row.stream for row in collect_garbage(store.url).streams] == [VISUAL_NAME]
    assert accused(store) == []


@pytest.mark.parametrize("step", ["before", "after"])
def test_a_writer_that_dies_as_it_replaces_is_not_accused(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    settle = folder_store.FolderStore._replace

    def killed(self: Any, *places: Path) -> None:
        if step == "after":
            settle(self, *places)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folder_store.FolderStore, "_replace", killed)
        with pytest.raises(KeyboardInterrupt):
            put(store, "a", seed=1, overwrite=True)
    assert accused(store) == []
    put(store, "a", seed=2, overwrite=True)
    assert accused(store) == []


def test_a_writer_that_dies_as_it_removes_is_not_accused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "_discard", dies)
        with pytest.raises(KeyboardInterrupt):
            store.discard("a", VISUAL_NAME)
    assert accused(store) == []
    removed(place_of(store, "a"))
    assert accused(store) == []


def test_a_writer_that_dies_before_its_line_is_not_accused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "_log", dies)
        with pytest.raises(KeyboardInterrupt):
            put(store, "c")
    assert store.streams("c")
    assert accused(store) == []
    put(store, "c", seed=1, overwrite=True)
    assert accused(store) == []


def test_a_cache_of_an_earlier_version_is_not_accused() -> None:
    line = {"event": "commit", "clip_id": "a", "stream": "visual/x-1"}
    ledger = Ledger([line])
    assert ledger.problem("visual/x-1", "a", "0" * 64) is None
    assert list(ledger.missing([])) == [("a", "visual/x-1", "a")]
    assert list(Ledger([line, {**line, "event": "discard"}]).missing([])) == []


def test_two_who_replace_at_once_are_not_accused() -> None:
    about = {"clip_id": "a", "stream": "s"}
    lines = [("commit", "1"), ("replacing", "2"), ("replacing", "3"), ("commit", "3"), ("commit", "2")]
    ledger = Ledger([{**about, "event": event, "record": record} for event, record in lines])
    assert [ledger.problem("s", "a", record) for record in "123"] == [PUT_BACK, None, None]


def test_a_line_that_no_writer_wrote_is_no_claim() -> None:
    assert list(Ledger([{"event": "commit", "clip_id": "../x", "stream": "s"}, {"event": "commit"}]).missing([])) == []


def test_a_repository(tmp_path: Path) -> None:
    pytest.importorskip("icechunk", reason="icechunk is not installed")
    from sage_va.data.store.icechunk_tree import Tree

    url = f"icechunk://{tmp_path / 'repo'}"
    store: Any = open_store(url, "a")
    long = "x" * 300
    for clip_id in ("a", "b", long):
        put(store, clip_id)
    older = {name: store._read(f"{VISUAL_NAME}/a/{name}") for name in ("zarr.json", "values/c/0/0", "frames/c/0/0")}
    put(store, "a", seed=1, overwrite=True)
    store.discard(long, VISUAL_NAME)
    assert accused(store) == []
    session = store.repository.writable_session("main")
    for name, content in older.items():
        Tree(session).write(f"{VISUAL_NAME}/a/{name}", content)
    Tree(session).delete(f"{VISUAL_NAME}/b")
    session.commit("by other means")
    assert accused(store) == [("a", PUT_BACK), ("b", MISSING)]
    assert sorted(row.clip_id for row in repair(url).requeued) == ["a", "b"]
    assert accused(store) == []
