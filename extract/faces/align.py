"""Alignment of faces: five landmarks to a template, cropped as an encoder takes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
from av import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from ..decode.frames import SAME_ON_ALL, Pixels, measure
from .detectors import Faces

TEMPLATE_SIZE = 112
TEMPLATE = np.array(  # of ArcFace, in pixels of a 112 x 112 crop: eye, eye, nose tip, mouth corner, mouth corner
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
ALIGNMENT = "least-squares similarity of five landmarks, ArcFace 112 template; area-filtered where shrunk, else cubic"
FACE_QUALITY_UNITS = {
    "detector_score": "0 to 1",
    "face_px": "pixels of the recording, square root of the box area",
    "sharpness": "variance of the Laplacian in squared grey levels of the crop within its margin",
    "brightness": "share of white, of the crop within its margin",
    "yaw": "degrees, above 0 towards the image's right; rough, from the nose between the eyes",
    "since_detection_s": "seconds since the face was last found, 0 = in this frame",
}

Points = NDArray[np.floating[Any]]
FaceOf = Callable[[int], Faces | None]


def template(size: int, margin: float) -> Points:
    """Returns the (5, 2) positions of the landmarks in a square crop, in pixels.

    Args:
        size: side of the crop in pixels.
        margin: border that the crop shows around the template's square, as a share of that square's side.
    """
    return (TEMPLATE / TEMPLATE_SIZE + margin) * (size / (1 + 2 * margin))


def similarity(landmarks: Points, targets: Points) -> NDArray[np.float64]:
    """Returns the (2, 3) least-squares rotation, scale and shift from (N, 2) landmarks to (N, 2) targets."""
    before, after = (np.asarray(points, np.float64) @ [1, 1j] for points in (landmarks, targets))
    centred = before - before.mean()
    turn = (centred.conj() @ (after - after.mean())) / (centred.conj() @ centred).real
    shift = after.mean() - turn * before.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def yaw_degrees(landmarks: Points) -> float:
    """Estimates the yaw of a face from (5, 2) landmarks, in degrees, above 0 towards the image's right.

    Rough: it assumes that the nose tip stands as far in front of the eyes as half the distance between them. NaN where
    the eyes coincide.
    """
    first, second, nose = (complex(*point) for point in landmarks[:3])
    half = (second - first) / 2
    if half == 0:
        return math.nan
    offset = ((nose - (first + second) / 2) / half).real  # along the line of the eyes, which roll turns
    return math.degrees(math.atan(offset))


def align(image: Pixels, landmarks: Points, size: int, margin: float, pad: tuple[int, int, int]) -> Pixels:
    """Crops a face so that its landmarks lie on the template.

    Args:
        image: (H, W, 3) uint8 RGB.
        landmarks: (5, 2) in pixels of the image.
        size: side of the crop in pixels.
        margin: see `template`.
        pad: RGB colour, 0 to 255, beyond the image's edge.

    Returns:
        (size, size, 3) uint8 RGB; area-filtered where the image is shrunk, else bicubic.
    """
    matrix = similarity(landmarks, template(size, margin))
    left, top, right, bottom = _reach(matrix, size, image.shape)
    scale = min(1.0, math.hypot(matrix[0, 0], matrix[1, 0]))
    if left >= right or top >= bottom:
        return np.full((size, size, 3), pad, np.uint8)
    part = image[top:bottom, left:right]
    width, height = (max(1, round(side * scale)) for side in (right - left, bottom - top))
    if scale < 1:
        part = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
    back = np.array([[(right - left) / width, 0, left], [0, (bottom - top) / height, top], [0, 0, 1]])
    matrix = _on_centres(matrix @ back)
    crop = cv2.warpAffine(
        part, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=pad
    )
    return np.asarray(crop, np.uint8)


def _reach(matrix: NDArray[np.float64], size: int, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom of the image's part in the crop, with a border for the filter."""
    corners = np.array([[0, 0, size, size], [0, size, 0, size]])
    places = np.linalg.solve(matrix[:, :2], corners - matrix[:, 2:])
    spare = 2 / min(1.0, math.hypot(matrix[0, 0], matrix[1, 0])) + 1
    limits = np.array([[shape[1]], [shape[0]]])
    low = np.clip(np.floor(places - spare), 0, limits).min(axis=1)
    high = np.clip(np.ceil(places + spare), 0, limits).max(axis=1)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _on_centres(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Converts a matrix to OpenCV's coordinates, which count from the middle of the first pixel, not from its edge."""
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2].sum(axis=1) * 0.5 - 0.5
    return moved


class UprightConverter:
    """Converts recorded frames to upright RGB images with square pixels; use one per thread."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame, aspect: Fraction = Fraction(1), longest: int | None = None) -> Pixels:
        """Returns (H, W, 3) uint8 at display size; shrunk where the longer side would exceed `longest` pixels."""
        width, height = frame.width * float(aspect), float(frame.height)
        scale = min(1.0, longest / max(width, height)) if longest else 1.0
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        kernel = Interpolation.AREA | SAME_ON_ALL
        image = self._reformatter.reformat(frame, width, height, "rgb24", interpolation=kernel, threads=1)
        return np.ascontiguousarray(np.rot90(np.asarray(image.to_ndarray(), np.uint8), _turns(frame)))


def upright_size(frame: VideoFrame, aspect: Fraction = Fraction(1)) -> tuple[int, int]:
    """Returns width and height of a frame at display size, upright."""
    width, height = max(1, round(frame.width * float(aspect))), frame.height
    return (width, height) if _turns(frame) % 2 == 0 else (height, width)


def _turns(frame: VideoFrame) -> int:
    return round(frame.rotation / 90) % 4


class FaceCropper:
    """Crops one face of each image to an encoder's input, as `Letterbox` fits whole images; use one per thread.

    Args:
        size: (height, width) of the input in pixels; the crop is the largest square in its middle.
        pad: RGB colour, 0 to 255, beyond the image's edge.
        margin: see `template`.
        face_of: returns the (15,) face of an image by its number, counted from 0 in order; None = it has none.
    """

    def __init__(
        self,
        size: tuple[int, int],
        pad: tuple[int, int, int],
        margin: float,
        face_of: FaceOf,
    ) -> None:
        self.size, self._pad, self._margin, self._face_of = size, pad, margin, face_of
        self._upright, self._num_images = UprightConverter(), 0

    def __call__(self, image: VideoFrame, canvas: Pixels, aspect: Fraction = Fraction(1)) -> tuple[float, ...] | None:
        """Fills `canvas` (H, W, 3) with the face; returns its `FACE_QUALITY_UNITS`, or None where there is no face."""
        face = self._face_of(self._num_images)
        self._num_images += 1
        if face is None:
            return None
        side, landmarks = min(self.size), face[4:14].reshape(5, 2)
        crop = align(self._upright(image, aspect), landmarks, side, self._margin, self._pad)
        top, left = ((whole - side) // 2 for whole in self.size)
        canvas[...] = self._pad
        canvas[top : top + side, left : left + side] = crop
        edge = round(side * self._margin / (1 + 2 * self._margin))
        brightness, sharpness = measure(np.ascontiguousarray(crop[edge : side - edge, edge : side - edge]))
        face_px = math.sqrt(float(face[2] * face[3]))
        return float(face[14]), face_px, sharpness, brightness, yaw_degrees(landmarks), 0.0
