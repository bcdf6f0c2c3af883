"""An entry as a Zarr v3 group: the files that hold it, whether they lie in a folder, a zip or a pack."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from ..hashing import bytes_sha256, sealed, unsealed
from .entry import Entry, array_types

META = "zarr.json"
CHUNK = "c/0/0"
ENTRY_FILES = (META, *(f"{name}/{file}" for name in ("values", "frames") for file in (META, CHUNK)))
_DIMENSIONS = {"values": ("frame", "dimension"), "frames": ("frame", "column")}
_BFLOAT16_NAN = 0x7FC0


def group_file(attrs: Mapping[str, Any]) -> bytes:
    """The `zarr.json` of a group."""
    body = {"attributes": dict(attrs), "zarr_format": 3, "node_type": "group"}
    return (json.dumps(body, ensure_ascii=False, allow_nan=False) + "\n").encode()


def group_attrs(content: bytes) -> dict[str, Any]:
    """The attributes in a group's `zarr.json`.

    Raises:
        ValueError: if it is none.
    """
    body = json.loads(content)
    try:
        if body["zarr_format"] == 3 and body["node_type"] == "group" and isinstance(body["attributes"], dict):
            return body["attributes"]
    except (KeyError, TypeError):
        pass
    raise ValueError("not a Zarr v3 group")


def encode(entry: Entry) -> dict[str, bytes]:
    """The files of an entry by path below its place. Each array is one chunk: its bytes, little-endian, in C order."""
    files: dict[str, bytes] = {}
    for name, array in {"values": entry.values, "frames": entry.frames}.items():
        files[f"{name}/{META}"] = _array_file(name, array.shape, array.dtype)
        files[f"{name}/{CHUNK}"] = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    metadata = {path: bytes_sha256(content) for path, content in files.items() if path.endswith(META)}
    return {**files, META: group_file(sealed({**entry.record, "files": metadata}))}


@lru_cache(maxsize=4096)
def _array_file(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """The `zarr.json` of an array, as zarr writes it; many clips have the same."""
    import zarr  # 0.4 s, and only writers need it
    from zarr.storage import MemoryStore

    held: dict[str, Any] = {}
    zarr.create_array(
        store=MemoryStore(store_dict=held),
        name=name,
        shape=shape,
        dtype=dtype,
        chunks=shape,
        compressors=None,
        filters=None,
        fill_value=np.nan if dtype.kind == "f" else _BFLOAT16_NAN,  # a lost chunk reads as NaN, never as 0
        dimension_names=_DIMENSIONS[name],
    )
    return held[f"{name}/{META}"].to_bytes()


def record_of(content: bytes) -> dict[str, Any]:
    """The sealed record in an entry's `zarr.json`; attributes without a seal where it is not what was written.

    Raises:
        ValueError: if the content is no group.
    """
    attrs = group_attrs(content)
    body = unsealed(attrs)
    if body is None or "files" not in body or group_file(attrs) != content:
        return {"unreadable": "changed"}
    del body["files"]
    return sealed(body)


def decode(read: Callable[[str], bytes], record: dict[str, Any]) -> Entry:
    """The entry whose files `read` gives by path below its place."""
    arrays = {
        name: np.frombuffer(read(f"{name}/{CHUNK}"), dtype).reshape(shape)
        for name, (shape, dtype) in array_types(record).items()
    }
    return Entry(record, arrays["values"], arrays["frames"])


def layout_problem(names: Iterable[str], read: Callable[[str], bytes]) -> str | None:
    """Returns the damage of the files around an entry's arrays and record, if there is any."""
    known = group_attrs(read(META))["files"]
    wanted = {META, *known, *(f"{name}/{CHUNK}" for name in _DIMENSIONS)}
    if strange := sorted(set(names) ^ wanted):
        return f"expected the files of an entry, got {strange[0]} {'missing' if strange[0] in wanted else 'added'}"
    for name, sha256 in known.items():
        if bytes_sha256(read(name)) != sha256:
            return f"expected the {name} that was written, got another"
    return None
