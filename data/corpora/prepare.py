"""From a corpus on disk to a folder that `extract` and `train` take: manifest, labels, split, test list, report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..atomic import contained
from ..errors import InputError
from .base import ListedClip, ListedCorpus, PublishedCorpus, one_line
from .disk import Disk, by_stem
from .gold import AnnotatorAgreement, mean_agreement
from .output import is_listed, not_new, with_own_audio, write_prepared
from .report import Preparation, PreparedClip

Header = tuple[int | None, bool]  # frames of a recording, and whether it has sound


def prepare(
    corpus: PublishedCorpus,
    root: Path,
    out: Path,
    *,
    write: bool = True,
    header_of: Callable[[Path], Header] | None = None,
) -> Preparation:
    """Reads a corpus and writes what extraction and training need.

    Args:
        corpus: knows its layout.
        root: the folder that holds it.
        out: the folder to write, which must be new: `manifest.csv`, `audio.csv` where the sound of videos lies in
            files beside them, `labels/`, `split.csv`, `test.txt` where there is a test set, and the report,
            `prepared.json`. It appears whole or not at all.
        write: False only reports.
        header_of: reads the header of a recording, or raises InputError where it cannot be opened; None = recordings
            are not opened.

    Raises:
        InputError: if the folder does not hold the corpus, or `out` is not new.
    """
    if write and not out.name:
        raise InputError(out, "a new folder is made, and this one is there", todo="Name another --out.")
    if write and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        raise not_new(out)
    disk = Disk.scan(root)
    listed = corpus.read(disk)
    _check_ids(listed.clips)
    has_crops = any(clip.source.crops for clip in listed.clips)
    clips, headers = _with_headers(listed.clips, header_of)
    sounds = _separate_sounds(clips, headers, disk)
    rows = [_row(clip, headers.get(clip.source.path or Path(), (None, True)), sounds, has_crops) for clip in clips]
    report = _report(corpus, listed, rows, sounds, has_crops, out if write else None)
    if write:
        write_prepared(out, clips, sounds, report)
    return report


def _check_ids(clips: Sequence[ListedClip]) -> None:
    twice = [clip_id for clip_id, count in Counter(clip.source.clip_id for clip in clips).items() if count > 1]
    if twice:
        raise InputError(twice[0], "the corpus has two clips of this name", todo="Remove one, or rename it.")
    for clip in clips:
        contained(Path(), *clip.source.clip_id.split("/"))


def _with_headers(
    clips: Sequence[ListedClip], header_of: Callable[[Path], Header] | None
) -> tuple[list[ListedClip], dict[Path, Header]]:
    """Returns the headers of all recordings; one that cannot be opened is a problem of its clips."""
    headers: dict[Path, Header] = {}
    problems: dict[Path | None, str] = {}
    if header_of is None:
        return list(clips), headers
    for path in sorted({clip.source.path for clip in clips if clip.source.path}):
        try:
            headers[path] = header_of(path)
        except InputError as error:
            problems[path] = f"the recording cannot be opened: {one_line(error, path)}"
    return [
        replace(clip, problems=(*clip.problems, problems[clip.source.path])) if clip.source.path in problems else clip
        for clip in clips
    ], headers


def _separate_sounds(clips: Sequence[ListedClip], headers: Mapping[Path, Header], disk: Disk) -> dict[Path, list[Path]]:
    """Returns video without sound -> the audio files of its name."""
    audios = by_stem(disk.audios)
    videos = {clip.source.path for clip in clips if clip.source.path}
    return {path: audios.get(path.stem, []) for path in videos if path in headers and not headers[path][1]}


def _row(clip: ListedClip, header: Header, sounds: Mapping[Path, list[Path]], has_crops: bool) -> PreparedClip:
    labels, crops, num_frames = clip.labels, clip.crops, header[0]
    num_rows = None if labels is None else len(labels.va)
    by_frame = labels is not None and labels.times_s is None
    counts = [count for count in (num_frames, num_rows if by_frame else None) if count is not None]
    length = min(counts, default=None)  # headers may be wrong, and rows one too many
    notes = {**clip.notes, **_sound_note(clip, sounds)}
    if by_frame and num_frames is not None and num_rows != num_frames:
        more = num_rows == num_frames + 1
        notes[f"label rows differ from frames{', by one row' * more}"] = (
            f"{num_rows} rows, {num_frames} frames by the header"
        )
    if crops is not None and num_frames is not None and crops[-1] > num_frames:
        notes["crops beyond the last frame"] = f"up to number {crops[-1]}, {num_frames} frames by the header"
    shown = None if crops is None or length is None else int(((crops > 0) & (crops <= length)).sum())
    return PreparedClip(
        clip_id=clip.source.clip_id,
        part=clip.part,
        listed=is_listed(clip, has_crops),
        num_frames=num_frames,
        num_label_rows=num_rows,
        num_not_annotated=None if labels is None else int((~labels.mask).sum()),
        num_crops=None if crops is None else len(crops),
        num_without_crop=None if shown is None or length is None else length - shown,
        problems=list(clip.problems),
        notes=notes,
    )


def _sound_note(clip: ListedClip, sounds: Mapping[Path, list[Path]]) -> dict[str, str]:
    files = sounds.get(clip.source.path or Path())
    if files is None or len(files) == 1:
        return {}
    return {"no sound": f"{len(files)} audio files of this name, none taken" if files else "its video has none"}


def _report(
    corpus: PublishedCorpus,
    listed: ListedCorpus,
    clips: list[PreparedClip],
    sounds: Mapping[Path, list[Path]],
    has_crops: bool,
    out: Path | None,
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
        num_audio=len(with_own_audio([clip.source for clip in listed.clips if is_listed(clip, has_crops)], sounds)),
        gold=corpus.gold,
        agreement={target: mean_agreement(values) for target, values in agreements.items()},
        clips=clips,
        problems=list(listed.problems),
        notes=list(listed.notes),
        sample=None if listed.sample is None else str(listed.sample),
    )
