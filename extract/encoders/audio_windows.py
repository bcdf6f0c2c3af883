"""Audio as overlapping windows of one length, and the steps that are kept of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ..decode.audio import Samples
from .vad import VOICE_UNIT, VoiceDetector

SILENCE_DBFS = -80.0
FLOOR_DBFS = -120.0
CLIPPING_LEVEL = 0.999
AUDIO_QUALITY_UNITS = {"rms_dbfs": "dB below full scale", "clipping": "share of samples at full scale"}


@dataclass(frozen=True)
class WindowPlan:
    """Plan by which a recording's audio is cut for an encoder. All in samples, unless named steps.

    Args:
        sampling_rate: samples per second.
        window: length of a window.
        step: distance of neighbouring steps.
        receptive_field: samples that one step depends on directly.
        first_centre: position of the first step in a window.
        window_steps: steps of a whole window.
        context_steps: steps discarded at an inner end of a window, where the encoder lacks context on one side.
        padded: True if a short window is padded with zeros, as the encoder was trained (Whisper). Otherwise a
            recording shorter than a window is one window of its own length, and the last window of a longer one is
            moved back so that it ends where the recording ends.
        voice: fingerprint of the voice detector (`voice_fingerprint`); None = the voice is not measured.
    """

    sampling_rate: int
    window: int
    step: int
    receptive_field: int
    first_centre: int
    window_steps: int
    context_steps: int
    padded: bool
    voice: Mapping[str, str] | None = None

    @property
    def quality_units(self) -> dict[str, str]:
        """Quality signals of each step, name -> unit."""
        return {**AUDIO_QUALITY_UNITS, **({"voice": VOICE_UNIT} if self.voice else {})}

    def num_steps(self, num_samples: int) -> int:
        """Returns the number of steps of a recording; 0 where it is too short for one."""
        if self.padded:
            return -(-num_samples // self.step)
        return max(0, (num_samples - self.receptive_field) // self.step + 1)

    def times_s(self, num_steps: int, start_s: float) -> NDArray[np.float64]:
        """Returns the (num_steps,) float64 instants of the steps in seconds, for audio that begins at `start_s`."""
        return start_s + (np.arange(num_steps) * self.step + self.first_centre) / self.sampling_rate

    def absent_steps(self, duration_s: float) -> int:
        """Returns the number of masked steps of a recording of this length without audio, at least one."""
        return max(1, self.num_steps(round(duration_s * self.sampling_rate)))

    def to_json(self) -> dict[str, Any]:
        """Returns the part of the plan that decides the features, for the fingerprint of a stream."""
        plan: dict[str, Any] = {
            "sampling_rate": self.sampling_rate,
            "window_samples": self.window,
            "context_steps": self.context_steps,
            "last_window": "padded with zeros" if self.padded else "moved back to the end",
            "silence_dbfs": SILENCE_DBFS,
        }
        return {**plan, "voice": dict(self.voice)} if self.voice else plan


@dataclass(frozen=True)
class Window:
    """A window of audio for the encoder.

    Args:
        samples: (N,) float32.
        first: first kept step, of those that the encoder returns for the window.
        end: one past the last kept step.
        audible: (end - first,) bool, False where the receptive field of a step is silent.
        quality: (end - first, Q) float32, see `WindowPlan.quality_units`.
    """

    samples: Samples
    first: int
    end: int
    audible: NDArray[np.bool_]
    quality: NDArray[np.float32]

    @property
    def num_bytes(self) -> int:
        """Memory of the samples in bytes."""
        return self.samples.nbytes


class Windower:
    """Cuts streaming samples into windows as soon as each is complete; holds no more than about two windows."""

    def __init__(self, plan: WindowPlan) -> None:
        self.plan = plan
        self._voice = VoiceDetector() if plan.voice else None
        self._hop = (plan.window_steps - 2 * plan.context_steps) * plan.step
        self._enough = plan.window + (1 if plan.padded else plan.step)  # with so many samples a window is not the last
        self._pieces: list[Samples] = []
        self._origin = 0  # position of the held samples in the recording: the start of the window before
        self._start = 0  # position of the next window
        self._kept_steps = 0
        self.num_samples = 0

    def push(self, samples: Samples) -> Iterator[Window]:
        """Takes the next samples (N,); yields the windows that are certainly not the last."""
        self._pieces.append(samples)
        self.num_samples += len(samples)
        if self._voice:
            self._voice.push(samples)
        while self.num_samples - self._start >= self._enough:
            held = self._held()[self._start - self._origin :]
            yield self._cut(held[: self.plan.window], self._start, last=False)
            self._pieces, self._origin = [held.copy()], self._start
            self._start += self._hop

    def finish(self) -> Iterator[Window]:
        """Yields the last window, if there is any step left."""
        if self._voice:
            self._voice.finish()
        if self.plan.num_steps(self.num_samples) <= self._kept_steps:
            return
        start = self._start
        if not self.plan.padded:
            start = max(0, (self.num_samples - self.plan.window) // self.plan.step * self.plan.step)
        held = self._held()[start - self._origin :]
        yield self._cut(held[: self.plan.window], start, last=True)

    def _held(self) -> Samples:
        return np.concatenate(self._pieces) if len(self._pieces) != 1 else self._pieces[0]

    def _cut(self, samples: Samples, start: int, *, last: bool) -> Window:
        plan = self.plan
        start_step = start // plan.step
        end = plan.num_steps(self.num_samples) - start_step if last else plan.window_steps - plan.context_steps
        first = self._kept_steps - start_step
        self._kept_steps = start_step + end
        quality = measure_audio(samples, plan)[first:end]
        audible = quality[:, 0] >= SILENCE_DBFS
        if self._voice:
            centres = np.arange(start_step + first, start_step + end) * plan.step + plan.first_centre
            quality = np.column_stack([quality, self._voice.at(centres)])
        missing = plan.window - len(samples) if plan.padded else 0
        return Window(np.pad(samples, (0, missing)) if missing else samples, first, end, audible, quality)


def measure_audio(samples: Samples, plan: WindowPlan) -> NDArray[np.float32]:
    """Measures loudness and clipping: (N,) samples -> (T, 2) float32 for the receptive field of each step.

    In `AUDIO_QUALITY_UNITS`. Equal to `librosa.feature.rms`, whose import alone takes seconds.
    """
    before = plan.receptive_field // 2 - plan.first_centre
    num_steps = ceil(len(samples) / plan.step) if plan.padded else plan.num_steps(len(samples))
    after = max(0, (num_steps - 1) * plan.step + plan.receptive_field - before - len(samples))
    fields = sliding_window_view(np.pad(samples, (before, after)), plan.receptive_field)[:: plan.step][:num_steps]
    power = np.square(fields).mean(axis=1, dtype=np.float64)
    rms_dbfs = 10 * np.log10(np.maximum(power, 10 ** (FLOOR_DBFS / 10)))
    clipping = (np.abs(fields) >= CLIPPING_LEVEL).mean(axis=1)
    return np.stack([rms_dbfs, clipping], axis=1).astype(np.float32)
