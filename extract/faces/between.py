"""Faces between two detections: interpolated where every face is in both images and has hardly moved."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .detectors import Faces
from .tracking import match_faces

MAX_EVERY = 16  # images; so many wait in memory for the next detection
STILL = 0.1  # of a face's size, the root of its box area: a landmark that moves further is not interpolated


def paired(before: Faces, after: Faces) -> Faces | None:
    """Returns the (N, 15) faces of a later image in the order of an earlier one's.

    None where a face has come, gone or moved by more than `STILL`: what lies between can then not be interpolated.
    """
    owners = match_faces(list(before), [0.0] * len(before), after)
    if not len(owners) == len(before) == len(after):
        return None
    ordered = after[np.array(sorted(owners, key=owners.__getitem__), np.int64)]
    offsets = (ordered - before)[:, 4:14].reshape(-1, 5, 2)
    moved = np.hypot(offsets[..., 0], offsets[..., 1]).max(axis=1)
    return ordered if (moved <= STILL * np.sqrt(before[:, 2] * before[:, 3])).all() else None


def interpolated(faces: Sequence[Faces | None], times_s: NDArray[np.float64]) -> list[Faces]:
    """Fills in the faces of images that were not looked at: all 15 numbers linear in time.

    Args:
        faces: (N, 15) faces of each image; None = not looked at, between two images whose faces are `paired`.
        times_s: (T,) times of the images, increasing.
    """
    known = [number for number, of_image in enumerate(faces) if of_image is not None]
    filled = [of_image for of_image in faces if of_image is not None]
    result: list[Faces] = filled[:1]
    for (first, last), (before, after) in zip(pairwise(known), pairwise(filled), strict=True):
        shares = (times_s[first + 1 : last] - times_s[first]) / (times_s[last] - times_s[first])
        ordered = paired(before, after) if len(shares) else None
        for share in shares:
            assert ordered is not None, "only images between paired faces are not looked at"
            result.append((before + share * (ordered - before)).astype(np.float32))
        result.append(after)
    return result
