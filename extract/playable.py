"""Recordings as a browser plays them: the file itself where browsers can, else a converted copy on the same clock.

A copy holds the frames at their presentation times, repaired as the extraction repairs them, and mono sound. Its time 0
is `origin_s` on the recording's clock, since browsers differ in what they do with files that begin later.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from ..data.atomic import PART, lock_if_free, replacing
from ..data.errors import InputError
from ..data.hashing import json_sha256
from ..data.user_cache import user_cache
from .decode.audio import MonoAudio, Samples
from .decode.audio_track import audio_track
from .decode.container import REENCODE, open_media, video_stream
from .decode.frames import sane_aspect
from .decode.timestamps import TimestampRepair
from .faces.align import UprightConverter

CACHE_BYTES = 8_000_000_000  # of converted copies: then the one that was used longest ago goes
LONGEST_SIDE = 1280  # pixels
RECIPE = 1  # of the conversion: another number makes new copies
CLOCK, RATE = Fraction(1, 90_000), 48_000
MP4 = "video/mp4"
_KINDS = {  # container by FFmpeg's name, file suffix -> media type
    ("mov,mp4,m4a,3gp,3g2,mj2", None): MP4,
    ("matroska,webm", ".webm"): "video/webm",
    ("wav", None): "audio/wav",
    ("mp3", None): "audio/mpeg",
    ("flac", None): "audio/flac",
    ("ogg", None): "audio/ogg",
}
_VIDEO = {"h264", "vp8", "vp9", "av1"}
_AUDIO = {
    MP4: {"aac", "mp3", "opus", "flac"},
    "video/webm": {"opus", "vorbis"},
    "audio/ogg": {"opus", "vorbis", "flac"},
}
_DEPTHS = {"yuv420p", "yuvj420p"}
_START_S = (-0.1, 0.001)  # encoders of sound begin a little before 0


@dataclass(frozen=True)
class Playable:
    """A file that a browser plays.

    Args:
        path: of the file.
        kind: its media type.
        origin_s: the file's time 0 on the recording's clock, in seconds.
    """

    path: Path
    kind: str
    origin_s: float = 0.0


def has_pictures(path: Path, clip_id: str) -> bool:
    """Returns True for a recording with a video stream.

    Raises:
        InputError: if it cannot be opened.
    """
    with open_media(path, clip_id) as container:
        return video_stream(container) is not None


def playable_kind(path: Path, clip_id: str) -> str | None:
    """Returns the media type of a recording that browsers play by its own clock; None where it must be converted.

    These are MP4, MOV and WebM with 8-bit H.264, VP8, VP9 or AV1, at most one track of each kind, that begin at 0; and
    the usual files of sound.

    Raises:
        InputError: if it cannot be opened.
    """
    with open_media(path, clip_id) as container:
        name, suffix = container.format.name, path.suffix.lower()
        kind = _KINDS.get((name, None)) or _KINDS.get((name, suffix))
        if kind is None or not _begins_at_0(container):
            return None
        videos, audios = list(container.streams.video), list(container.streams.audio)
        if len(videos) > 1 or len(audios) > 1 or not (videos or audios):
            return None
        return kind if all(map(_is_plain, videos)) and all(_is_known(kind, audio) for audio in audios) else None


def _begins_at_0(container: InputContainer) -> bool:
    starts = [_start_s(stream) for stream in (*container.streams.video, *container.streams.audio)]
    pictures = [_start_s(stream) for stream in container.streams.video]
    return _START_S[0] <= min(starts, default=0.0) <= _START_S[1] and min(pictures, default=0.0) >= -_START_S[1]


def _start_s(stream: Any) -> float:
    return 0.0 if stream.start_time is None else float(stream.start_time * stream.time_base)


def _is_plain(video: Any) -> bool:
    context = video.codec_context
    return context is not None and context.codec.canonical_name in _VIDEO and context.pix_fmt in _DEPTHS


def _is_known(kind: str, audio: Any) -> bool:
    context = audio.codec_context
    if context is None:
        return False
    known = _AUDIO.get(kind)
    name = context.codec.canonical_name
    return name in known if known else name.startswith("pcm_s16") or kind != "audio/wav"


class ConvertedCopies:
    """Converted copies of recordings in the user's folder of derived files, at most so many bytes.

    A copy is known by the recording's path, size and time of change.

    Args:
        folder: for the copies; None = `view` in the user's folder.
        most_bytes: of all copies together; the one in use stays.
    """

    def __init__(self, folder: Path | None = None, most_bytes: int = CACHE_BYTES) -> None:
        self.folder, self._most_bytes = folder or user_cache() / "view", most_bytes

    def known(self, path: Path) -> Path | None:
        """Returns the copy of a recording, if it is there, and notes its use."""
        place = self._place(path)
        if not place.is_file():
            return None
        os.utime(place)
        return place

    def make(self, path: Path, clip_id: str, tick: Callable[[float], None] = lambda share: None) -> Path:
        """Returns the copy of a recording, which is made where there is none.

        Args:
            path: of the recording.
            clip_id: names the clip in errors.
            tick: called with the share of the recording that is done, from 0 to 1.

        Raises:
            InputError: if the recording cannot be decoded.
        """
        if (place := self.known(path)) is None:
            place = self._place(path)
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with replacing(place) as part:
                convert(path, part, clip_id, tick)
            self._bound(place)
        return place

    def _place(self, path: Path) -> Path:
        stat = path.stat()
        key = [RECIPE, str(path.resolve()), stat.st_size, stat.st_mtime_ns]
        return self.folder / f"{json_sha256(key)[:40]}.mp4"

    def _bound(self, newest: Path) -> None:
        for part in self.folder.glob(f"{PART}*.mp4"):
            with lock_if_free(part) as left_behind:  # by a process that was killed
                if left_behind:
                    part.unlink(missing_ok=True)
        copies = []
        for file in self.folder.glob("[!.]*.mp4"):
            with contextlib.suppress(FileNotFoundError):  # another window was faster
                copies.append((file.stat().st_mtime, file.stat().st_size, file))
        surplus = sum(size for _, size, _ in copies) - self._most_bytes
        for _, size, file in sorted(copies):
            if surplus > 0 and file != newest:
                file.unlink(missing_ok=True)
                surplus -= size


def origin_s(path: Path, clip_id: str) -> float:
    """Returns the instant of a recording at which its converted copy begins, in seconds.

    Raises:
        InputError: if it cannot be opened.
    """
    with open_media(path, clip_id) as container:
        return _origin_s(container)


def _origin_s(container: InputContainer) -> float:
    return min((_start_s(stream) for stream in (*container.streams.video, *container.streams.audio)), default=0.0)


def convert(path: Path, out: Path, clip_id: str, tick: Callable[[float], None] = lambda share: None) -> None:
    """Writes a recording as an MP4 of H.264 and AAC that browsers play; every twelfth frame is a key frame.

    Args:
        path: of the recording.
        out: the copy.
        clip_id: names the clip in errors.
        tick: called for each packet with the share that is done, from 0 to 1; 0 where the length is not known.

    Raises:
        InputError: if it cannot be decoded, or this PyAV has no encoder of H.264.
    """
    if "libx264" not in av.codecs_available:
        todo = "Install PyAV's own wheel: pip install --force-reinstall av."
        raise InputError(clip_id, "this PyAV cannot write H.264, which the browser needs", todo=todo)
    try:
        with open_media(path, clip_id) as container, av.open(str(out), "w", format="mp4") as copy:
            _Conversion(path, clip_id, container, copy).run(tick)
    except (FFmpegError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        got = getattr(error, "strerror", None) or str(error)
        raise InputError(clip_id, expected="a recording that decodes", got=got, todo=REENCODE) from None


class _Conversion:
    """One recording on its way into a copy.

    Args:
        path: of the recording.
        clip_id: names the clip in errors.
        container: the recording, open.
        copy: the copy, open.
    """

    def __init__(self, path: Path, clip_id: str, container: InputContainer, copy: Any) -> None:
        self._container, self._copy, self._origin_s = container, copy, _origin_s(container)
        self._video = video_stream(container)
        self._audio = audio_track(path, container, clip_id, lambda: None)
        self._mono = MonoAudio(clip_id, RATE, None, None)
        self._mono.only_counts = container.format.name == "avi"
        self._repair = TimestampRepair(_usual_gap(self._video))
        self._upright, self._num_samples, self._last = UprightConverter(), 0, -1
        self._pictures: Any = None
        self._sound: Any = None
        if self._video is not None:
            self._video.thread_type = "AUTO"
            self._pictures = copy.add_stream("libx264", rate=self._video.average_rate or 25)
            self._pictures.pix_fmt = "yuv420p"
            self._pictures.options = {"preset": "veryfast", "crf": "23", "g": "12", "bf": "0"}
            self._pictures.time_base = self._pictures.codec_context.time_base = CLOCK
        if self._audio is not None:
            self._sound = copy.add_stream("aac", rate=RATE, layout="mono")

    def run(self, tick: Callable[[float], None]) -> None:
        """Converts packet by packet."""
        length_s, share = (self._container.duration or 0) / av.time_base, 0.0
        for packet in self._container.demux([stream for stream in (self._video, self._audio) if stream]):
            for part in packet.decode():
                if isinstance(part, av.VideoFrame):
                    self._show(self._repair.push(part.pts, part.duration or 0, part))
                elif isinstance(part, av.AudioFrame):
                    self._play(self._mono.push(part))
            if packet.dts is not None:
                share = (float(packet.dts * packet.time_base) - self._origin_s) / length_s if length_s > 0 else 0.0
            tick(min(1.0, max(0.0, share)))
        self._show(self._repair.finish())
        self._play(self._mono.finish())
        for stream in (self._pictures, self._sound):
            if stream is not None and (stream is self._sound or stream.codec_context.is_open):
                self._copy.mux(stream.encode(None))

    def _show(self, frames: Any) -> None:
        video = self._video
        assert video is not None, "frames come from a stream"
        time_base = video.time_base or Fraction(1, 90_000)
        for pts, _, frame in frames:
            pixels = self._upright(frame, sane_aspect(video.sample_aspect_ratio), LONGEST_SIDE)
            pixels = np.pad(pixels, ((0, len(pixels) % 2), (0, pixels.shape[1] % 2), (0, 0)), "edge")  # H.264 is even
            if not self._pictures.codec_context.is_open:
                self._pictures.height, self._pictures.width = pixels.shape[:2]
            image = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            ticks = round((float(pts * time_base) - self._origin_s) / CLOCK)
            image.pts = self._last = max(ticks, self._last + 1)
            image.time_base = CLOCK
            self._copy.mux(self._pictures.encode(image))

    def _play(self, samples: Samples) -> None:
        for block in _blocks(samples):
            sound = av.AudioFrame.from_ndarray(block[None], format="fltp", layout="mono")
            sound.sample_rate, sound.time_base = RATE, Fraction(1, RATE)
            begin = round(((self._mono.start_s or 0.0) - self._origin_s) * RATE)
            sound.pts = begin + self._num_samples
            self._num_samples += len(block)
            self._copy.mux(self._sound.encode(sound))


def _blocks(samples: Samples) -> Iterator[Samples]:
    for first in range(0, len(samples), RATE):
        yield np.ascontiguousarray(samples[first : first + RATE], np.float32)


def _usual_gap(video: av.VideoStream | None) -> int:
    if video is None or not video.average_rate or not video.time_base:
        return 0
    return round(1 / video.average_rate / video.time_base)
