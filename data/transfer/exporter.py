"""Streams out of the cache, as files that anyone can read without it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..atomic import contained, json_file, names, write_bytes
from ..clip import Track, choose_clips
from ..errors import DamagedError, InputError
from ..store.base import Store
from ..store.fingerprint import clip_key
from .read_files import FACTS, FRAMES

FileFormat = Literal["npy", "csv"]
_MAX_NAME_BYTES = 200


@dataclass(frozen=True)
class Exported:
    """The outcome of `export`.

    Args:
        stream: its full name.
        clips: the file of each exported clip, relative to the folder.
        failures: (clip_id, reason) of each clip that is damaged.
    """

    stream: str
    clips: dict[str, str]
    failures: list[tuple[str, str]]

    def to_json(self) -> dict[str, Any]:
        """Returns all fields as plain values."""
        return asdict(self)


def export(
    store: Store,
    out: Path,
    *,
    stream: str,
    file_format: FileFormat,
    clips: Sequence[str] = (),
    permission: bool = False,
) -> Exported:
    """Writes one stream into a folder, a file per clip, which `import_features` reads again.

    - npy: `<clip_id>.npy`, (T, D) values, NaN outside the mask; and `<clip_id>.frames.npy`, a structured array (T,) of
      `time_s` (float64), `mask` (bool) and a field `quality:NAME [UNIT]` (float32) for each signal. bfloat16 becomes
      float32.
    - csv: `<clip_id>.csv` with the columns `time_s`, `mask`, the quality signals, `feat_0` …; a missing value is an
      empty cell. The numbers are written so that they are read back exactly.

    `cache.json` has the stream's fingerprint, the terms of use, and the file of each clip: an id that a file system
    cannot take has a file name in escaped form. It is written first, each file whole or not at all.

    Args:
        store: the cache.
        out: a new folder, or one that the same export began.
        stream: a full stream name or an alias.
        file_format: as above.
        clips: ids or patterns of the clips to export; () = all that have the stream.
        permission: True where the terms of a restricted cache allow it.

    Raises:
        InputError: if `out` holds anything but an earlier, perhaps interrupted, run of the same export, or a clip
            does not have the stream, or the cache is restricted.
    """
    root = store.root()
    _check_permission(root, store.url, permission)
    full = store.resolve(stream)
    records, failures = _records(store, full, clips)
    facts = {
        "stream": full,
        "fingerprint": next(iter(records.values()))["fingerprint"] if records else None,
        "licence": root["licence"],
        "restricted": root["restricted"],
        "form": file_format,
        "columns": _columns(records),
        "clips": {clip_id: f"{_file_name(clip_id)}.{file_format}" for clip_id in records},
        "created_by": f"sage-va {version('sage-va')}",
    }
    _begin(out, facts)
    done: dict[str, str] = {}
    for clip_id, place in facts["clips"].items():
        try:
            track = store.read(clip_id, full)
        except DamagedError as error:
            failures.append((clip_id, error.about(clip_id)))
            continue
        for path, content in _files(contained(out, place), track, file_format):
            write_bytes(path, content)
        done[clip_id] = place
    return Exported(full, done, failures)


def _records(
    store: Store, stream: str, clips: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], list[tuple[str, str]]]:
    """The sound records of the clips, and the failures."""
    records, failures = {}, []
    for clip_id in sorted(choose_clips(store.clip_ids(stream), clips, f"See `sage-va cache ls {store.url}`.")):
        try:
            records[clip_id] = store.record(clip_id, stream)
        except DamagedError as error:
            failures.append((clip_id, error.about(clip_id)))
    return records, failures


def _columns(records: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Returns name and unit of all columns of `frames`, in any of the clips."""
    return [list(pair) for pair in dict.fromkeys(tuple(pair) for r in records.values() for pair in r["columns"])]


def _check_permission(root: Mapping[str, Any], url: str, permission: bool) -> None:
    if root["restricted"] and not permission:
        licence = root["licence"] or "not stated"
        raise InputError(
            url,
            expected="a cache whose terms let files be passed on",
            got=f"a restricted one (licence: {licence})",
            todo="If its terms allow an export, pass --i-have-permission.",
        )


def _file_name(clip_id: str) -> str:
    """The clip_id as a path without suffix, or its escaped key where it cannot be one, or could be mistaken."""
    parts = clip_id.split("/")
    plain = all(part and part[0] != "." and len(part.encode()) <= _MAX_NAME_BYTES for part in parts)
    unlike_keys = not re.search("[=~]", clip_id) and len(clip_id.encode()) <= 5 * _MAX_NAME_BYTES
    folders = not any(part.endswith((".npy", ".csv")) for part in parts[:-1])  # which are other clips' files
    if plain and unlike_keys and folders and not clip_id.endswith(FRAMES.removesuffix(".npy")):
        return clip_id
    return clip_key(clip_id).replace(".", "=2E")


def _begin(out: Path, facts: Mapping[str, Any]) -> None:
    """Makes the folder with its facts."""
    content = json_file(facts)
    if out.exists() and (not out.is_dir() or names(out)):
        path = out / FACTS
        if not path.is_file() or path.read_bytes() != content:
            todo = "Choose another folder."
            expected = "a new folder, or one that the same export began"
            raise InputError(out, expected=expected, got="other files", todo=todo)
    write_bytes(out / FACTS, content)


def _files(path: Path, track: Track, file_format: FileFormat) -> Iterator[tuple[Path, bytes]]:
    """The files of a clip; that of the values last."""
    values = track.values.astype(np.float32) if track.values.dtype.name == "bfloat16" else track.values
    frames = _frames(track)
    if file_format == "csv":
        yield path, _csv(values, frames, track.mask)
        return
    yield path.with_suffix(FRAMES), _npy(frames)
    yield path, _npy(values)


def _frames(track: Track) -> NDArray[Any]:
    """(T,) structured: time_s, mask, quality."""
    signals = [f"quality:{name} [{unit}]" for name, unit in track.quality_units.items()]
    frames = np.empty(track.num_frames, [("time_s", "<f8"), ("mask", "?"), *((name, "<f4") for name in signals)])
    frames["time_s"], frames["mask"] = track.times_s, track.mask
    for name, signal in zip(signals, track.quality.T, strict=True):
        frames[name] = signal
    return frames


def _npy(array: NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def _csv(values: NDArray[Any], frames: NDArray[Any], mask: NDArray[np.bool_]) -> bytes:
    """Nine digits hold any float32, and seventeen any float64."""
    num_frames, dim = values.shape
    text = io.StringIO(newline="")
    header = [*(frames.dtype.names or ()), *(f"feat_{d}" for d in range(dim))]
    csv.writer(text, lineterminator="\n").writerow(header)
    row_of = ",%.9g" * dim + "\n"
    for k in range(num_frames):
        time_s, valid, *quality = frames[k].item()
        text.write(f"{time_s!r},{valid:d}" + "".join(f",{q:.9g}" if q == q else "," for q in quality))
        text.write(row_of % tuple(values[k].tolist()) if mask[k] else "," * dim + "\n")
    return text.getvalue().encode()
