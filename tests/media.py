"""Writes small real media for tests."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
RATE = 16_000


def grey_frames(num_frames, width=WIDTH, height=HEIGHT):
    """Frames of uniform grey; frame k has level 8 + 5 k, from which a decoded frame can be recognised."""
    levels = (8 + 5 * np.arange(num_frames)) % 256
    return np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).astype(np.uint8)


def noisy_frames(num_frames, seed=0, width=WIDTH, height=HEIGHT):
    """Frames of coarse moving blocks, each another image."""
    small = np.random.default_rng(seed).integers(0, 255, (num_frames, height // 8, width // 8, 3), dtype=np.uint8)
    return small.repeat(8, axis=1).repeat(8, axis=2)


def tone(seconds, hz=220.0, level=0.3, seed=0):
    """Mono float32 audio at 16 kHz: a tone with a little noise."""
    times = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(times)) * 0.02
    return (level * np.sin(2 * np.pi * hz * times) + noise).astype(np.float32)


def write_media(
    path: Path,
    frames=None,
    *,
    ticks: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 12800),
    fps: int = 25,
    audio=None,
    audio_start_s: float = 0.0,
    audio_codec: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes frames (T, H, W, 3) at `ticks` of `time_base` (without: regular at `fps`), and mono audio at 16 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = audio_codec or ("pcm_s16le" if path.suffix in (".mov", ".mkv", ".wav", ".avi") else "aac")
    with av.open(str(path), "w", options=options or {}) as container:
        video = track = None
        if frames is not None:
            video = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=fps)
            video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
            video.options = {"qp": "1"} if video.codec_context.name == "libx264" else {"qscale": "1"}
            video.time_base = video.codec_context.time_base = time_base
        if audio is not None:
            track = container.add_stream(codec, rate=RATE)
            track.layout = "mono"
        if video is not None and frames is not None:
            gap = round(1 / fps / time_base)
            for number, (pixels, tick) in enumerate(zip(frames, ticks or range(0, 10**9, gap), strict=False)):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                frame.pts, frame.time_base = tick, time_base
                container.mux(video.encode(frame))
                if track is not None and number == 0:
                    write_audio(container, track, audio, audio_start_s)
            container.mux(video.encode(None))
        elif track is not None:
            write_audio(container, track, audio, audio_start_s)
    return path


def write_audio(container, stream, audio, start_s) -> None:
    """Encodes mono audio at 16 kHz into a stream of an open container."""
    planar = stream.codec_context.format.name
    for first in range(0, len(audio), 1024):
        block = audio[first : first + 1024]
        if planar == "s16":
            frame = av.AudioFrame.from_ndarray(
                np.round(np.clip(block, -1, 1) * 32767).astype(np.int16)[None], format="s16", layout="mono"
            )
        else:
            frame = av.AudioFrame.from_ndarray(block[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
        frame.pts = round(start_s * RATE) + first
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_crops(folder: Path, numbers: Sequence[int], size: int = 112, suffix: str = ".jpg") -> Path:
    """Writes a crop folder; crop n is uniformly grey at level 8 + 5 (n - 1), as frame n - 1 of `grey_frames`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        level = (8 + 5 * (number - 1)) % 256
        Image.new("RGB", (size, size), (level,) * 3).save(folder / f"{number:05d}{suffix}")
    return folder
