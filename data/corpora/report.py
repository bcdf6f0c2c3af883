"""The report of a prepared corpus: counts, problems and notes of each clip, and of the whole."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from .gold import AnnotatorAgreement


@dataclass(frozen=True)
class PreparedClip:
    """One clip of the report.

    part: train, val or test; None where there is no official split. listed: True if the manifest has it.
    num_frames: by the recording's header; None where that does not say, or is not read. num_label_rows,
    num_not_annotated: of the labels. num_crops, num_without_crop: numbered images, and frames that have none.
    """

    clip_id: str
    part: str | None
    listed: bool
    num_frames: int | None
    num_label_rows: int | None
    num_not_annotated: int | None
    num_crops: int | None
    num_without_crop: int | None
    problems: list[str]
    notes: dict[str, str]


@dataclass(frozen=True)
class Preparation:
    """The report of a corpus.

    out: the folder that was written; None for a report alone. has_crops: True if the manifest names crops.
    num_sources: clips of the manifest. num_audio: of them, those whose video has no sound of its own and whose sound is
    a file beside it, named by `audio.csv`. agreement: target -> mean over the clips; {} without several annotators.
    gold: how annotators became one. sample: the file that lists the rows of a submission; None without one.
    """

    title: str
    licence: str
    restricted: bool
    subjects: str
    out: str | None
    has_crops: bool
    num_sources: int
    num_audio: int
    gold: str
    agreement: dict[str, AnnotatorAgreement]
    clips: list[PreparedClip]
    problems: list[str]
    notes: list[str]
    sample: str | None

    @property
    def num_problems(self) -> int:
        """Problems of clips and of the whole."""
        return len(self.problems) + sum(len(clip.problems) for clip in self.clips)

    def count(self, part: str | None) -> int:
        """Returns the number of clips of a part."""
        return sum(clip.part == part for clip in self.clips)

    def to_json(self) -> dict[str, Any]:
        """Returns the report as plain JSON; a number that is not defined is null."""
        values = asdict(self)
        for agreement in values["agreement"].values():
            agreement |= {key: None for key, value in agreement.items() if not math.isfinite(value)}
        return {**values, "num_problems": self.num_problems}
