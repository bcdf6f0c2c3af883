"""The people of a clip, found in a first pass over its images, and one of them cut out in a second."""

from __future__ import annotations

import contextlib
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from av import VideoFrame
from numpy.typing import NDArray

from ...data.atomic import replacing
from ...data.errors import InputError
from ...data.hashing import json_sha256
from ...data.manifest import Source
from ...data.user_cache import user_cache
from ..decode.audio import Samples
from ..decode.frames import Frames
from ..decode.reader import DECODER, Ending, Wanted, decode
from .align import ALIGNMENT, TEMPLATE_SIZE, Cropper, FaceOf, Upright, upright_size
from .detectors import Detector, Faces, Pixels, open_detector
from .tracking import GAP_S, PERSON, PERSONS, SCENE_SIZE, Person, Sightings, choose, follow, lasting

DETECTION_SIZE = 640  # pixels of the longer side that the detector sees; at 320 it misses faces below 40 of 640
_BATCH = 16


class FaceFinder:
    """What finds and cuts faces, and the identity of what it makes.

    Args:
        make: a detector, one for each thread.
        margin: share of the template's side that crops show beyond it on each side, 0 to 1.

    Raises:
        InputError: if the detector cannot be had or the margin is out of its range.
    """

    def __init__(self, make: Callable[[], Detector], *, margin: float = 0.2) -> None:
        if not 0 <= margin <= 1:
            todo = "Change the option."
            raise InputError("--face-margin", expected="a share from 0 to 1", got=repr(margin), todo=todo)
        self.margin, self._make, self._local = float(margin), make, threading.local()
        detector = self.detector()
        self.detection = {
            "detector": {"name": detector.name, "weights_sha256": detector.weights_sha256, **detector.settings},
            "detection_size": DETECTION_SIZE,
            "opencv": cv2.__version__,
        }

    @classmethod
    def of(cls, detector: str = "yunet", weights: str | None = None, *, margin: float = 0.2) -> FaceFinder:
        """The finder that options name; `weights` is a file, None = those that the detector gets by itself."""
        return cls(partial(open_detector, detector, Path(weights) if weights else None), margin=margin)

    @classmethod
    def of_fingerprint(cls, recorded: Mapping[str, Any], weights: str | None = None) -> FaceFinder:
        """The finder that made a stream, from the "faces" of its fingerprint.

        Raises:
            InputError: if it cannot be had, or its weights are not those that the fingerprint names.
        """
        known = recorded["detector"]
        finder = cls.of(known["name"], weights, margin=recorded["margin"])
        found = finder.detection["detector"]["weights_sha256"]
        if found != known["weights_sha256"]:
            raise InputError(
                f"face detector {known['name']}",
                expected=f"the weights {known['weights_sha256'][:12]}… that the features were made with",
                got=f"{found[:12]}…",
                todo="Pass the file that was used for extraction by --face-weights.",
            )
        return finder

    def __reduce__(self) -> tuple[object, ...]:
        return partial(FaceFinder, margin=self.margin), (self._make,)  # detectors stay where they are

    @property
    def fingerprint(self) -> dict[str, Any]:
        """All that decides what is cut out."""
        return {
            "mode": "detect",
            **self.detection,
            "alignment": ALIGNMENT,
            "template_size": TEMPLATE_SIZE,
            "margin": self.margin,
            "person": PERSON,
            "gap_s": GAP_S,
        }

    def detector(self) -> Detector:
        """The detector of this thread."""
        if not hasattr(self._local, "detector"):
            self._local.detector = self._make()
        return self._local.detector


def name_people(sources: Sequence[Source], person: str) -> list[Source]:
    """The work list of `--person`: `left` and `right` are clips `<clip_id>#left` and `#right` of their own.

    Clips whose manifest says which person they show stay as they are; `all` is split where people are found.

    Raises:
        InputError: if `person` is unknown.
    """
    if person not in PERSONS:
        raise InputError("--person", expected=" | ".join(PERSONS), got=repr(person), todo="Change the option.")
    if person in ("largest", "all"):
        return list(sources)
    return [
        source if source.person else replace(source, clip_id=f"{source.clip_id}#{person}", person=person)
        for source in sources
    ]


def split(source: Source, seen: Sightings) -> list[Source]:
    """The clips `<clip_id>#0`, `#1`, … of everyone who is seen for longer than a second, as they first appear.

    Raises:
        InputError: if there is nobody.
    """
    people = lasting(follow(seen), seen.times_s)
    if not people:
        got = f"none in {len(seen.times_s)} images"
        todo = "Leave the clip out, or extract it with --person largest to have it masked."
        raise InputError(source.clip_id, expected="a face seen for longer than 1 s", got=got, todo=todo)
    return [replace(source, clip_id=f"{source.clip_id}#{k}", person=str(k)) for k in range(len(people))]


def sightings(
    source: Source,
    medium_sha256: str,
    finder: FaceFinder,
    wanted: Wanted | None = None,
) -> Sightings:
    """All faces of a clip: found now, or in an earlier run by the same detector in the same bytes.

    Args:
        medium_sha256: of the recording.
        wanted: rate, threads and heartbeat of the decoder; nothing else of it counts.

    Raises:
        InputError: if anything about the medium is not as it should be.
    """
    wanted = wanted or Wanted()
    cut = {"medium": medium_sha256, "start_s": source.start_s, "end_s": source.end_s, "fps": wanted.fps}
    path = user_cache() / "faces" / f"{json_sha256({**cut, 'decoder': DECODER, **finder.detection})}.npz"
    known = _load(path)
    if known is None:
        known = _look(source, wanted, finder.detector())
        with contextlib.suppress(OSError):  # it is only a memory
            _save(path, known)
    return known


def decode_person(
    source: Source, wanted: Wanted, seen: Sightings, cropper: Callable[[FaceOf], Cropper]
) -> Iterator[Frames | Samples | Ending]:
    """Decodes a clip as `media.decode` does, to crops of the person that it is about; images without are not shown.

    Args:
        seen: its faces, from the same cut at the same rate.
        cropper: makes what cuts them; its images are numbered as those of `seen`.

    Raises:
        InputError: if anything about the medium is not as it should be, or it is no longer what `seen` was found in.
    """
    person = choose(seen, source.person)
    found = dict(zip(person.images, person.rows, strict=True))
    for part in decode(source, replace(wanted, shrinker=cropper(found.get), faces="full")):
        yield PersonEnding.of(source, part, seen, person) if isinstance(part, Ending) else part


@dataclass(frozen=True)
class PersonEnding(Ending):
    """The ending of a clip of which one person was cut out.

    Args:
        found_s: (N,) times of the images that show the face.
    """

    found_s: NDArray[np.float64]

    @classmethod
    def of(cls, source: Source, ending: Ending, seen: Sightings, person: Person) -> PersonEnding:
        """The ending in terms of crops instead of images."""
        num_images = int(ending.shown.max(initial=-1)) + 1
        if num_images != len(seen.times_s):
            expected = f"the {len(seen.times_s)} images that faces were looked for in"
            todo = "Leave the file alone while it is read, and run again."
            raise InputError(source.clip_id, expected=expected, got=f"{num_images}", todo=todo)
        crops = np.full(num_images, -1, np.int64)
        crops[person.images] = np.arange(len(person.images))
        found_s = seen.times_s[person.images]
        report = {**ending.visual_report, "faces": _report(seen, found_s)}
        parts = {**vars(ending), "shown": crops[ending.shown], "visual_report": report}
        return cls(**parts, found_s=found_s)

    def since_detection_s(self) -> NDArray[np.float64]:
        """(T,) seconds from when the face was last found to each step; 0 where it shows it, NaN before the first."""
        last = np.searchsorted(self.found_s, self.times_s, side="right") - 1
        before = np.append(self.found_s, np.nan)[last]  # -1, none before, is the last: NaN
        return np.where(self.shown >= 0, 0.0, self.times_s - before)


def _report(seen: Sightings, found_s: NDArray[np.float64]) -> dict[str, Any]:
    bounds = [seen.times_s[0], *found_s, seen.times_s[-1]]
    return {
        "num_images": len(seen.times_s),
        "num_images_with_face": len(found_s),
        "longest_absence_s": float(np.diff(bounds).max()) if len(found_s) < len(seen.times_s) else 0.0,
        "num_people": len(lasting(follow(seen), seen.times_s)),
    }


def _look(source: Source, wanted: Wanted, detector: Detector) -> Sightings:
    watcher = _Watcher(detector)
    images = replace(wanted, shrinker=watcher, sampling_rate=None, faces="full")
    (ending,) = (part for part in decode(source, images) if isinstance(part, Ending))
    found = watcher.finish()
    _, first_steps = np.unique(ending.shown, return_index=True)
    counts = np.array([len(faces) for faces in found], np.int64)
    times_s, faces, scenes = ending.times_s[first_steps], np.concatenate(found), np.stack(watcher.scenes)
    return Sightings(times_s, counts, faces, scenes, watcher.width)


class _Watcher:
    """Lets a detector see each image in small; lays none of them into anything."""

    size = (1, 1)

    def __init__(self, detector: Detector) -> None:
        self._detector, self._upright = detector, Upright()
        self._found: list[Faces] = []
        self._waiting: list[tuple[Pixels, tuple[float, float]]] = []
        self.scenes: list[NDArray[np.uint8]] = []
        self.width = 0

    def __call__(self, image: VideoFrame, canvas: Pixels, aspect: Fraction = Fraction(1)) -> None:
        """Looks at it, or keeps it until there are enough."""
        small = self._upright(image, aspect, DETECTION_SIZE)
        scene = cv2.resize(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), SCENE_SIZE, interpolation=cv2.INTER_AREA)
        self.scenes.append(np.asarray(scene, np.uint8).reshape(-1))
        self.width, height = upright_size(image, aspect)
        self._waiting.append((small, (self.width / small.shape[1], height / small.shape[0])))
        if len(self._waiting) == _BATCH:
            self.finish()

    def finish(self) -> list[Faces]:
        """For each image its faces, in pixels of the recording."""
        if self._waiting:
            found = self._detector.detect([image for image, _ in self._waiting])
            scales = [scale for _, scale in self._waiting]
            self._found += [_usable(faces, scale) for faces, scale in zip(found, scales, strict=True)]
            self._waiting = []
        return self._found


def _usable(faces: Faces, scale: tuple[float, float]) -> Faces:
    """Faces in another scale, without those that have no extent."""
    scaled = np.asarray(faces, np.float32) * np.array([*scale * 7, 1], np.float32)
    good = np.isfinite(scaled).all(axis=1) & (scaled[:, 2:4] > 0).all(axis=1)
    return scaled[good & (np.ptp(scaled[:, 4:14:2], axis=1) + np.ptp(scaled[:, 5:14:2], axis=1) > 0)]


def _load(path: Path) -> Sightings | None:
    try:
        with np.load(path) as known:
            parts = (known[name] for name in ("times_s", "counts", "faces", "scenes"))
            return Sightings(*parts, width=int(known["width"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _save(path: Path, seen: Sightings) -> None:
    with replacing(path) as part:
        np.savez(part, allow_pickle=False, **vars(seen))
