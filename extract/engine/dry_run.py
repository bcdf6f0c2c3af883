"""Dry run: size and duration of an extraction, estimated from headers and a sample of the media."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
from av.container import InputContainer
from av.error import FFmpegError

from ...data.errors import InputError
from ...data.manifest import Source, crop_numbers
from ...data.store.base import open_store
from ..decode.container import open_media, video_stream
from ..decode.frames import VISUAL_QUALITY_UNITS
from ..faces.align import FACE_QUALITY_UNITS
from ..options import ExtractOptions
from .pipeline import extract
from .progress import Summary

if TYPE_CHECKING:  # it loads torch
    from ..encoders.base import AudioEncoder, Encoder, VisualEncoder

SAMPLE_CLIPS = 3
SAMPLE_S = 4.0  # of images; of audio, a window if that is longer
_FLOAT64_BYTES = 8  # each of time, mask and quality is a float64


@dataclass(frozen=True)
class SizeEstimate:
    """Size of an extraction. All but `num_clips` are estimates: headers can be wrong, only decoding is exact.

    Args:
        num_clips: clips of the work list.
        num_unreadable: of them, those whose header cannot be read.
        num_frames: images of the recordings, at the wanted rate.
        media_s: length of all recordings in seconds.
        cache_bytes: size of the features on disk.
        estimated_s: duration of the extraction on this machine in seconds, from the first seconds of a few clips,
            which are extracted; None without an encoder, or where none of these clips could be extracted.
    """

    num_clips: int
    num_unreadable: int
    num_frames: int
    media_s: float
    cache_bytes: int
    estimated_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as plain JSON."""
        return asdict(self)


def estimate(
    sources: Iterable[Source],
    visual: VisualEncoder | None = None,
    audio: AudioEncoder | None = None,
    options: ExtractOptions | None = None,
) -> SizeEstimate:
    """Estimates an extraction; clips that the cache already has are counted too.

    Args:
        sources: the clips.
        visual: encoder of the visual stream; None = no visual stream.
        audio: encoder of the audio stream; None = no audio stream.
        options: None = the defaults.
    """
    options = options or ExtractOptions()
    listed = list(sources)
    sizes = [(source, size) for source in listed if (size := _size_of(source, options.fps)) is not None]
    encoders = [encoder for encoder in (visual, audio) if encoder is not None]
    num_bytes = sum(_stream_bytes(encoder, *size, options) for encoder in encoders for _, size in sizes)
    readable = [(source, clip_s) for source, (_, clip_s) in sizes]
    costs = [cost for encoder in encoders if (cost := _cost(readable, encoder, options)) is not None]
    media_s = sum(clip_s for _, clip_s in readable)
    return SizeEstimate(
        num_clips=len(listed),
        num_unreadable=len(listed) - len(sizes),
        num_frames=sum(num_frames for _, (num_frames, _) in sizes),
        media_s=media_s,
        cache_bytes=num_bytes,
        estimated_s=media_s * sum(costs) if encoders and len(costs) == len(encoders) else None,
    )


def _stream_bytes(encoder: Encoder, num_frames: int, clip_s: float, options: ExtractOptions) -> int:
    """Returns the size of one stream of a clip."""
    if encoder.modality == "visual":
        num_steps = num_frames
        num_signals = len(VISUAL_QUALITY_UNITS if options.finder is None else FACE_QUALITY_UNITS)
    else:
        plan = cast("AudioEncoder", encoder).plan
        num_steps, num_signals = plan.absent_steps(clip_s), len(plan.quality_units)
    return num_steps * (encoder.dim * options.dtype.itemsize + (2 + num_signals) * _FLOAT64_BYTES)


def _cost(readable: Sequence[tuple[Source, float]], encoder: Encoder, options: ExtractOptions) -> float | None:
    """Returns seconds of work per second of media, by extracting the first seconds of a few clips; None if all fail.

    Each encoder is measured alone, since they need samples of different lengths.
    """
    sample_s = SAMPLE_S
    if encoder.modality == "audio":
        plan = cast("AudioEncoder", encoder).plan
        sample_s = max(sample_s, plan.window / plan.sampling_rate)
    spread = max(1, len(readable) // SAMPLE_CLIPS)
    chosen = [(source, clip_s) for source, clip_s in readable[::spread] if clip_s > 0][:SAMPLE_CLIPS]
    samples = [_first_seconds(source, sample_s) for source, _ in chosen]
    with tempfile.TemporaryDirectory(prefix="sage-va-") as folder:
        store = open_store(Path(folder) / "sample.zarr", "a")
        encoders: dict[str, Any] = {encoder.modality: encoder}
        summary = extract(samples, store, **encoders, options=replace(options, max_failures=None))
    extracted = [(source, clip_s) for source, clip_s in chosen if not _has_failed(source, summary)]
    sampled_s = sum(clip_s if source.path is None else min(clip_s, sample_s) for source, clip_s in extracted)
    return summary.wall_s / sampled_s if sampled_s else None


def _has_failed(source: Source, summary: Summary) -> bool:
    """True if a clip, or the clip of one of its people, has failed."""
    failed = [failure.clip_id for failure in summary.failures]
    return any(name == source.clip_id or name.startswith(f"{source.clip_id}#") for name in failed)


def _first_seconds(source: Source, sample_s: float) -> Source:
    """Returns the start of a clip; a crop folder without a recording has no times to be cut by."""
    if source.path is None:
        return source
    end_s = (source.start_s or 0.0) + sample_s
    return replace(source, end_s=end_s if source.end_s is None else min(source.end_s, end_s))


def _size_of(source: Source, fps: float | None) -> tuple[int, float] | None:
    """Returns frames and seconds of a clip; None if its header cannot be read."""
    try:
        if source.path is None:
            rate = source.fps or fps
            num_crops = max(crop_numbers(source.place), default=0)
            return num_crops, num_crops / rate if rate else 0.0
        with open_media(source.path, source.clip_id) as container:
            return _size_of_recording(container, source, fps)
    except (InputError, FFmpegError, OSError):
        return None


def _size_of_recording(container: InputContainer, source: Source, fps: float | None) -> tuple[int, float]:
    video = video_stream(container)
    whole_s = container.duration / av.time_base if container.duration else 0.0
    start_s, end_s = source.start_s or 0.0, whole_s if source.end_s is None else source.end_s
    clip_s = max(0.0, min(end_s, whole_s) - start_s) if whole_s else max(0.0, end_s - start_s)
    if video is None:
        return 0, clip_s
    if whole_s == clip_s and not fps and video.frames:
        return video.frames, clip_s
    return round(clip_s * (fps or float(video.average_rate or 0))), clip_s
