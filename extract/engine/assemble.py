"""Assembly of one clip: features gathered as they come from the encoders, and turned into Tracks when complete."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ...data.clip import Clip, Track
from ...data.errors import InputError
from ...data.manifest import Source
from ..buffers import mapped
from ..decode.frames import VISUAL_QUALITY_UNITS, Frames
from ..decode.request import DecodeResult
from ..encoders.audio_windows import Window
from ..faces.align import FACE_QUALITY_UNITS
from ..faces.people import PersonResult
from ..media_hashes import Medium

if TYPE_CHECKING:  # it loads torch
    from ..encoders.base import AudioEncoder, Encoder

_BLOCK = 512  # images

Floats = NDArray[np.floating[Any]]
_Steps = tuple[Floats, NDArray[np.bool_], NDArray[np.float32]]  # values, mask, quality


@dataclass(eq=False)
class Assembly:
    """One clip on its way through a run.

    Args:
        source: the clip.
        dtype: of stored values.
        medium: identity of its bytes, once hashed.
        needs: modalities that are to be extracted.
        result: times and reports, once decoding is over.
        num_windows: windows of audio that were cut.
        failed: True once the clip was given up.
    """

    source: Source
    dtype: np.dtype[Any]
    medium: Medium | None = None
    needs: tuple[str, ...] = ()
    result: DecodeResult | None = None
    num_windows: int = 0
    failed: bool = False
    _num_images: int = 0
    _blocks: list[Floats] = field(default_factory=list[Floats])  # features of images, _BLOCK in each
    _num_encoded: int = 0
    _image_quality: list[NDArray[np.float32]] = field(default_factory=list[NDArray[np.float32]])
    _steps: list[_Steps] = field(default_factory=list[_Steps])

    def expect_images(self, frames: Frames) -> None:
        """Counts images on their way to the encoder, and keeps their quality."""
        self._num_images += len(frames.pixels)
        self._image_quality.append(frames.quality)

    def add_images(self, values: Floats, encoder: Encoder) -> None:
        """Takes the (N, D) float32 features of the next images.

        Raises:
            InputError: if they are not finite, or too large for the stored format.
        """
        stored = self._stored(values, encoder)
        while len(stored):
            row = self._num_encoded % _BLOCK
            if row == 0:
                self._blocks.append(mapped((_BLOCK, encoder.dim), self.dtype))
            part = stored[: _BLOCK - row]
            self._blocks[-1][row : row + len(part)] = part
            self._num_encoded += len(part)
            stored = stored[len(part) :]

    def add_window(self, window: Window, values: Floats, encoder: Encoder) -> None:
        """Takes the (T, D) float32 features of the next window; keeps the steps that the window stands for.

        Raises:
            InputError: if they are not finite, or too large for the stored format.
        """
        stored = self._stored(values[window.first : window.end], encoder)
        self._steps.append((stored, window.audible, window.quality))  # without the samples

    @property
    def complete(self) -> bool:
        """True if decoding is over and all features have come back from the encoders."""
        return self.result is not None and (self._num_encoded, len(self._steps)) == (self._num_images, self.num_windows)

    @property
    def nbytes(self) -> int:
        """Bytes of the features so far, and of the tracks that are made of them."""
        images = self._num_encoded * self._blocks[0][0].nbytes if self._blocks else 0
        return 2 * (images + sum(values.nbytes for values, *_ in self._steps))

    def release(self) -> None:
        """Frees the features."""
        self._blocks, self._image_quality, self._steps = [], [], []

    def clip(self) -> Clip:
        """Returns the clip's metadata for the cache."""
        assert self.result is not None, "complete"
        assert self.medium is not None, "hashed before decoding"
        media = {"path": self.source.media_path or self.source.place.name}
        media |= {"bytes": self.medium.num_bytes, "sha256": self.medium.sha256}
        source, result = self.source, self.result
        return Clip(source.clip_id, source.subject_id, result.duration_s, result.clock, media)

    def track(self, encoder: Encoder) -> tuple[Track, dict[str, Any]]:
        """Returns the Track of an encoder's features, and the decoder's report for people."""
        assert self.result is not None, "complete"
        if encoder.modality == "audio":
            return self._audio_track(cast("AudioEncoder", encoder), self.result), self.result.audio_report
        return self._visual_track(encoder.dim, self.result), self.result.visual_report

    def _visual_track(self, dim: int, result: DecodeResult) -> Track:
        mask = result.shown >= 0
        values = np.full((len(mask), dim), np.nan, self.dtype)
        units = FACE_QUALITY_UNITS if isinstance(result, PersonResult) else VISUAL_QUALITY_UNITS
        quality = np.full((len(mask), len(units)), np.nan, np.float32)
        if mask.any():
            block_of = result.shown // _BLOCK  # -1 where there is no image
            for number, block in enumerate(self._blocks):  # one by one, so that no second copy of all is made
                steps = np.flatnonzero(block_of == number)
                values[steps] = block[result.shown[steps] - number * _BLOCK]
            quality[mask] = np.concatenate(self._image_quality)[result.shown[mask]]
        if isinstance(result, PersonResult):
            quality[:, list(units).index("since_detection_s")] = result.since_detection_s()
        return Track(values, result.times_s, mask, quality, units)

    def _audio_track(self, encoder: AudioEncoder, result: DecodeResult) -> Track:
        if not self._steps:
            return self._masked_audio_track(encoder, result)
        assert result.audio_start_s is not None, "there was audio"
        plan = encoder.plan
        values, mask, quality = (np.concatenate(parts) for parts in zip(*self._steps, strict=True))
        values[~mask] = np.nan
        return Track(values, plan.times_s(len(values), result.audio_start_s), mask, quality, plan.quality_units)

    def _masked_audio_track(self, encoder: AudioEncoder, result: DecodeResult) -> Track:
        """Returns a masked Track for a clip without audio, or with too little for one step."""
        plan, start_s, duration_s = encoder.plan, result.audio_start_s, 0.0
        if start_s is None:
            start_s, duration_s = result.start_s, result.duration_s
        num_steps = plan.absent_steps(duration_s)
        values = np.full((num_steps, encoder.dim), np.nan, self.dtype)
        quality = np.full((num_steps, len(plan.quality_units)), np.nan, np.float32)
        mask = np.zeros(num_steps, bool)
        return Track(values, plan.times_s(num_steps, start_s), mask, quality, plan.quality_units)

    def _stored(self, values: Floats, encoder: Encoder) -> Floats:
        producer = f"{'plug-in' if encoder.kind == 'plug-in' else 'encoder'} {encoder.name}"
        if not np.isfinite(values).all():
            todo = "Extract with --precision float32, and check the weights."
            todo = "Mend its `embed`." if encoder.kind == "plug-in" else todo
            expected = f"finite features from {producer}"
            raise InputError(self.source.clip_id, expected=expected, got="NaN or infinity", todo=todo)
        with np.errstate(over="ignore"):
            stored = values.astype(self.dtype)
        if not np.isfinite(stored).all():
            got = f"{np.abs(values).max():.3g}, too large for float16"
            todo = "Pass --store-dtype float32."
            expected = f"features below 65504 from {producer}"
            raise InputError(self.source.clip_id, expected=expected, got=got, todo=todo)
        return stored
