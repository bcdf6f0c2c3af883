"""Folders of face crops as Aff-Wild2 ships them: NAME/00001.jpg shows frame 1; a frame without the face has no file."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

import cv2

from ...data.atomic import PART, contained, make_folder, move_new, synced_below
from ...data.crops import AFFWILD2, CropTemplate
from ...data.errors import InputError
from ...data.hashing import file_sha256
from ...data.manifest import VIDEO_SUFFIXES, Source
from ..decode.frames import Frames, Pixels
from ..decode.request import DecodeOptions
from .align import FaceCropper
from .detection import detect_faces
from .finder import FaceFinder
from .people import FaceReport, PersonResult, decode_person, name_people, split_people
from .tracking import choose_person

_JPEG_QUALITY = 95
_BLACK = (0, 0, 0)


class NoFaceError(InputError):
    """A recording that does not show the person."""


@dataclass
class CropFolders:
    """The result of `write_crop_folders`.

    Args:
        out: the folder of all folders.
        written: name of a folder -> findings about the faces.
        skipped: folders that were there already.
        failures: `{"clip_id", "reason"}` of the clips without a folder.
    """

    out: str
    written: dict[str, FaceReport] = field(default_factory=dict[str, FaceReport])
    skipped: list[str] = field(default_factory=list[str])
    failures: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {**vars(self), "written": {name: report.to_json() for name, report in self.written.items()}}


def write_crop_folders(
    sources: Sequence[Source],
    out: Path,
    finder: FaceFinder,
    *,
    person: str = "largest",
    template: CropTemplate = AFFWILD2,
    num_threads: int = 1,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> CropFolders:
    """Writes a folder of crops for each clip, whole or not at all; a folder that is there already stays as it is.

    Args:
        sources: whole recordings. Clip `a/video5.mp4` becomes `a/video5`, `a/video5.mp4#left` becomes `a/video5_left`.
        out: the folder of all folders.
        finder: detects the faces; its margin is not used.
        person: "largest"; "left", "right" or "all" make a folder for each such person.
        template: of the crops.
        num_threads: clips at work at a time.
        tick: called with the number of clips that are done, and of all.
    """
    result = CropFolders(str(out))
    clips = name_people(sources, person)
    owners: dict[str, str] = {}

    def write(source: Source, beat: Callable[[], None]) -> None:
        for clip in people_of(source, finder, beat) if person == "all" and not source.person else [source]:
            name = folder_name(clip.clip_id)
            if owners.setdefault(name, clip.clip_id) != clip.clip_id:
                todo = "Write one of them elsewhere."
                raise InputError(clip.clip_id, f"its folder {name} would be that of {owners[name]}", todo=todo)
            if (place := contained(out, name)).exists():
                result.skipped.append(name)
            else:
                result.written[name] = write_crop_folder(clip, place, finder, template, beat)

    with contextlib.closing(_each(write, clips, num_threads)) as ends:
        for done, (source, error) in enumerate(ends, 1):
            if error:
                result.failures.append({"clip_id": source.clip_id, "reason": error.about(source.clip_id)})
            tick(done, len(clips))
    return result


def folder_name(clip_id: str) -> str:
    """Returns the name of a clip's crops: `a/video5` for `a/video5.mp4`, `video5_left` for `video5.mp4#left`."""
    name, _, person = clip_id.partition("#")
    path = PurePosixPath(name)
    stem = path.with_suffix("") if path.suffix.lower() in VIDEO_SUFFIXES else path
    return f"{stem}_{person}" if person else str(stem)


def _each(
    write: Callable[[Source, Callable[[], None]], None], clips: Sequence[Source], num_threads: int
) -> Generator[tuple[Source, InputError | None], None, None]:
    """Yields each clip, in order, with the error that ended it, or None.

    Where it ends early, as by Ctrl-C, no other clip is begun, and those at work end at their next beat.
    """
    over = threading.Event()

    def beat() -> None:
        if over.is_set():
            raise CancelledError

    pool = ThreadPoolExecutor(num_threads, "sage-va-faces")
    try:
        for clip, job in [(clip, pool.submit(write, clip, beat)) for clip in clips]:
            try:
                job.result()
                yield clip, None
            except InputError as error:
                yield clip, error
    finally:
        over.set()
        pool.shutdown(cancel_futures=True)


def people_of(source: Source, finder: FaceFinder, beat: Callable[[], None] = lambda: None) -> list[Source]:
    """Returns a clip for everyone in a recording, as `--person all` does; errors as `split_people`."""
    options = DecodeOptions(beat=beat)
    return split_people(source, detect_faces(source, file_sha256(_recording(source)), finder, options))


def write_crop_folder(
    source: Source,
    place: Path,
    finder: FaceFinder,
    template: CropTemplate = AFFWILD2,
    beat: Callable[[], None] = lambda: None,
) -> FaceReport:
    """Writes the crops of one person, `00001.jpg` for frame 1, into a folder that appears when it is complete.

    Args:
        source: a whole recording; its `person` names who is cropped.
        place: the folder.
        finder: detects the faces; its margin is not used.
        template: of the crops.
        beat: called while images are decoded; an exception ends the work.

    Raises:
        InputError: if the recording cannot be decoded, or is a cut. NoFaceError: if it does not show the person.
    """
    options = DecodeOptions(beat=beat)
    detections = detect_faces(source, file_sha256(_recording(source)), finder, options)
    images = choose_person(detections, source.person).images
    if not images:
        who = f"the person {source.person!r}" if source.person else "a face"
        got, todo = f"none in {len(detections.times_s)} frames", "Leave the clip out, or try another detector."
        raise NoFaceError(source.clip_id, expected=who, got=got, todo=todo)
    size, numbers = (template.size, template.size), iter(images)
    cropped = decode_person(
        source, options, detections, lambda face_of: FaceCropper(size, _BLACK, template.margin, face_of)
    )
    with _new_folder(place) as folder:
        for part in cropped:
            for pixels in part.pixels if isinstance(part, Frames) else ():
                _write_jpeg(folder / f"{next(numbers) + 1:05d}.jpg", pixels)
            if isinstance(part, PersonResult):
                return part.faces
    raise AssertionError("decoding ends with a result")


@dataclass(frozen=True)
class CroppedClips:
    """The result of `add_crops`.

    Args:
        clips: with crops.
        failures: clip_id -> reason, of the others.
        without_face: clips whose folder is empty, since no frame shows the person.
    """

    clips: list[Source]
    failures: dict[str, str]
    without_face: list[str]


def add_crops(
    sources: Sequence[Source],
    folder: Path,
    finder: FaceFinder,
    *,
    person: str = "largest",
    template: CropTemplate = AFFWILD2,
    num_threads: int = 1,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> CroppedClips:
    """Returns clips that all have crops, written below a folder where there were none.

    Args:
        sources: the clips.
        folder: for the crops.
        finder, person, template, num_threads, tick: as for `write_crop_folders`.
    """
    failures: dict[str, str] = {}
    clips: list[Source] = []
    for source in name_people([source for source in sources if source.crops is None], person):
        try:
            clips += people_of(source, finder) if person == "all" and not source.person else [source]
        except InputError as error:
            failures[source.clip_id] = error.about(source.clip_id)
    cropped, without_face = (
        [replace(clip, crops=folder / str(number)) for number, clip in enumerate(clips)],
        list[str](),
    )

    def write(clip: Source, beat: Callable[[], None]) -> None:
        assert clip.crops is not None, "it has just been set"
        try:
            write_crop_folder(clip, clip.crops, finder, template, beat)
        except NoFaceError:
            clip.crops.mkdir(parents=True)
            without_face.append(clip.clip_id)

    with contextlib.closing(_each(write, cropped, num_threads)) as ends:
        for done, (clip, error) in enumerate(ends, 1):
            if error:
                failures[clip.clip_id] = error.about(clip.clip_id)
            tick(done, len(cropped))
    whole = [replace(clip, person=None) for clip in cropped if clip.clip_id not in failures]  # crops show one person
    ready = sorted([*whole, *(source for source in sources if source.crops)], key=lambda clip: clip.clip_id)
    return CroppedClips(ready, failures, sorted(without_face))


def _recording(source: Source) -> Path:
    if source.path is None or not source.path.is_file():
        got = f"none at {source.place}"
        raise InputError(source.clip_id, expected="a recording", got=got, todo="Correct the path.")
    if source.start_s is not None or source.end_s is not None:
        todo = "Leave start_s and end_s out."
        raise InputError(source.clip_id, "crops are numbered by the frames of a whole recording", todo=todo)
    return source.path


@contextlib.contextmanager
def _new_folder(place: Path) -> Iterator[Path]:
    """Yields a folder to write to; it gets its name where the block ends without an error."""
    make_folder(place.parent)
    part = place.with_name(f"{PART}{place.name[:200]}-{uuid4().hex[:8]}")  # another process may write the same
    part.mkdir()
    try:
        with synced_below(part):
            yield part
        move_new(part, place)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_jpeg(path: Path, pixels: Pixels) -> None:
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality)
    assert done, "OpenCV writes JPEG"
    path.write_bytes(encoded.tobytes())
