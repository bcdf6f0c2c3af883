"""Video of the face crops of a clip, for people to check."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av import VideoFrame
from av.container import OutputContainer
from av.error import FFmpegError

from ...data.atomic import replacing
from ...data.errors import InputError
from ...data.hashing import file_sha256
from ...data.manifest import Source
from ..decode.audio import Samples
from ..decode.frames import Frames, Pixels
from ..decode.request import DecodeOptions, DecodeResult
from .align import FaceCropper, FaceOf
from .detection import detect_faces
from .finder import FaceFinder
from .people import FaceReport, PersonResult, decode_person

_TIME_BASE = Fraction(1, 60_000)
_GREY = (128, 128, 128)


def write_preview(
    source: Source, out: Path, finder: FaceFinder, *, size: int = 224, fps: float | None = None
) -> FaceReport:
    """Writes the crops of `--faces detect` as a video, each image at its own time, whole or not at all.

    Images without the face are grey. Each bears its number, counted from 0, and the detector's score.

    Args:
        source: the clip; its `person` names who is cropped.
        out: an `.mp4`; another video of that name is replaced.
        finder: detects and crops the faces.
        size: side of the crops in pixels, even.
        fps: images per second, as of an extraction; None = every image.

    Raises:
        InputError: if the clip cannot be decoded, or the video cannot be written or would replace the recording.
    """
    path, options = source.path, DecodeOptions(fps=fps)
    if path is None or not path.is_file():
        got = f"none at {source.place}"
        raise InputError(source.clip_id, expected="a recording", got=got, todo="Correct the path.")
    if out.exists() and out.samefile(path):
        raise InputError(out, "the video would replace the recording", todo="Choose another name.")
    detections = detect_faces(source, file_sha256(path), finder, options)
    times_s = iter(detections.times_s - detections.times_s[0])
    crops = decode_person(source, options, detections, lambda face_of: _Annotator(size, finder.margin, face_of))
    try:
        with replacing(out) as part, av.open(str(part), "w", format="mp4") as container:
            return _write(container, crops, times_s, size)
    except FFmpegError as error:
        todo = "Look at the free space."
        raise InputError(out, f"the video cannot be written: {error.strerror or error}", todo=todo) from error


def _write(
    container: OutputContainer, crops: Iterator[Frames | Samples | DecodeResult], times_s: Iterator[float], size: int
) -> FaceReport:
    stream = _add_stream(container, size)
    for part in crops:
        for pixels in part.pixels if isinstance(part, Frames) else ():
            container.mux(stream.encode(_frame(pixels, next(times_s))))
        if isinstance(part, PersonResult):
            container.mux(stream.encode(None))
            return part.faces
    raise AssertionError("decoding ends with a result")


class _Annotator(FaceCropper):
    """Crops with their number and score written on them, grey where there is no face."""

    def __init__(self, size: int, margin: float, face_of: FaceOf) -> None:
        super().__init__((size, size), _GREY, margin, face_of)
        self._next = 0

    def __call__(self, image: VideoFrame, canvas: Pixels, aspect: Fraction = Fraction(1)) -> tuple[float, ...]:
        """Draws every image, with or without a face."""
        quality = super().__call__(image, canvas, aspect)
        if quality is None:
            canvas[...] = _GREY
        text = f"{self._next} " + (f"{quality[0]:.2f}" if quality else "no face")
        annotated = np.ascontiguousarray(canvas)
        for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(annotated, text, (4, self.size[0] - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, width)
        canvas[...] = annotated
        self._next += 1
        return ()


def _add_stream(container: OutputContainer, size: int) -> Any:
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    stream: Any = container.add_stream(codec, time_base=_TIME_BASE)
    stream.width = stream.height = size
    stream.pix_fmt, stream.codec_context.time_base = "yuv420p", _TIME_BASE
    return stream


def _frame(pixels: Pixels, time_s: float) -> VideoFrame:
    frame = VideoFrame.from_ndarray(pixels, format="rgb24")
    frame.pts, frame.time_base = round(time_s / _TIME_BASE), _TIME_BASE
    return frame
