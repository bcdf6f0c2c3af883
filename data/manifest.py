"""The work list of an extraction: clips from files, folders, globs and CSV or JSONL manifests."""

from __future__ import annotations

import csv
import glob
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError, did_you_mean
from .file_tree import walk
from .store.fingerprint import check_clip_id

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("3gp", "asf", "avi", "flv", "m2ts", "m4v", "mkv", "mov", "mp4"),
        *("mpeg", "mpg", "mts", "mxf", "ogv", "ts", "vob", "webm", "wmv"),
    )
)
AUDIO_SUFFIXES = frozenset(
    (".aac", ".aif", ".aiff", ".amr", ".au", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma")
)
MANIFEST_SUFFIXES = frozenset({".csv", ".jsonl"})
COLUMNS = ("clip_id", "path", "crops", "subject_id", "start_s", "end_s", "fps", "person", "gender", "age", "language")
PERSONS = ("largest", "left", "right")
_CROP_NAME = re.compile(r"\d{5,}\.(jpe?g|png)", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """One clip of the work list.

    Args:
        clip_id: its name in the cache.
        path: the recording; None where only crops exist.
        crops: folder of face crops `00001.jpg`, …: number n shows frame n - 1, an absent number is a masked frame.
        subject_id: the person shown.
        start_s: first instant of the clip, seconds on the recording's own clock; None = its start.
        end_s: the instant at which the clip ends, itself excluded; None = the recording's end.
        fps: images per second of a crop folder that has no recording to take times from.
        person: the person to crop: "largest", "left", "right", or a number from 0 in order of first appearance; None =
            not given.
        gender, age, language: of the person, in the words of the manifest; they change no features and are not cached.
        media_path: recorded in the cache; relative to the folder or manifest that names the recording.
    """

    clip_id: str
    path: Path | None = None
    crops: Path | None = None
    subject_id: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    fps: float | None = None
    media_path: str = ""
    person: str | None = None
    gender: str | None = None
    age: str | None = None
    language: str | None = None

    @property
    def place(self) -> Path:
        """The recording, or the crop folder where there is none."""
        place = self.path or self.crops
        assert place is not None, "a source has a path or crops"
        return place


def find_sources(media: Sequence[str], others: Counter[str] | None = None) -> list[Source]:
    """Returns the clips that files, folders, globs and manifests name, sorted by clip_id.

    A folder is searched with all that lies below it, for media files and for crop folders; hidden names are left out.
    A clip of a folder or glob is named by its path relative to it, a single file by its name. A file that a manifest
    names may be absent: it becomes a failure of that clip later.

    Args:
        media: paths and globs.
        others: counts the files of folders and globs that are no media, by suffix.

    Raises:
        InputError: if something named does not exist or holds nothing, a manifest is malformed, or two different
            media would get one clip_id.
    """
    by_id: dict[str, Source] = {}
    others = Counter() if others is None else others
    for text in media:
        sources = list(_sources_of(text, others))
        if not sources:
            todo = "Check the path; a folder or glob is searched for media files and folders of numbered crops."
            raise InputError(text, expected="at least one recording", got="none", todo=todo)
        for source in sources:
            known = by_id.setdefault(source.clip_id, source)
            if known != source and _identity(known) != _identity(source):
                raise InputError(
                    f"clip_id {source.clip_id!r}",
                    expected="one clip",
                    got=f"two: {known.place} and {source.place}",
                    todo="Give a folder above both, or name them in a manifest.",
                )
    return [by_id[clip_id] for clip_id in sorted(by_id)]


def recordings_in(folder: Path) -> list[Source]:
    """Returns the recordings in a folder and all below it, named as by `find_sources`; none where it is not there."""
    return [source for source in _scan(folder, folder, Counter()) if source.path is not None]


def is_crop_name(name: str) -> bool:
    """True for the name of a numbered image of a crop folder."""
    return _CROP_NAME.fullmatch(name) is not None


def crop_numbers(folder: Path) -> dict[int, Path]:
    """The numbered images of a crop folder by their number, in order.

    Raises:
        InputError: if two images have one number.
    """
    images: dict[int, Path] = {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if is_crop_name(entry.name))
    for name in names:
        number = int(name.partition(".")[0])
        if number in images:
            got = f"{images[number].name} and {name}"
            raise InputError(folder, expected="one image per number", got=got, todo="Remove one of them.")
        images[number] = folder / name
    return dict(sorted(images.items()))


def _identity(source: Source) -> tuple[object, ...]:
    places = [os.path.realpath(place) if place else None for place in (source.path, source.crops)]
    return (*places, source.start_s, source.end_s, source.fps, source.person)


def _sources_of(text: str, others: Counter[str]) -> Iterator[Source]:
    place = Path(text)
    if place.is_dir():
        yield from _scan(place, place, others)
    elif place.is_file() and place.suffix.lower() in MANIFEST_SUFFIXES:
        yield from _read_manifest(place)
    elif place.is_file():
        yield _of_file(place, place.parent)
    elif glob.has_magic(text):
        yield from _expand(text, others)
    else:
        todo = "Check the path."
        raise InputError(text, expected="a file, folder, glob or manifest", got="nothing of that name", todo=todo)


def _of_file(path: Path, root: Path) -> Source:
    name = path.relative_to(root).as_posix()
    return Source(name, path=path, media_path=name)


def _is_media(name: str) -> bool:
    return Path(name).suffix.lower() in VIDEO_SUFFIXES | AUDIO_SUFFIXES


def _scan(folder: Path, root: Path, others: Counter[str]) -> Iterator[Source]:
    visited: set[str] = set()
    for parent, folders, files in walk(folder, follow_links=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            if _is_media(name):
                yield _of_file(Path(parent, name), root)
            elif not is_crop_name(name):
                others[Path(name).suffix.lower()] += 1
        if any(map(is_crop_name, files)):
            name = Path(parent).relative_to(root).as_posix()
            name = Path(real).name if name == "." else name
            yield Source(name, crops=Path(parent), media_path=name)


def _expand(pattern: str, others: Counter[str]) -> Iterator[Source]:
    plain = Path(pattern).parts[:-1]
    magic = next((i for i, part in enumerate(plain) if glob.has_magic(part)), len(plain))
    root = Path(*plain[:magic])
    for text in sorted(glob.glob(pattern, recursive=True)):
        place = Path(text)
        if place.is_dir():
            yield from _scan(place, root, others)
        elif _is_media(place.name):
            yield _of_file(place, root)
        else:
            others[place.suffix.lower()] += 1


def _read_manifest(path: Path) -> Iterator[Source]:
    places: dict[str, str] = {}
    try:
        for line, row in _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path):
            place = f"{path}:{line}"
            source = _of_row(row, path.parent, place)
            if source.clip_id in places:
                got = f"{source.clip_id!r} again, first at {places[source.clip_id]}"
                raise _row_error(place, "a clip_id that no other row has", got)
            places[source.clip_id] = place
            yield source
    except UnicodeDecodeError as error:
        got = f"other bytes ({error.reason})"
        raise InputError(path, expected="UTF-8 text", got=got, todo="Save it as UTF-8.") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        _check_columns(header, f"{path}:1", header=True)
        try:
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise _row_error(f"{path}:{reader.line_num}", f"{len(header)} cells", str(len(cells)))
                yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))
        except csv.Error as error:
            raise _row_error(f"{path}:{reader.line_num}", "a row of CSV", str(error)) from error


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise _row_error(f"{path}:{line}", "one JSON object on the line", str(error)) from error
            if not isinstance(row, dict):
                raise _row_error(f"{path}:{line}", "one JSON object on the line", type(row).__name__)
            _check_columns(list(row), f"{path}:{line}", header=False)
            yield line, row


def _check_columns(names: Sequence[str], place: str, *, header: bool) -> None:
    for name in names:
        if name not in COLUMNS:
            todo = did_you_mean(name, COLUMNS, "Remove it.")
            raise InputError(place, expected=f"columns among {', '.join(COLUMNS)}", got=repr(name), todo=todo)
    if len(set(names)) != len(names):
        raise _row_error(place, "each column once", "one twice")
    if header and not ({"clip_id"} < set(names) and {"path", "crops"} & set(names)):
        raise _row_error(place, "a header with clip_id and path (or crops)", ",".join(names) or "no line")


def _of_row(row: Mapping[str, Any], root: Path, place: str) -> Source:
    numbers = {name: _number(row.get(name), name, place) for name in ("start_s", "end_s", "fps")}
    texts = {name: _text(row.get(name), name, place) for name in COLUMNS if name not in numbers}
    clip_id, path, crops = texts.pop("clip_id"), texts.pop("path"), texts.pop("crops")
    if clip_id is None:
        raise _row_error(place, "a clip_id", "an empty one")
    try:
        check_clip_id(clip_id)
    except InputError as error:
        raise error.at(place) from error
    if path is None and crops is None:
        raise _row_error(place, "a path, crops or both", "neither")
    _check_numbers(numbers, place, has_path=path is not None)
    person = texts["person"]
    if person is not None and person not in PERSONS and not person.isdecimal():
        raise _row_error(place, f"person as {' | '.join(PERSONS)} or a number from 0", repr(person))
    return Source(
        clip_id=clip_id,
        path=root / path if path else None,
        crops=root / crops if crops else None,
        media_path=path or crops or "",
        start_s=numbers["start_s"],
        end_s=numbers["end_s"],
        fps=numbers["fps"],
        **texts,
    )


def _check_numbers(numbers: Mapping[str, float | None], place: str, *, has_path: bool) -> None:
    start_s, end_s, fps = numbers["start_s"], numbers["end_s"], numbers["fps"]
    if start_s is not None and end_s is not None and end_s <= start_s:
        raise _row_error(place, "end_s after start_s", f"{start_s:g} to {end_s:g}")
    if fps is not None and (has_path or fps <= 0):
        got = f"fps {fps:g}" + (" for a path, which has its own clock" if has_path else "")
        raise _row_error(place, "fps above 0, for crops without a path", got)


def _text(value: object, name: str, place: str) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str | int):
        raise _row_error(place, f"{name} as text", repr(value))
    return str(value)


def _number(value: object, name: str, place: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _row_error(place, f"{name} as a number", repr(value))
    return number


def _row_error(place: str, expected: str, got: str) -> InputError:
    return InputError(place, expected=expected, got=got, todo="Correct the manifest.")
