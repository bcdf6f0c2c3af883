"""Bounds of a recording: a small file can ask for more memory than any real one needs."""

from __future__ import annotations

from ...data.errors import InputError

MIN_HZ, MAX_HZ = 1000, 768_000  # sampling rates
MAX_PIXELS = 40_000_000  # of an image: 8K has 35 million
MAX_EMPTY_S = 4 * 3600.0  # of a clip, in gaps of over LONG_S each
LONG_S = 10.0


class EmptyTime:
    """Adds up the long gaps of a clip, and refuses a clip that hardly consists of anything else.

    A gap costs memory and time as its length, not as its bytes: features, masks and grids have rows for it.

    Args:
        clip_id: names the clip in errors.
        what: comes after the gap: "frames" or "audio".
    """

    def __init__(self, clip_id: str, what: str) -> None:
        self._clip_id, self._what, self._empty_s = clip_id, what, 0.0

    def add(self, gap_s: float, at_s: float) -> None:
        """Counts a gap that ends at an instant; both in seconds.

        Raises:
            InputError: if the gaps come to more than `MAX_EMPTY_S`.
        """
        if gap_s <= LONG_S:
            return
        self._empty_s += gap_s
        if self._empty_s > MAX_EMPTY_S:
            expected = f"at most {MAX_EMPTY_S / 3600:g} hours without {self._what}"
            got = f"a jump of {gap_s:.6g} s to {at_s:.6g} s, {self._empty_s:.6g} s in all"
            todo = "Cut the recording into parts (start_s, end_s), or write it again with correct timestamps."
            raise InputError(self._clip_id, expected=expected, got=got, todo=todo)


def check_pixels(place: object, width: int, height: int, todo: str) -> None:
    """Refuses an image that is too large to decode.

    Raises:
        InputError: stating its size.
    """
    if width * height > MAX_PIXELS:
        expected = f"images of at most {MAX_PIXELS:,} pixels"
        raise InputError(place, expected=expected, got=f"{width} x {height}", todo=todo)


def check_sampling_rate(clip_id: str, rate: int, todo: str) -> None:
    """Refuses a sampling rate that no recorder writes: resampled, a second of 1 Hz becomes 16,000 samples.

    Raises:
        InputError: stating the rate.
    """
    if not MIN_HZ <= rate <= MAX_HZ:
        expected = f"a sampling rate from {MIN_HZ} to {MAX_HZ} Hz"
        raise InputError(clip_id, expected=expected, got=f"{rate} Hz", todo=todo)
