"""Length of a recording by its own header: a file that was cut off often decodes without any error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer

TOLERANCE_S = 0.5
_HEADED = ("mp4", "matroska", "flac", "aiff", "au", "caf")  # their headers state the length of the audio
_MP3_START_BYTES = 4096
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # placeholders of writers that do not know the size in advance


@dataclass(frozen=True)
class DeclaredLength:
    """Length of a recording as its header declares it.

    Args:
        num_frames: frames; 0 = not declared.
        audio_s: length of the audio in seconds; 0 = not declared.
        end_s: end of the recording in seconds; None = not declared.
        of_frames: True if `end_s` is the end of the last frame, False if of whatever ends last.
    """

    num_frames: int
    audio_s: float
    end_s: float | None
    of_frames: bool

    @classmethod
    def of(
        cls, path: Path, container: InputContainer, video: av.VideoStream | None, audio: av.AudioStream | None
    ) -> DeclaredLength:
        """Reads the length from the container and, where FFmpeg does not give it, from the file."""
        audio_s = float((audio.duration or 0) * (audio.time_base or 0)) if audio else 0.0
        if video is None:
            return cls(0, audio_s, _audio_end_s(path, container, audio) if audio else None, False)
        end_s = _avi_end_s(container, video) or _stream_end_s(video) or _container_end_s(container)
        return cls(video.frames, audio_s, end_s, bool(video.duration))

    def is_missed_by(self, end_s: float) -> bool:
        """True if a recording that ends at `end_s` ends too early: by more than 0.5 s and 2 % of its length."""
        return self.end_s is not None and self.end_s - end_s > max(TOLERANCE_S, 0.02 * self.end_s)


def _stream_end_s(stream: av.VideoStream | av.AudioStream) -> float | None:
    if not stream.duration:
        return None
    return float(((stream.start_time or 0) + stream.duration) * (stream.time_base or 0))


def _avi_end_s(container: InputContainer, video: av.VideoStream) -> float | None:
    """Returns the end by the frames that an AVI declares; its duration FFmpeg shortens to what the file holds."""
    if container.format.name != "avi" or not video.frames or not video.average_rate:
        return None
    return float(video.frames / video.average_rate)


def _audio_end_s(path: Path, container: InputContainer, audio: av.AudioStream) -> float | None:
    names = container.format.name.split(",")
    if names == ["wav"]:
        return _wav_end_s(path)
    if names == ["mp3"] and not _counts_frames(path):  # then FFmpeg estimates the length from the file's own size
        return None
    if names != ["mp3"] and not set(names) & set(_HEADED):
        return None
    return _stream_end_s(audio) or _container_end_s(container)


def _container_end_s(container: InputContainer) -> float | None:
    if not container.duration or len(container.streams) > 2:
        return None
    return ((container.start_time or 0) + container.duration) / av.time_base


def _wav_end_s(path: Path) -> float | None:
    """Returns the size of the data by the header over bytes per second; FFmpeg itself reports what the file holds."""
    with path.open("rb") as file:
        long = file.read(12)[:4] == b"RF64"
        rate = size = 0
        while len(head := file.read(8)) == 8:
            name, length = head[:4], int.from_bytes(head[4:], "little")
            if name == b"data":
                length = size if long else length
                return length / rate if rate and length not in _UNKNOWN_SIZES else None
            body = file.read(length + length % 2)
            if name == b"fmt ":
                rate = int.from_bytes(body[8:12], "little")
            elif name == b"ds64":
                size = int.from_bytes(body[8:16], "little")
    return None


def _counts_frames(path: Path) -> bool:
    """True if an MP3 declares the number of its frames, in the Xing or Info header of its first frame."""
    with path.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3":
            size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
            file.seek(10 + size)
        else:
            file.seek(0)
        start = file.read(_MP3_START_BYTES)
    places = [place for name in (b"Xing", b"Info") if (place := start.find(name)) >= 0]
    return bool(places) and len(start) > min(places) + 7 and bool(start[min(places) + 7] & 1)
