"""Sync check: do frames, audio and labels of each clip cover the same time? Counts, rates, offsets, gaps and drift.

Only commit records and label files are read, no features. A clip has *problems*, which are off by more than the
tolerance, and *notes*, which are odd but harmless because all times are the recording's own. A clip without labels is
listed as such and is no problem: a test set has none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .clip import Clip
from .labels import LabelFolder, Labels
from .store.base import Store
from .store.entry import clip_of
from .timebase import usual_gap_s

TOLERANCE_S = 0.2
_NAMED_FPS = re.compile(r"(?:^|/)\d+-(\d+)-\d+x\d+")  # Aff-Wild2: 2-30-640x360; wrong for two names of five


@dataclass(frozen=True)
class ClipSync:
    """The sync check of one clip; a figure that the cache does not hold is None.

    Args:
        clip_id: the clip.
        duration_s, container_s: length as decoded, and as the container promises it.
        num_frames, num_frames_promised, num_label_rows: counts; promised by the container.
        fps, fps_promised: mean rate of the frames, and the container's.
        first_frame_s, audio_first_s, offset_s: first instants; `offset_s` is that of the audio less the frame's.
        frames_s, audio_s, drift_s: lengths; `drift_s` is that of the audio less that of the frames.
        label_drift_s: where the labels end, less where the frames end.
        largest_gap_s: the longest time between two frames.
        problems, notes: sentences.
    """

    clip_id: str
    duration_s: float | None
    container_s: float | None
    num_frames: int | None
    num_frames_promised: int | None
    num_label_rows: int | None
    fps: float | None
    fps_promised: float | None
    first_frame_s: float | None
    audio_first_s: float | None
    offset_s: float | None
    frames_s: float | None
    audio_s: float | None
    drift_s: float | None
    label_drift_s: float | None
    largest_gap_s: float | None
    problems: list[str]
    notes: list[str]


@dataclass(frozen=True)
class SyncReport:
    """The sync check of a cache.

    Args:
        url: the cache.
        tolerance_s: how far ends may lie apart.
        clips: one row per clip, sorted by clip_id.
        unlabelled: clips without labels; [] where no labels were given.
        unused_labels: label files without a clip.
    """

    url: str
    tolerance_s: float
    clips: list[ClipSync]
    unlabelled: list[str]
    unused_labels: list[str]

    @property
    def num_flagged(self) -> int:
        """Clips with problems."""
        return sum(bool(clip.problems) for clip in self.clips)

    def to_json(self) -> dict[str, Any]:
        """Returns the report as plain JSON, with `num_flagged`."""
        return {**asdict(self), "num_flagged": self.num_flagged}


def check_sync(store: Store, labels: Path | None = None, tolerance_s: float = TOLERANCE_S) -> SyncReport:
    """Checks that frames, audio and labels of each clip fit in time.

    Args:
        store: the cache.
        labels: folder of label files; None = labels are not checked.
        tolerance_s: seconds.

    Raises:
        InputError: if labels are malformed or claimed twice.
    """
    clip_ids = store.clip_ids()
    joined = LabelFolder(labels).join(clip_ids) if labels else None
    clips = []
    for clip_id in clip_ids:
        sound, damaged = store.sound_records(clip_id)
        records = list(sound.values())
        report = {key: value for record in records for key, value in (record["report"] or {}).items()}
        file = joined.files.get(clip_id) if joined else None
        clip = clip_of(records) if records else Clip(clip_id)
        check = _Check(clip, report, file.labels if file else None, tolerance_s)
        check.problems += [f"{problem.stream}: {problem.what}; run `sage-va cache repair`" for problem in damaged]
        clips.append(check.row())
    unlabelled, unused = (joined.unlabelled, joined.unused) if joined else ([], [])
    return SyncReport(store.url, tolerance_s, clips, unlabelled, [str(path) for path in unused])


@dataclass
class _Check:
    """Judges one clip; `report` is what the decoder counted, of all streams together."""

    clip: Clip
    report: Mapping[str, Any]
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

    def row(self) -> ClipSync:
        largest_s = float(np.diff(self.times).max()) if self.num_frames > 1 else None
        frames_s = float(self.times[-1] - self.times[0]) + self.gap_s if self.num_frames else None
        first_s = float(self.times[0]) if self.num_frames else None
        fps = (self.num_frames - 1) / (frames_s - self.gap_s) if frames_s and self.num_frames > 1 else None
        offset_s = None if first_s is None or self.audio_first_s is None else self.audio_first_s - first_s
        drift_s = None if frames_s is None or self.audio_s is None else self.audio_s - frames_s
        self._judge_streams(offset_s, drift_s, largest_s)
        self._judge_rates(fps)
        return ClipSync(
            clip_id=self.clip.clip_id,
            duration_s=self.clip.duration_s,
            container_s=self.report.get("container_s"),
            num_frames=self.num_frames or None,
            num_frames_promised=self.report.get("num_frames_promised"),
            num_label_rows=len(self.labels.va) if self.labels else None,
            fps=fps,
            fps_promised=self.report.get("fps_promised"),
            first_frame_s=first_s,
            audio_first_s=self.audio_first_s,
            offset_s=offset_s,
            frames_s=frames_s,
            audio_s=self.audio_s,
            drift_s=drift_s,
            label_drift_s=self._judge_labels(self.labels, frames_s) if self.labels else None,
            largest_gap_s=largest_s,
            problems=self.problems,
            notes=self.notes,
        )

    def _judge_streams(self, offset_s: float | None, drift_s: float | None, largest_s: float | None) -> None:
        if offset_s is not None and abs(offset_s) > self.tolerance_s:
            side = "after" if offset_s > 0 else "before"
            self.problems.append(f"audio begins {abs(offset_s):.2f} s {side} the first frame")
        if drift_s is not None and abs(drift_s) > self.tolerance_s:
            longer = "longer" if drift_s > 0 else "shorter"
            self.problems.append(f"audio is {abs(drift_s):.2f} s {longer} than the frames")
        if largest_s is not None and largest_s - self.gap_s > self.tolerance_s:
            at_s = float(self.times[int(np.diff(self.times).argmax())])
            self.problems.append(f"no frame for {largest_s:.2f} s after {at_s:.2f} s")
        for key, what in (("audio_filled_s", "missing, now silence"), ("audio_dropped_s", "twice, left out")):
            if (self.report.get(key) or 0) > self.tolerance_s:
                self.problems.append(f"{self.report[key]:.2f} s of audio {what}")
        num_beyond = self.report.get("num_crops_beyond_video") or 0
        if num_beyond:
            late = self.problems if num_beyond * self.gap_s > self.tolerance_s else self.notes
            late.append(f"{num_beyond} crops beyond the last frame, left out")

    def _judge_rates(self, fps: float | None) -> None:
        named = _NAMED_FPS.search(self.clip.clip_id)
        rates = {"name": float(named[1]) if named else None, "header": self.report.get("fps_promised")}
        for place, rate in rates.items():
            off_s = (self.num_frames - 1) * abs(1 / rate - 1 / fps) if rate and fps else 0.0
            if off_s > self.tolerance_s:
                self.notes.append(f"{rate:g} fps in its {place}, {fps:.3f} by its timestamps: {off_s:.2f} s by its end")
        repaired = {kind: count for kind, count in (self.report.get("repaired_times") or {}).items() if count}
        if repaired:
            self.notes.append(f"timestamps repaired: {', '.join(f'{n} {kind}' for kind, n in repaired.items())}")

    def _judge_labels(self, labels: Labels, frames_s: float | None) -> float | None:
        """Returns where the labels end less where the frames end, in seconds; None where that is not known."""
        num_rows = len(labels.va)
        if labels.times_s is None:
            if frames_s is None:
                self.problems.append("labels are by frame, and the frames' times are not known")
                return None
            off_s, what = (
                (num_rows - self.num_frames) * self.gap_s,
                f"{num_rows} label rows for {self.num_frames} frames",
            )
            if 0 < abs(off_s) <= self.tolerance_s:
                self.notes.append(what)
        else:
            start_s, end_s = self._bounds_s()
            if end_s is None:
                return None
            if start_s - float(labels.times_s[0]) > self.tolerance_s:
                self.problems.append(f"labels begin {start_s - float(labels.times_s[0]):.2f} s before the clip")
            off_s = float(labels.times_s[-1]) + usual_gap_s(labels.times_s) - end_s
            what = f"labels to {float(labels.times_s[-1]):.2f} s"
        if abs(off_s) > self.tolerance_s:
            self.problems.append(f"{what}: {abs(off_s):.2f} s too {'many' if off_s > 0 else 'few'}")
        return off_s

    def _bounds_s(self) -> tuple[float, float | None]:
        """First instant and end of the clip on its own clock."""
        firsts = [float(first_s) for first_s in self.times[:1]]
        firsts += [] if self.audio_first_s is None else [self.audio_first_s]
        start_s = min(firsts, default=0.0)
        return start_s, None if self.clip.duration_s is None else start_s + self.clip.duration_s
