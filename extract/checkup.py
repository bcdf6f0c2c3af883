"""Checks of this installation's decoders, and of an encoder: its features alone and in a batch, and its speed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np

from .encoders.base import AudioEncoder, Encoder, VisualEncoder
from .encoders.weights import dtype_name

CODECS = {
    "video": ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "prores"),
    "audio": ("aac", "mp3", "opus", "vorbis", "flac", "pcm_s16le"),
}
TOLERANCES = {"float32": 1e-5, "float16": 3e-3, "bfloat16": 2e-2}
NUM_ITEMS = 4
AUDIO_S = 2.0


@dataclass(frozen=True)
class Decoders:
    """The decoders of PyAV: versions of FFmpeg's libraries, and codecs by kind that are present and missing."""

    libraries: dict[str, str]
    present: dict[str, list[str]]
    missing: dict[str, list[str]]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


def decoders() -> Decoders:
    """Returns which of the usual codecs PyAV can decode here."""
    import av

    can = {kind: [name for name in names if _can_decode(name)] for kind, names in CODECS.items()}
    return Decoders(
        libraries={name: ".".join(map(str, numbers)) for name, numbers in av.library_versions.items()},
        present=can,
        missing={kind: [name for name in names if name not in can[kind]] for kind, names in CODECS.items()},
    )


def _can_decode(name: str) -> bool:
    import av

    try:
        av.Codec(name, "r")
    except ValueError:  # PyAV's UnknownCodecError is one
        return False
    return True


@dataclass(frozen=True)
class BatchCheck:
    """The features of an item alone, compared with those that it has in a batch.

    Args:
        deviation: largest difference, as a share of the largest value.
        tolerance: that is allowed in this number format.
        dtype: number format of the encoder.
        num_items: in the batch.
        items_per_s: images, or seconds of audio, that the encoder embeds per second.
    """

    deviation: float
    tolerance: float
    dtype: str
    num_items: int
    items_per_s: float

    @property
    def within(self) -> bool:
        """True where the batch does not matter; False also where features are not finite."""
        return self.deviation <= self.tolerance


def check_batch(encoder: Encoder, seed: int = 0) -> BatchCheck:
    """Embeds items of noise alone and together.

    Args:
        encoder: visual or audio.
        seed: of the noise.

    Raises:
        InputError: if the encoder returns something else than features.
    """
    items, units = _noise(encoder, np.random.default_rng(seed))
    alone = np.concatenate([encoder.encode(items[place : place + 1]) for place in range(NUM_ITEMS)])
    start_s = perf_counter()
    together = encoder.encode(items)
    elapsed_s = perf_counter() - start_s
    dtype = dtype_name(encoder.dtype)
    return BatchCheck(
        deviation=float(np.abs(together - alone).max() / np.abs(alone).max()),
        tolerance=TOLERANCES[dtype],
        dtype=dtype,
        num_items=NUM_ITEMS,
        items_per_s=units / elapsed_s,
    )


def _noise(encoder: Encoder, rng: np.random.Generator) -> tuple[Any, float]:
    """Returns a batch of noise, and its images or seconds."""
    if isinstance(encoder, VisualEncoder):
        return rng.integers(0, 256, (NUM_ITEMS, *encoder.size, 3), dtype=np.uint8), float(NUM_ITEMS)
    assert isinstance(encoder, AudioEncoder), "there are two kinds of encoders"
    plan = encoder.plan
    num_samples = plan.window if plan.padded else min(plan.window, round(AUDIO_S * plan.sampling_rate))
    items = 0.1 * rng.standard_normal((NUM_ITEMS, num_samples)).astype(np.float32)
    return items, NUM_ITEMS * num_samples / plan.sampling_rate
