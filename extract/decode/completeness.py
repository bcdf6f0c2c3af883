"""Findings on a recording that decoded without an error, and yet contradicts itself: frames or audio may be lost.

What the container declares, the packets, the frames, their times and the audio are compared with each other, in both
directions. Edited phone videos, screen recordings and variable frame rates are legitimate: a finding is a note on the
clip, never a refusal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from .audio import MonoAudio
from .container_sizes import avi_rate, missing_bytes, movie_s, unmarked_packets
from .frame_times import FrameTimes
from .truncation import DeclaredLength

NOTED_SHARE, NOTED_S = 0.02, 0.1  # by which a length may differ from what the container declares
APART_SHARE, APART_S = 0.05, 0.25  # by which frames and audio may begin or end apart
REPAIRED_SHARE = 0.05  # of the timestamps
RATE_SHARE = 0.05  # by which the frame rate may differ from the header's
REGULAR_SHARE = 0.9  # of the gaps between frames, where the rate is constant
_ROUNDED_S = 0.0011  # Matroska rounds times to milliseconds
_HIDES_FRAMES = ("vp8", "libvpx")  # a packet of these may hold a frame that is never shown


@dataclass(frozen=True)
class Decoded:
    """Contents of a whole recording, decoded to its end.

    Args:
        times: of all frames.
        audio: the audio that was read.
        num_packets: of video.
        codec: FFmpeg's name of the video decoder.
        rate: frames per second by the stream's header; None = not declared.
        repaired: number of timestamps repaired, by kind.
        has_track: True if there is an audio track.
    """

    times: FrameTimes
    audio: MonoAudio
    num_packets: int
    codec: str
    rate: float | None
    repaired: Mapping[str, int]
    has_track: bool

    @property
    def frames_s(self) -> tuple[float, float] | None:
        """Start of the first frame and end of the last, in seconds; None = there is none."""
        frames = self.times.frames
        return (self.times.seconds(frames[0][0]), self.times.end_of(frames)) if frames else None

    @property
    def audio_s(self) -> tuple[float, float] | None:
        """Start and end of the audio, in seconds; None = there is none."""
        start_s, end_s = self.audio.start_s, self.audio.end_s
        return None if start_s is None or end_s is None else (start_s, end_s)

    def ends_elsewhere(self, declared_s: float, end_s: float) -> bool:
        """True if a declared end is not that of the recording; how long the last frame lasts is often not known."""
        allowed_s = max(NOTED_S, NOTED_SHARE * declared_s)
        earliest_s = min(end_s, self.times.last_s) if self.times.frames else end_s
        return not earliest_s - allowed_s <= declared_s <= end_s + allowed_s


def findings(path: Path, container: InputContainer, declared: DeclaredLength, decoded: Decoded) -> list[str]:
    """Returns one line for each contradiction; none for a recording that is whole.

    Args:
        path: of the recording.
        container: the recording, opened.
        declared: its length by its header.
        decoded: what was decoded.
    """
    format_name = container.format.name
    return [
        *_on_size(path, format_name),
        *_on_lengths(path, container, declared, decoded),
        *_on_streams(format_name, decoded),
        *_on_rate(path, format_name, decoded),
        *_on_packets(decoded),
        *_on_repairs(format_name, decoded),
        *on_gaps(decoded.times.gaps_s(), declared.num_frames),
    ]


def _on_size(path: Path, format_name: str) -> Iterator[str]:
    if num_bytes := missing_bytes(path, format_name):
        yield f"the file was cut off: at least {num_bytes} bytes that its container announces are missing"
    num_unmarked, num_packets = unmarked_packets(path) if format_name == "mpegts" else (0, 0)
    if num_unmarked:
        yield f"{num_unmarked} of {num_packets} packets of the transport stream are damaged"


def _on_lengths(path: Path, container: InputContainer, declared: DeclaredLength, decoded: Decoded) -> Iterator[str]:
    spans_s = [span for span in (decoded.frames_s, decoded.audio_s) if span]
    if not spans_s:
        return
    end_s = max(end for _, end in spans_s)
    frames_end_s = spans_s[0][1] if declared.of_frames and decoded.frames_s else end_s
    if declared.end_s is not None and decoded.ends_elsewhere(declared.end_s, frames_end_s):
        yield f"its header declares an end at {declared.end_s:.2f} s, decoded was one at {frames_end_s:.2f} s"
    elif "mp4" in container.format.name and len(container.streams) == len(spans_s):
        whole_s = movie_s(path)
        if whole_s is not None and decoded.ends_elsewhere(whole_s, end_s):
            yield f"its header declares a movie of {whole_s:.2f} s, decoded was an end at {end_s:.2f} s"


def _on_streams(format_name: str, decoded: Decoded) -> Iterator[str]:
    frames_s, audio_s = decoded.frames_s, decoded.audio_s
    if frames_s and decoded.has_track and not audio_s:
        yield "its audio track holds no audio"
    if not frames_s or not audio_s:
        return
    allowed_s = max(APART_S, APART_SHARE * max(frames_s[1] - frames_s[0], audio_s[1] - audio_s[0]))
    starts_apart = abs(frames_s[0] - audio_s[0]) > allowed_s and "mp4" not in format_name  # its edit lists place them
    if starts_apart or abs(frames_s[1] - audio_s[1]) > allowed_s:
        yield (
            f"its frames last from {frames_s[0]:.2f} to {frames_s[1]:.2f} s, "
            f"its audio from {audio_s[0]:.2f} to {audio_s[1]:.2f} s"
        )


def _on_rate(path: Path, format_name: str, decoded: Decoded) -> Iterator[str]:
    gaps_s = decoded.times.gaps_s()
    usual_s, rate = _constant_gap_s(gaps_s), decoded.rate
    if rate and usual_s and all(abs(1 / gap_s / rate - 1) > RATE_SHARE for gap_s in (usual_s, float(gaps_s.mean()))):
        yield f"its header declares {rate:.4g} frames per second, its frames come at {1 / usual_s:.4g}"
    main = avi_rate(path) if format_name == "avi" else None
    if main and rate and abs(main / rate - 1) > RATE_SHARE:
        yield f"its headers declare {main:.4g} and {rate:.4g} frames per second"


def _on_packets(decoded: Decoded) -> Iterator[str]:
    num_frames = len(decoded.times.frames)
    if decoded.num_packets * (1 - NOTED_SHARE) > num_frames > 0 and decoded.codec not in _HIDES_FRAMES:
        yield f"{num_frames} frames were decoded from {decoded.num_packets} packets"


def _on_repairs(format_name: str, decoded: Decoded) -> Iterator[str]:
    num_repaired, num_frames = sum(decoded.repaired.values()), len(decoded.times.frames)
    if num_repaired > REPAIRED_SHARE * num_frames and format_name != "avi":  # it has no timestamps of its own
        yield f"{num_repaired} of {num_frames} timestamps were missing, repeated or out of order, and were repaired"


def on_gaps(gaps_s: NDArray[np.float64], num_declared: int) -> Iterator[str]:
    """Yields a finding where frames at a constant rate have gaps; none where the header counts the frames.

    Args:
        gaps_s: (N,) seconds from each frame to the next.
        num_declared: frames by the header, which are compared with those decoded; 0 = not declared.
    """
    usual_s = None if num_declared else _constant_gap_s(gaps_s)
    if usual_s is None:
        return
    missing_s = float((gaps_s - usual_s)[gaps_s > 1.5 * usual_s].sum())
    if missing_s > NOTED_SHARE * float(gaps_s.sum()):
        rate = f"a constant {1 / usual_s:.4g} per second"
        yield f"{missing_s:.2f} of {gaps_s.sum():.2f} s are gaps between frames that otherwise come at {rate}"


def _constant_gap_s(gaps_s: NDArray[np.float64]) -> float | None:
    """Returns the usual gap between frames where nearly all are alike; None where the rate varies."""
    if len(gaps_s) < 2 or (usual_s := float(np.median(gaps_s))) <= 0:
        return None
    alike = np.abs(gaps_s - usual_s) <= 0.1 * usual_s + _ROUNDED_S
    return usual_s if float(alike.mean()) >= REGULAR_SHARE else None
