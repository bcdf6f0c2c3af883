"""A run as the page of `sage-va view` shows it: its routes, and what each answers."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...data.clip import FrameClock
from ...data.clip_preview import ClipPreview
from ...data.labels import LabelFolder, Truth
from ...data.timebase import usual_gap_s
from ..evaluation.report import cautions
from ..provenance import versions
from ..report.members import MemberClip, ReportModel
from ..report.standing import clip_rows
from ..report.traces import gold_standard, trace
from ..result import plain
from .corrections import Corrections, check_within, corrected, empty_truth, gap_of, read_edits, summary
from .page import view_page
from .server import Reply

MOST_POINTS = 20_000  # of a clip's traces: beyond, they are means over several steps
_ROUTE = re.compile(r"clips/(\d{1,6})(?:/(medium|video|crops|labels)(?:/(\d{1,9}))?)?", re.ASCII)


class ClipMedia(Protocol):
    """Recordings of clips: their state as plain JSON, and files that a browser plays or shows."""

    def medium(self, clip_id: str) -> Mapping[str, Any]:
        """Returns the state of a recording, and starts its conversion where it needs one.

        `{"state": "ready", "kind": "video" or "audio", "origin_s", "converted"}`; or "working" with "share", "failed"
        with "reason", "none".
        """
        ...

    def video(self, clip_id: str) -> tuple[Path, str] | None:
        """Returns the file to play and its media type; None where there is none (yet)."""
        ...

    def convert(self, clip_id: str) -> None:
        """Asks for a converted copy: the browser cannot play the recording itself."""
        ...

    def preview(self, clip_id: str, start_s: float, end_s: float) -> ClipPreview | None:
        """Returns pictures and loudness of a recording, if it can be read."""
        ...

    def crops(self, clip_id: str) -> Mapping[str, Any]:
        """Returns the places of the face in the recording, the numbers of ready-made crops, or why there are none."""
        ...

    def crop(self, clip_id: str, number: int) -> tuple[Path, str] | None:
        """Returns a ready-made crop and its media type."""
        ...


@dataclass
class Viewing:
    """A run, its recordings and its labels.

    Args:
        models: the first is shown with all of its parts.
        media: of its clips.
        labels: the folder of the original labels.
        clip_ids: the clips to show, in order; the first is open at the start.
    """

    models: Sequence[ReportModel]
    media: ClipMedia
    labels: Path
    clip_ids: Sequence[str]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        model = self.models[0]
        others = [clip_id for member in model.members for run in member.scored.runs for clip_id in run.roles]
        self._corrections = Corrections(LabelFolder(self.labels), model.clip_ids, others)
        self._page, self._policy = view_page(self.contents())

    def contents(self) -> dict[str, Any]:
        """Returns everything that the page holds from the start: no traces, they are loaded clip by clip."""
        model = self.models[0]
        runs = [run for one in self.models for member in one.members for run in member.scored.runs]
        splits = ", ".join(sorted({member.scored.split for member in model.members}))
        rows = {row["id"]: row for row in clip_rows(model)}
        return plain(
            {
                "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
                "version": versions()["sage-va"],
                "split": splits,
                "cautions": cautions([], splits),
                "random_weights": sorted({name for run in runs for name in run.random_weights}),
                "restricted": any(run.restricted for run in runs),
                "streams": [{"label": stream.label, "modality": stream.modality} for stream in model.streams],
                "standing": {"base": model.title},
                "clips": [rows[clip_id] for clip_id in self.clip_ids],
                "traces": {},
                "corrections": self._corrections.folder.name,
            }
        )

    def route(self, place: str, sent: Any) -> Reply | None:
        """Returns the answer to a request; None where there is nothing of that name.

        Args:
            place: the path behind the token; empty for the page.
            sent: JSON of a request to write, else None.

        Raises:
            InputError: if what was sent cannot be used, or a file cannot be shown.
        """
        if not place and sent is None:
            return Reply(self._page, "text/html; charset=utf-8", headers={"Content-Security-Policy": self._policy})
        match = _ROUTE.fullmatch(place)
        if match is None or int(match[1]) >= len(self.clip_ids):
            return None
        clip_id, part, number = self.clip_ids[int(match[1])], match[2], match[3]
        if sent is not None:
            return self._write(clip_id, part, sent) if number is None else None
        if number is not None:
            return _file(self.media.crop(clip_id, int(number))) if part == "crops" else None
        return self._read(clip_id, part)

    def _read(self, clip_id: str, part: str | None) -> Reply | None:
        if part is None:
            return Reply(self._clip(clip_id))
        if part == "medium":
            return Reply(plain(dict(self.media.medium(clip_id))))
        if part == "crops":
            return Reply(self._crops(clip_id))
        if part == "video":
            return _file(self.media.video(clip_id))
        return None

    def _write(self, clip_id: str, part: str | None, sent: Any) -> Reply | None:
        if part == "labels":
            return Reply(self._save(clip_id, sent))
        if part == "medium":
            self.media.convert(clip_id)
            return Reply(plain(dict(self.media.medium(clip_id))))
        return None

    def _clip(self, clip_id: str) -> dict[str, Any]:
        """The traces of a clip, with its corrected labels where there are some."""
        one = self.models[0].of_clip(clip_id)[0]
        times_s = one.prediction.times_s
        preview = self.media.preview(clip_id, float(times_s[0]), float(times_s[-1]))
        columns = trace(self.models, clip_id, MOST_POINTS, preview)
        truth = self._corrections.read(one.clip)
        before = columns["truth"]
        if truth is not None:
            columns["truth"] = gold_standard(self.models[0], clip_id, MOST_POINTS, truth)
        return plain({**columns, "before": before, "corrected": truth is not None})

    def _crops(self, clip_id: str) -> dict[str, Any]:
        """Where the face is; ready-made crops get the times of their frames, by number or by frames per second."""
        crops = dict(self.media.crops(clip_id))
        if crops["state"] == "images":
            one = self.models[0].of_clip(clip_id)[0]
            places = np.array(crops["numbers"], np.int64) - 1
            clock = one.clip.clock or FrameClock.regular(crops["fps"] or one.hz, int(places.max(initial=0)) + 1)
            kept = places[places < len(clock.times_s)]
            gap_s = usual_gap_s(clock.times_s)
            crops |= {"numbers": (kept + 1).tolist(), "times_s": clock.times_s[kept].tolist(), "gap_s": gap_s}
        return plain(crops)

    def _save(self, clip_id: str, sent: Any) -> dict[str, Any]:
        edits, one = read_edits(sent), self.models[0].of_clip(clip_id)[0]
        times_s, margin_s = one.prediction.times_s, (1 + len(one.prediction.times_s) / MOST_POINTS) / one.hz
        check_within(edits, float(times_s[0]) - margin_s, float(times_s[-1]) + margin_s)
        with self._lock, self._corrections.held():
            truth = self._labels_of(one)
            truth = corrected(truth, edits, gap_of(truth, one.hz))
            place = self._corrections.write(clip_id, truth)
        file = f"{self._corrections.folder.name}/{place.relative_to(self._corrections.folder)}"
        return plain(
            {"file": file, **summary(truth), "truth": gold_standard(self.models[0], clip_id, MOST_POINTS, truth)}
        )

    def _labels_of(self, one: MemberClip) -> Truth:
        """The labels of a clip so far: corrected, original, or none."""
        truth = self._corrections.read(one.clip)
        return truth or one.truth or empty_truth()


def _file(served: tuple[Path, str] | None) -> Reply | None:
    return None if served is None else Reply(kind=served[1], file=served[0])
