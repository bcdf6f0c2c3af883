"""The parts of one clip, gathered as they come from the encoders, and made into Tracks when whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.clip import Clip, Track
from ...data.errors import InputError
from ...data.manifest import Source
from ..batch import mapped
from ..decode.frames import VISUAL_QUALITY_UNITS, Frames
from ..decode.reader import Ending
from ..encoders.audio_windows import Window
from ..encoders.base import AudioEncoder
from ..faces.align import FACE_QUALITY_UNITS
from ..faces.finder import PersonEnding
from ..identity import Encoder, Medium

_BLOCK = 512  # images

Floats = NDArray[np.floating[Any]]


@dataclass(eq=False)
class Assembly:
    """One clip on its way through a run.

    Args:
        source: the work.
        dtype: of stored values.
        medium: its bytes, once hashed.
        needs: modalities that are to be made.
        ending: what decoding found out, once it is over.
        num_windows: windows of sound that were cut.
        failed: whether it was given up.
    """

    source: Source
    dtype: np.dtype[Any]
    medium: Medium | None = None
    needs: tuple[str, ...] = ()
    ending: Ending | None = None
    num_windows: int = 0
    failed: bool = False
    _num_images: int = 0
    _blocks: list[Floats] = field(default_factory=list[Floats])  # of features of images, _BLOCK in each
    _num_encoded: int = 0
    _image_quality: list[NDArray[np.float32]] = field(default_factory=list[NDArray[np.float32]])
    _steps: list[tuple[Window, Floats]] = field(default_factory=list[tuple[Window, Floats]])

    def expect_images(self, frames: Frames) -> None:
        """Notes images that have been sent to the encoder."""
        self._num_images += len(frames.pixels)
        self._image_quality.append(frames.quality)

    def add_image(self, values: Floats, encoder: Encoder) -> None:
        """Takes the (D,) float32 features that an encoder made of the next image.

        Raises:
            InputError: if they are not finite, or too large for the stored format.
        """
        row = self._num_encoded % _BLOCK
        if row == 0:
            self._blocks.append(mapped((_BLOCK, encoder.dim), self.dtype))
        self._blocks[-1][row] = self._stored(values, encoder)
        self._num_encoded += 1

    def add_window(self, window: Window, values: Floats, encoder: Encoder) -> None:
        """Takes the (T, D) float32 features that an encoder made of the next window; keeps the steps it stands for.

        Raises:
            InputError: if they are not finite, or too large for the stored format.
        """
        self._steps.append((window, self._stored(values[window.first : window.end], encoder)))

    @property
    def whole(self) -> bool:
        """Whether everything has come back from the encoders."""
        return self.ending is not None and (self._num_encoded, len(self._steps)) == (self._num_images, self.num_windows)

    def forget(self) -> None:
        """Gives the memory back."""
        self._blocks, self._image_quality, self._steps = [], [], []

    def describe(self) -> Clip:
        """What the cache is to know of the clip."""
        assert self.ending is not None, "whole"
        assert self.medium is not None, "hashed before decoding"
        media = {"path": self.source.media_path or self.source.place.name}
        media |= {"bytes": self.medium.num_bytes, "sha256": self.medium.sha256}
        source, ending = self.source, self.ending
        return Clip(source.clip_id, source.subject_id, ending.duration_s, ending.clock, media)

    def track(self, encoder: Encoder) -> tuple[Track, dict[str, Any]]:
        """The Track that an encoder's features make, and what the decoder saw."""
        assert self.ending is not None, "whole"
        if isinstance(encoder, AudioEncoder):
            return self._audio_track(encoder, self.ending), self.ending.audio_report
        return self._visual_track(encoder.dim, self.ending), self.ending.visual_report

    def _visual_track(self, dim: int, ending: Ending) -> Track:
        mask = ending.shown >= 0
        values = np.full((len(mask), dim), np.nan, self.dtype)
        units = FACE_QUALITY_UNITS if isinstance(ending, PersonEnding) else VISUAL_QUALITY_UNITS
        quality = np.full((len(mask), len(units)), np.nan, np.float32)
        if mask.any():
            for step in np.flatnonzero(mask):  # one by one, so that no second copy of all is made
                block, row = divmod(ending.shown[step], _BLOCK)
                values[step] = self._blocks[block][row]
            quality[mask] = np.concatenate(self._image_quality)[ending.shown[mask]]
        if isinstance(ending, PersonEnding):
            quality[:, list(units).index("since_detection_s")] = ending.since_detection_s()
        return Track(values, ending.times_s, mask, quality, units)

    def _audio_track(self, encoder: AudioEncoder, ending: Ending) -> Track:
        plan, dim = encoder.plan, encoder.dim
        if not self._steps:
            absent = plan.absent_steps(ending.duration_s if ending.sound_start_s is None else 0)
            times_s = plan.times_s(absent, ending.start_s if ending.sound_start_s is None else ending.sound_start_s)
            quality = np.full((absent, len(plan.quality_units)), np.nan, np.float32)
            values = np.full((absent, dim), np.nan, self.dtype)
            return Track(values, times_s, np.zeros(absent, bool), quality, plan.quality_units)
        assert ending.sound_start_s is not None, "there was sound"
        values = np.concatenate([values for _, values in self._steps])
        mask = np.concatenate([window.audible for window, _ in self._steps])
        quality = np.concatenate([window.quality for window, _ in self._steps])
        values[~mask] = np.nan
        return Track(values, plan.times_s(len(values), ending.sound_start_s), mask, quality, plan.quality_units)

    def _stored(self, values: Floats, encoder: Encoder) -> Floats:
        whose = f"{'plug-in' if encoder.kind == 'plug-in' else 'encoder'} {encoder.name}"
        if not np.isfinite(values).all():
            weights = "Extract with --precision float32, and look at the weights."
            todo = "Mend its `embed`." if encoder.kind == "plug-in" else weights
            expected = f"finite features from {whose}"
            raise InputError(self.source.clip_id, expected=expected, got="NaN or infinity", todo=todo)
        with np.errstate(over="ignore"):
            stored = values.astype(self.dtype)
        if not np.isfinite(stored).all():
            got = f"{np.abs(values).max():.3g}, more than float16 can hold"
            todo = "Pass --store-dtype float32."
            expected = f"features below 65504 from {whose}"
            raise InputError(self.source.clip_id, expected=expected, got=got, todo=todo)
        return stored
