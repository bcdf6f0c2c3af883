"""Features that people already have, into the cache: `.npy` per clip, `.npz` per clip, or one `.npz` of many."""

from __future__ import annotations

import zipfile
import zlib
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
    key: str | None = None

    def load(self) -> NDArray[Any]:
        """The array; pickles are refused.

        Raises:
            InputError: if the file cannot be read or is no plain array.
        """
        try:
            loaded = np.load(self.path, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                return loaded
            with loaded:
                return loaded[self._choose(loaded.files)]
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            if isinstance(error, InputError):
                raise
            todo = "Save it again with numpy.save; pickled objects are never loaded."
            got = str(error).splitlines()[0]
            raise InputError(self.path, expected="a plain numpy array", got=got, todo=todo) from None

    def _choose(self, names: list[str]) -> str:
        if self.key is None and len(names) != 1:
            got = ", ".join(names) or "none"
            raise InputError(self.path, expected="one array", got=got, todo="Choose one with --key.")
        if self.key is not None and self.key not in names:
            got = ", ".join(names) or "none"
            raise InputError(self.path, expected=f"an array {self.key!r}", got=got, todo="Choose another --key.")
        return self.key or names[0]


def import_features(
    store: Store, source: Path, *, stream: str, hz: float, key: str | None = None
) -> tuple[str, list[str], list[tuple[str, str]]]:
    """Adds one stream to a cache from arrays of shape (T, D), one per clip, at a constant rate.

    Rows that hold NaN or infinity are masked. Row k stands at k / hz seconds.

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
    if not 0.001 <= hz <= 100_000:
        raise InputError(f"stream {stream!r}", expected="rows per second", got=f"{hz}", todo="Correct --hz.")
    fingerprint = {
        "schema_version": SCHEMA_VERSION,
        "modality": modality,
        "encoder": {"kind": "import", "name": alias, "array": key},
        "hz": float(hz),
    }
    full = stream_name(modality, alias, fingerprint)
    done, failures = [], []
    for found in find_arrays(source, key):
        try:
            _import_one(store, found, full, fingerprint, hz)
            done.append(found.clip_id)
        except InputError as error:
            failures.append((found.clip_id, error.about(found.clip_id)))
            store.log_failure(found.clip_id, error.about(found.clip_id))
    return full, done, failures


def _import_one(store: Store, found: Found, stream: str, fingerprint: dict[str, Any], hz: float) -> None:
    loaded = found.load()
    sha256 = array_sha256(loaded)
    if store.has(found.clip_id, stream, sha256):
        return
    values = _as_features(found, loaded)
    clock = FrameClock.regular(hz, len(values))
    mask = np.asarray(np.isfinite(values).all(axis=1))
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
        found = [Found(p.relative_to(source).with_suffix("").as_posix(), p, key) for p in paths]
    else:
        found = _in_archive(source, key)
    if not found:
        todo = "See `sage-va cache import --help` for the layouts."
        expected = f".npy or .npz arrays{f' named {key!r}' if key else ''}"
        raise InputError(source, expected=expected, got="none", todo=todo)
    yield from found


def _in_archive(path: Path, key: str | None) -> list[Found]:
    if path.suffix != ".npz" or not path.is_file():
        todo = "Give a folder of .npy files or one .npz."
        raise InputError(path, expected="a folder or an .npz file", got="neither", todo=todo)
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))
    except (zipfile.BadZipFile, OSError) as error:
        todo = "Save it again with numpy.savez."
        raise InputError(path, expected="an .npz archive", got=str(error), todo=todo) from None
    ending = f"/{key}" if key else ""
    return [Found(name.removesuffix(ending), path, name) for name in names if name.endswith(ending)]
