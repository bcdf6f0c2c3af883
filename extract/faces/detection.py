"""First pass over a clip: faces detected in every image, remembered for later runs."""

from __future__ import annotations

import contextlib
import zipfile
from dataclasses import replace
from fractions import Fraction
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
from .detectors import Detector, Faces, Pixels
from .finder import DETECTION_SIZE, FaceFinder
from .tracking import SCENE_SIZE, Detections

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
        detections = _detect(source, options, finder.detector())
        with contextlib.suppress(OSError):  # the file only saves time
            _save(path, detections)
    return detections


def _detect(source: Source, options: DecodeOptions, detector: Detector) -> Detections:
    collector = _DetectionCollector(detector)
    images = replace(options, transform=collector, sampling_rate=None, faces="full")
    (result,) = (part for part in decode(source, images) if isinstance(part, DecodeResult))
    faces = collector.finish()
    _, first_steps = np.unique(result.shown, return_index=True)
    counts = np.array([len(of_image) for of_image in faces], np.int64)
    scenes = np.stack(collector.scenes)
    return Detections(result.times_s[first_steps], counts, np.concatenate(faces), scenes, collector.width)


class _DetectionCollector:
    """An image transform that passes each image, shrunk, to a detector and produces no input for an encoder."""

    size = (1, 1)

    def __init__(self, detector: Detector) -> None:
        self._detector, self._upright = detector, UprightConverter()
        self._faces: list[Faces] = []
        self._waiting: list[tuple[Pixels, tuple[float, float]]] = []
        self.scenes: list[NDArray[np.uint8]] = []
        self.width = 0

    def __call__(self, image: VideoFrame, canvas: Pixels, aspect: Fraction = Fraction(1)) -> None:
        """Takes an image; runs the detector when a batch is full."""
        small = self._upright(image, aspect, DETECTION_SIZE)
        scene = cv2.resize(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), SCENE_SIZE, interpolation=cv2.INTER_AREA)
        self.scenes.append(np.asarray(scene, np.uint8).reshape(-1))
        self.width, height = upright_size(image, aspect)
        self._waiting.append((small, (self.width / small.shape[1], height / small.shape[0])))
        if len(self._waiting) == _BATCH_IMAGES:
            self.finish()

    def finish(self) -> list[Faces]:
        """Returns the (N, 15) faces of each image, in pixels of the upright recording."""
        if self._waiting:
            detected = self._detector.detect([image for image, _ in self._waiting])
            scales = [scale for _, scale in self._waiting]
            self._faces += [_usable(faces, scale) for faces, scale in zip(detected, scales, strict=True)]
            self._waiting = []
        return self._faces


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
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _save(path: Path, detections: Detections) -> None:
    with replacing(path) as part:
        np.savez(part, allow_pickle=False, **vars(detections))
