"""Options of an extraction, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.clip import VALUE_DTYPES
from ..data.errors import InputError
from ..data.manifest import PERSONS as ONE_PERSON

if TYPE_CHECKING:
    from .faces.finder import FaceFinder

STORE_DTYPES = VALUE_DTYPES
FACES = ("full", "crops", "detect")
PERSONS = (*ONE_PERSON, "all")


@dataclass(frozen=True)
class ExtractOptions:
    """Options of an extraction: those up to `person` change the features, the others only where and how fast.

    Args:
        faces: "full" encodes whole frames, "crops" folders of ready-made face crops, "detect" detects, tracks and
            crops faces with `finder`.
        fps: frames per second of the visual stream, above 0 and at most 1000; None = every frame of the recording.
        store_dtype: "float16", "bfloat16" or "float32", the type of the values in the cache.
        finder: face finder of `faces="detect"`, None otherwise.
        person: the person to crop with `faces="detect"`: "largest", "left", "right" or "all". The last three make
            clips of their own, `<clip_id>#<person>`.
        batch_size: frames per batch; None = 128 on a CUDA device, else 32. Another size may change the last bit of a
            feature, not more.
        num_decode_threads: decoder threads of this process; None = as many as cores, at most 8 unless faces are
            detected.
        num_cores: cores to keep busy; None = all that this process may use.
        overwrite: extract streams again that the cache already has.
        rehash: read and hash media again whose hash is known.
        retry_failed: try clips again that an earlier run could not extract from the same bytes.
        max_failures: end the run when more clips than this have failed; None = never.

    Raises:
        InputError: if an option is out of its range.
    """

    faces: str = "full"
    fps: float | None = None
    store_dtype: str = "float16"
    finder: FaceFinder | None = None
    person: str = "largest"
    batch_size: int | None = None
    num_decode_threads: int | None = None
    num_cores: int | None = None
    overwrite: bool = False
    rehash: bool = False
    retry_failed: bool = False
    max_failures: int | None = None

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_finder()
        _check(self.fps is None or 0 < self.fps <= 1000, "fps", "more than 0 and at most 1000", self.fps)
        counts = {"batch_size": self.batch_size, "num_decode_threads": self.num_decode_threads}
        for place, count in {**counts, "num_cores": self.num_cores}.items():
            _check(count is None or count >= 1, place, "1 or more", count)

    @property
    def dtype(self) -> np.dtype[Any]:
        """`store_dtype` as a NumPy dtype."""
        return np.dtype(self.store_dtype)

    def _check_choices(self) -> None:
        choices = {
            "faces": (self.faces, FACES),
            "person": (self.person, PERSONS),
            "store_dtype": (self.store_dtype, STORE_DTYPES),
        }
        for place, (value, allowed) in choices.items():
            _check(value in allowed, place, " | ".join(allowed), value)

    def _check_finder(self) -> None:
        if self.person != "largest":
            _check(self.faces == "detect", "faces", f"detect, since person is {self.person!r}", self.faces)
        if (self.faces == "detect") == (self.finder is not None):
            return
        got = f"faces={self.faces!r}, finder={'None' if self.finder is None else 'a FaceFinder'}"
        todo = "Pass ExtractOptions(faces='detect', finder=FaceFinder.of()), or neither."
        raise InputError("faces", expected="a face finder together with detect", got=got, todo=todo)


def _check(good: bool, place: str, expected: str, got: object) -> None:
    if not good:
        raise InputError(place, expected=expected, got=repr(got), todo="Change the option.")
