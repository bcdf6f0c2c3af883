"""A video of what was cut out of a clip, to look at."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av import VideoFrame

from ...data.errors import InputError
from ...data.hashing import file_sha256
from ...data.manifest import Source
from ..decode.frames import Frames, Pixels
from ..decode.reader import Wanted
from .align import Cropper, FaceOf
from .finder import FaceFinder, PersonEnding, decode_person, sightings

_TIME_BASE = Fraction(1, 60_000)
_GREY = (128, 128, 128)


def write_crops(
    source: Source, out: Path, finder: FaceFinder, *, size: int = 224, fps: float | None = None
) -> dict[str, Any]:
    """Writes what `--faces detect` cuts out of a clip as a video, each image at its own time.

    Images without the face are grey. Each bears its number, counted from 0, and the detector's score.

    Args:
        source: the clip; its `person` says who is cut out.
        out: an `.mp4`, written anew.
        size: of the crops, even.
        fps: as of an extraction; None = every image.

    Returns:
        What the report of an extraction says of the faces.

    Raises:
        InputError: if anything about the clip is not as it should be, or a video cannot be written there.
    """
    path = source.path
    if path is None or not path.is_file():
        got = f"none at {source.place}"
        raise InputError(source.clip_id, expected="a recording", got=got, todo="Correct the path.")
    seen = sightings(source, file_sha256(path), finder, Wanted(fps=fps))
    times_s, number = seen.times_s - seen.times_s[0], 0
    with _opened(out) as container:
        stream = container.add_stream(_encoder(), time_base=_TIME_BASE)
        stream.width = stream.height = size
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", _TIME_BASE
        for part in decode_person(source, Wanted(fps=fps), seen, lambda face_of: _Drawer(size, finder.margin, face_of)):
            for pixels in part.pixels if isinstance(part, Frames) else ():
                frame = VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = round(times_s[number] / _TIME_BASE), _TIME_BASE
                container.mux(stream.encode(frame))
                number += 1
            if isinstance(part, PersonEnding):
                container.mux(stream.encode(None))
                return part.visual_report["faces"]
    raise AssertionError("decoding ends in an ending")


class _Drawer(Cropper):
    """Crops with their number and score on them, grey where there is no face."""

    def __init__(self, size: int, margin: float, face_of: FaceOf) -> None:
        super().__init__((size, size), _GREY, margin, face_of)
        self._next = 0

    def __call__(self, image: VideoFrame, canvas: Pixels, aspect: Fraction = Fraction(1)) -> tuple[float, ...]:
        """Draws every image."""
        quality = super().__call__(image, canvas, aspect)
        if quality is None:
            canvas[...] = _GREY
        text = f"{self._next} " + (f"{quality[0]:.2f}" if quality else "no face")
        drawn = np.ascontiguousarray(canvas)
        for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(drawn, text, (4, self.size[0] - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, width)
        canvas[...] = drawn
        self._next += 1
        return ()


def _opened(out: Path) -> Any:
    try:
        out.write_bytes(b"")  # PyAV would tell only when it has something to write
        return av.open(str(out), "w", format="mp4")
    except (OSError, ValueError) as error:
        todo = "Choose another place."
        raise InputError(out, expected="a place for a video", got=f"{error}".splitlines()[0], todo=todo) from error


def _encoder() -> str:
    return "libx264" if "libx264" in av.codecs_available else "mpeg4"
