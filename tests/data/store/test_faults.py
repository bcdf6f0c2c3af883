"""Caches in folders: whichever call to the disk fails, and however, the cache stays whole and work can be resumed."""

import contextlib
import errno
import io
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zarr
from zarr.storage import LocalStore

from sage_va.data import Clip, Store, atomic, open_store
from sage_va.data.atomic import HOST
from sage_va.data.store.entry import Entry
from sage_va.data.store.folder_store import FolderStore
from sage_va.data.store.staging import Staging
from sage_va.data.store.zarr_layout import encode
from sage_va.testing import SHA, VISUAL, VISUAL_NAME, make_track, problems, put, same
from sage_va.tests.stores import tree

FORMS = ["zarr", "h5"]


class Death(BaseException):
    """Stands for a kill: nothing after it, no tidying either, reaches the disk."""


FULL, BROKEN = OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error")
KINDS = {
    "kill": (Death(), True),
    "full disk once": (FULL, False),
    "I-O error once": (BROKEN, False),
    "full disk from then on": (FULL, True),
}


class Fault:
    """Counts the calls that open or change something on a disk; the n-th, or all from it on, raise.

    A write that raises has written half of its bytes.
    """

    CHANGES = ("open", "fsync", "rename", "replace", "mkdir", "write", "unlink", "rmdir", "truncate", "link", "symlink")

    def __init__(self, patch: pytest.MonkeyPatch, at: int, error: BaseException, forever: bool) -> None:
        self.at, self.error, self.forever, self.count = at, error, forever, 0
        for name in self.CHANGES:
            patch.setattr(os, name, self.watched(getattr(os, name), halved=os.write if name == "write" else None))
        patch.setattr(atomic, "can_sync_file_system", lambda device: True)
        patch.setattr(atomic, "sync_file_system", self.watched(lambda descriptor: None))
        plain, opened = io.open, self.watched(io.open)

        def opening(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            reads = isinstance(file, int) or not set(mode) & set("wax+")
            return plain(file, mode, *args, **kwargs) if reads else WatchedFile(opened(file, mode, 0), self)

        patch.setattr(io, "open", opening)

    def watched(self, call: Callable[..., Any], halved: Callable[..., Any] | None = None) -> Callable[..., Any]:
        def watching(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.count == self.at or (self.forever and self.count > self.at):
                if halved and self.count == self.at:
                    halved(*args[:-1], args[-1][: len(args[-1]) // 2])
                raise self.error
            return call(*args, **kwargs)

        return watching


class WatchedFile:
    """A binary file without a buffer, whose calls are watched. However closing ends, the descriptor is gone."""

    def __init__(self, file: Any, fault: Fault) -> None:
        self.file, self.fileno = file, file.fileno
        self.write, self.flush = fault.watched(file.write, halved=file.write), fault.watched(file.flush)
        self.closing = fault.watched(lambda: None)

    def __enter__(self) -> "WatchedFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        self.closing()


@dataclass(frozen=True)
class Work:
    """A change of a cache: `base` makes the cache, None where there is none yet.

    `seeds` are those that the track of clip "a" may have then, however it went; 0 = there may be none.
    """

    base: Callable[[Path], None] | None
    do: Callable[[Store], object]
    seeds: tuple[int, ...] = (1,)


def two_clips(path: Path) -> None:
    store = open_store(path, "a")
    put(store, "a", seed=1)
    put(store, "b", seed=5)
    store.finish()


def a_mess(path: Path) -> None:
    """Two clips, and whatever a sweep has to do."""
    two_clips(path)
    store = open_store(path, "a")
    store.point(VISUAL_NAME, "visual/best")
    alias = path / ".sage-va/aliases/visual/best.json"
    alias.write_bytes(alias.read_bytes()[:-5])
    place = path / VISUAL_NAME / f"c{path.suffix if path.suffix == '.h5' else ''}"
    (place / "values").mkdir(parents=True)
    for derived in (path / "visual/zarr.json", path / VISUAL_NAME / "zarr.json", path / "index.h5"):
        if derived.exists():
            derived.write_bytes(b"{}")
    with contextlib.suppress(Death), store._staging.temporary() as temporary:  # type: ignore[attr-defined]
        (temporary / "new").mkdir()
        shutil.copytree(temporary, temporary.with_name(f"{temporary.name}0"))


def overwrite(store: Store) -> None:
    put(store, "a", seed=2, overwrite=True)
    store.finish()


def overwrite_and_discard(store: Store) -> None:
    put(store, "a", seed=2, overwrite=True)
    store.discard("a", VISUAL_NAME)
    store.finish()


def together(store: Store, seed: int = 1, **more: Any) -> None:
    """Commits clips "a", "x" and "y" as one group, and "a" twice."""
    facts = {"fingerprint": VISUAL, "source_sha256": SHA}
    entries = [store.prepare(Clip(name), VISUAL_NAME, make_track(seed), **facts, **more) for name in "axya"]
    store.commit_all([entry for entry in entries if entry], **more)
    store.finish()


def overwrite_together(store: Store) -> None:
    together(store, 2, overwrite=True)


def discard(store: Store) -> None:
    store.discard("a", VISUAL_NAME)
    store.finish()


def commit(store: Store) -> None:
    put(store, "a", seed=1)
    store.finish()


def without_a(path: Path) -> None:
    two_clips(path)
    discard(open_store(path, "a"))


WORKS = {
    "create and commit": Work(None, commit, (0, 1)),
    "commit beside another": Work(without_a, commit, (0, 1)),
    "commit together": Work(without_a, together, (0, 1)),
    "create and commit together": Work(None, together, (0, 1)),
    "overwrite": Work(two_clips, overwrite, (1, 2)),
    "overwrite together": Work(two_clips, overwrite_together, (1, 2)),
    "discard": Work(two_clips, discard, (0, 1)),
    "overwrite and discard": Work(two_clips, overwrite_and_discard, (0, 1, 2)),
    "point": Work(two_clips, lambda store: store.point(VISUAL_NAME, "visual/best")),
    "point elsewhere": Work(two_clips, lambda store: store.point("visual/other-00000000", "visual/toy")),
    "sweep": Work(a_mess, lambda store: store.sweep()),
}


def everywhere(folder: Path, form: str, work: Work, error: BaseException, forever: bool, first: int, every: int) -> int:
    """Does the work with a fault at each call, on copies of its base; checks; does it again; returns how many calls."""
    base, wanted = folder / f"base.{form}", folder / f"wanted.{form}"
    if work.base:
        work.base(base)
    before = set(problems(open_store(base))) if work.base else set()

    def fresh(path: Path) -> Path:
        return Path(shutil.copytree(base, path)) if work.base else path

    work.do(open_store(fresh(wanted), "a"))
    expected = tree(wanted)
    assert problems(open_store(wanted)) == []
    for at in range(first, 2000, every):
        path, failed = fresh(folder / f"{at}.{form}"), False
        with pytest.MonkeyPatch.context() as patch:
            fault = Fault(patch, at, error, forever)
            try:
                work.do(open_store(path, "a"))
            except (OSError, Death):
                failed = True
        check_whole(path, work, before)
        if not failed:
            assert tidied(path) == expected, f"call {at}: the work ended well, but is not done"
        work.do(open_store(path, "a"))
        assert tidied(path) == expected, f"call {at}: the work was done again, with another end"
        assert problems(open_store(path)) == [], at
        shutil.rmtree(path)
        if fault.count < at:
            return at
    raise AssertionError("the work never ended")


def tidied(path: Path) -> dict[str, bytes]:
    open_store(path, "a")
    return tree(path)


def check_whole(path: Path, work: Work, before: set[tuple[str, str, str]]) -> None:
    """Nothing new is wrong, and each entry is what it was or what it shall be."""
    if not (path / ("zarr.json" if path.suffix == ".zarr" else "cache.json")).exists():
        assert work.base is None
        return
    assert set(problems(open_store(path))) <= before
    if work.base:
        assert same(open_store(path).read("b", VISUAL_NAME), make_track(5))
    store = open_store(path, "a")
    if store.streams("a"):
        assert any(same(store.read("a", VISUAL_NAME), make_track(seed)) for seed in work.seeds if seed)
    else:
        assert 0 in work.seeds


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where that is possible: hundreds of caches come and go."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.usefixtures("_no_waiting_for_the_disk")
@pytest.mark.parametrize("every", [24, pytest.param(1, marks=pytest.mark.exhaustive)], ids=["some", "all"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize("form", FORMS)
def test_whatever_call_fails(folder: Path, form: str, name: str, kind: str, every: int) -> None:
    """Some calls are every sixth, each with one kind of fault in turn."""
    first = 1 + every // 4 * list(KINDS).index(kind)
    assert everywhere(folder, form, WORKS[name], *KINDS[kind], first, every) > 10


class Seen:
    """The changes of files that Python's audit events report (PEP 578), independent of the tests' own count."""

    WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink")

    def __init__(self) -> None:
        self.watching, self.opened, self.changes = False, list[str](), list[str]()
        sys.addaudithook(self.hear)

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self.watching and event == "open":
            self.opened.append(str(args[0]))
            if isinstance(args[2], int) and args[2] & self.WRITES:
                self.changes.append(event)
        elif self.watching and event in self.CHANGES:
            self.changes.append(event)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self.watching = True
        try:
            yield
        finally:
            self.watching = False


@pytest.fixture(scope="module")
def events() -> Seen:
    return Seen()  # a hook stays for ever, so one is enough


@pytest.mark.usefixtures("_no_waiting_for_the_disk")
@pytest.mark.parametrize("form", FORMS)
def test_no_change_escapes_the_faults(tmp_path: Path, events: Seen, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault, calls = Fault(monkeypatch, 0, Death(), False), list[str]()
    for name in ("rename", "replace", "mkdir", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name), name, calls))
    events.changes.clear()
    with events():
        store = open_store(tmp_path / f"c.{form}", "a")
        commit(store)
        overwrite_and_discard(store)
    counts = {"os.mkdir": ["mkdir"], "os.rmdir": ["rmdir"], "os.rename": ["rename", "replace"], "os.remove": ["unlink"]}
    for event, names in counts.items():
        assert events.changes.count(event) == sum(calls.count(name) for name in names) > 0
    assert fault.count > len(events.changes)


def counted(call: Callable[..., Any], name: str, calls: list[str]) -> Callable[..., Any]:
    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return call(*args, **kwargs)

    return counting


def test_zarr_itself_never_touches_the_disk(tmp_path: Path, events: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the faults above are all there are."""

    def touched(*args: object, **kwargs: object) -> None:
        raise AssertionError("zarr opened a store on the disk")

    entry = Entry.of(Clip("a"), VISUAL_NAME, make_track(1), fingerprint=VISUAL, source_sha256=SHA)
    encode(entry)  # modules are loaded now
    monkeypatch.setattr(LocalStore, "__init__", touched)
    events.opened.clear()
    events.changes.clear()
    with events():
        files = encode(entry)
    assert (events.opened, events.changes) == ([], [])
    assert files.keys() == {
        "zarr.json",
        *(f"{a}/{name}" for a in ("values", "frames") for name in ("zarr.json", "c/0/0")),
    }
    put(open_store(tmp_path / "c.zarr", "a"), "a")
    with pytest.raises(AssertionError, match="zarr opened a store on the disk"):
        zarr.open_group(tmp_path / "c.zarr", mode="r")


class Disk:
    """The cache that a power cut would leave: names and contents that were synced, by inode."""

    def __init__(self, patch: pytest.MonkeyPatch, root: Path, whole: bool) -> None:
        self.root, self.names, self.contents = root, dict[int, dict[str, int]](), dict[int, bytes]()
        self.whole = whole
        patch.setattr(os, "fsync", self.fsync)
        patch.setattr(atomic, "can_sync_file_system", lambda device: self.whole)
        patch.setattr(atomic, "sync_file_system", self.sync_all)
        for name in ("rename", "replace"):
            patch.setattr(os, name, self.checked(getattr(os, name)))

    def fsync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if stat.S_ISDIR(status.st_mode):
            self.names[status.st_ino] = self.listed(place)
        else:
            self.contents[status.st_ino] = place.read_bytes()

    def sync_all(self, descriptor: int) -> None:
        """Stands for a sync of the whole file system; of it, the staging alone is taken to have been written."""
        for parent, _, files in os.walk(os.readlink(f"/proc/self/fd/{descriptor}")):
            self.names[Path(parent).stat().st_ino] = self.listed(Path(parent))
            for name in files:
                self.contents[Path(parent, name).stat().st_ino] = Path(parent, name).read_bytes()

    @staticmethod
    def listed(place: Path) -> dict[str, int]:
        return {entry.name: entry.inode() for entry in os.scandir(place)}

    def checked(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def renaming(source: Any, target: Any, **kwargs: Any) -> Any:
            if ".sage-va/staging" not in str(target):
                assert self.lost(Path(source)) == [], "visible before it is safe"
            return call(source, target, **kwargs)

        return renaming

    def lost(self, place: Path) -> list[str]:
        """Everything below a place that a power cut would take away, or bring back."""
        if place.is_file():
            return [] if self.contents.get(place.stat().st_ino) == place.read_bytes() else [f"bytes of {place}"]
        now, then = self.listed(place), self.names.get(place.stat().st_ino, {})
        wrong = [f"name of {place / name}" for name in now.keys() | then.keys() if now.get(name) != then.get(name)]
        lost = [name for name in wrong if "journal.jsonl" not in name]
        for name in now.keys() - {"staging", "journal.jsonl"}:
            lost += self.lost(place / name)
        return lost


@pytest.mark.parametrize("whole", [True, False], ids=["whole disk", "file by file"])
@pytest.mark.parametrize("form", FORMS)
def test_all_is_on_disk_before_it_is_visible(
    tmp_path: Path, form: str, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"new/c.{form}"
    disk = Disk(monkeypatch, path, whole)
    store = open_store(path, "a")
    assert disk.names[tmp_path.stat().st_ino] == disk.listed(tmp_path)
    steps: list[Callable[[Store], object]] = [commit, overwrite, discard, commit, a_second_alias, overwrite_and_discard]
    steps += [together, overwrite_together]
    for step in steps:
        step(store)
        assert disk.lost(path.parent) == [], step
    a_mess(path)
    store.sweep()
    assert disk.lost(path.parent) == []


def a_second_alias(store: Store) -> None:
    store.point(VISUAL_NAME, "visual/best")
    put(store, "a", "audio")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("_no_waiting_for_the_disk")
def test_the_old_entry_comes_back_if_the_new_one_could_not_be_placed(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / f"c.{form}", "a")
    put(store, "a", seed=1)
    plain = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise FULL
        return plain(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(OSError, match="No space left"):
            put(store, "a", seed=2, overwrite=True)
    assert same(store.read("a", VISUAL_NAME), make_track(1))
    assert store.leftovers() == []


@pytest.mark.usefixtures("_no_waiting_for_the_disk")
@pytest.mark.parametrize("form", FORMS)
def test_what_was_set_aside_and_not_removed_never_comes_back(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removing it failed; then the entry was discarded, or replaced once more by a writer who did not live."""
    for last in (discard, overwrite_and_discard):
        store = open_store(tmp_path / f"{last.__name__}.{form}", "a")
        put(store, "a", seed=1)
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            put(store, "a", seed=2, overwrite=True)
        assert store.leftovers()
        last(store)
        again = open_store(tmp_path / f"{last.__name__}.{form}", "a")
        assert again.leftovers() == []
        assert again.streams("a") == []


@pytest.mark.usefixtures("_no_waiting_for_the_disk")
@pytest.mark.parametrize("form", FORMS)
def test_an_older_entry_does_not_return_while_another_writer_replaces_the_new_one(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has placed its entry and clears up; just then another sets that entry aside, and is killed."""
    path = tmp_path / f"c.{form}"
    store, plain = open_store(path, "a"), Staging._drop
    put(store, "a", seed=1)
    place = path / VISUAL_NAME / ("a" if form == "zarr" else "a.h5")
    other = path / ".sage-va/staging" / f"{HOST}-other" / "old" / place.relative_to(path)

    def drop(self: Staging, temporary: Path) -> None:
        if place.exists() and not other.parent.exists():
            other.parent.mkdir(parents=True)
            place.rename(other)
        plain(self, temporary)

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "_drop", drop)
        put(store, "a", seed=2, overwrite=True)
    assert same(open_store(path, "a").read("a", VISUAL_NAME), make_track(2))


@pytest.mark.usefixtures("_no_waiting_for_the_disk")
@pytest.mark.parametrize("form", FORMS)
def test_a_live_writer_is_not_tidied_away(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"c.{form}"
    store = open_store(path, "a")
    assert isinstance(store, FolderStore)
    with store._staging.temporary() as temporary:
        open_store(path, "a")
        assert temporary.is_dir()
        killed = temporary.with_name(f"{temporary.name}-killed")
        killed.mkdir()
    assert open_store(path).leftovers() == [f".sage-va/staging/{killed.name}"]
    assert problems(open_store(path)) == []
    foreign = killed.with_name("elsewhere-0123")
    foreign.mkdir()
    assert open_store(path, "a").leftovers() == [".sage-va/staging/elsewhere-0123"]
    week_ago = foreign.stat().st_mtime - 8 * 24 * 3600
    os.utime(foreign, (week_ago, week_ago))
    assert store.sweep()[0] == "removed .sage-va/staging/elsewhere-0123"
    assert open_store(path).leftovers() == []
