"""An entry as HDF5, alone in a file or in a tree of many; and the seal that every HDF5 file of ours begins with."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..hashing import bytes_sha256, canonical_json, file_sha256, sealed
from .entry import Entry, array_types

SEAL_BYTES = 512  # a user block, which HDF5 leaves to its users; no smaller one exists
LIBVER = ("v108", "v108")  # every HDF5 since 2008 reads it, texts may exceed 64 KB, and metadata have checksums


class PatientFile(io.FileIO):
    """A file for HDF5 to write to. HDF5 crashes or continues when a write fails (a full disk); so every write reports
    success, and the writer calls `check` for the first error.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.failure = self.failure or error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0

    def check(self) -> None:
        """Raises the first OSError of a write, if there was any."""
        if self.failure:
            raise self.failure


def seal(kind: str, sha256: str) -> bytes:
    """The first bytes of a file: what it is, and the SHA-256 (hex) of all that follows them."""
    return f"sage-va {kind} sha256={sha256}\n".encode().ljust(SEAL_BYTES, b"\0")


def sealed_bytes(kind: str, fill: Callable[[h5py.File], None]) -> bytes:
    """A whole HDF5 file, made in memory; what is filled in alone decides its bytes."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=LIBVER, userblock_size=SEAL_BYTES) as file:
        fill(file)
    with buffer.getbuffer() as content:
        content[:SEAL_BYTES] = seal(kind, bytes_sha256(content[SEAL_BYTES:]))
    return buffer.getvalue()


def put_seal(path: Path, kind: str) -> None:
    """Seals a file that was made on disk."""
    header = seal(kind, file_sha256(path, SEAL_BYTES))
    with path.open("r+b") as file:
        file.write(header)


def is_sealed(path: Path, kind: str) -> bool:
    """True where every byte of a file is the one that was written."""
    with path.open("rb") as file:
        header = file.read(SEAL_BYTES)
    return header == seal(kind, file_sha256(path, SEAL_BYTES))


def group_at(file: h5py.File, path: str) -> h5py.Group:
    """The group at a path, made where there is none: level by level, as HDF5 dates those it makes on the way."""
    group: h5py.Group = file
    for name in path.split("/"):
        group = group.require_group(name)
    return group


def inside(file: h5py.File, path: str) -> Any:
    """Returns what lies at a path of the file itself. Links, which we never make in it, may lead to another file.

    Raises:
        KeyError: if there is nothing. ValueError: if a link is on the way.
    """
    place: Any = file
    for name in path.split("/"):
        if not isinstance(place.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{path!r} has a link in it")
        place = place[name]
    return place


def own_dataset(dataset: Any) -> h5py.Dataset:
    """Returns a dataset whose values lie in its own file.

    Raises:
        ValueError: if they lie in other files, which a file from elsewhere could choose, or if it is no dataset.
    """
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{dataset.name!r} is no dataset")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"the values of {dataset.name!r} lie in another file")
    return dataset


def put_json(group: h5py.Group, name: str, value: Mapping[str, Any]) -> None:
    """An attribute that holds sealed JSON, as text of a fixed length, which lies under HDF5's own checksums."""
    text = canonical_json(sealed(value)).encode()
    group.attrs.create(name, np.bytes_(text), dtype=h5py.string_dtype("utf-8", len(text)))


def json_of(group: Any, name: str) -> dict[str, Any]:
    """The sealed JSON of an attribute; values without a seal where it is not what was written.

    Raises:
        OSError, RuntimeError, KeyError, TypeError or ValueError: if there is none.
    """
    text = bytes(group.attrs[name])
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{name!r} is no JSON object")
    return value if canonical_json(value).encode() == text else {"unreadable": "changed"}


def put_entry(group: h5py.Group, entry: Entry) -> None:
    """Fills a group with an entry: two datasets, each the array's bytes in one piece, and the record."""
    for name, array in {"values": entry.values, "frames": entry.frames}.items():
        group.create_dataset(name, data=array)
    put_json(group, "record", entry.record)


def entry_of(group: Any, record: dict[str, Any]) -> Entry:
    """The entry in a group.

    Raises:
        ValueError: if an array is of another shape, type or size than in its record; what h5py raises where it cannot
            read one.
    """
    arrays = {}
    for name, shape_and_dtype in array_types(record).items():
        dataset = own_dataset(inside(group, name))
        if (dataset.shape, dataset.dtype) != shape_and_dtype:
            raise ValueError(f"{name!r} of shape {dataset.shape}, {dataset.dtype}")
        if (num_bytes := dataset.id.get_storage_size()) != dataset.nbytes:  # compressed or not written: none of ours
            raise ValueError(f"{name!r} of {num_bytes} bytes for {dataset.nbytes}")
        arrays[name] = dataset[...]
    return Entry(record, arrays["values"], arrays["frames"])
