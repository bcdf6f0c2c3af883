"""Faces seen in single images, made into the people of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...data.errors import InputError
from ...data.manifest import PERSONS as ONE_PERSON
from .detectors import FACE_COLUMNS, Faces

PERSONS = (*ONE_PERSON, "all")
PERSON = (
    "largest: the largest sum over images of its box area; left, right: of the one seen longest and the one seen "
    "longest beside it; number: in order of appearance among those seen for longer than 1 s; nobody is followed into "
    "another scene"
)
GAP_S = 1.0  # a face that is away for no longer than this is the same person when it comes back
LASTING_S = 1.0  # seen for longer than this is a person of `all`
_REACH = 1.0  # centres this many face sizes apart may be one face: as far as a head moves, or jumps in a cut,
_DRIFT = 0.5  # and so much more for each second of absence; people side by side are further apart
SCENE_SIZE = (16, 9)  # width and height of the grey picture by which a scene is known again
_SAME_SCENE = 0.6  # correlation: at real cuts below 0.58, in real scenes above 0.76 from one image to the next
_SAME_SCENE_LATER = 0.3  # where images stand further apart than `_SOON_S` and the camera may have moved
_SOON_S = 0.1
_GREY_NOISE = 2.0  # grey levels
_MAX_GROWTH = 2.0  # from one image to the next, of the box's side


@dataclass(frozen=True)
class Sightings:
    """All faces of a clip, image by image.

    Args:
        times_s: (T,) of the images, increasing.
        counts: (T,) faces in each of them.
        faces: (sum of counts, 15) as `Detector.detect` gives them, in pixels of the upright recording.
        scenes: (T, 16 * 9) uint8, each image as a tiny grey picture.
        width: of the upright recording in pixels; 0 where no image was seen.
    """

    times_s: NDArray[np.float64]
    counts: NDArray[np.int64]
    faces: Faces
    scenes: NDArray[np.uint8]
    width: int

    def images(self) -> list[Faces]:
        """(N, 15) faces for each image."""
        return np.split(self.faces, np.cumsum(self.counts)[:-1]) if len(self.counts) else []


@dataclass
class Person:
    """One face followed through a clip.

    Args:
        images: numbers of the images in which it was found, increasing.
        rows: its (15,) face in each of them.
    """

    images: list[int] = field(default_factory=list[int])
    rows: list[Faces] = field(default_factory=list[Faces])

    @property
    def faces(self) -> Faces:
        """(N, 15)."""
        return np.stack(self.rows) if self.rows else np.empty((0, FACE_COLUMNS), np.float32)

    @property
    def area(self) -> float:
        """Sum over images of its box area: mean area times how long it was seen."""
        return float((self.faces[:, 2] * self.faces[:, 3]).sum())

    @property
    def middle(self) -> float:
        """Mean x of its centre."""
        return float((self.faces[:, 0] + self.faces[:, 2] / 2).mean())

    def lasts_s(self, times_s: NDArray[np.float64]) -> float:
        """From its first to its last image."""
        return float(times_s[self.images[-1]] - times_s[self.images[0]])


def follow(seen: Sightings) -> list[Person]:
    """The people of a clip, in order of first appearance, in one image from left to right.

    A face continues the nearest one of the image before, or of those lost no longer than `GAP_S` ago, if it is near it,
    of like size and in the same scene; nearest pairs first, so that nobody takes another's place.
    """
    people: list[Person] = []
    active: list[Person] = []
    shots = _shots(seen)
    for number, faces in enumerate(seen.images()):
        now_s = seen.times_s[number]
        active = [
            person
            for person in active
            if person.images[-1] == number - 1 or now_s - seen.times_s[person.images[-1]] <= GAP_S
        ]
        here = [person for person in active if _same_scene(seen.scenes, shots, person.images[-1], number)]
        lost_s = [now_s - seen.times_s[person.images[-1]] for person in here]
        owners = _match([person.rows[-1] for person in here], lost_s, faces)
        for face in np.argsort(faces[:, 0], kind="stable"):
            person = here[owners[face]] if face in owners else Person()
            if face not in owners:
                people.append(person)
                active.append(person)
            person.images.append(number)
            person.rows.append(faces[face])
    return people


def _shots(seen: Sightings) -> NDArray[np.int64]:
    """(T,) a number for each image that grows by 1 at a cut."""
    enough = np.where(np.diff(seen.times_s) <= _SOON_S, _SAME_SCENE, _SAME_SCENE_LATER)
    return np.concatenate([[0], np.cumsum(_likeness(seen.scenes[:-1], seen.scenes[1:]) < enough)])


def _same_scene(scenes: NDArray[np.uint8], shots: NDArray[np.int64], before: int, now: int) -> bool:
    """Whether there was no cut in between, or one back again, as around a flash."""
    return bool(shots[before] == shots[now] or _likeness(scenes[before], scenes[now]) >= _SAME_SCENE)


def _likeness(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Correlation of (…, P) pictures; two that are all of one grey are alike."""
    first, second = (scenes - scenes.mean(axis=-1, keepdims=True, dtype=np.float32) for scenes in (before, after))
    noise = _GREY_NOISE**2
    one, other = ((part * part).mean(axis=-1) + noise for part in (first, second))
    return ((first * second).mean(axis=-1) + noise) / np.sqrt(one * other)


def _match(known: Sequence[Faces], lost_s: Sequence[float], faces: Faces) -> dict[int, int]:
    """For each face that continues a known one, the number of that one."""
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


def lasting(people: Sequence[Person], times_s: NDArray[np.float64]) -> list[Person]:
    """Those who are seen for longer than `LASTING_S`."""
    return [person for person in people if person.lasts_s(times_s) > LASTING_S]


def choose(seen: Sightings, person: str | None) -> Person:
    """The person that a clip is about, from its first to its last frame; one without images if there is none.

    Args:
        person: "largest" (or None), "left", "right", or the number of one of `all`, from 0.

    Raises:
        InputError: if it is something else.
    """
    people = follow(seen)
    if person in ("left", "right"):
        return _beside(people, seen.width, person)
    if person is None or person == "largest":
        return max(people, key=lambda one: one.area, default=Person())
    if not person.isdecimal():
        expected = f"{' | '.join(ONE_PERSON)} or a number from 0"
        raise InputError("person", expected=expected, got=repr(person), todo="Correct it.")
    found = lasting(people, seen.times_s)
    return found[int(person)] if int(person) < len(found) else Person()


def _beside(people: Sequence[Person], width: int, side: str) -> Person:
    """Of two people seen together the one further left or right.

    Someone who is never seen together with another is the left one if left of the image's middle, else the right one.
    """
    ranked = sorted(people, key=lambda one: -len(one.images))
    if not ranked:
        return Person()
    first, others = ranked[0], ranked[1:]
    second = max(others, key=lambda one: len(set(one.images) & set(first.images)), default=Person())
    if not set(second.images) & set(first.images):
        return first if (first.middle < width / 2) == (side == "left") else Person()
    left, right = sorted((first, second), key=lambda one: one.middle)
    return left if side == "left" else right
