"""Looking at the files of a cache, and changing their bytes."""

from collections.abc import Iterator
from pathlib import Path


def tree(path: Path) -> dict[str, bytes]:
    """Every file of a cache but the journal, and every folder."""
    files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.name != "journal.jsonl"}
    return {name: b"" if place.is_dir() else place.read_bytes() for name, place in files.items()}


def flips(whole: bytes, every: int = 1, bits: int = 1) -> Iterator[bytes]:
    """Copies of the bytes, each with one byte changed: by one bit, another one each time, or by `bits`."""
    for k in range(0, len(whole), every):
        for bit in range(k // every, k // every + bits):
            yield whole[:k] + bytes([whole[k] ^ 1 << bit % 8]) + whole[k + 1 :]
