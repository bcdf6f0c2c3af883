"""Places of the face in the images of a recording: where the features of a stream came from, for a page to show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.errors import InputError
from ..data.manifest import Source
from .decode.request import DecodeOptions
from .faces.align import similarity, template
from .faces.detection import detect_faces
from .faces.finder import FaceFinder
from .faces.tracking import choose_person
from .media_hashes import MediaHashes

SIDE = 224  # pixels of the crop that is shown


@dataclass(frozen=True)
class FacePlaces:
    """Where the face of a clip is, image by image.

    Args:
        times_s: (T,) times of the images on the recording's clock.
        matrices: (T, 6) a, b, c, d, e, f of the transform from pixels of the upright recording to those of a square
            crop: x' = a x + c y + e, y' = b x + d y + f; NaN where there is no face.
        width: of the upright recording in pixels.
        side: of the crop in pixels.
    """

    times_s: NDArray[np.float64]
    matrices: NDArray[np.float64]
    width: int
    side: int = SIDE

    def to_json(self) -> dict[str, Any]:
        """Returns plain values; None for an image without a face."""
        rows = [None if np.isnan(row[0]) else [round(float(value), 4) for value in row] for row in self.matrices]
        times_s = [round(float(time_s), 4) for time_s in self.times_s]
        return {"times_s": times_s, "matrices": rows, "width": self.width, "side": self.side}


def detects_faces(fingerprint: Mapping[str, Any]) -> bool:
    """True for the fingerprint of a stream whose encoder took faces that the extraction detected."""
    return isinstance(fingerprint.get("preprocessing", {}).get("faces"), Mapping)


def face_places(source: Source, fingerprint: Mapping[str, Any], beat: Callable[[], None] = lambda: None) -> FacePlaces:
    """Returns where the face is that a stream was made of; detections of an earlier run are not repeated.

    Args:
        source: the clip, with its recording; its `person` names who is cropped.
        fingerprint: of a stream that `detects_faces`.
        beat: called while images are decoded; an exception ends the work.

    Raises:
        InputError: if the detector is not available as it was, or the recording cannot be decoded.
    """
    if source.path is None or not source.path.is_file():
        raise InputError(source.clip_id, expected="a recording", got="none", todo="Correct the path.")
    finder = FaceFinder.of_fingerprint(fingerprint["preprocessing"]["faces"])
    fps = fingerprint.get("fps", "native")
    options = DecodeOptions(fps=None if fps == "native" else float(fps), beat=beat)
    detections = detect_faces(source, MediaHashes().of_file(source.path), finder, options)
    person = choose_person(detections, source.person)
    matrices = np.full((len(detections.times_s), 6), np.nan)
    for image, face in zip(person.images, person.rows, strict=True):
        matrix = similarity(face[4:14].reshape(5, 2), template(SIDE, finder.margin))
        matrices[image] = matrix.T.reshape(-1)
    return FacePlaces(detections.times_s, matrices, detections.width)
