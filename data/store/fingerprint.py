"""The names of streams, and of clips as places in a cache."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from ..errors import InputError
from ..hashing import bytes_sha256, json_sha256

SCHEMA_VERSION = 1
MAX_KEY_BYTES = 160
MAX_ALIAS_BYTES = 230
NOT_MODALITIES = {"aliases", "journal", "packs", "tags"}  # other things at the root of a cache
_MODALITY = re.compile(r"[a-z][a-z0-9]{0,31}")
_STREAM = re.compile(rf"(?P<modality>[^/]+)/[A-Za-z0-9][A-Za-z0-9.-]{{0,{MAX_ALIAS_BYTES - 1}}}-[0-9a-f]{{8}}")
_KEY = re.compile(rf"[A-Za-z0-9=-][A-Za-z0-9=._~-]{{0,{MAX_KEY_BYTES - 1}}}")
_CUT_KEY = re.compile(rf"[A-Za-z0-9=-][A-Za-z0-9=._-]{{{MAX_KEY_BYTES - 18}}}~[0-9a-f]{{16}}")


def is_modality(name: str) -> bool:
    """Returns True for a name that a modality may have: up to 32 small letters and digits, a letter first."""
    return _MODALITY.fullmatch(name) is not None and name not in NOT_MODALITIES


def stream_name(modality: str, alias: str, fingerprint: Mapping[str, Any]) -> str:
    """`<modality>/<alias>-<8 hex>`: what people call the stream, and the start of its fingerprint's SHA-256."""
    clean = re.sub(r"[^A-Za-z0-9.]+", "-", alias).strip("-.")
    if not clean:
        raise InputError(f"stream {alias!r}", expected="a name with letters or digits", got="none", todo="Rename it.")
    if len(clean) > MAX_ALIAS_BYTES:
        raise InputError(f"stream {alias!r}", f"the name is longer than {MAX_ALIAS_BYTES} bytes", todo="Shorten it.")
    return f"{modality}/{clean}-{json_sha256(fingerprint)[:8]}"


def stream_alias(stream: str) -> str:
    """`visual/dinov2-s` of `visual/dinov2-s-1a2b3c4d`."""
    return stream[:-9]


def check_stream(stream: str) -> str:
    """Returns a full stream name that is safe to use as a place.

    Raises:
        InputError: if it is anything but `<modality>/<alias>-<8 hex>`, as `stream_name` makes it.
    """
    match = _STREAM.fullmatch(stream) if isinstance(stream, str) else None
    if not match or not is_modality(match["modality"]):
        expected = "<modality>/<alias>-<first 8 hex of its fingerprint>"
        todo = "Name streams with sage_va.data.stream_name."
        raise InputError(f"stream {stream!r}", expected=expected, got="another name", todo=todo)
    return stream


def check_alias(alias: str) -> str:
    """Returns an alias that is safe to use as a place.

    Raises:
        InputError: if it is anything but `<modality>/NAME`, where the name does not begin with a point, and has no
            slashes, backslashes or control characters.
    """
    modality, _, name = alias.partition("/") if isinstance(alias, str) else ("", "", "")
    plain = not name.startswith(".") and not re.search(r"[\x00-\x1f\x7f/\\\ud800-\udfff]", name)
    if not is_modality(modality) or not plain or not 0 < len(name.encode(errors="replace")) <= MAX_ALIAS_BYTES:
        todo = "Begin it with the modality in small letters: visual/, audio/, text/ …"
        raise InputError(f"alias {alias!r}", expected="MODALITY/NAME of the stream", got=repr(alias), todo=todo)
    return alias


def check_key(key: str) -> str:
    """Returns a clip key that is safe to use as a place.

    Raises:
        InputError: if `clip_key` cannot have made it.
    """
    if not _KEY.fullmatch(key) or key == "zarr.json":
        todo = "Take the cache again from where it came from."
        raise InputError(f"clip key {key!r}", expected="an escaped clip_id", got="another name", todo=todo)
    return key


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
        key = f"{key[: MAX_KEY_BYTES - 17]}~{bytes_sha256(clip_id.encode())[:16]}"
    return key


def clip_id_of(key: str) -> str | None:
    """The clip_id of a key, or None where the key was cut."""
    if "~" in key:
        return None
    plain = key.replace("=2F", "/")  # most keys have no other: a twentieth of the time
    return unquote(key.replace("=", "%")) if "=" in plain else plain
