"""Clips of single people: their names, and a second pass over a clip that crops one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.errors import InputError
from ...data.manifest import Source
from ..decode.audio import Samples
from ..decode.frames import Frames
from ..decode.reader import decode
from ..decode.request import DecodeOptions, DecodeResult
from .align import FaceCropper, FaceOf
from .tracking import Detections, PersonTrack, choose_person, lasting, track_people


def name_people(sources: Sequence[Source], person: str) -> list[Source]:
    """Returns the clips of `--person`: with "left" and "right", clips `<clip_id>#left` and `#right` of their own.

    Clips whose manifest names the person stay as they are; "all" is split where the faces are detected.

    Args:
        sources: the clips.
        person: "largest", "left", "right" or "all".
    """
    if person in ("largest", "all"):
        return list(sources)
    return [
        source if source.person else replace(source, clip_id=f"{source.clip_id}#{person}", person=person)
        for source in sources
    ]


def split_people(source: Source, detections: Detections) -> list[Source]:
    """Returns clips `<clip_id>#0`, `#1`, … of everyone seen for longer than a second, in order of appearance.

    Raises:
        InputError: if no face is seen for that long.
    """
    people = lasting(track_people(detections), detections.times_s)
    if not people:
        got = f"none in {len(detections.times_s)} images"
        todo = "Leave the clip out, or extract it with --person largest to have it masked."
        raise InputError(source.clip_id, expected="a face seen for longer than 1 s", got=got, todo=todo)
    return [replace(source, clip_id=f"{source.clip_id}#{k}", person=str(k)) for k in range(len(people))]


def decode_person(
    source: Source, options: DecodeOptions, detections: Detections, cropper: Callable[[FaceOf], FaceCropper]
) -> Iterator[Frames | Samples | DecodeResult]:
    """Decodes a clip as `decode` does, to crops of the person that it shows; other images are not shown.

    Args:
        source: the clip; its `person` names who is cropped.
        options: as for `decode`, with another transform.
        detections: the faces of the same cut at the same rate.
        cropper: builds the transform from a function that returns the face of an image, numbered as in `detections`.

    Raises:
        InputError: if the recording cannot be decoded, or has changed since the faces were detected.
    """
    person = choose_person(detections, source.person)
    face_of = dict(zip(person.images, person.rows, strict=True)).get
    for part in decode(source, replace(options, transform=cropper(face_of), faces="full")):
        yield PersonResult.of(source, part, detections, person) if isinstance(part, DecodeResult) else part


@dataclass(frozen=True)
class FaceReport:
    """Findings about the faces of a clip.

    Args:
        num_images: images in which faces were detected or missing.
        num_images_with_face: images that show the person of the clip.
        longest_absence_s: longest time without that person, in seconds.
        num_people: people seen for longer than a second.
    """

    num_images: int
    num_images_with_face: int
    longest_absence_s: float
    num_people: int

    @classmethod
    def of(cls, detections: Detections, detected_s: NDArray[np.float64]) -> FaceReport:
        """Reports on the detections of a clip; `detected_s` are the times of the images that show the person."""
        times_s = detections.times_s
        gaps_s = np.diff([times_s[0], *detected_s, times_s[-1]])
        absence_s = float(gaps_s.max()) if len(detected_s) < len(times_s) else 0.0
        return cls(len(times_s), len(detected_s), absence_s, len(lasting(track_people(detections), times_s)))

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class PersonResult(DecodeResult):
    """Times and reports of a clip of which one person was cropped.

    Args:
        detected_s: (N,) times of the images that show the face.
        faces: findings about the faces, also in `visual_report`.
    """

    detected_s: NDArray[np.float64]
    faces: FaceReport

    @classmethod
    def of(cls, source: Source, result: DecodeResult, detections: Detections, person: PersonTrack) -> PersonResult:
        """Converts a result from numbers of images to numbers of crops.

        Raises:
            InputError: if the number of images is not that of the first pass.
        """
        num_images = int(result.shown.max(initial=-1)) + 1
        if num_images != len(detections.times_s):
            expected = f"the {len(detections.times_s)} images in which faces were detected"
            todo = "Do not change the file while it is read, and run again."
            raise InputError(source.clip_id, expected=expected, got=f"{num_images}", todo=todo)
        crops = np.full(num_images, -1, np.int64)
        crops[person.images] = np.arange(len(person.images))
        detected_s = detections.times_s[person.images]
        faces = FaceReport.of(detections, detected_s)
        report = {**result.visual_report, "faces": faces.to_json()}
        parts = {**vars(result), "shown": crops[result.shown], "visual_report": report}
        return cls(**parts, detected_s=detected_s, faces=faces)

    def since_detection_s(self) -> NDArray[np.float64]:
        """Returns (T,) seconds since the last detection: 0 at steps that show the face, NaN before the first."""
        last = np.searchsorted(self.detected_s, self.times_s, side="right") - 1
        before = np.append(self.detected_s, np.nan)[last]  # index -1, no detection before, is the appended NaN
        return np.where(self.shown >= 0, 0.0, self.times_s - before)
