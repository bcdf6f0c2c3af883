"""Entries that are committed together: few waits for the disk, and the promises that single commits keep."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_va.data import Clip, InputError, Store, atomic, open_store
from sage_va.data.store import groups
from sage_va.data.store.entry import Entry
from sage_va.data.store.groups import EntryGroup, in_groups
from sage_va.testing import SHA, VISUAL, VISUAL_NAME, make_track, problems, put, same

FORMS = ["zarr", "h5"]
SYNCS_OF_ONE = {"zarr": 14, "h5": 3}


def entry(clip_id: str, seed: int = 1, num_frames: int = 1) -> Entry:
    return Entry.of(Clip(clip_id), VISUAL_NAME, make_track(seed, num_frames), fingerprint=VISUAL, source_sha256=SHA)


class Syncs:
    """Counts the waits for the disk."""

    def __init__(self, patch: pytest.MonkeyPatch, whole: bool) -> None:
        self.num = 0
        patch.setattr(os, "fsync", self.count)
        patch.setattr(atomic, "sync_file_system", self.count)
        patch.setattr(atomic, "can_sync_file_system", lambda device: whole)

    def count(self, descriptor: int) -> None:
        os.fstat(descriptor)
        self.num += 1


@pytest.mark.parametrize("form", FORMS)
def test_many_small_entries_share_the_waits_for_the_disk(tmp_path: Path, form: str, monkeypatch) -> None:
    store = open_store(tmp_path / f"c.{form}", "a")
    put(store, "first")
    with monkeypatch.context() as patch:
        one_by_one = Syncs(patch, whole=True)
        for k in range(64):
            store.commit_all([entry(f"single{k}")])
    assert one_by_one.num == 64 * SYNCS_OF_ONE[form]
    with monkeypatch.context() as patch:
        together = Syncs(patch, whole=True)
        store.commit_all([entry(f"group{k}") for k in range(64)])
    assert together.num == 3  # the file system, the stream's folder, the journal
    assert len(store.clip_ids()) == 129
    assert problems(store) == []


@pytest.mark.parametrize("form", FORMS)
def test_without_a_call_for_the_whole_disk_every_file_is_synced(tmp_path: Path, form: str, monkeypatch) -> None:
    store = open_store(tmp_path / f"c.{form}", "a")
    put(store, "first")
    with monkeypatch.context() as patch:
        syncs = Syncs(patch, whole=False)
        store.commit_all([entry(f"group{k}") for k in range(64)])
    files_and_folders = 64 * (SYNCS_OF_ONE[form] - 2) + 1  # and the writer's own folder
    assert syncs.num == files_and_folders + 2
    assert problems(store) == []


def test_a_failed_sync_of_the_whole_disk_commits_nothing(tmp_path: Path, monkeypatch) -> None:
    store = open_store(tmp_path / "c.zarr", "a")

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(atomic, "can_sync_file_system", lambda device: True)
    monkeypatch.setattr(atomic, "sync_file_system", broken)
    with pytest.raises(OSError, match="Input/output"):
        store.commit_all([entry("a"), entry("b")])
    assert store.clip_ids() == store.leftovers() == problems(store) == []
    assert [line["event"] for line in store.journal()] == ["create"]


def test_the_kernel_syncs_a_whole_file_system(tmp_path: Path) -> None:
    """The real call, where this machine has it."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        if atomic.can_sync_file_system(os.fstat(descriptor).st_dev):
            atomic.sync_file_system(descriptor)
    finally:
        os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        atomic.sync_file_system(descriptor)


@pytest.mark.parametrize(("system", "release", "device", "able"), [
    ("Linux", "6.1.0-13-amd64", (8, 1), True),
    ("Linux", "5.8.0", (8, 1), True),
    ("Linux", "5.7.19-generic", (8, 1), False),  # forgot failures
    ("Linux", "6.1.0", (0, 44), False),  # a network
    ("Linux", "6.1.0", (0, 45), False),  # FUSE
    ("Linux", "6.1.0", (9, 9), False),  # unknown
    ("Darwin", "23.1.0", (8, 1), False),
])  # fmt: skip
def test_where_the_whole_disk_can_be_synced(monkeypatch, system, release, device, able) -> None:
    mounts = "36 35 8:1 / / rw,noatime shared:1 - ext4 /dev/a rw\n37 36 0:44 / /home rw - nfs4 x:/a rw\n"
    mounts += "38 36 0:45 / /mnt/a\\040b rw - fuse.sshfs x rw\n"
    monkeypatch.setattr(atomic.platform, "system", lambda: system)
    monkeypatch.setattr(atomic.platform, "release", lambda: release)
    monkeypatch.setattr(Path, "read_text", lambda path, **_: mounts)
    assert atomic.can_sync_file_system.__wrapped__(os.makedev(*device)) is able


@pytest.mark.parametrize("form", FORMS)
def test_the_first_of_two_wins_and_when_overwriting_the_last(tmp_path: Path, form: str) -> None:
    store = open_store(tmp_path / f"c.{form}", "a")
    put(store, "c", seed=5)
    store.commit_all([entry("a", 1), entry("b", 2), entry("a", 3), entry("c", 1)])
    assert [seed_of(store, clip_id) for clip_id in "abc"] == [1, 2, None]
    assert same(store.read("c", VISUAL_NAME), make_track(5))
    store.commit_all([entry("a", 4), entry("c", 3), entry("d", 2), entry("a", 2)], overwrite=True)
    assert [seed_of(store, clip_id) for clip_id in "abcd"] == [2, 2, 3, 2]
    assert store.leftovers() == problems(store) == []
    commits = [line["clip_id"] for line in store.journal() if line["event"] == "commit"]
    assert commits == ["c", "a", "b", "c", "a", "c", "d"]


def seed_of(store: Store, clip_id: str) -> int | None:
    track = store.read(clip_id, VISUAL_NAME)
    return next((seed for seed in range(5) if same(track, make_track(seed, 1))), None)


def test_prepare_refuses_what_commit_refuses_and_returns_nothing_to_do(tmp_path: Path) -> None:
    store = open_store(tmp_path / "c.zarr", "a")
    put(store, "a")
    facts = {"fingerprint": VISUAL, "source_sha256": SHA}
    assert store.prepare(Clip("a"), VISUAL_NAME, make_track(1), **facts) is None
    assert store.prepare(Clip("a"), VISUAL_NAME, make_track(1), **facts, overwrite=True) is not None
    with pytest.raises(InputError, match="a file with other bytes"):
        store.prepare(Clip("a"), VISUAL_NAME, make_track(1), fingerprint=VISUAL, source_sha256="0" * 64)
    store.commit_all([])
    assert store.clip_ids() == ["a"]


def test_a_group_is_bounded_in_number_bytes_and_time(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(groups, "monotonic", lambda: now[0])
    small, large = entry("a"), entry("b", num_frames=100)
    assert [len(group) for group in in_groups([small] * 600)] == [256, 256, 88]
    monkeypatch.setattr(groups, "GROUP_BYTES", 2 * large.nbytes)
    assert [len(group) for group in in_groups([large] * 5)] == [2, 2, 1]

    def slow() -> Iterator[Entry]:
        for _ in range(5):
            now[0] += 0.6
            yield small

    assert [len(group) for group in in_groups(slow())] == [2, 2, 1]
    group = EntryGroup()
    group.add(small)
    assert not group.full
    assert group.take() == [small]
    assert group.entries == []


def test_what_came_before_a_failure_of_the_source_is_added(tmp_path: Path) -> None:
    def outage() -> Iterator[Entry]:
        yield entry("a")
        yield entry("b")
        raise ConnectionError

    store = open_store(tmp_path / "c.zarr", "a")
    with pytest.raises(ConnectionError):
        list(store.add(outage()))
    assert store.clip_ids() == ["a", "b"]
