"""A film of one clip: its pictures beside its traces, a playhead that moves over them, and its sound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..data.atomic import replacing
from ..data.clip import FrameClock
from ..data.clip_panel import ClipPanel
from ..data.errors import InputError
from ..data.manifest import Source
from .decode.audio import Samples
from .decode.container import h264_encoder
from .decode.frames import Frames, Letterbox
from .decode.reader import decode
from .decode.request import DecodeOptions, DecodeResult

SIDE = 400  # pixels of the column of the clip's pictures
PICTURE = 384  # of them, the largest width and height of a picture
SAMPLING_RATE_HZ = 48_000
PAPER, INK = (255, 255, 255), (27, 31, 35)
NO_PICTURE = (232, 234, 236)
PLAYHEAD = 2  # pixels
BT601, LIMITED = Colorspace.SMPTE170M, ColorRange.MPEG  # as OpenCV converts

Pixels = NDArray[Any]  # (H, W, 3) uint8


@dataclass(frozen=True)
class RenderedClip:
    """A written film. audio: True if it has sound; seconds: its length; render_s: what writing it took."""

    out: str
    num_frames: int
    seconds: float
    audio: bool
    render_s: float

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


def render(
    source: Source, panel: ClipPanel, out: Path, tick: Callable[[int, int], None] = lambda done, total: None
) -> RenderedClip:
    """Writes an mp4 (H.264, AAC) with one frame for each frame of a clip, at its own time, whole or not at all.

    The first frame of the film is that of the clip. Pictures are the crops where the clip has a crop folder, else the
    frames of the recording, upright. Sound is mono, with silence in its gaps.

    Args:
        source: the clip.
        panel: its traces; height and width are even.
        out: the film.
        tick: called with the number of frames done, and of all.

    Raises:
        InputError: if the recording is absent, damaged or without pictures, the film would replace it, or PyAV has no
            H.264 encoder.
    """
    started = perf_counter()
    if source.path is not None and out.exists() and out.samefile(source.path):
        raise InputError(out, "the film would replace the recording", todo="Choose another name.")
    faces = "full" if source.crops is None else "crops"
    times = _decoded(source, DecodeOptions(Letterbox((8, 8), PAPER) if source.crops else None, None, faces))
    if times.clock is None or not len(times.clock.pts):
        raise InputError(source.clip_id, "it has no pictures to show", todo="Draw its traces with `sage-va plot`.")
    canvas = _Canvas(panel)
    try:
        with replacing(out) as part, av.open(str(part), "w", format="mp4") as container:
            film = _Film(container, canvas, times)
            options = DecodeOptions(Letterbox((PICTURE, PICTURE), PAPER), SAMPLING_RATE_HZ, faces)
            for piece in decode(source, options):
                film.push(piece)
                tick(film.num_frames, film.total)
            film.finish()
    except FFmpegError as error:
        todo = "Look at the free space, and at the recording."
        raise InputError(out, f"the film cannot be written: {error.strerror or error}", todo=todo) from error
    return RenderedClip(str(out), film.num_frames, film.seconds, film.audio is not None, perf_counter() - started)


def _decoded(source: Source, options: DecodeOptions) -> DecodeResult:
    """Returns the times of a clip, read in a pass of their own: pictures come before the times of all are known."""
    *_, result = decode(source, options)
    assert isinstance(result, DecodeResult), "the result comes last"
    return result


class _Canvas:
    """The picture that all frames share, on which each frame is laid."""

    def __init__(self, panel: ClipPanel) -> None:
        height, width = panel.pixels.shape[:2]
        self._panel = panel
        self._still = np.full((height, SIDE + width, 3), PAPER, np.uint8)
        self._still[:, SIDE:] = panel.pixels
        self._font = ImageFont.load_default(20)
        self.size = SIDE + width, height

    def frame(self, picture: Pixels | None, time_s: float) -> Pixels:
        """Returns the canvas (H, W, 3) with a picture, the time, and the playhead at that time."""
        canvas, panel = self._still.copy(), self._panel
        margin, top = (SIDE - PICTURE) // 2, max(0, (len(canvas) - PICTURE) // 2)
        rows, columns = slice(top, top + PICTURE), slice(margin, margin + PICTURE)
        canvas[rows, columns] = NO_PICTURE if picture is None else picture[: len(canvas) - top]
        text = self._text(f"{time_s:.2f} s")
        place = top + PICTURE + 8
        canvas[place : place + len(text), margin : margin + text.shape[1]] = text[: max(0, len(canvas) - place)]
        first = SIDE + round(panel.column(time_s) - PLAYHEAD / 2)
        canvas[panel.top : panel.bottom, first : first + PLAYHEAD] = INK
        return canvas

    def _text(self, text: str) -> Pixels:
        image = Image.new("RGB", (PICTURE, 26), PAPER)
        ImageDraw.Draw(image).text((0, 0), text, font=self._font, fill=INK)
        return np.asarray(image)


class _Film:
    """An open mp4: frames and sound on the clock of the clip, begun at its first frame."""

    def __init__(self, container: Any, canvas: _Canvas, times: DecodeResult) -> None:
        assert times.clock is not None, "checked before"
        self._container, self._canvas, self._clock = container, canvas, times.clock
        self._pts, self._times_s = times.clock.pts - times.clock.pts[0], times.clock.times_s
        self._without = set(np.flatnonzero(times.shown < 0).tolist())
        self.num_frames = 0
        self._video = _video(container, canvas.size, times.clock)
        self.audio = None
        if times.audio_start_s is not None:
            self.audio = container.add_stream("aac", rate=SAMPLING_RATE_HZ, layout="mono", bit_rate=96_000)
            self._next_sample = round((times.audio_start_s - float(self._times_s[0])) * SAMPLING_RATE_HZ)

    @property
    def total(self) -> int:
        """Number of frames of the whole film."""
        return len(self._pts)

    @property
    def seconds(self) -> float:
        """Length of the whole film, to the end of its last frame."""
        return float((int(self._pts[-1]) + _usual_gap(self._pts)) * self._clock.time_base)

    def push(self, piece: Frames | Samples | DecodeResult) -> None:
        """Takes what the decoder yields."""
        if isinstance(piece, Frames):
            for picture in piece.pixels:
                self._write_missing()
                self._write(picture)
        elif not isinstance(piece, DecodeResult):
            self._speak(piece)

    def finish(self) -> None:
        """Writes the last frames without a picture, and what the encoders hold."""
        self._write_missing()
        for stream in (self._video, self.audio):
            if stream is not None:
                self._container.mux(stream.encode(None))

    def _write_missing(self) -> None:
        while self.num_frames in self._without:
            self._write(None)

    def _write(self, picture: Pixels | None) -> None:
        canvas = self._canvas.frame(picture, float(self._times_s[self.num_frames]))
        planes = np.asarray(cv2.cvtColor(canvas, cv2.COLOR_RGB2YUV_I420), np.uint8)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts, frame.time_base = int(self._pts[self.num_frames]), self._clock.time_base
        frame.colorspace, frame.color_range = BT601, LIMITED
        self._container.mux(self._video.encode(frame))
        self.num_frames += 1

    def _speak(self, samples: Samples) -> None:
        """Writes the samples from the first frame on."""
        skipped = max(0, -self._next_sample)
        block = samples[skipped:]
        if self.audio is not None and len(block):
            frame = av.AudioFrame.from_ndarray(block[None], format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = SAMPLING_RATE_HZ, Fraction(1, SAMPLING_RATE_HZ)
            frame.pts = self._next_sample + skipped
            self._container.mux(self.audio.encode(frame))
        self._next_sample += len(samples)


def _video(container: Any, size: tuple[int, int], clock: FrameClock) -> Any:
    """Returns a new H.264 stream of an open container, with the time base of a clock."""
    rate = 1 / (_usual_gap(clock.pts) * clock.time_base)
    stream = container.add_stream(h264_encoder(), rate=rate.limit_denominator(1001))
    stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
    stream.time_base = stream.codec_context.time_base = clock.time_base
    stream.codec_context.colorspace, stream.codec_context.color_range = BT601, LIMITED
    if stream.codec_context.name == "libx264":
        stream.options = {"preset": "veryfast", "crf": "20"}
    return stream


def _usual_gap(pts: NDArray[np.int64]) -> int:
    """Returns the median of the ticks from frame to frame; 1 for a single frame."""
    return max(1, int(np.median(np.diff(pts)))) if len(pts) > 1 else 1
