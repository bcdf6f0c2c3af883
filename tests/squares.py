"""A face detector for drawn pictures: white squares are faces."""

from __future__ import annotations

import cv2
import numpy as np

from sage_va.extract.faces.align import TEMPLATE
from sage_va.extract.faces.detectors import no_faces

HEIGHT, WIDTH = 96, 160


def face_at(x, y, size, score=0.9):
    """A (15,) face whose landmarks lie as in the template."""
    points = (TEMPLATE / 112 * size + [x, y]).reshape(-1)
    return np.array([x, y, size, size, *points, score], np.float32)


class Squares:
    """Takes every white square of an image for a face."""

    name, weights_sha256, settings = "squares", "5" * 64, {"min_score": 0.5}
    calls = 0

    def detect(self, images):
        type(self).calls += 1
        return [self._detect(image) for image in images]

    def _detect(self, image):
        _, _, stats, _ = cv2.connectedComponentsWithStats((image[..., 1] > 200).astype(np.uint8))
        faces = [face_at(x, y, (width + height) / 2) for x, y, width, height, area in stats[1:] if area > 60]
        return np.stack(faces) if faces else no_faces()


def drawn(boxes_of, num_frames):
    """Frames with white squares (x, y, size) on coloured fields; `boxes_of` gives those of a frame by its number."""
    frames = np.zeros((num_frames, HEIGHT, WIDTH, 3), np.uint8)
    frames[:, :, WIDTH // 3 :, 0], frames[:, HEIGHT // 2 :, :, 2] = 255, 255
    frames[:, 60:, 80:, 1] = 150
    for frame, boxes in zip(frames, map(boxes_of, range(num_frames)), strict=True):
        for x, y, size in boxes:
            frame[y : y + size, x : x + size] = 255
    return frames
