"""From a corpus on disk to a folder that `extract` and `train` take: manifest, labels, split, test list, report."""

from __future__ import annotations

import csv
import io
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import contained, json_file, make_folder, move_new, part_of, synced_below, write_unsynced
from ..errors import InputError
from ..labels import NOT_ANNOTATED, OFFICIAL_PARTS, Labels, label_names
from ..manifest import COLUMNS, Source
from .base import ListedClip, ListedCorpus, PublishedCorpus, one_line
from .disk import PREPARED, Disk
from .gold import AnnotatorAgreement, mean_agreement

MANIFEST, LABELS, SPLIT, TEST = "manifest.csv", "labels", "split.csv", "test.txt"
FOLDERS = {part: folder for folder, part in OFFICIAL_PARTS.items()}
FrameCount = Callable[[Path], int | None]


@dataclass(frozen=True)
class PreparedClip:
    """One clip of the report.

    part: train, val or test; None where there is no official split. listed: True if the manifest has it.
    num_frames: by the recording's header; None where that does not say, or is not read. num_label_rows,
    num_not_annotated: of the labels. num_crops, num_without_crop: numbered images, and frames that have none.
    """

    clip_id: str
    part: str | None
    listed: bool
    num_frames: int | None
    num_label_rows: int | None
    num_not_annotated: int | None
    num_crops: int | None
    num_without_crop: int | None
    problems: list[str]
    notes: dict[str, str]


@dataclass(frozen=True)
class Preparation:
    """The report of a corpus.

    out: the folder that was written; None for a report alone. has_crops: True if the manifest names crops.
    num_sources: clips of the manifest. agreement: target -> mean over the clips; {} without several annotators.
    gold: how annotators became one.
    """

    title: str
    licence: str
    restricted: bool
    subjects: str
    out: str | None
    has_crops: bool
    num_sources: int
    gold: str
    agreement: dict[str, AnnotatorAgreement]
    clips: list[PreparedClip]
    problems: list[str]
    notes: list[str]

    @property
    def num_problems(self) -> int:
        """Problems of clips and of the whole."""
        return len(self.problems) + sum(len(clip.problems) for clip in self.clips)

    def count(self, part: str | None) -> int:
        """Returns the number of clips of a part."""
        return sum(clip.part == part for clip in self.clips)

    def to_json(self) -> dict[str, Any]:
        """Returns the report as plain JSON; a number that is not defined is null."""
        values = asdict(self)
        for agreement in values["agreement"].values():
            agreement |= {key: None for key, value in agreement.items() if not math.isfinite(value)}
        return {**values, "num_problems": self.num_problems}


def prepare(
    corpus: PublishedCorpus, root: Path, out: Path, *, write: bool = True, frames_of: FrameCount | None = None
) -> Preparation:
    """Reads a corpus and writes what extraction and training need.

    Args:
        corpus: knows its layout.
        root: the folder that holds it.
        out: the folder to write, which must be new: `manifest.csv`, `labels/`, `split.csv`, `test.txt` where there is
            a test set, and the report, `prepared.json`. It appears whole or not at all.
        write: False only reports.
        frames_of: returns the number of frames that a recording's header promises, None where it promises none, or
            raises InputError where it cannot be opened; None = recordings are not opened.

    Raises:
        InputError: if the folder does not hold the corpus, or `out` is not new.
    """
    if write and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        raise InputError(out, "there are files already", todo="Choose another --out, or remove it.")
    listed = corpus.read(Disk.scan(root))
    _check_ids(listed.clips)
    has_crops = any(clip.source.crops for clip in listed.clips)
    counted = _with_frames(listed.clips, frames_of)
    clips = [_row(clip, num_frames, has_crops) for clip, num_frames in counted]
    report = _report(corpus, listed, clips, has_crops, out if write else None)
    if write:
        _write(out, [clip for clip, _ in counted], report)
    return report


def _check_ids(clips: Sequence[ListedClip]) -> None:
    twice = [clip_id for clip_id, count in Counter(clip.source.clip_id for clip in clips).items() if count > 1]
    if twice:
        raise InputError(twice[0], "the corpus has two clips of this name", todo="Remove one, or rename it.")
    for clip in clips:
        contained(Path(), *clip.source.clip_id.split("/"))


def _with_frames(clips: Sequence[ListedClip], frames_of: FrameCount | None) -> list[tuple[ListedClip, int | None]]:
    """Returns each clip with the number of its frames; a recording that cannot be opened is a problem of its clips."""
    counts: dict[Path, tuple[int | None, str | None]] = {}
    for path in {clip.source.path for clip in clips} - {None} if frames_of else ():
        assert path is not None
        assert frames_of is not None
        try:
            counts[path] = frames_of(path), None
        except InputError as error:
            counts[path] = None, f"the recording cannot be opened: {one_line(error, path)}"
    counted = []
    for clip in clips:
        num_frames, problem = counts.get(clip.source.path, (None, None)) if clip.source.path else (None, None)
        counted.append((replace(clip, problems=(*clip.problems, *([problem] if problem else []))), num_frames))
    return counted


def _row(clip: ListedClip, num_frames: int | None, has_crops: bool) -> PreparedClip:
    labels, crops = clip.labels, None if clip.crops is None else np.asarray(clip.crops)
    num_rows = None if labels is None else len(labels.va)
    by_frame = labels is not None and labels.times_s is None
    length = num_frames if num_frames is not None else num_rows if by_frame else None
    notes = dict(clip.notes)
    if by_frame and num_frames is not None and num_rows != num_frames:
        more = num_rows == num_frames + 1
        notes[f"label rows differ from frames{', by one row' * more}"] = f"{num_rows} rows, {num_frames} frames"
    if crops is not None and num_frames is not None and crops[-1] > num_frames:
        notes["crops beyond the last frame"] = f"up to number {crops[-1]}, {num_frames} frames"
    shown = None if crops is None or length is None else int(((crops > 0) & (crops <= length)).sum())
    return PreparedClip(
        clip_id=clip.source.clip_id,
        part=clip.part,
        listed=_is_listed(clip, has_crops),
        num_frames=num_frames,
        num_label_rows=num_rows,
        num_not_annotated=None if labels is None else int((~labels.mask).sum()),
        num_crops=None if crops is None else len(crops),
        num_without_crop=None if shown is None or length is None else length - shown,
        problems=list(clip.problems),
        notes=notes,
    )


def _is_listed(clip: ListedClip, has_crops: bool) -> bool:
    """True for a clip that can be extracted: it has a recording and, where the corpus has crops, its crops."""
    return clip.source.path is not None and (clip.source.crops is not None or not has_crops)


def _report(
    corpus: PublishedCorpus, listed: ListedCorpus, clips: list[PreparedClip], has_crops: bool, out: Path | None
) -> Preparation:
    agreements: dict[str, list[AnnotatorAgreement]] = {}
    for clip in listed.clips:
        for target, agreement in clip.agreement.items():
            agreements.setdefault(target, []).append(agreement)
    return Preparation(
        title=corpus.title,
        licence=corpus.licence,
        restricted=corpus.restricted,
        subjects=corpus.subjects,
        out=None if out is None else str(out),
        has_crops=has_crops,
        num_sources=sum(clip.listed for clip in clips),
        gold=corpus.gold,
        agreement={target: mean_agreement(values) for target, values in agreements.items()},
        clips=clips,
        problems=list(listed.problems),
        notes=list(listed.notes),
    )


def _write(out: Path, clips: Sequence[ListedClip], report: Preparation) -> None:
    """Writes all files beside the place of the folder, which then appears with all of them."""
    make_folder(out.parent)
    part = part_of(out)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        with synced_below(part):
            _write_files(part, out, clips, report)
        move_new(part, out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _write_files(part: Path, out: Path, clips: Sequence[ListedClip], report: Preparation) -> None:
    sources = [clip.source for clip in clips if _is_listed(clip, report.has_crops)]
    if sources:
        write_unsynced(part / MANIFEST, _table(_manifest(sources, out)))
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
