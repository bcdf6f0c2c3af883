"""Media are hashed once, and again when they are not what they were."""

import hashlib
import os
from pathlib import Path

import pytest

from sage_va.extract import media_hashes as hashes_module
from sage_va.extract.media_hashes import MediaHashes


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read."""
    names: list[str] = []
    plain = hashes_module.file_sha256

    def reading(path: Path) -> str:
        names.append(path.name)
        return plain(path)

    monkeypatch.setattr(hashes_module, "file_sha256", reading)
    return names


def write(path: Path, content: bytes, age_s: float = 100) -> Path:
    path.write_bytes(content)
    then = path.stat().st_mtime - age_s
    os.utime(path, (then, then))
    return path


def test_a_file_is_read_once(tmp_path: Path, reads: list[str]) -> None:
    medium, memory = write(tmp_path / "a.mp4", b"one"), tmp_path / "known.jsonl"
    wanted = hashlib.sha256(b"one").hexdigest()
    hashes = MediaHashes(memory)
    assert [hashes.of_file(medium), hashes.of_file(medium), MediaHashes(memory).of_file(medium)] == [wanted] * 3
    assert reads == ["a.mp4"]
    assert MediaHashes(memory, rehash=True).of_file(medium) == wanted
    assert reads == ["a.mp4"] * 2


def test_another_size_time_or_file_is_read_again(tmp_path: Path, reads: list[str]) -> None:
    medium, hashes = write(tmp_path / "a.mp4", b"one"), MediaHashes(tmp_path / "known.jsonl")
    hashes.of_file(medium)
    write(medium, b"two", age_s=200)
    assert hashes.of_file(medium) == hashlib.sha256(b"two").hexdigest()
    before = medium.stat()
    write(tmp_path / "b", b"six").replace(medium)
    os.utime(medium, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same name, size and time: another inode
    assert hashes.of_file(medium) == hashlib.sha256(b"six").hexdigest()
    assert len(reads) == 3


def test_a_file_that_has_just_changed_is_not_trusted(tmp_path: Path, reads: list[str]) -> None:
    medium, hashes = write(tmp_path / "a.mp4", b"one", age_s=0), MediaHashes(tmp_path / "known.jsonl")
    hashes.of_file(medium)
    hashes.of_file(medium)
    assert len(reads) == 2


def test_a_folder_of_images_is_one_medium(tmp_path: Path, reads: list[str]) -> None:
    images = {k: write(tmp_path / f"{k:05}.jpg", bytes([k])) for k in (1, 2)}
    memory = tmp_path / "known.jsonl"
    first = MediaHashes(memory).of_images(images)
    assert MediaHashes(memory).of_images(images) == first
    assert len(reads) == 2
    assert MediaHashes(memory).of_images({1: images[1]}) != first
    assert len(memory.read_text().splitlines()) == 2


def test_a_damaged_memory_is_no_memory(tmp_path: Path, reads: list[str]) -> None:
    medium, memory = write(tmp_path / "a.mp4", b"one"), tmp_path / "known.jsonl"
    MediaHashes(memory).of_file(medium)
    memory.write_bytes(memory.read_bytes().replace(b'"sha256": "', b'"sha256": "0'))
    assert MediaHashes(memory).of_file(medium) == hashlib.sha256(b"one").hexdigest()
    assert len(reads) == 2


def test_no_place_to_remember_is_no_failure(tmp_path: Path) -> None:
    medium = write(tmp_path / "a.mp4", b"one")
    (tmp_path / "file").write_text("")
    assert MediaHashes(tmp_path / "file/known.jsonl").of_file(medium) == hashlib.sha256(b"one").hexdigest()
