"""How long a recording is by its own header: a file that was cut off often decodes without any error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer

TOLERANCE_S = 0.5
_HEADED = ("mp4", "matroska", "flac", "aiff", "au", "caf")  # their headers state the length of the sound
_MP3_START_BYTES = 4096
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # what writers of a stream put where they cannot know


@dataclass(frozen=True)
class Promise:
    """What a file's header promises.

    Args:
        num_frames: frames; 0 = it does not say.
        sound_s: length of the sound; 0 = it does not say.
        end_s: where the recording ends; None = it does not say.
        of_frames: whether that is the end of the last frame, not of whatever ends last.
    """

    num_frames: int
    sound_s: float
    end_s: float | None
    of_frames: bool

    @classmethod
    def of(
        cls, path: Path, container: InputContainer, video: av.VideoStream | None, audio: av.AudioStream | None
    ) -> Promise:
        """Reads it."""
        sound_s = float((audio.duration or 0) * (audio.time_base or 0)) if audio else 0.0
        if video is None:
            return cls(0, sound_s, _sound_end_s(path, container, audio) if audio else None, False)
        end_s = _stream_end_s(video) or _container_end_s(container)
        return cls(video.frames, sound_s, end_s, bool(video.duration))

    def breaks(self, end_s: float) -> bool:
        """Whether a recording that ends there ends too early: by more than half a second and 2 % of its length."""
        return self.end_s is not None and self.end_s - end_s > max(TOLERANCE_S, 0.02 * self.end_s)


def _stream_end_s(stream: av.VideoStream | av.AudioStream) -> float | None:
    if not stream.duration:
        return None
    return float(((stream.start_time or 0) + stream.duration) * (stream.time_base or 0))


def _sound_end_s(path: Path, container: InputContainer, audio: av.AudioStream) -> float | None:
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
    """Size of the data by the header, over bytes per second; FFmpeg itself tells what the file really holds."""
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
    """Whether an MP3 states the number of its frames, in the Xing or Info header of its first frame."""
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
