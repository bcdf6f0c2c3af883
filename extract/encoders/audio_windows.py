"""Sound as overlapping windows of one length: what an audio encoder hears at a time, and which steps are kept of it."""

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
    """How a recording's sound is cut for an encoder. All in samples, unless named steps.

    Args:
        sampling_rate: samples per second.
        window: length of a window.
        step: distance of neighbouring steps.
        hears: how much sound one step depends on directly.
        first_centre: where in a window the first step stands.
        window_steps: steps that a whole window gives.
        context_steps: steps thrown away at an inner end of a window, where it hears too little of one side.
        padded: whether a short window is filled up with zeros, as the encoder was trained (Whisper). Otherwise a
            recording shorter than a window is one window of its own length, and the last window of a longer one is
            moved back so that it ends where the recording ends.
        voice: what tells how likely each step holds a voice (`voice_fingerprint`); None = that is not measured.
    """

    sampling_rate: int
    window: int
    step: int
    hears: int
    first_centre: int
    window_steps: int
    context_steps: int
    padded: bool
    voice: Mapping[str, str] | None = None

    @property
    def quality_units(self) -> dict[str, str]:
        """Name -> unit of the quality signals of each step."""
        return {**AUDIO_QUALITY_UNITS, **({"voice": VOICE_UNIT} if self.voice else {})}

    def num_steps(self, num_samples: int) -> int:
        """Steps that a recording has; 0 where it is too short for one."""
        if self.padded:
            return -(-num_samples // self.step)
        return max(0, (num_samples - self.hears) // self.step + 1)

    def times_s(self, num_steps: int, start_s: float) -> NDArray[np.float64]:
        """(num_steps,) float64: the instants that the steps stand at, for sound that begins at `start_s`."""
        return start_s + (np.arange(num_steps) * self.step + self.first_centre) / self.sampling_rate

    def absent_steps(self, duration_s: float) -> int:
        """Steps of a recording of this length without any sound, at least one."""
        return max(1, self.num_steps(round(duration_s * self.sampling_rate)))

    def to_json(self) -> dict[str, Any]:
        """What of it decides the features."""
        found: dict[str, Any] = {
            "sampling_rate": self.sampling_rate,
            "window_samples": self.window,
            "context_steps": self.context_steps,
            "last_window": "padded with zeros" if self.padded else "moved back to the end",
            "silence_dbfs": SILENCE_DBFS,
        }
        return {**found, "voice": dict(self.voice)} if self.voice else found


@dataclass(frozen=True)
class Window:
    """A piece of sound for the encoder.

    Args:
        samples: (N,) float32.
        first: of the steps that the encoder gives for it, the first that is kept.
        end: the one after the last that is kept.
        audible: (end - first,) bool, False where a step hears silence.
        quality: (end - first, Q) float32, see `WindowPlan.quality_units`.
    """

    samples: Samples
    first: int
    end: int
    audible: NDArray[np.bool_]
    quality: NDArray[np.float32]

    @property
    def num_bytes(self) -> int:
        """What the window holds of memory."""
        return self.samples.nbytes


class Windower:
    """Cuts a stream of samples into windows as soon as each is whole; holds no more than about two windows."""

    def __init__(self, plan: WindowPlan) -> None:
        self.plan = plan
        self._voice = VoiceDetector() if plan.voice else None
        self._hop = (plan.window_steps - 2 * plan.context_steps) * plan.step
        self._enough = plan.window + (1 if plan.padded else plan.step)  # then a window is not the last
        self._pieces: list[Samples] = []
        self._origin = 0  # place of what is held in the recording: the start of the window before
        self._start = 0  # place of the next window
        self._kept_steps = 0
        self.num_samples = 0

    def push(self, samples: Samples) -> Iterator[Window]:
        """Takes the next samples; yields the windows that are now known not to be the last."""
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
        if self.plan.num_steps(self.num_samples) <= self._kept_steps:
            return
        if self._voice:
            self._voice.finish()
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
        quality = measure(samples, plan)[first:end]
        audible = quality[:, 0] >= SILENCE_DBFS
        if self._voice:
            centres = np.arange(start_step + first, start_step + end) * plan.step + plan.first_centre
            quality = np.column_stack([quality, self._voice.at(centres)])
        missing = plan.window - len(samples) if plan.padded else 0
        return Window(np.pad(samples, (0, missing)) if missing else samples, first, end, audible, quality)


def measure(samples: Samples, plan: WindowPlan) -> NDArray[np.float32]:
    """(N,) samples -> (T, 2) float32: loudness and clipping of what each step hears (see AUDIO_QUALITY_UNITS).

    Equal to `librosa.feature.rms`, whose import alone takes seconds.
    """
    before = plan.hears // 2 - plan.first_centre
    num_steps = ceil(len(samples) / plan.step) if plan.padded else plan.num_steps(len(samples))
    after = max(0, (num_steps - 1) * plan.step + plan.hears - before - len(samples))
    heard = sliding_window_view(np.pad(samples, (before, after)), plan.hears)[:: plan.step][:num_steps]
    power = np.square(heard).mean(axis=1, dtype=np.float64)
    rms_dbfs = 10 * np.log10(np.maximum(power, 10 ** (FLOOR_DBFS / 10)))
    clipping = (np.abs(heard) >= CLIPPING_LEVEL).mean(axis=1)
    return np.stack([rms_dbfs, clipping], axis=1).astype(np.float32)
