"""Crop folders: images 00001.jpg, …, on the clock of a recording or of a given frame rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...data.clip import FrameClock
from ...data.errors import InputError
from ...data.manifest import Source, crop_numbers
from .bounds import LONG_S, EmptyTime
from .frame_times import FrameTimes
from .frames import Frames, load_crop
from .steps import ImageSink


def read_crops(
    source: Source, fps: float | None, times: FrameTimes, sink: ImageSink, report: dict[str, Any]
) -> Iterator[Frames]:
    """Reads the crop folder of a clip; crop n shows frame n - 1, an absent crop is a frame without an image.

    The folder of a clip with a recording may be empty: then no frame has an image.

    Args:
        source: the clip.
        fps: frame rate of a folder without a recording, unless the source has one.
        times: frames of the recording; set here where there is none.
        sink: takes the images.
        report: gets the number of crops, of those shown, and of those beyond the last frame.

    Raises:
        InputError: if there are no crops, they are numbered from 0, they have no clock, or one of them is damaged.
    """
    numbers = _numbered(source)
    if source.path is None:
        _set_regular_times(source, fps, len(numbers), max(numbers), times)
    num_shown = 0
    for number, (pts, _) in enumerate(times.frames, start=1):
        time_s = times.seconds(pts)
        if sink.wants(time_s):
            num_shown += number in numbers
            yield from sink.push(time_s, load_crop(numbers[number]) if number in numbers else None)
    yield from sink.finish()
    num_beyond = sum(number > len(times.frames) for number in numbers) if source.end_s is None else None
    report |= {"num_crops": len(numbers), "num_crops_shown": num_shown, "num_crops_beyond_video": num_beyond}


def _numbered(source: Source) -> Mapping[int, Path]:
    folder = source.crops
    numbers = crop_numbers(folder) if folder and folder.is_dir() else {}
    if not numbers and not _without_face(source):
        expected = "a folder of crops 00001.jpg, …"
        raise InputError(source.clip_id, expected=expected, got=f"none in {folder}", todo="Correct the path.")
    if 0 in numbers:
        todo = "Rename them: crop n shows frame n - 1."
        raise InputError(source.clip_id, expected="crops numbered from 1", got=numbers[0].name, todo=todo)
    return numbers


def _without_face(source: Source) -> bool:
    """True for an empty folder beside a recording: no frame of it shows the face."""
    folder = source.crops
    return source.path is not None and folder is not None and folder.is_dir() and not any(folder.iterdir())


def _set_regular_times(source: Source, fps: float | None, num_crops: int, num_frames: int, times: FrameTimes) -> None:
    rate = source.fps or fps
    if rate is None:
        todo = "Add a column fps to the manifest, or pass --fps."
        got = "none: a crop folder alone has no clock"
        raise InputError(source.clip_id, expected="crops with a frame rate", got=got, todo=todo)
    empty_s = (num_frames - (num_crops if 1 / rate <= LONG_S else 0)) / rate  # a frame an hour is a gap as well
    EmptyTime(source.clip_id, "crops").add(empty_s, num_frames / rate)
    clock = FrameClock.regular(rate, num_frames)
    times.time_base = clock.time_base
    times.frames = [(int(pts), 1) for pts in clock.pts]
