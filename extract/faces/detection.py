"""First pass over a clip: faces detected in its images, remembered for later runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from av import VideoFrame
from numpy.typing import NDArray

from ...data.atomic import replacing
from ...data.hashing import json_sha256
from ...data.manifest import Source
from ...data.user_cache import user_cache
from ..decode.container import DECODER
from ..decode.reader import decode
from ..decode.request import DecodeOptions, DecodeResult
from .align import UprightConverter, upright_size
from .between import interpolated, paired
from .detectors import Detector, Faces, Pixels
from .finder import DETECTION_SIZE, FaceFinder
from .tracking import SCENE_SIZE, Detections, is_cut

_BATCH_IMAGES = 16


def detect_faces(
    source: Source, medium_sha256: str, finder: FaceFinder, options: DecodeOptions | None = None
) -> Detections:
    """Detects all faces of a clip, or returns the detections of an earlier run with the same detector and bytes.

    Args:
        source: the clip.
        medium_sha256: SHA-256 (hex) of the recording.
        finder: for its detector.
        options: rate, threads and heartbeat of the decoder; the other options are not used.

    Raises:
        InputError: if the recording cannot be decoded.
    """
    options = options or DecodeOptions()
    cut = {"medium": medium_sha256, "start_s": source.start_s, "end_s": source.end_s, "fps": options.fps}
    path = user_cache() / "faces" / f"{json_sha256({**cut, 'decoder': DECODER, **finder.detection})}.npz"
    detections = _load(path)
    if detections is None:
        detections = _detect(source, options, finder)
        with contextlib.suppress(OSError):  # the file only saves time
            _save(path, detections)
    return detections


def _detect(source: Source, options: DecodeOptions, finder: FaceFinder) -> Detections:
    collector = _DetectionCollector(finder.detector(), finder.every)
    images = replace(options, transform=collector, sampling_rate=None, faces="full")
    (result,) = (part for part in decode(source, images) if isinstance(part, DecodeResult))
    _, first_steps = np.unique(result.shown, return_index=True)
    times_s = result.times_s[first_steps]
    faces = interpolated(collector.finish(), times_s)
    counts = np.array([len(of_image) for of_image in faces], np.int64)
    return Detections(times_s, counts, np.concatenate(faces), np.stack(collector.scenes), collector.width)


class _DetectionCollector:
    """An image transform that passes images, shrunk, to a detector and produces no input for an encoder.

    With `every` = k > 1 the detector gets every k-th image, counted from the last one that it got, the images on both
    sides of a cut, and the last image. It gets those between two of them as well, unless their faces are `paired`.

    Args:
        detector: of this thread.
        every: images from one detection to the next.
    """

    size = (1, 1)

    def __init__(self, detector: Detector, every: int = 1) -> None:
        self._detector, self._every, self._upright = detector, every, UprightConverter()
        self._faces: list[Faces | None] = []
        self._waiting: dict[int, tuple[Pixels, tuple[float, float]]] = {}
        self._wanted = [0]  # numbers of the images for the detector, from the last one that it got
        self.scenes: list[NDArray[np.uint8]] = []
        self.width = 0

    def __call__(self, image: VideoFrame, canvas: Pixels, aspect: Fraction = Fraction(1)) -> None:
        """Takes an image; runs the detector when a batch is full."""
        small = self._upright(image, aspect, DETECTION_SIZE)
        scene = cv2.resize(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), SCENE_SIZE, interpolation=cv2.INTER_AREA)
        self.scenes.append(np.asarray(scene, np.uint8).reshape(-1))
        self.width, height = upright_size(image, aspect)
        self._waiting[len(self._faces)] = small, (self.width / small.shape[1], height / small.shape[0])
        self._faces.append(None)
        self._choose()
        if len(self._waiting) >= _BATCH_IMAGES:
            self._look()

    def finish(self) -> list[Faces | None]:
        """Returns the (N, 15) faces of each image, in pixels of the upright recording; None = to be interpolated."""
        self._want(len(self._faces) - 1)
        self._look()
        return self._faces

    def _choose(self) -> None:
        """Decides whether the newest image, and at a cut also the one before it, is for the detector."""
        newest = len(self._faces) - 1
        if newest and self._every > 1 and is_cut(self.scenes[-2], self.scenes[-1]):
            self._want(newest - 1)
            self._want(newest)
        if newest - self._wanted[-1] >= self._every:
            self._want(newest)

    def _want(self, number: int) -> None:
        if number > self._wanted[-1]:
            self._wanted.append(number)

    def _look(self) -> None:
        """Detects the faces of the wanted images that wait, then of those between them that are not interpolated."""
        self._fill([number for number in self._wanted if number in self._waiting])
        self._fill([number for pair in pairwise(self._wanted) for number in self._unclear(*pair)])
        self._wanted = self._wanted[-1:]
        self._waiting = {number: one for number, one in self._waiting.items() if number > self._wanted[0]}

    def _unclear(self, first: int, last: int) -> Iterable[int]:
        before, after = self._faces[first], self._faces[last]
        assert before is not None, "it is detected"
        assert after is not None, "it is detected"
        return () if last - first < 2 or paired(before, after) is not None else range(first + 1, last)

    def _fill(self, numbers: Sequence[int]) -> None:
        if numbers:
            detected = self._detector.detect([self._waiting[number][0] for number in numbers])
            for number, faces in zip(numbers, detected, strict=True):
                self._faces[number] = _usable(faces, self._waiting[number][1])


def _usable(faces: Faces, scale: tuple[float, float]) -> Faces:
    """Scales faces, and drops those that are not finite or have no extent."""
    scaled = np.asarray(faces, np.float32) * np.array([*scale * 7, 1], np.float32)
    good = np.isfinite(scaled).all(axis=1) & (scaled[:, 2:4] > 0).all(axis=1)
    return scaled[good & (np.ptp(scaled[:, 4:14:2], axis=1) + np.ptp(scaled[:, 5:14:2], axis=1) > 0)]


def _load(path: Path) -> Detections | None:
    try:
        with np.load(path) as arrays:
            parts = (arrays[name] for name in ("times_s", "counts", "faces", "scenes"))
            return Detections(*parts, width=int(arrays["width"]))
    except Exception:  # damaged bytes may fail in any way; the file only saves time
        return None


def _save(path: Path, detections: Detections) -> None:
    with replacing(path) as part:
        np.savez(part, allow_pickle=False, **vars(detections))
