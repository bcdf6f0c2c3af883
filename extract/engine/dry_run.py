"""What an extraction would make and how long it would take, estimated from headers and a sample of the media."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
from av.error import FFmpegError

from ...data.errors import InputError
from ...data.manifest import Source, crop_numbers
from ...data.store.base import open_store
from ..decode.frames import VISUAL_QUALITY_UNITS
from ..decode.reader import opened, video_stream
from ..encoders.base import AudioEncoder, VisualEncoder
from ..faces.align import FACE_QUALITY_UNITS
from ..identity import Encoder, ExtractOptions
from .pipeline import extract

SAMPLE_CLIPS = 3
SAMPLE_S = 4.0  # of images; of sound, a window if that is longer
_FRAME_NUMBERS_BYTES = 8  # each of time, mask and quality is a float64


@dataclass(frozen=True)
class Plan:
    """The size of the work. All but `num_clips` are estimates: headers promise, decoding tells.

    Args:
        num_clips: clips of the work list.
        num_unreadable: of them, those whose header cannot be read.
        num_frames: images that the recordings hold, at the wanted rate.
        media_s: length of all recordings, in seconds.
        cache_bytes: what the features will take on disk.
        estimated_s: how long it would take on this machine, judged by the first seconds of a few clips, really
            extracted; None where nothing was asked for or none of these clips could be extracted.
    """

    num_clips: int
    num_unreadable: int
    num_frames: int
    media_s: float
    cache_bytes: int
    estimated_s: float | None = None


def plan(
    sources: Iterable[Source],
    visual: VisualEncoder | None = None,
    audio: AudioEncoder | None = None,
    options: ExtractOptions | None = None,
) -> Plan:
    """Estimates a run from the headers of its media and a sample; what the cache already has is counted too."""
    options = options or ExtractOptions()
    num_clips = num_frames = cache_bytes = 0
    media_s = 0.0
    readable: list[tuple[Source, float]] = []
    for source in sources:
        num_clips += 1
        try:
            clip_frames, clip_s = _estimate(source, options.fps)
        except (InputError, FFmpegError, OSError):
            continue
        readable.append((source, clip_s))
        media_s += clip_s
        num_frames += clip_frames
        if visual:
            signals = VISUAL_QUALITY_UNITS if options.finder is None else FACE_QUALITY_UNITS
            cache_bytes += clip_frames * _row_bytes(visual, len(signals), options)
        if audio:
            num_steps = audio.plan.absent_steps(clip_s)
            cache_bytes += num_steps * _row_bytes(audio, len(audio.plan.quality_units), options)
    costs = [_cost(readable, encoder, options) for encoder in (visual, audio) if encoder is not None]
    measured = [cost for cost in costs if cost is not None]
    estimated_s = media_s * sum(measured) if costs and len(measured) == len(costs) else None
    return Plan(num_clips, num_clips - len(readable), num_frames, media_s, cache_bytes, estimated_s)


def _row_bytes(encoder: Encoder, num_signals: int, options: ExtractOptions) -> int:
    return encoder.dim * options.dtype.itemsize + (2 + num_signals) * _FRAME_NUMBERS_BYTES


def _cost(readable: Sequence[tuple[Source, float]], encoder: Encoder, options: ExtractOptions) -> float | None:
    """Seconds of work for a second of media, by extracting the first seconds of a few clips; None if all fail.

    Each encoder is measured alone, since they need samples of different lengths.
    """
    sample_s = SAMPLE_S
    if isinstance(encoder, AudioEncoder):
        sample_s = max(sample_s, encoder.plan.window / encoder.plan.sampling_rate)
    spread = max(1, len(readable) // SAMPLE_CLIPS)
    chosen = [(source, clip_s) for source, clip_s in readable[::spread] if clip_s > 0][:SAMPLE_CLIPS]
    parts = {source.clip_id: (_first(source, sample_s), _part_s(source, clip_s, sample_s)) for source, clip_s in chosen}
    with tempfile.TemporaryDirectory(prefix="sage-va-") as folder:
        store = open_store(Path(folder) / "sample.zarr", "a")
        made = replace(options, max_failures=None)
        sample = [source for source, _ in parts.values()]
        if isinstance(encoder, AudioEncoder):
            summary = extract(sample, store, audio=encoder, options=made)
        else:
            summary = extract(sample, store, visual=encoder, options=made)
    failed = {failure.clip_id for failure in summary.failures}  # perhaps `clip#person`
    sampled_s = sum(
        part_s
        for clip_id, (_, part_s) in parts.items()
        if not any(name == clip_id or name.startswith(f"{clip_id}#") for name in failed)
    )
    return summary.wall_s / sampled_s if sampled_s else None


def _part_s(source: Source, clip_s: float, sample_s: float) -> float:
    return clip_s if source.path is None else min(clip_s, sample_s)


def _first(source: Source, sample_s: float) -> Source:
    """The start of a clip; crops without a recording have no times to be cut by."""
    if source.path is None:
        return source
    start_s = source.start_s or 0.0
    end_s = start_s + sample_s
    return replace(source, end_s=end_s if source.end_s is None else min(source.end_s, end_s))


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
