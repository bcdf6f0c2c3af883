"""Face finder: detector and crop of `--faces detect`, with their identity."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from ...data.errors import InputError
from .align import ALIGNMENT, TEMPLATE_SIZE
from .between import MAX_EVERY, STILL
from .detectors import Detector, open_detector
from .tracking import GAP_S, PERSON

DETECTION_SIZE = 640  # pixels of the longer side that the detector gets; at 320 it misses faces below 40 of 640


class FaceFinder:
    """A face detector per thread and the margin of the crops; identifies the crops by its fingerprint.

    Args:
        make: builds a detector; called once per thread.
        margin: border that crops show around the template, as a share of its side, 0 to 1.
        every: images from one detection to the next, 1 to `MAX_EVERY`; between two detections faces that hardly move
            are interpolated.

    Raises:
        InputError: if the detector is not available, or the margin or `every` is out of its range.
    """

    def __init__(self, make: Callable[[], Detector], *, margin: float = 0.2, every: int = 1) -> None:
        if not 0 <= margin <= 1:
            todo = "Change the option."
            raise InputError("face_margin", expected="a share from 0 to 1", got=repr(margin), todo=todo)
        if not 1 <= every <= MAX_EVERY:
            todo = "Change the option."
            raise InputError("detect_every", expected=f"1 to {MAX_EVERY} images", got=repr(every), todo=todo)
        self.margin, self.every, self._make, self._local = float(margin), every, make, threading.local()
        detector = self.detector()
        self.detection = {
            "detector": {"name": detector.name, "weights_sha256": detector.weights_sha256, **detector.settings},
            "detection_size": DETECTION_SIZE,
            "opencv": cv2.__version__,
            **({} if every == 1 else {"every": {"images": every, "still": STILL}}),
        }

    @classmethod
    def of(
        cls,
        detector: str = "yunet",
        weights: str | None = None,
        *,
        margin: float = 0.2,
        every: int = 1,
    ) -> FaceFinder:
        """Opens a finder by the name of its detector.

        Args:
            detector: "yunet", "retinaface", "retinaface-openvino", or one that a package adds.
            weights: file with the detector's weights; None = those that the detector finds by itself.
            margin, every: see `FaceFinder`.

        Raises:
            InputError: if the detector is not available, or the margin or `every` is out of its range.
        """
        make = partial(open_detector, detector, Path(weights) if weights else None)
        return cls(make, margin=margin, every=every)

    @classmethod
    def of_fingerprint(cls, recorded: Mapping[str, Any], weights: str | None = None) -> FaceFinder:
        """Rebuilds the finder of a stream from the "faces" of the stream's fingerprint.

        Raises:
            InputError: if the detector is not available, or its weights are not those that the fingerprint names.
        """
        known = recorded["detector"]
        every = recorded.get("every", {"images": 1})["images"]
        finder = cls.of(known["name"], weights, margin=recorded["margin"], every=every)
        ours = finder.detection["detector"]["weights_sha256"]
        if ours != known["weights_sha256"]:
            raise InputError(
                f"face detector {known['name']}",
                expected=f"the weights {known['weights_sha256'][:12]}… that the features were extracted with",
                got=f"{ours[:12]}…",
                todo="Pass the file that was used for extraction by --face-weights.",
            )
        return finder

    def __reduce__(self) -> tuple[object, ...]:
        return partial(FaceFinder, margin=self.margin, every=self.every), (
            self._make,
        )  # each process opens its own detectors

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the crops; plain JSON."""
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
        """Returns the detector of the calling thread."""
        if not hasattr(self._local, "detector"):
            self._local.detector = self._make()
        return self._local.detector
