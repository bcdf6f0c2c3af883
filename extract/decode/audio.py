"""Audio of a recording as mono samples on the recording's own clock."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import soxr
from av import AudioFrame
from numpy.typing import NDArray

from ...data.errors import InputError
from .bounds import EmptyTime, check_sampling_rate

RESAMPLER = f"soxr {soxr.__version__} HQ"
_TOLERANCE_S = 0.05  # players accept this much between timestamps and counted samples
_MAX_GAP_S = 600.0
MAX_BACK_S = 1.0
REWRITE = "Write the audio again, e.g. `ffmpeg -i IN -c:v copy -af aresample=async=1 OUT.mp4`."
MIX = "mean of stereo, half the difference where inverted; surround by ITU-R BS.775"
INVERTED = 0.01  # of the channels' power: what is left of it where one channel is the other inverted
_FOLD = {"FL": 0.5, "FR": 0.5, "FC": 0.7071, **dict.fromkeys(("BL", "BR", "SL", "SR", "BC", "FLC", "FRC"), 0.3536)}

Samples = NDArray[np.float32]
_NO_SAMPLES = np.zeros(0, np.float32)


class MonoAudio:
    """Turns decoded blocks into a continuous stream of mono float32 samples at one rate.

    Gaps between the blocks' timestamps are filled with digital silence, which the silence mask then marks as missing;
    overlapping samples are dropped. So sample n stands at `start_s` + n / rate, whatever was lost.
    With `only_counts`, all blocks but the first follow the one before, whatever their timestamps.

    Args:
        clip_id: names the clip in errors.
        sampling_rate: of the samples returned, in Hz; None = samples are counted and timed, but not returned.
        start_s: samples before this instant are left out.
        end_s: samples at and after this instant are left out.
    """

    def __init__(self, clip_id: str, sampling_rate: int | None, start_s: float | None, end_s: float | None) -> None:
        self._clip_id, self._target_rate = clip_id, sampling_rate
        self._cut_start_s, self._cut_end_s = start_s, end_s
        self._origin_s: float | None = None
        self._num_read = 0
        self._num_filled = self._num_dropped = 0
        self._empty = EmptyTime(clip_id, "audio")
        self._resampler: soxr.ResampleStream | None = None
        self.native_rate: int | None = None
        self.only_counts = False
        self.track: str | None = None  # where it is not the first: which, for people
        self.num_samples = 0
        self.start_s: float | None = None

    @property
    def end_s(self) -> float | None:
        """End of the last sample inside the cut, in seconds; None = there is none."""
        if self.start_s is None or self.native_rate is None:
            return None
        return self.start_s + self.num_samples / self.native_rate

    @property
    def past_end(self) -> bool:
        """True if reading has passed the end of the cut."""
        return self._cut_end_s is not None and self._now_s is not None and self._now_s >= self._cut_end_s

    @property
    def _now_s(self) -> float | None:
        if self._origin_s is None or self.native_rate is None:
            return None
        return self._origin_s + self._num_read / self.native_rate

    def push(self, block: AudioFrame) -> Samples:
        """Takes a decoded block; returns the samples (N,) that it completes.

        Raises:
            InputError: if the sampling rate changes or is none, or timestamps jump too far.
        """
        if self.native_rate is None:
            check_sampling_rate(self._clip_id, block.sample_rate, REWRITE)
            self.native_rate = block.sample_rate
        if block.sample_rate != self.native_rate:
            raise self._error("one sampling rate", f"{self.native_rate} Hz, then {block.sample_rate} Hz")
        return self._resampled(self._cut(self._aligned(mono(block), block)), last=False)

    def finish(self) -> Samples:
        """Returns the samples (N,) that the resampler still held."""
        return self._resampled(_NO_SAMPLES, last=True) if self._resampler else _NO_SAMPLES

    def report(self) -> dict[str, Any]:
        """Returns start, length, native rate, track, and the seconds filled and dropped, for people."""
        rate = self.native_rate or 1
        return {
            "audio_first_s": self.start_s,
            "audio_s": self.num_samples / rate,
            "audio_sampling_rate": self.native_rate,
            **({"audio_track": self.track} if self.track else {}),
            "audio_filled_s": self._num_filled / rate,
            "audio_dropped_s": self._num_dropped / rate,
        }

    def _aligned(self, samples: Samples, block: AudioFrame) -> Samples:
        """Fills the gap before a block with silence, or drops the samples that overlap the block before."""
        rate = block.sample_rate
        time_s = None if block.pts is None or block.time_base is None else float(block.pts * block.time_base)
        if self._now_s is None:
            self._origin_s = time_s or 0.0
        late_s = 0.0 if time_s is None or self._now_s is None or self.only_counts else time_s - self._now_s
        if late_s > _MAX_GAP_S or late_s < -MAX_BACK_S:
            raise self._error("audio without jumps in time", f"a jump of {late_s:.1f} s at {self._now_s:.2f} s")
        if late_s > _TOLERANCE_S:
            self._empty.add(late_s, time_s or 0.0)
            silence = np.zeros(round(late_s * rate), np.float32)
            self._num_filled += len(silence)
            return np.concatenate([silence, samples])
        if late_s < -_TOLERANCE_S:
            num_overlapping = min(round(-late_s * rate), len(samples))
            self._num_dropped += num_overlapping
            return samples[num_overlapping:]
        return samples

    def _cut(self, samples: Samples) -> Samples:
        assert self._origin_s is not None, "aligned before"
        assert self.native_rate is not None, "set by the first block"
        first = 0 if self._cut_start_s is None else _first_sample(self._cut_start_s - self._origin_s, self.native_rate)
        first = max(0, first)
        kept = samples[max(0, first - self._num_read) : self._cut_end()]
        self._num_read += len(samples)
        if len(kept) and self.start_s is None:
            self.start_s = self._origin_s + first / self.native_rate
        self.num_samples += len(kept)
        return kept

    def _cut_end(self) -> int | None:
        """Returns the number of samples of the next block that lie before the end of the cut; None = all."""
        if self._cut_end_s is None or self._origin_s is None or self.native_rate is None:
            return None
        end = max(0, _first_sample(self._cut_end_s - self._origin_s, self.native_rate))
        return max(0, end - self._num_read)

    def _resampled(self, samples: Samples, *, last: bool) -> Samples:
        if self._target_rate is None or self.native_rate is None:
            return _NO_SAMPLES
        if self._target_rate == self.native_rate:
            return samples
        resampler = self._resampler
        if resampler is None:
            if not len(samples):
                return _NO_SAMPLES
            resampler = soxr.ResampleStream(self.native_rate, self._target_rate, 1, dtype="float32", quality="HQ")
            self._resampler = resampler
        return resampler.resample_chunk(samples, last=last)

    def _error(self, expected: str, got: str) -> InputError:
        return InputError(self._clip_id, expected=expected, got=got, todo=REWRITE)


def _first_sample(seconds: float, rate: int) -> int:
    """Returns the number of the first sample at or after an instant."""
    return math.ceil(seconds * rate - 1e-6)


def mono(block: AudioFrame) -> Samples:
    """Mixes a block's channels to one, (N,) in [-1, 1].

    Stereo is the mean of both, or half their difference where one is the other inverted (a wrong plug) and they cancel.
    Surround is weighted as ITU-R BS.775 folds it down: speech comes from the centre, the low-frequency channel is left
    out.
    """
    channels = _channels(block)
    weights = np.array([_FOLD.get(channel.name, 0.0) for channel in block.layout.channels], np.float32)
    if len(channels) > 2 and weights.any():
        return np.asarray((weights / weights.sum()) @ channels, np.float32)
    mean = channels.mean(axis=0)
    if len(channels) == 2 and _power(mean) < INVERTED * _power(channels):
        return (channels[0] - channels[1]) / 2
    return mean


def _power(samples: Samples) -> float:
    return float(np.square(samples, dtype=np.float64).mean()) if samples.size else 0.0


def _channels(block: AudioFrame) -> Samples:
    """Returns the channels of a block, (C, N) float32 in [-1, 1]."""
    channels = block.to_ndarray()
    if not block.format.is_planar:
        channels = channels.reshape(-1, len(block.layout.channels)).T
    if channels.dtype == np.uint8:
        return np.asarray((channels.astype(np.float32) - 128) / 128, np.float32)
    if channels.dtype.kind == "i":
        full_scale = 2.0 ** (8 * channels.dtype.itemsize - 1)
        return (channels / full_scale).astype(np.float32)
    return channels.astype(np.float32)
