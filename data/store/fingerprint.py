"""What a feature IS: the identity that names a stream, and the checksums that prove its bytes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

SCHEMA_VERSION = 1
MAX_KEY_BYTES = 160
_CUT_KEY = re.compile(rf"[A-Za-z0-9=-][A-Za-z0-9=._-]{{{MAX_KEY_BYTES - 18}}}~[0-9a-f]{{16}}")


def canonical_json(value: object) -> str:
    """JSON with sorted keys, no spaces, no NaN: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def json_sha256(value: object) -> str:
    """SHA-256 (hex) of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sealed(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes with a checksum of their own, by which `unsealed` knows that they are whole."""
    return {**attrs, "attrs_sha256": json_sha256(dict(attrs))}


def unsealed(attrs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The attributes that were sealed, or None where they are not those any more."""
    body = {key: value for key, value in attrs.items() if key != "attrs_sha256"}
    return body if attrs.get("attrs_sha256") == json_sha256(body) else None


def array_sha256(array: NDArray[Any]) -> str:
    """SHA-256 (hex) of an array's little-endian bytes in C order: the same in every store."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return hashlib.sha256(plain.reshape(-1).view(np.uint8).data if plain.nbytes else b"").hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stream_name(modality: str, alias: str, fingerprint: Mapping[str, Any]) -> str:
    """`<modality>/<alias>-<8 hex>`: what people call the stream, and the start of its fingerprint's SHA-256."""
    clean = re.sub(r"[^A-Za-z0-9.]+", "-", alias).strip("-.")
    if not clean:
        raise InputError(f"stream {alias!r}", expected="a name with letters or digits", got="none", todo="Rename it.")
    return f"{modality}/{clean}-{json_sha256(fingerprint)[:8]}"


def stream_alias(stream: str) -> str:
    """`visual/dinov2-s` of `visual/dinov2-s-1a2b3c4d`."""
    return stream[:-9]


def check_clip_id(clip_id: str) -> str:
    """Returns a clip_id that is safe to use as a place, or raises InputError."""
    unsafe = re.search(r"[\x00-\x1f\x7f\\\ud800-\udfff]", clip_id)
    if not clip_id or clip_id.startswith("/") or ".." in clip_id.split("/") or unsafe:
        raise InputError(
            f"clip_id {clip_id!r}",
            expected="a relative path in UTF-8 without '..', backslashes or control characters",
            got=repr(clip_id),
            todo="Rename the clip in the manifest.",
        )
    return clip_id


def clip_key(clip_id: str) -> str:
    """A clip_id as one safe path segment: reversible by `clip_id_of`, bounded in length.

    Bytes outside `A-Za-z0-9._-`, and a leading `.` or `_`, become `=XX`. A key over 160 bytes is cut and ends in `~`
    and 16 hex of the id's SHA-256; the id itself then stands in the record.
    """
    if _CUT_KEY.fullmatch(clip_id):
        return clip_id  # all that is known of a clip whose record is damaged
    key = quote(check_clip_id(clip_id), safe="").replace("%", "=").replace("~", "=7E")
    if key[0] in "._":
        key = f"={ord(key[0]):02X}{key[1:]}"
    if key == "zarr.json":
        key = "=7Aarr.json"  # a name that Zarr needs
    if len(key) > MAX_KEY_BYTES:
        key = f"{key[: MAX_KEY_BYTES - 17]}~{hashlib.sha256(clip_id.encode()).hexdigest()[:16]}"
    return key


def clip_id_of(key: str) -> str | None:
    """The clip_id of a key, or None where the key was cut."""
    return None if "~" in key else unquote(key.replace("=", "%"))
