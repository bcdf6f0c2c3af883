"""Mutated recordings: small files in six containers, and damaged copies of them by a seeded program."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE, FPS, SECONDS = 48_000, 25, 5
WIDTH, HEIGHT = 96, 64
CONTAINERS = {  # suffix -> codecs of video and audio
    "mp4": ("libx264", "aac"),
    "avi": ("mpeg4", "pcm_s16le"),
    "mkv": ("libx264", "pcm_s16le"),
    "webm": ("libvpx", "libopus"),
    "ts": ("libx264", "aac"),
    "mpg": ("mpeg2video", "mp2"),
}
KINDS = {"cut": 10, "zeros": 15, "flips": 10, "header": 15}  # how many of each in the long form
# Places of numbers in a header: name of the field's box or element, bytes from the name to the number, its bytes.
_MP4 = {
    b"mvhd": (16, 20),
    b"tkhd": (24,),
    b"mdhd": (16, 20),
    b"elst": (12, 16),
    b"stts": (8, 12, 16),
    b"ctts": (8, 12, 16),
    b"stsz": (8, 12, 16, 20),
    b"stsc": (12, 16),
    b"stco": (8, 12),
}
_AVI = {b"avih": (8, 24, 40), b"strh": (28, 32, 36, 40, 52), b"strf": (16, 20), b"idx1": (16, 20)}
_SIZE = rb"([\x81-\x88])"  # of an element of 1 to 8 bytes
_MATROSKA = {  # what is changed -> bytes up to its size
    "time scale": rb"\x2a\xd7\xb1" + _SIZE,
    "duration": rb"\x44\x89" + _SIZE,
    "duration of a frame": rb"\x23\xe3\x83" + _SIZE,
    "sampling rate": rb"\xe1.{1,8}?\xb5" + _SIZE,
    "delay": rb"\x56\xaa" + _SIZE,
    "time of a cluster": rb"\x1f\x43\xb6\x75.{1,8}?\xe7" + _SIZE,
    "time of a block": rb"\xa3(?:[\x80-\xff]|[\x40-\x7f].|[\x20-\x3f]..)([\x81\x82])",
}
_MPEG_STARTS = {  # start code -> bytes from it to what is changed
    "ts": ((b"\x00\x00\x01\xe0", 9), (b"\x00\x00\x01\xc0", 9), (b"\x00\x00\x01\xe0", 10)),
    "mpg": ((b"\x00\x00\x01\xb3", 7), (b"\x00\x00\x01\xe0", 9), (b"\x00\x00\x01\xc0", 9), (b"\x00\x00\x01\xba", 5)),
}


@dataclass(frozen=True)
class Mutation:
    """A damaged copy: its container, the kind of damage, what exactly was done, and the bytes."""

    container: str
    kind: str
    what: str
    content: bytes


def write_recording(path: Path, seconds: float = SECONDS, *, has_audio: bool = True) -> Path:
    """Writes moving blocks at 25 frames per second, and a tone with noise, with the codecs usual in the container."""
    video_codec, audio_codec = CONTAINERS[path.suffix[1:]]
    with av.open(str(path), "w") as container:
        video = container.add_stream(video_codec, rate=FPS)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.options, video.bit_rate = {"g": "25", "threads": "1"}, 400_000
        audio = container.add_stream(audio_codec, rate=RATE, layout="mono") if has_audio else None
        for number in range(round(seconds * FPS)):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(video.encode(frame))
            if audio:
                container.mux(audio.encode(_sound(number)))
        for stream in [video, *([audio] if audio else [])]:
            container.mux(stream.encode(None))
    return path


def picture(number: int) -> np.ndarray:
    """Returns frame `number`, (H, W, 3): coarse blocks, each frame others."""
    small = np.random.default_rng(number).integers(0, 255, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
    return np.ascontiguousarray(small.repeat(16, axis=0).repeat(16, axis=1))


def _sound(number: int) -> av.AudioFrame:
    """Returns the sound beside a frame."""
    num = RATE // FPS
    times = (number * num + np.arange(num)) / RATE
    samples = 0.3 * np.sin(2 * np.pi * 220 * times) + 0.05 * np.random.default_rng(number).standard_normal(num)
    whole = np.round(samples * 32767).astype(np.int16)[None]
    block = av.AudioFrame.from_ndarray(whole, format="s16", layout="mono")
    block.sample_rate, block.pts, block.time_base = RATE, number * num, Fraction(1, RATE)
    return block


def mutations(container: str, content: bytes, counts: dict[str, int] | None = None, seed: int = 0) -> list[Mutation]:
    """Returns damaged copies of a file, the same for the same seed.

    Args:
        container: one of `CONTAINERS`.
        content: of the whole file.
        counts: of each kind; None = `KINDS`.
        seed: of the randomness.
    """
    makers = {"cut": _cut, "zeros": _zeros, "flips": _flips, "header": _header}
    copies = []
    for kind, count in (counts or KINDS).items():
        for number in range(count):
            rng = np.random.default_rng([seed, number, *container.encode(), *kind.encode()])
            what, damaged = makers[kind](container, content, rng)
            copies.append(Mutation(container, kind, what, damaged))
    return copies


def _cut(container: str, content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    size = int(len(content) * rng.uniform(0.15, 0.97))
    return f"{size} of {len(content)} bytes", content[:size]


def _zeros(container: str, content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Zeroes 2 to 30 % of the file, in one to four ranges."""
    damaged, share, num = bytearray(content), rng.uniform(0.02, 0.3), int(rng.integers(1, 5))
    length = int(len(content) * share / num)
    for start in rng.integers(0, len(content) - length, num):
        damaged[start : start + length] = bytes(length)
    return f"{share:.0%} in {num} ranges", bytes(damaged)


def _flips(container: str, content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    damaged, num = bytearray(content), int(2 ** rng.uniform(0, 8))
    for place in rng.integers(0, len(content), num):
        damaged[place] ^= int(rng.integers(1, 256))
    return f"{num} bytes", bytes(damaged)


def _header(container: str, content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Changes one number of a header, or of some packets' headers in a stream of packets."""
    if container in ("mp4", "avi"):
        return _number(content, *_boxed(container, content, rng), "big" if container == "mp4" else "little", rng)
    if container in ("mkv", "webm"):
        return _number(content, *_element(content, rng), "big", rng)
    return _packet_headers(container, content, rng)


def _boxed(container: str, content: bytes, rng: np.random.Generator) -> tuple[str, int, int]:
    fields = [
        (name, place + offset)
        for name, offsets in (_MP4 if container == "mp4" else _AVI).items()
        for place in _places(content, name)
        for offset in offsets
    ]
    name, place = fields[rng.integers(len(fields))]
    return f"{name.decode()} at {place}", place, 4


def _element(content: bytes, rng: np.random.Generator) -> tuple[str, int, int]:
    places = {name: [match.end() for match in re.finditer(code, content, re.S)] for name, code in _MATROSKA.items()}
    names = [name for name, ends in places.items() if ends]
    name = names[rng.integers(len(names))]
    place = places[name][rng.integers(len(places[name]))]
    size = 2 if name == "time of a block" else content[place - 1] & 0x7F
    return f"{name} at {place}", place, size


def _number(
    content: bytes, what: str, place: int, size: int, order: str, rng: np.random.Generator
) -> tuple[str, bytes]:
    old = int.from_bytes(content[place : place + size], order)
    top = 256**size - 1
    choices = [
        0,
        1,
        old * 2,
        old // 2,
        old * 10,
        old // 10,
        old * 16,
        old + 1,
        old + 1000,
        top,
        int(rng.integers(min(top, 2**62))),
    ]
    new = min(top, choices[rng.integers(len(choices))])
    changed = content[:place] + new.to_bytes(size, order) + content[place + size :]
    return f"{what}: {old} -> {new}", changed


def _packet_headers(container: str, content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    codes = [pair for pair in _MPEG_STARTS[container] if pair[0] in content]
    code, offset = codes[rng.integers(len(codes))]
    places = _places(content, code)
    first, num = int(rng.integers(len(places))), int(2 ** rng.uniform(0, 7))
    damaged, mask = bytearray(content), 1 << int(rng.integers(8))
    for place in places[first : first + num]:
        damaged[min(place + offset, len(content) - 1)] ^= mask
    changed = len(places[first : first + num])
    return f"bit {mask} of byte {offset} behind {code.hex()}, {changed} times", bytes(damaged)


def _places(content: bytes, name: bytes) -> list[int]:
    places, place = [], content.find(name)
    while place >= 0:
        places.append(place)
        place = content.find(name, place + 1)
    return places
