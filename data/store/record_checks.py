"""Strict checks of commit records: a record may carry a right checksum and still have been written by a wrong writer.

All that the code relies on is checked here, once, where a record is read: types, ranges, and that nothing in it asks
for more memory than the arrays that it describes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

TIME_COLUMNS = [["time_s", "s"], ["mask", "1"]]
DTYPES = ("float16", "bfloat16", "float32")
MAX_INT = 2**53  # what JSON's readers agree on
MAX_FRAMES, MAX_DIM, MAX_COLUMNS = 10**9, 10**6, 1000
MAX_CLOCK_FRAMES = 2 * 10**7  # nine days at 25 frames/s; a few bytes of a record become 8 for each frame
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIME_BASE = re.compile(r"[1-9]\d{0,17}(?:/[1-9]\d{0,17})?")


def record_problem(record: Mapping[str, Any]) -> str | None:
    """Returns the first thing in unsealed attributes that no commit record has; None for a sound record."""
    for name, is_right in _CHECKS.items():
        if not is_right(record.get(name)):
            return f"one whose {name!r} is malformed"
    if record["num_valid"] > record["shape"][0]:
        return "one with more valid frames than frames"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any, most: int = MAX_INT) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _is_tick(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INT


def _is_shape(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return _is_count(value[0], MAX_FRAMES) and _is_count(value[1], MAX_DIM)


def _is_columns(value: Any) -> bool:
    """True for the time columns, then quality signals with a name of their own and a unit."""
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_COLUMNS or value[:2] != TIME_COLUMNS:
        return False
    pairs = all(isinstance(c, list) and len(c) == 2 and all(isinstance(text, str) for text in c) for c in value)
    return pairs and len({name for name, _ in value}) == len(value)


def _is_checksums(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"values", "frames"}:
        return False
    return all(isinstance(text, str) and _SHA256.fullmatch(text) for text in value.values())


def _is_clip(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("clip_id"), str) or not value["clip_id"]:
        return False
    subject, media, clock = (value.get(name) for name in ("subject_id", "media", "clock"))
    return (
        (subject is None or isinstance(subject, str))
        and _is_duration(value.get("duration_s"))
        and (media is None or _is_media(media))
        and ("clock" not in value or _is_clock(clock))
    )


def _is_duration(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_INT)


def _is_media(value: Any) -> bool:
    texts = isinstance(value, dict) and all(isinstance(value.get(name, ""), str) for name in ("path", "sha256"))
    return texts and _is_count(value.get("bytes", 0))


def _is_clock(value: Any) -> bool:
    """True for a time base above 0, and runs of ticks that rise from one to the next."""
    if not isinstance(value, dict) or not isinstance(value.get("runs"), list):
        return False
    time_base = value.get("time_base")
    if not isinstance(time_base, str) or not _TIME_BASE.fullmatch(time_base) or Fraction(time_base) <= 0:
        return False
    num_frames, last = 0, -math.inf
    for run in value["runs"]:
        if not isinstance(run, list) or len(run) != 3 or not all(map(_is_tick, run)):
            return False
        first, gap, count = run
        num_frames += count
        rises = first > last and count >= 1 and (gap >= 1 or count == 1)
        if not rises or num_frames > MAX_CLOCK_FRAMES or abs(first + gap * (count - 1)) > MAX_INT:
            return False
        last = first + gap * (count - 1)
    return True


def _is_fingerprint(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    encoder, preprocessing = value.get("encoder", {}), value.get("preprocessing", {})
    return isinstance(encoder, dict) and isinstance(preprocessing, dict)


def _is_report(value: Any) -> bool:
    return value is None or isinstance(value, dict)


_CHECKS = {
    "stream": _is_text,
    "source_sha256": _is_text,
    "dtype": lambda value: value in DTYPES,
    "shape": _is_shape,
    "columns": _is_columns,
    "num_valid": _is_count,
    "checksums": _is_checksums,
    "clip": _is_clip,
    "fingerprint": _is_fingerprint,
    "report": _is_report,
}
