"""Small pictures and the outline of the audio of recordings, for the page of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from av import VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from numpy.typing import NDArray

from ..data.clip_preview import ClipPreview
from ..data.errors import InputError
from ..data.manifest import Source, crop_numbers, find_sources
from .decode.audio import MonoAudio
from .decode.container import REENCODE, open_media, video_stream
from .decode.frames import sane_aspect

NUM_PEAKS = 400
SIZES = ((24, 72, 70), (20, 64, 60), (16, 56, 55), (12, 48, 50), (8, 40, 45), (6, 32, 40))  # pictures, height, quality
WIDEST = 1.8  # times the height; wider pictures are cut at their sides
Pixels = NDArray[Any]  # (H, W, 3) uint8


def preview_of(source: Source, start_s: float, end_s: float, num_bytes: int) -> ClipPreview:
    """Returns pictures and loudness of a clip.

    Pictures come from the crop folder where the clip has one, else from the recording, at equal distances; in a
    recording each is the first frame at or after its time.

    Args:
        source: the clip.
        start_s, end_s: the part that is shown, seconds on the recording's clock.
        num_bytes: that the pictures may take; more and larger ones are tried first.

    Raises:
        InputError: if the recording is absent or cannot be decoded.
    """
    times_s = start_s + (np.arange(SIZES[0][0]) + 0.5) / SIZES[0][0] * (end_s - start_s)
    pictures: dict[float, Pixels] = {}
    peaks, audio_s = None, (start_s, end_s)
    if source.path is not None:
        try:
            with open_media(source.path, source.clip_id) as container:
                peaks, audio_s = _peaks(container, source.clip_id, start_s, end_s)
            if source.crops is None:
                with open_media(source.path, source.clip_id) as container:
                    pictures = dict(_frames(container, times_s))
        except FFmpegError as error:
            got = error.strerror or str(error)
            raise InputError(source.clip_id, expected="a recording that decodes", got=got, todo=REENCODE) from error
    if source.crops is not None:
        pictures = dict(_crops(source, times_s, start_s, end_s))
    return _packed(pictures, num_bytes, peaks, audio_s)


def _frames(container: InputContainer, times_s: NDArray[np.float64]) -> Iterator[tuple[float, Pixels]]:
    """Yields the first frame at or after each time; seeks only where that leads further than decoding on."""
    video = video_stream(container)
    if video is None or video.time_base is None:
        return
    video.thread_type = "AUTO"
    frames, reached_s, aspect = container.decode(video), -np.inf, float(sane_aspect(video.sample_aspect_ratio))
    step_s = float(np.diff(times_s[:2])[0])
    for time_s in times_s:
        if step_s > 5 and time_s - reached_s > 5:
            container.seek(max(0, int(time_s / video.time_base)), stream=video)
            frames = container.decode(video)
        for frame in frames:
            reached_s = frame.time if frame.time is not None else reached_s
            if reached_s >= time_s - 1e-3:
                yield float(reached_s), _upright(frame, aspect)
                break


def _upright(frame: VideoFrame, aspect: float) -> Pixels:
    """Returns an image at its display aspect, turned upright."""
    scaled = frame.reformat(round(frame.width * aspect), frame.height, "rgb24")
    return np.ascontiguousarray(np.rot90(scaled.to_ndarray(), round(frame.rotation / 90) % 4))


def _crops(
    source: Source, times_s: NDArray[np.float64], start_s: float, end_s: float
) -> Iterator[tuple[float, Pixels]]:
    """Yields the crops nearest to these times, as if the numbers covered the clip evenly."""
    assert source.crops is not None
    numbers = crop_numbers(source.crops) if source.crops.is_dir() else {}
    if not numbers:
        todo = "Correct the path."
        raise InputError(source.clip_id, expected="a folder of crops", got=f"none in {source.crops}", todo=todo)
    known, last = np.array(sorted(numbers)), max(numbers)
    hz = source.fps or last / max(end_s - start_s, 1e-6)
    for time_s in times_s:
        number = int(known[np.abs(known - 1 - time_s * hz).argmin()])
        image = cv2.imread(str(numbers[number]))
        if image is not None:
            yield (number - 1) / hz, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _peaks(
    container: InputContainer, clip_id: str, start_s: float, end_s: float
) -> tuple[NDArray[np.int8] | None, tuple[float, float]]:
    """Returns the lowest and highest sample in equal parts of the audio between two times, and its ends."""
    audio = next(iter(container.streams.audio), None)
    if audio is None or audio.codec_context is None:
        return None, (start_s, end_s)
    rate = audio.codec_context.sample_rate
    mono, parts = MonoAudio(clip_id, rate, start_s, end_s), list[NDArray[np.float32]]()
    for frame in container.decode(audio):
        parts.append(mono.push(frame))
        if mono.past_end:
            break
    samples = np.concatenate([*parts, mono.finish()])
    if len(samples) < NUM_PEAKS or mono.start_s is None:
        return None, (start_s, end_s)
    places = np.linspace(0, len(samples), NUM_PEAKS, endpoint=False).astype(np.int64)
    ends = np.stack([np.minimum.reduceat(samples, places), np.maximum.reduceat(samples, places)], axis=1)
    loudest = max(float(np.abs(ends).max()), 1e-4)
    return np.round(ends / loudest * 127).astype(np.int8), (mono.start_s, mono.start_s + len(samples) / rate)


def _packed(
    pictures: Mapping[float, Pixels],
    num_bytes: int,
    peaks: NDArray[np.int8] | None,
    audio_s: tuple[float, float],
) -> ClipPreview:
    """Puts pictures side by side into one JPEG, as many and as large as the bytes allow."""
    times_s, jpeg, size = np.array(sorted(pictures)), b"", (0, 0)
    for num, height, quality in SIZES if len(times_s) else ():
        chosen = np.unique(np.linspace(0, len(times_s) - 1, min(num, len(times_s))).round().astype(np.int64))
        small = [_small(pictures[float(times_s[k])], height) for k in chosen]
        width = min(picture.shape[1] for picture in small)
        strip = np.concatenate([picture[:, :width] for picture in small], axis=1)
        jpeg, size = _jpeg(strip, quality), (width, height)
        if len(jpeg) <= num_bytes:
            return ClipPreview(times_s[chosen], jpeg, size, peaks, audio_s)
    return ClipPreview(np.zeros(0), b"", (0, 0), peaks, audio_s)


def _small(picture: Pixels, height: int) -> Pixels:
    tall, wide = picture.shape[:2]
    width = max(1, round(wide * height / tall))
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    surplus = max(0, width - round(WIDEST * height)) // 2
    return small[:, surplus : width - surplus]


def _jpeg(picture: Pixels, quality: int) -> bytes:
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()


def find_recordings(media: str, clip_ids: Mapping[str, str | None]) -> dict[str, Source]:
    """Returns the recordings of clips below a folder, or in a manifest: by clip_id, path of the medium, or file name.

    Args:
        media: a folder or a manifest.
        clip_ids: clip_id -> path of its medium as the cache has it, or None.

    Raises:
        InputError: if there are no recordings at all.
    """
    sources = {source.clip_id: source for source in find_sources([media])}
    stems: dict[str, list[Source]] = {}
    for source in sources.values():
        stems.setdefault(Path(source.clip_id).stem, []).append(source)
    matched: dict[str, Source] = {}
    for clip_id, path in clip_ids.items():
        name = clip_id.partition("#")[0]
        of_stem = stems.get(Path(name).stem, [])
        source = sources.get(clip_id) or sources.get(name) or sources.get(path or "")
        source = source or (of_stem[0] if len(of_stem) == 1 else None)
        if source is not None:
            matched[clip_id] = source
    return matched
