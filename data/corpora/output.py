"""The files of a prepared corpus, written as one folder that appears whole or not at all."""

from __future__ import annotations

import csv
import io
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np

from ..atomic import contained, json_file, make_folder, move_new, part_of, synced_below, write_unsynced
from ..errors import InputError
from ..labels import NOT_ANNOTATED, OFFICIAL_PARTS, Labels, label_names
from ..manifest import COLUMNS, Source
from .base import ListedClip
from .disk import PREPARED
from .report import Preparation

MANIFEST, AUDIO, LABELS, SPLIT, TEST = "manifest.csv", "audio.csv", "labels", "split.csv", "test.txt"
FOLDERS = {part: folder for folder, part in OFFICIAL_PARTS.items()}


def is_listed(clip: ListedClip, has_crops: bool) -> bool:
    """True for a clip that can be extracted: it has a recording and, where the corpus has crops, its crops."""
    return clip.source.path is not None and (clip.source.crops is not None or not has_crops)


def with_own_audio(sources: Sequence[Source], sounds: Mapping[Path, list[Path]]) -> list[Source]:
    """Returns the audio file of each clip whose video has no sound, under the clip's name."""
    return [
        Source(source.clip_id, path=sounds[source.path][0], subject_id=source.subject_id)
        for source in sources
        if source.path and len(sounds.get(source.path, [])) == 1
    ]


def write_prepared(
    out: Path, clips: Sequence[ListedClip], sounds: Mapping[Path, list[Path]], report: Preparation
) -> None:
    """Writes all files beside the place of the folder, which then appears with all of them.

    Raises:
        InputError: if another writer was first.
    """
    make_folder(out.parent)
    part = part_of(out.with_name(f"{out.name}-{uuid4().hex[:8]}"))  # another process may write the same
    part.mkdir()
    try:
        with synced_below(part):
            _write_files(part, out, clips, sounds, report)
        move_new(part, out)
        if part.exists():
            raise not_new(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def not_new(out: Path) -> InputError:
    """Returns the refusal of a folder that has files."""
    return InputError(out, "there are files already", todo="Choose another --out, or remove it.")


def _write_files(
    part: Path, out: Path, clips: Sequence[ListedClip], sounds: Mapping[Path, list[Path]], report: Preparation
) -> None:
    sources = [clip.source for clip in clips if is_listed(clip, report.has_crops)]
    for name, rows in ((MANIFEST, sources), (AUDIO, with_own_audio(sources, sounds))):
        if rows:
            write_unsynced(part / name, _table(_manifest(rows, out)))
    for clip in clips:
        if clip.labels is not None:
            folder = part / LABELS / FOLDERS[clip.part] if clip.part else part / LABELS
            name, content = _label_file(clip.source.clip_id, clip.labels)
            write_unsynced(contained(folder, *name.split("/")), content)
    parts = [(clip.source.clip_id, clip.part) for clip in clips if clip.part]
    if parts:
        write_unsynced(part / SPLIT, _table([("clip_id", "split"), *parts]))
    test = [f"{clip_id}\n" for clip_id, name in parts if name == "test"]
    if test:
        write_unsynced(part / TEST, "".join(test).encode())
    write_unsynced(part / PREPARED, json_file(report.to_json()))


def _manifest(sources: Sequence[Source], out: Path) -> list[Sequence[object]]:
    """Returns the header and rows of a manifest, without empty columns; paths are relative to its folder."""
    rows = [_cells(source, out) for source in sources]
    columns = [name for name in COLUMNS if any(name in row for row in rows)]
    return [columns, *([row.get(name, "") for name in columns] for row in rows)]


def _cells(source: Source, out: Path) -> dict[str, object]:
    cells = {name: getattr(source, name) for name in COLUMNS}
    base = os.path.realpath(out)
    for name in ("path", "crops"):
        cells[name] = None if cells[name] is None else os.path.relpath(os.path.realpath(cells[name]), base)
    return {name: value for name, value in cells.items() if value is not None}


def _label_file(clip_id: str, labels: Labels) -> tuple[str, bytes]:
    """Returns name and content: rows of frames as they are, others as `time_s,valence,arousal`."""
    name = label_names(clip_id)[0]
    if labels.times_s is None:
        return f"{name}.txt", labels.path.read_bytes()
    known = zip(labels.times_s, np.where(labels.va == NOT_ANNOTATED, np.nan, labels.va), strict=True)
    rows = [(f"{time_s:.6f}", *("" if math.isnan(v) else f"{v:.6g}" for v in va)) for time_s, va in known]
    return f"{name}.csv", _table([("time_s", "valence", "arousal"), *rows])


def _table(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
