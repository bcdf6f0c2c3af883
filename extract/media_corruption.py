"""Corrupted copies of recordings: a noisy room, something before the face, a bad camera or a bad line.

A copy holds the same frames at the same times. Where the sound is corrupted, the pictures are copied packet by packet;
where the pictures are, the sound is written as it was decoded. So the other modality stays what it was.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from ..data.atomic import replacing
from ..data.errors import InputError, did_you_mean
from .decode.audio import MonoAudio, Samples
from .decode.container import REENCODE, open_media, video_stream

BABBLE_DB = -5.0  # of the voice against the babble
BABBLE_VOICES = 4
SLAM_EVERY_S, SLAM_DECAY_S = 1.0, 0.06
DARK_GAIN, DARK_NOISE = 0.1, 4.0
BLUR_SHARE = 0.03  # of the shorter side
OCCLUDED_SHARE = 0.55  # of each side
USUAL_CRF, LOW_CRF = "18", "46"
QUIET = 1e-3
BLOCK = 1024  # samples

Pixels = NDArray[np.uint8]
Random = np.random.Generator
Harm = Callable[[Samples, int, Sequence[Samples], Random], Samples]
Spoil = Callable[[Pixels, float, Random], Pixels]


@dataclass(frozen=True)
class MediaCorruption:
    """A corruption of recordings; `means` describes it to readers.

    sound: mono samples (N,), their rate, samples of other recordings at that rate, randomness -> (N,). picture: upright
    RGB (H, W, 3), its time in seconds, randomness, which is the same for all pictures of a recording -> (H, W, 3).
    crf: of the H.264 encoder. needs_others: `sound` mixes the samples of other recordings in.
    """

    modality: str
    means: str
    sound: Harm | None = None
    picture: Spoil | None = None
    crf: str = USUAL_CRF
    needs_others: bool = False


def _babble(samples: Samples, rate: int, others: Sequence[Samples], rng: Random) -> Samples:
    crowd = np.zeros(len(samples), np.float32)
    for other in others:
        crowd += np.resize(np.roll(other, int(rng.integers(len(other)))), len(samples)) / _rms(other)
    level = max(_rms(samples), QUIET) * 10 ** (-BABBLE_DB / 20)
    return np.clip(samples + crowd * (level / max(_rms(crowd), QUIET)), -1, 1).astype(np.float32)


def _rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def _slams(samples: Samples, rate: int, others: Sequence[Samples], rng: Random) -> Samples:
    harmed, place = samples.copy(), rng.uniform(0, SLAM_EVERY_S)
    decay = np.exp(-np.arange(round(5 * SLAM_DECAY_S * rate)) / (SLAM_DECAY_S * rate))
    while (start := round(place * rate)) < len(samples):
        part = harmed[start : start + len(decay)]
        part += (0.4 * decay * rng.standard_normal(len(decay))).astype(np.float32)[: len(part)]
        place += SLAM_EVERY_S * rng.uniform(0.5, 1.5)
    return np.clip(harmed, -1, 1)


def _occluder(pixels: Pixels, time_s: float, rng: Random) -> Pixels:
    """Moves an opaque rectangle back and forth over the middle of the picture."""
    height, width = pixels.shape[:2]
    phases, colour = rng.uniform(0, 2 * np.pi, 2), rng.integers(30, 226, 3)
    y, x = (0.5 + 0.2 * np.sin(2 * np.pi * np.array([0.23, 0.31]) * time_s + phases)) * (height, width)
    half_height, half_width = OCCLUDED_SHARE * height / 2, OCCLUDED_SHARE * width / 2
    covered = pixels.copy()
    top, left = max(0, round(y - half_height)), max(0, round(x - half_width))
    covered[top : round(y + half_height), left : round(x + half_width)] = colour
    return covered


def _dark(pixels: Pixels, time_s: float, rng: Random) -> Pixels:
    """Takes nine tenths of the light, and leaves the noise of the sensor."""
    noise = np.random.default_rng(round(time_s * 1000)).standard_normal(pixels.shape, np.float32)
    return np.clip(DARK_GAIN * pixels + DARK_NOISE * noise, 0, 255).astype(np.uint8)


def _blur(pixels: Pixels, time_s: float, rng: Random) -> Pixels:
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), BLUR_SHARE * min(pixels.shape[:2])), np.uint8)


MEDIA_CORRUPTIONS: dict[str, MediaCorruption] = {
    "babble": MediaCorruption(
        "audio",
        f"voices of {BABBLE_VOICES} other recordings, at {-BABBLE_DB:g} dB above the sound",
        sound=_babble,
        needs_others=True,
    ),
    "slams": MediaCorruption("audio", "loud bursts of noise, one a second", sound=_slams),
    "occluder": MediaCorruption(
        "visual", f"a rectangle of {OCCLUDED_SHARE:.0%} of each side that moves over the middle", picture=_occluder
    ),
    "low-bitrate": MediaCorruption("visual", f"written again as H.264 at crf {LOW_CRF}", crf=LOW_CRF),
    "dark": MediaCorruption("visual", f"{DARK_GAIN:.0%} of the light, and noise", picture=_dark),
    "blur": MediaCorruption("visual", f"Gaussian blur of {BLUR_SHARE:.0%} of the shorter side", picture=_blur),
}


def corrupt_recording(source: Path, target: Path, kind: str, *, others: Sequence[Path] = (), seed: int = 0) -> None:
    """Writes a corrupted copy of a recording, whole or not at all.

    It depends on kind, seed and the name of the file alone, and for babble on the others.

    Args:
        source: a recording.
        target: the copy, `.mov`.
        kind: one of `MEDIA_CORRUPTIONS`.
        others: recordings whose voices are mixed into the babble; the first four that have sound.
        seed: of the randomness.

    Raises:
        InputError: for an unknown kind, a recording that cannot be read or lacks the modality, or no voices for babble.
    """
    if kind not in MEDIA_CORRUPTIONS:
        todo = did_you_mean(kind, MEDIA_CORRUPTIONS, "Name one of them.")
        raise InputError("media kind", expected=f"one of {', '.join(MEDIA_CORRUPTIONS)}", got=repr(kind), todo=todo)
    chosen = MEDIA_CORRUPTIONS[kind]
    rng = np.random.default_rng([seed, zlib.crc32(f"{kind}/{source.name}".encode())])
    try:
        with (
            open_media(source, source.name) as container,
            replacing(target) as part,
            av.open(str(part), "w", format="mov") as out,
        ):
            _check_modality(container, chosen.modality, source.name)
            track = _Sound.of(source, chosen, others, rng) if container.streams.audio else None
            added = track.added_to(out) if track else None
            if (pictures := video_stream(container)) is not None:
                _write_pictures(container, pictures, out, chosen, rng)
            if track:
                track.write(out, added)
    except (FFmpegError, ValueError) as error:
        got = getattr(error, "strerror", None) or str(error)
        raise InputError(source.name, expected="a recording that .mov can hold", got=got, todo=REENCODE) from None


def read_sound(path: Path, rate: int) -> tuple[Samples, float]:
    """Returns the sound of a recording: mono samples (N,) at a rate in Hz, and the instant of the first in seconds.

    Raises:
        InputError: if it cannot be read.
    """
    audio = MonoAudio(path.name, rate, None, None)
    with open_media(path, path.name) as container:
        blocks = container.decode(container.streams.audio[0]) if container.streams.audio else ()
        parts = [audio.push(block) for block in blocks]
    return np.concatenate([np.zeros(0, np.float32), *parts, audio.finish()]), audio.start_s or 0.0


def _check_modality(container: Any, modality: str, name: str) -> None:
    has = bool(container.streams.audio) if modality == "audio" else video_stream(container) is not None
    if not has:
        todo = "Leave it out, or choose kinds of the other modality."
        raise InputError(name, expected=f"a recording with {modality}", got="none", todo=todo)


@dataclass(frozen=True)
class _Sound:
    """Mono samples at a rate in Hz, and the instant of the first in seconds."""

    samples: Samples
    rate: int
    start_s: float

    @classmethod
    def of(cls, source: Path, chosen: MediaCorruption, others: Sequence[Path], rng: Random) -> _Sound:
        """Reads the sound of a recording, and corrupts it where the kind does so."""
        with open_media(source, source.name) as container:
            rate = container.streams.audio[0].rate
        samples, start_s = read_sound(source, rate)
        if chosen.sound is None:
            return cls(samples, rate, start_s)
        voices = (read_sound(other, rate)[0] for other in others)
        crowd = list(islice((voice for voice in voices if _rms(voice) > QUIET), BABBLE_VOICES))
        if chosen.needs_others and not crowd:
            raise InputError(
                source.name, "no other recording has sound to mix into its own", todo="Name more recordings."
            )
        return cls(chosen.sound(samples, rate, crowd, rng), rate, start_s)

    def added_to(self, out: Any) -> Any:
        """Returns a new stream of an open container: a mono recording without loss."""
        return out.add_stream("pcm_f32le", rate=self.rate, layout="mono")

    def write(self, out: Any, track: Any) -> None:
        """Writes the samples, block by block."""
        for first in range(0, len(self.samples), BLOCK):
            block = av.AudioFrame.from_ndarray(self.samples[None, first : first + BLOCK], format="flt", layout="mono")
            block.sample_rate, block.time_base = self.rate, Fraction(1, self.rate)
            block.pts = round(self.start_s * self.rate) + first
            out.mux(track.encode(block))
        out.mux(track.encode(None))


def _write_pictures(container: Any, pictures: Any, out: Any, chosen: MediaCorruption, rng: Random) -> None:
    """Copies the pictures where the sound is corrupted, else writes corrupted ones at their times."""
    if chosen.modality == "audio":
        copied = out.add_stream_from_template(pictures)
        for packet in container.demux(pictures):
            if packet.dts is not None:  # the last is empty
                packet.stream = copied
                out.mux(packet)
        return
    stream, state = _h264(out, pictures, chosen.crf), rng.integers(2**32)
    for frame in container.decode(pictures):
        pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
        pixels = np.ascontiguousarray(pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2])  # yuv420p is even
        if chosen.picture is not None:
            pixels = chosen.picture(pixels, frame.time or 0.0, np.random.default_rng(state))
        if not stream.codec_context.is_open:
            stream.height, stream.width = pixels.shape[:2]
        copy = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        copy.pts, copy.time_base = frame.pts, frame.time_base
        out.mux(stream.encode(copy))
    out.mux(stream.encode(None))


def _h264(out: Any, pictures: Any, crf: str) -> Any:
    """Returns a new H.264 stream of an open container, with the times of the recording's."""
    stream = out.add_stream("libx264", rate=pictures.average_rate or 25)
    stream.pix_fmt, stream.options = "yuv420p", {"preset": "ultrafast", "crf": crf, "threads": "1"}
    stream.time_base = stream.codec_context.time_base = pictures.time_base
    if (aspect := pictures.sample_aspect_ratio) and round(aspect, 6) != 1:
        stream.codec_context.sample_aspect_ratio = aspect
    return stream
