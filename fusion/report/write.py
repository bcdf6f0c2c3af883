"""The report of runs, from their folders to the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.clip_preview import ClipPreview
from ..result import Result
from .contents import contents
from .members import ReportModel, expand, group, read_member
from .page import write_page

Previews = Callable[[Sequence[ReportModel]], Mapping[str, ClipPreview]]


@dataclass(frozen=True)
class ReportPage(Result):
    """The result of `write_report`.

    out: the page. num_bytes: its size. models: by their titles, the first is the one that it is about. num_clips: whose
    traces it shows; num_previews: of them with pictures or a waveform. without_recording: the others, where recordings
    were asked for. random_weights: streams whose encoders were never trained. restricted: True if data under terms of
    use are shown.
    """

    out: str
    num_bytes: int
    models: list[str]
    num_runs: int
    num_clips: int
    num_previews: int
    without_recording: list[str]
    random_weights: list[str]
    restricted: bool


def write_report(
    places: Sequence[Path],
    out: Path,
    *,
    previews: Previews | None = None,
    tick: Callable[[], None] = lambda: None,
    **options: Any,
) -> ReportPage:
    """Scores runs on their held-out clips and writes one page of them.

    Args:
        places: runs, folders of folds, folders of comparisons; the first run is the one that the page is about. Runs
            that differ in their seed alone count as one model.
        out: the page, an `.html`.
        previews: returns pictures and loudness of the recordings of the first model's clips.
        tick: called when a run is done.
        options: cache, labels, split and device, as for `load_scored`.

    Raises:
        InputError: as `load_scored`.
    """
    models = group([read_member(place, tick, **options) for place in expand(places)])
    shown = previews(models) if previews else {}
    values = contents(models, shown)
    num_bytes = write_page(out, values)
    clip_ids = models[0].clip_ids
    return ReportPage(
        str(out),
        num_bytes,
        [model.title for model in models],
        sum(len(model.members) for model in models),
        len(clip_ids),
        num_previews=len(shown),
        without_recording=[clip_id for clip_id in clip_ids if clip_id not in shown] if previews else [],
        random_weights=values["random_weights"],
        restricted=values["restricted"],
    )
