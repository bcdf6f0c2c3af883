"""Whether frames, sound and labels of each clip line up: counts, rates, offsets, gaps and drift, by records alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .clip import Clip
from .labels import Labels, join_labels, read_labels
from .store.base import Store
from .timebase import usual_gap_s

TOLERANCE_S = 0.2
_NAMED_FPS = re.compile(r"(?:^|/)\d+-(\d+)-\d+x\d+")  # Aff-Wild2: 2-30-640x360; wrong for two names of five


def align(store: Store, labels: Path | None = None, tolerance_s: float = TOLERANCE_S) -> dict[str, Any]:
    """How frames, sound and labels of each clip lie to each other.

    Each clip has `problems`, what is off by more than the tolerance, and `notes`, what is odd but harmless because
    times are the recording's own. Figures that the cache does not know are None.

    Args:
        labels: folder of label files; None = they are not looked at.
        tolerance_s: seconds.

    Raises:
        InputError: if labels are malformed or claimed twice. DamagedError: if a record is not what was written.
    """
    clip_ids = store.clip_ids()
    joined, _, unused = join_labels(read_labels(labels), clip_ids) if labels else ({}, [], [])
    clips = []
    for clip_id in clip_ids:
        row = _Row(store.clip(clip_id), _report(store, clip_id), joined.get(clip_id), tolerance_s)
        clips.append(row.found(labels is not None))
    return {
        "url": store.url,
        "tolerance_s": tolerance_s,
        "clips": clips,
        "num_flagged": sum(bool(clip["problems"]) for clip in clips),
        "unused_labels": [str(path) for path in unused],
    }


def _report(store: Store, clip_id: str) -> dict[str, Any]:
    """What the decoder saw of the clip, of all its streams together."""
    found: dict[str, Any] = {}
    for stream in store.streams(clip_id):
        found |= store.record(clip_id, stream)["report"]
    return found


@dataclass
class _Row:
    clip: Clip
    report: dict[str, Any]
    labels: Labels | None
    tolerance_s: float
    problems: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.times = self.clip.clock.times_s if self.clip.clock else np.zeros(0)
        self.gap_s = usual_gap_s(self.times)
        self.num_frames = len(self.times)
        self.audio_first_s: float | None = self.report.get("audio_first_s")
        self.audio_s: float | None = self.report.get("audio_s") if self.audio_first_s is not None else None

    def found(self, labels_wanted: bool) -> dict[str, Any]:
        largest_s = float(np.diff(self.times).max()) if self.num_frames > 1 else None
        frames_s = float(self.times[-1] - self.times[0]) + self.gap_s if self.num_frames else None
        first_s = float(self.times[0]) if self.num_frames else None
        fps = (self.num_frames - 1) / (frames_s - self.gap_s) if frames_s and self.num_frames > 1 else None
        offset_s = None if first_s is None or self.audio_first_s is None else self.audio_first_s - first_s
        drift_s = None if frames_s is None or self.audio_s is None else self.audio_s - frames_s
        self._judge_streams(offset_s, drift_s, largest_s)
        self._judge_rates(fps)
        label_s = self._judge_labels(labels_wanted, frames_s)
        return {
            "clip_id": self.clip.clip_id,
            "duration_s": self.clip.duration_s,
            "container_s": self.report.get("container_s"),
            "num_frames": self.num_frames or None,
            "num_frames_promised": self.report.get("num_frames_promised"),
            "num_label_rows": len(self.labels.va) if self.labels else None,
            "fps": fps,
            "fps_promised": self.report.get("fps_promised"),
            "first_frame_s": first_s,
            "audio_first_s": self.audio_first_s,
            "offset_s": offset_s,
            "frames_s": frames_s,
            "audio_s": self.audio_s,
            "drift_s": drift_s,
            "label_drift_s": label_s,
            "largest_gap_s": largest_s,
            "problems": self.problems,
            "notes": self.notes,
        }

    def _judge_streams(self, offset_s: float | None, drift_s: float | None, largest_s: float | None) -> None:
        if offset_s is not None and abs(offset_s) > self.tolerance_s:
            side = "after" if offset_s > 0 else "before"
            self.problems.append(f"sound begins {abs(offset_s):.2f} s {side} the first frame")
        if drift_s is not None and abs(drift_s) > self.tolerance_s:
            longer = "longer" if drift_s > 0 else "shorter"
            self.problems.append(f"sound is {abs(drift_s):.2f} s {longer} than the frames")
        if largest_s is not None and largest_s - self.gap_s > self.tolerance_s:
            at_s = float(self.times[int(np.diff(self.times).argmax())])
            self.problems.append(f"no frame for {largest_s:.2f} s after {at_s:.2f} s")
        for key, what in (
            ("audio_filled_s", "missing, now silence"),
            ("audio_dropped_s", "twice, left out"),
        ):
            if (self.report.get(key) or 0) > self.tolerance_s:
                self.problems.append(f"{self.report[key]:.2f} s of sound {what}")
        beyond = self.report.get("num_crops_beyond_video") or 0
        if beyond:
            late = self.problems if beyond * self.gap_s > self.tolerance_s else self.notes
            late.append(f"{beyond} crops beyond the last frame, left out")

    def _judge_rates(self, fps: float | None) -> None:
        named = _NAMED_FPS.search(self.clip.clip_id)
        rates = {"name": float(named[1]) if named else None, "header": self.report.get("fps_promised")}
        for place, rate in rates.items():
            off_s = (self.num_frames - 1) * abs(1 / rate - 1 / fps) if rate and fps else 0.0
            if off_s > self.tolerance_s:
                said = f"its {place} says {rate:g} fps, frames come at {fps:.3f}"
                self.notes.append(f"{said}: {off_s:.2f} s off by its end")
        repaired = {kind: count for kind, count in (self.report.get("repaired_times") or {}).items() if count}
        if repaired:
            self.notes.append(f"times put right: {', '.join(f'{count} {kind}' for kind, count in repaired.items())}")

    def _judge_labels(self, wanted: bool, frames_s: float | None) -> float | None:
        """Where the labels end, less where the frames end, in seconds; None = not to be known."""
        if self.labels is None:
            self.problems += ["no labels"] * wanted
            return None
        if self.labels.times_s is None and frames_s is None:
            self.problems.append("labels are by frame, and the frames' times are not known")
            return None
        num_rows = len(self.labels.va)
        if self.labels.times_s is None:
            what = f"{num_rows} label rows for {self.num_frames} frames"
            return self._judge_label_end((num_rows - self.num_frames) * self.gap_s, what)
        start_s, end_s = self._bounds_s()
        if end_s is None:
            return None
        if start_s - float(self.labels.times_s[0]) > self.tolerance_s:
            self.problems.append(f"labels begin {start_s - float(self.labels.times_s[0]):.2f} s before the clip")
        off_s = float(self.labels.times_s[-1]) + usual_gap_s(self.labels.times_s) - end_s
        return self._judge_label_end(off_s, f"labels to {float(self.labels.times_s[-1]):.2f} s")

    def _judge_label_end(self, off_s: float, what: str) -> float:
        if abs(off_s) > self.tolerance_s:
            self.problems.append(f"{what}: {abs(off_s):.2f} s too {'many' if off_s > 0 else 'few'}")
        elif off_s and self.labels is not None and self.labels.times_s is None:
            self.notes.append(what)
        return off_s

    def _bounds_s(self) -> tuple[float, float | None]:
        """First instant and end of the clip on its own clock."""
        firsts = [float(self.times[0])] * bool(self.num_frames)
        firsts += [] if self.audio_first_s is None else [self.audio_first_s]
        start_s = min(firsts, default=0.0)
        return start_s, None if self.clip.duration_s is None else start_s + self.clip.duration_s
