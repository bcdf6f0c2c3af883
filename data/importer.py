"""Features that people already have, into the cache: `.npy` per clip, `.npz` per clip, or one `.npz` of many."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .clip import MODALITIES, Clip, FrameClock, Track
from .errors import InputError
from .fingerprint import SCHEMA_VERSION, array_sha256, stream_name
from .store import Store


@dataclass(frozen=True)
class Found:
    """An array to import: its clip, the file it lies in, and how to load it."""

    clip_id: str
    path: Path
    key: str | None

    def load(self) -> NDArray[Any]:
        """The array; pickles are refused.

        Raises:
            InputError: if the file cannot be read or is no plain array.
        """
        try:
            loaded = np.load(self.path, allow_pickle=False)
            return loaded if self.key is None else loaded[self.key]
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            todo = "Save it again with numpy.save; pickled objects are never loaded."
            got = str(error).splitlines()[0]
            raise InputError(self.path, expected="a plain numpy array", got=got, todo=todo) from None


def import_features(
    store: Store, source: Path, *, stream: str, hz: float, key: str | None = None
) -> tuple[str, list[str], list[tuple[str, str]]]:
    """Adds one stream to a cache from arrays of shape (T, D), one per clip, at a constant rate.

    Rows that hold NaN are masked. Row k stands at k / hz seconds.

    Args:
        source: a folder of `<clip_id>.npy` or `<clip_id>.npz` (searched recursively), or one `.npz` whose arrays are
            named `<clip_id>` or `<clip_id>/<key>`.
        stream: `visual/NAME` or `audio/NAME`.
        hz: rows per second.
        key: which array to take where an `.npz` holds several.

    Returns:
        The full stream name, the imported clip ids (those that were there already included), and (clip_id, reason)
        of each failure.
    """
    modality, _, alias = stream.partition("/")
    if modality not in MODALITIES or not alias:
        todo = "For example --stream visual/openface."
        raise InputError(f"stream {stream!r}", expected="visual/NAME or audio/NAME", got=repr(stream), todo=todo)
    fingerprint = {
        "schema_version": SCHEMA_VERSION,
        "modality": modality,
        "encoder": {"kind": "import", "name": alias, "array": key},
        "hz": hz,
    }
    full = stream_name(modality, alias, fingerprint)
    done, failures = [], []
    for found in find_arrays(source, key):
        try:
            _import_one(store, found, full, fingerprint, hz)
            done.append(found.clip_id)
        except InputError as error:
            failures.append((found.clip_id, str(error)))
            store.log_failure(found.clip_id, str(error))
    return full, done, failures


def _import_one(store: Store, found: Found, stream: str, fingerprint: dict[str, Any], hz: float) -> None:
    loaded = found.load()
    sha256 = array_sha256(loaded)
    if store.has(found.clip_id, stream, sha256):
        return
    values = _as_features(found, loaded)
    clock = FrameClock.regular(hz, len(values))
    mask = np.isfinite(values).all(axis=1)
    track = Track.of(values, clock.times_s, mask)
    clip = Clip(found.clip_id, duration_s=len(values) / hz, clock=clock if stream.startswith("visual/") else None)
    report = {"path": found.path.name, "array": found.key, "num_rows": len(values)}
    store.commit(clip, stream, track, fingerprint=fingerprint, source_sha256=sha256, report=report)


def _as_features(found: Found, values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "fiu":
        got = f"{values.shape} {values.dtype}"
        todo = "Save one row of features per frame."
        raise InputError(found.clip_id, expected="numbers of shape (T, D)", got=got, todo=todo)
    return values if values.dtype == np.float16 else values.astype(np.float32)


def find_arrays(source: Path, key: str | None) -> Iterator[Found]:
    """Every array to import from a folder or an `.npz`, in sorted order.

    Raises:
        InputError: if there is none.
    """
    if source.is_dir():
        paths = sorted(p for p in source.rglob("*") if p.suffix in (".npy", ".npz") and not p.name.startswith("."))
        found = [_in_file(path, path.relative_to(source).with_suffix("").as_posix(), key) for path in paths]
    else:
        found = _in_archive(source, key)
    if not found:
        todo = "See `sage-va cache import --help` for the layouts."
        expected = f".npy or .npz arrays{f' named {key!r}' if key else ''}"
        raise InputError(source, expected=expected, got="none", todo=todo)
    yield from found


def _in_file(path: Path, clip_id: str, key: str | None) -> Found:
    if path.suffix == ".npy":
        return Found(clip_id, path, None)
    names = _names(path)
    if key is None and len(names) > 1:
        todo = "Choose one with --key."
        raise InputError(path, expected="one array", got=", ".join(names), todo=todo)
    if key is not None and key not in names:
        raise InputError(path, expected=f"an array {key!r}", got=", ".join(names), todo="Choose another --key.")
    return Found(clip_id, path, key or names[0])


def _in_archive(path: Path, key: str | None) -> list[Found]:
    if path.suffix != ".npz" or not path.is_file():
        todo = "Give a folder of .npy files or one .npz."
        raise InputError(path, expected="a folder or an .npz file", got="neither", todo=todo)
    ending = f"/{key}" if key else ""
    return [Found(name.removesuffix(ending), path, name) for name in sorted(_names(path)) if name.endswith(ending)]


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError) as error:
        todo = "Save it again with numpy.savez."
        raise InputError(path, expected="an .npz archive", got=str(error), todo=todo) from None
