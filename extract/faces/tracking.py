"""Tracking: faces detected in single images, linked to the people of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...data.errors import InputError
from ...data.manifest import PERSONS as ONE_PERSON
from .detectors import FACE_COLUMNS, Faces

PERSON = (  # hashed into the identity of streams: another word is another stream
    "largest: the largest sum over images of its box area; left, right: of the one seen longest and the one seen "
    "longest beside it; number: in order of appearance among those seen for longer than 1 s; nobody is followed into "
    "another scene; a face at the place where one was when the same view was last shown is the same person"
)
GAP_S = 1.0  # a face that is away for no longer than this is the same person when it comes back
LASTING_S = 1.0  # seen for longer than this is a person of `all`
_REACH = 1.0  # centres up to this many face sizes apart may be one face: as far as a head moves, or jumps in a cut,
_DRIFT = 0.5  # plus this much for each second of absence; people side by side are further apart
SCENE_SIZE = (16, 9)  # width and height of the grey picture by which a scene is recognised
_SAME_SCENE = 0.6  # correlation: at real cuts below 0.58, in real scenes above 0.76 from one image to the next
_SAME_SCENE_LATER = 0.3  # where images stand further apart than `_SOON_S` and the camera may have moved
_SAME_VIEW = 0.8  # for a return after a while: chairs before a dark wall look alike
_SOON_S = 0.1
_GREY_NOISE = 2.0  # grey levels
_MAX_GROWTH = 2.0  # from one image to the next, of the box's side


@dataclass(frozen=True)
class Detections:
    """All faces of a clip, image by image.

    Args:
        times_s: (T,) times of the images, increasing.
        counts: (T,) number of faces in each of them.
        faces: (sum of counts, 15) as `Detector.detect` returns them, in pixels of the upright recording.
        scenes: (T, 16 * 9) uint8, each image as a tiny grey picture.
        width: of the upright recording in pixels; 0 where there is no image.
    """

    times_s: NDArray[np.float64]
    counts: NDArray[np.int64]
    faces: Faces
    scenes: NDArray[np.uint8]
    width: int

    def images(self) -> list[Faces]:
        """Returns the (N, 15) faces of each image."""
        return np.split(self.faces, np.cumsum(self.counts)[:-1]) if len(self.counts) else []


@dataclass
class PersonTrack:
    """One face tracked through a clip.

    Args:
        images: numbers of the images in which it was detected, increasing.
        rows: its (15,) face in each of them.
    """

    images: list[int] = field(default_factory=list[int])
    rows: list[Faces] = field(default_factory=list[Faces])

    @property
    def faces(self) -> Faces:
        """The (N, 15) faces, one for each of `images`."""
        return np.stack(self.rows) if self.rows else np.empty((0, FACE_COLUMNS), np.float32)

    @property
    def area(self) -> float:
        """Sum of its box areas over all images, in squared pixels: mean area times number of images."""
        return float((self.faces[:, 2] * self.faces[:, 3]).sum())

    @property
    def middle(self) -> float:
        """Mean x of its centre, in pixels."""
        return float((self.faces[:, 0] + self.faces[:, 2] / 2).mean())

    def lasts_s(self, times_s: NDArray[np.float64]) -> float:
        """Returns the seconds for which it is seen, without long absences; `times_s` as in `Detections`."""
        steps, gaps_s = np.diff(self.images), np.diff(times_s[self.images])
        return float(gaps_s[(steps == 1) | (gaps_s <= GAP_S)].sum())


def track_people(detections: Detections) -> list[PersonTrack]:
    """Links the faces of a clip to people, in order of first appearance, within one image from left to right.

    A face continues the nearest one of the image before, or of those lost no longer than `GAP_S` ago, if it is near, of
    similar size and in the same scene. The nearest pairs are linked first, so that no face takes another's place.

    Edited material returns to a view after minutes: a dialogue is cut A, B, A, B. A face that continues none is the
    person who was near that place when the same view was last shown, by time and place alone, since no weights that
    recognise faces are at hand. A person who has moved meanwhile, or another one in the same chair, is not noticed.
    """
    people: list[PersonTrack] = []
    active: list[PersonTrack] = []
    shots, times_s = _shots(detections), detections.times_s
    for number, faces in enumerate(detections.images()):
        active = [person for person in active if _may_continue(person, number, times_s)]
        here = [person for person in active if _same_scene(detections.scenes, shots, person.images[-1], number)]
        lost_s = [times_s[number] - times_s[person.images[-1]] for person in here]
        matches = match_faces([person.rows[-1] for person in here], lost_s, faces)
        owners = {face: here[known] for face, known in matches.items()}
        if new := [face for face in range(len(faces)) if face not in owners]:
            back = _in_an_earlier_view(people, detections.scenes, shots, number)
            matches = match_faces([person.rows[-1] for person in back], [0.0] * len(back), faces[new])
            owners |= {new[face]: back[known] for face, known in matches.items()}
            active += [back[known] for known in matches.values()]
        for face in np.argsort(faces[:, 0], kind="stable"):
            person = owners.get(int(face)) or PersonTrack()
            if not person.images:
                people.append(person)
                active.append(person)
            person.images.append(number)
            person.rows.append(faces[face])
    return people


def _in_an_earlier_view(
    people: Sequence[PersonTrack], scenes: NDArray[np.uint8], shots: NDArray[np.int64], number: int
) -> list[PersonTrack]:
    """Returns the people of the last earlier shot that showed the view of this image, as it was when they left it."""
    before = [person for person in people if shots[person.images[-1]] < shots[number]]
    if not before:
        return []
    like = _correlation(scenes[[person.images[-1] for person in before]], scenes[number]) >= _SAME_VIEW
    back = [person for person, same in zip(before, like, strict=True) if same]
    last_shot = max((shots[person.images[-1]] for person in back), default=-1)
    return [person for person in back if shots[person.images[-1]] == last_shot]


def _may_continue(person: PersonTrack, number: int, times_s: NDArray[np.float64]) -> bool:
    last = person.images[-1]
    return last == number - 1 or times_s[number] - times_s[last] <= GAP_S


def _shots(detections: Detections) -> NDArray[np.int64]:
    """Returns (T,) shot numbers, which grow by 1 at a cut."""
    enough = np.where(np.diff(detections.times_s) <= _SOON_S, _SAME_SCENE, _SAME_SCENE_LATER)
    scenes = detections.scenes
    return np.concatenate([[0], np.cumsum(_correlation(scenes[:-1], scenes[1:]) < enough)])


def _same_scene(scenes: NDArray[np.uint8], shots: NDArray[np.int64], before: int, now: int) -> bool:
    """True if there was no cut between two images, or a cut and another one back, as around a flash."""
    return bool(shots[before] == shots[now] or _correlation(scenes[before], scenes[now]) >= _SAME_SCENE)


def _correlation(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the correlations of (…, P) pictures; 1 for two pictures that are each of a single grey."""
    first, second = (scenes - scenes.mean(axis=-1, keepdims=True, dtype=np.float32) for scenes in (before, after))
    noise = _GREY_NOISE**2
    one, other = ((part * part).mean(axis=-1) + noise for part in (first, second))
    return ((first * second).mean(axis=-1) + noise) / np.sqrt(one * other)


def is_cut(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> bool:
    """True if two images in succession, given as `Detections.scenes` has them, belong to different scenes."""
    return bool(_correlation(before, after) < _SAME_SCENE)


def match_faces(known: Sequence[Faces], lost_s: Sequence[float], faces: Faces) -> dict[int, int]:
    """Links faces to known ones, the nearest pairs first.

    Args:
        known: (15,) faces.
        lost_s: for each of them, the seconds since it was detected.
        faces: (N, 15) faces of an image.

    Returns:
        For each face that continues a known one, the number of the known one.
    """
    if not known or not len(faces):
        return {}
    before = np.stack(known)
    sizes, new_sizes = np.sqrt(before[:, 2] * before[:, 3])[:, None], np.sqrt(faces[:, 2] * faces[:, 3])[None]
    offsets = (before[:, None, :2] + before[:, None, 2:4] / 2) - (faces[None, :, :2] + faces[None, :, 2:4] / 2)
    smaller, larger = np.minimum(sizes, new_sizes), np.maximum(sizes, new_sizes)
    distances = np.hypot(offsets[..., 0], offsets[..., 1]) / larger
    possible = (distances <= _REACH + _DRIFT * np.asarray(lost_s)[:, None]) & (larger <= smaller * _MAX_GROWTH)
    owners: dict[int, int] = {}
    for flat in np.argsort(distances, axis=None, kind="stable"):
        old, new = divmod(int(flat), len(faces))
        if possible[old, new] and new not in owners and old not in owners.values():
            owners[new] = old
    return owners


def lasting(people: Sequence[PersonTrack], times_s: NDArray[np.float64]) -> list[PersonTrack]:
    """Returns the people who are seen for longer than `LASTING_S`; `times_s` as in `Detections`."""
    return [person for person in people if person.lasts_s(times_s) > LASTING_S]


def choose_person(detections: Detections, person: str | None) -> PersonTrack:
    """Chooses the person of a clip, from its first to its last frame; a track without images if there is none.

    Args:
        detections: the faces of the clip.
        person: "largest" (or None), "left", "right", or the number of one of the people of "all", from 0.

    Raises:
        InputError: if `person` is something else.
    """
    people = track_people(detections)
    if person in ("left", "right"):
        return _on_side(people, detections.width, person)
    if person is None or person == "largest":
        return max(people, key=lambda one: one.area, default=PersonTrack())
    if not person.isdecimal():
        expected = f"{' | '.join(ONE_PERSON)} or a number from 0"
        raise InputError("person", expected=expected, got=repr(person), todo="Correct it.")
    candidates = lasting(people, detections.times_s)
    return candidates[int(person)] if int(person) < len(candidates) else PersonTrack()


def _on_side(people: Sequence[PersonTrack], width: int, side: str) -> PersonTrack:
    """Chooses the left or right one of two people who are seen together.

    Someone who is never seen together with another is the left one if left of the image's middle, else the right one.
    """
    ranked = sorted(people, key=lambda one: -len(one.images))
    if not ranked:
        return PersonTrack()
    first, others = ranked[0], ranked[1:]
    second = max(others, key=lambda one: len(set(one.images) & set(first.images)), default=PersonTrack())
    if not set(second.images) & set(first.images):
        return first if (first.middle < width / 2) == (side == "left") else PersonTrack()
    left, right = sorted((first, second), key=lambda one: one.middle)
    return left if side == "left" else right
