"""Decoding of a clip in one pass: images in chunks, audio in blocks, times and reports at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...data.clip import FrameClock
from ...data.errors import InputError
from ...data.manifest import Source
from .audio import MonoAudio, Samples
from .bounds import EmptyTime
from .container import REENCODE
from .crops import read_crops
from .frame_times import FrameTimes
from .frames import Frames
from .recording import RecordingReader
from .request import DecodeOptions, DecodeResult
from .steps import ImageSink


def decode(source: Source, options: DecodeOptions) -> Iterator[Frames | Samples | DecodeResult]:
    """Decodes a clip in one pass: images in chunks, samples (N,) in blocks as they come, and the result last.

    Times are presentation timestamps on the recording's own clock; timestamps that are missing, repeated or out of
    order are repaired and counted in the report (`repaired_times`). Crops beyond the recording's last frame are
    dropped and counted there too.

    Raises:
        InputError: if the medium is absent, damaged, cut off, or lacks what the options ask for.
    """
    _check_faces(source, options)
    times = FrameTimes(source.start_s, source.end_s)
    audio = MonoAudio(source.clip_id, options.sampling_rate, source.start_s, source.end_s)
    sink = ImageSink(times, options.transform, options.fps, options.buffers)
    report: dict[str, Any] = {}
    options.beat()
    if source.path is not None:
        yield from RecordingReader(source, source.path, options, times, audio, sink, report).read()
    if source.path is None or (options.transform and options.faces == "crops"):
        yield from read_crops(source, options.fps, times, sink, report)
    yield _result(source, times, audio, sink, report)


def _check_faces(source: Source, options: DecodeOptions) -> None:
    if options.transform is None:
        return
    if options.faces == "full" and source.path is None:
        todo = "Extract with --faces crops."
        raise InputError(source.clip_id, expected="a recording", got="a crop folder alone", todo=todo)
    if options.faces == "crops" and source.crops is None:
        todo = (
            "Name the crops in a manifest (column crops), make them with `sage-va faces`, or extract with --faces full."
        )
        raise InputError(source.clip_id, expected="a folder of crops", got="a recording alone", todo=todo)


def _result(
    source: Source, times: FrameTimes, audio: MonoAudio, sink: ImageSink, report: dict[str, Any]
) -> DecodeResult:
    frames = times.inside()
    spans_s = [(times.seconds(frames[0][0]), times.end_of(frames))] if frames else []
    if audio.start_s is not None and audio.end_s is not None:
        spans_s.append((audio.start_s, audio.end_s))
    if not spans_s or (sink.active and not frames):
        raise _nothing_decoded(source.clip_id, times, audio)
    if len(spans_s) == 2:
        later_s = max(start for start, _ in spans_s)
        EmptyTime(source.clip_id, "frames or audio").add(later_s - min(end for _, end in spans_s), later_s)
    start_s = min(start for start, _ in spans_s)
    visual_report = {"num_frames": len(frames), "first_frame_s": spans_s[0][0], **report}
    return DecodeResult(
        clock=FrameClock(times.time_base, np.array([pts for pts, _ in frames], np.int64)) if frames else None,
        start_s=start_s,
        duration_s=max(end for _, end in spans_s) - start_s,
        times_s=np.array(sink.timeline.times_s, np.float64),
        shown=np.array(sink.timeline.shown, np.int64),
        audio_start_s=audio.start_s,
        visual_report=visual_report if frames else {},
        audio_report=audio.report() | ({"findings": report["findings"]} if "findings" in report else {}),
    )


def _nothing_decoded(clip_id: str, times: FrameTimes, audio: MonoAudio) -> InputError:
    if times.frames or audio.native_rate:
        got = "none: start_s and end_s lie outside the recording, or it has audio only"
        todo = "Correct them, or leave the clip out."
        return InputError(clip_id, expected="frames between start_s and end_s", got=got, todo=todo)
    return InputError(clip_id, expected="frames or audio that can be decoded", got="none", todo=REENCODE)
