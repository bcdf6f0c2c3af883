"""Files are replaced whole or not at all, and only once the disk has their bytes."""

import ast
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage_va.data import InputError
from sage_va.data.atomic import part_of, publish, replacing, write_bytes, write_new, write_text

ROOT = Path(__file__).resolve().parents[2]
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The order of fsync and rename, with the names that they act on."""
    calls: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def syncing(descriptor: int) -> None:
        calls.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def renaming(source: Any, target: Any) -> None:
        calls.append(("rename", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", renaming)
    return calls


def test_bytes_and_folder_are_on_disk_around_the_rename(path: Path, calls: list[tuple[str, str]]) -> None:
    write_text(path, "new\r\n")
    assert path.read_bytes() == b"new\r\n"
    assert calls == [("fsync", ".part-a.json"), ("rename", "a.json"), ("fsync", path.parent.name)]


def test_folders_above_are_made_and_durable(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    write_bytes(tmp_path / "x" / "y" / "a", b"new")
    folders = [("fsync", tmp_path.name), ("fsync", "x")]
    assert calls == [*folders, ("fsync", ".part-a"), ("rename", "a"), ("fsync", "y")]


def test_new_files_are_synced(path: Path, calls: list[tuple[str, str]]) -> None:
    write_new(path.parent / "sub" / "b", b"new")
    assert calls == [("fsync", "b")]


@pytest.mark.parametrize("name", ["open", "ftruncate", "fsync", "replace"])
def test_a_failing_call_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*_: object) -> None:
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(OSError, match="No space left"):
            write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["a.json"]
    write_bytes(path, b"new")
    assert (path.read_bytes(), os.listdir(path.parent)) == (b"new", ["a.json"])


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(path: Path) -> None:
    def write_half() -> None:
        with replacing(path) as part:
            part.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert (path.read_bytes(), os.listdir(path.parent)) == (b"old", ["a.json"])


def test_what_a_killed_writer_left_is_written_over(path: Path) -> None:
    part_of(path).write_bytes(b"a long half of something")
    with replacing(path) as part:
        assert part.read_bytes() == b""
        part.write_bytes(b"new")
    assert (path.read_bytes(), os.listdir(path.parent)) == (b"new", ["a.json"])


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_umask_decides_the_mode(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_libraries_see_the_suffix(path: Path) -> None:
    assert part_of(path).suffix == ".json"


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    paths = [tmp_path / f"{'ü' * 125}{letter}.csv" for letter in "ab"]  # 255 bytes
    for path in paths:
        write_bytes(path, path.name.encode())
    assert len(set(map(part_of, paths))) == 2
    assert all(path.read_bytes() == path.name.encode() for path in paths)


def test_two_writers_of_one_file_take_turns(path: Path) -> None:
    """Each writes in two halves with a pause between; a mixture would show."""
    begun, errors = threading.Barrier(4), list[BaseException]()

    def write(letter: bytes) -> None:
        try:
            begun.wait()
            for _ in range(20):
                with replacing(path) as part, part.open("r+b", buffering=0) as file:
                    for _ in range(2):
                        file.write(letter * 1000)
                        threading.Event().wait(0.0005)
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(bytes([65 + k]),)) for k in range(4)]
    for writer in writers:
        writer.start()
    whole = {b"old"} | {bytes([65 + k]) * 2000 for k in range(4)}
    while any(writer.is_alive() for writer in writers):
        assert path.read_bytes() in whole
    for writer in writers:
        writer.join()
    assert (errors, os.listdir(path.parent)) == ([], ["a.json"])
    assert path.read_bytes() in whole - {b"old"}


def test_a_second_writer_can_be_refused(path: Path) -> None:
    with replacing(path) as part:
        with (
            pytest.raises(InputError, match=r"a\.json: another writer is making this file\. Wait until it has"),
            replacing(path, wait=False),
        ):
            pass
        part.write_bytes(b"first")
    assert path.read_bytes() == b"first"


def test_a_link_replaces_a_link(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / "part").symlink_to(name)
        publish(tmp_path / "part", tmp_path / "link")
    assert os.readlink(tmp_path / "link") == "new"


def calls_in(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield ast.unparse(node.func), node.lineno


BY_HAND = {"os.replace", "os.rename", "os.fsync", "tempfile.mkstemp"}
ALLOWED = {
    "data/atomic.py": BY_HAND,
    "data/journal.py": {"os.fsync"},
    "data/windows/memmap_cache.py": {"os.fsync"},  # files of a folder that is renamed as a whole
}


def test_nothing_replaces_files_by_hand() -> None:
    """A sync or rename outside of data/atomic.py lacks a step, or will."""
    sources = [path for room in ("data", "extract", "fusion") for path in (ROOT / room).rglob("*.py")]
    assert len(sources) > 50
    by_hand = [
        f"{name}:{line} {call}"
        for path in sources
        for name in [path.relative_to(ROOT).as_posix()]
        for call, line in calls_in(path)
        if call in BY_HAND - ALLOWED.get(name, set())
    ]
    assert by_hand == []
