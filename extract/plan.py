"""What an extraction would make, estimated from the headers of the media."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import av
from av.error import FFmpegError

from ..data.errors import InputError
from ..data.manifest import Source, crop_numbers
from .frames import VISUAL_QUALITY_UNITS
from .identity import ExtractOptions
from .media import opened, video_stream
from .speech import AudioEncoder
from .visual import VisualEncoder

_TIME_AND_MASK_BYTES = 9


@dataclass(frozen=True)
class Plan:
    """The size of the work. All but `num_clips` are estimates: headers promise, decoding tells.

    Args:
        num_clips: clips of the work list.
        num_unreadable: of them, those whose header cannot be read.
        num_frames: images that the recordings hold, at the wanted rate.
        media_s: length of all recordings, in seconds.
        cache_bytes: what the features will take on disk.
    """

    num_clips: int
    num_unreadable: int
    num_frames: int
    media_s: float
    cache_bytes: int


def plan(
    sources: Iterable[Source],
    visual: VisualEncoder | None = None,
    audio: AudioEncoder | None = None,
    options: ExtractOptions | None = None,
) -> Plan:
    """Estimates a run from the headers of its media, without decoding; what the cache already has is counted too."""
    options = options or ExtractOptions()
    num_clips = num_unreadable = num_frames = cache_bytes = 0
    media_s = 0.0
    for source in sources:
        num_clips += 1
        try:
            clip_frames, clip_s = _estimate(source, options.fps)
        except (InputError, FFmpegError, OSError):
            num_unreadable += 1
            continue
        media_s += clip_s
        value_bytes = options.dtype.itemsize
        num_frames += clip_frames
        if visual:
            cache_bytes += clip_frames * _row_bytes(visual.dim, value_bytes, len(VISUAL_QUALITY_UNITS))
        if audio:
            num_steps = audio.plan.absent_steps(clip_s)
            cache_bytes += num_steps * _row_bytes(audio.dim, value_bytes, len(audio.plan.quality_units))
    return Plan(num_clips, num_unreadable, num_frames, media_s, cache_bytes)


def _row_bytes(dim: int, value_bytes: int, num_signals: int) -> int:
    return dim * value_bytes + num_signals * 4 + _TIME_AND_MASK_BYTES


def _estimate(source: Source, fps: float | None) -> tuple[int, float]:
    """Frames and seconds of a clip."""
    if source.path is None:
        rate = source.fps or fps
        num_crops = max(crop_numbers(source.place), default=0)
        return num_crops, num_crops / rate if rate else 0.0
    with opened(source.path, source.clip_id) as container:
        video = video_stream(container)
        whole_s = container.duration / av.time_base if container.duration else 0.0
        start_s, end_s = source.start_s or 0.0, whole_s if source.end_s is None else source.end_s
        clip_s = max(0.0, min(end_s, whole_s) - start_s) if whole_s else max(0.0, end_s - start_s)
        if video is None:
            return 0, clip_s
        rate = fps or float(video.average_rate or 0)
        whole = whole_s == clip_s and not fps
        return (video.frames if whole and video.frames else round(clip_s * rate)), clip_s
