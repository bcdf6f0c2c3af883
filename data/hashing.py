"""SHA-256 of values, arrays and files: the identities that the cache is named by, and the checksums that prove it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def canonical_json(value: object) -> str:
    """Returns JSON with sorted keys, no spaces, no NaN: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def bytes_sha256(content: bytes | memoryview) -> str:
    """Returns the SHA-256 (hex) of bytes."""
    return hashlib.sha256(content).hexdigest()


def json_sha256(value: object) -> str:
    """Returns the SHA-256 (hex) of the canonical JSON of a value."""
    return bytes_sha256(canonical_json(value).encode())


def array_sha256(array: NDArray[Any]) -> str:
    """Returns the SHA-256 (hex) of an array's little-endian bytes in C order: the same in every store."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return bytes_sha256(plain.reshape(-1).view(np.uint8).data if plain.nbytes else b"")


def file_sha256(path: Path, start: int = 0) -> str:
    """Returns the SHA-256 (hex) of a file's bytes from `start` on."""
    with path.open("rb") as file:
        file.seek(start)
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns attributes with a checksum of their own, which `unsealed` verifies."""
    return {**attrs, "attrs_sha256": json_sha256(dict(attrs))}


def unsealed(attrs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the attributes that were sealed, or None where they have changed since."""
    body = {key: value for key, value in attrs.items() if key != "attrs_sha256"}
    return body if attrs.get("attrs_sha256") == json_sha256(body) else None
