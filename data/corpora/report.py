"""The report of a prepared corpus: counts, problems and notes of each clip, and of the whole."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, first_line
from ..terms import Terms
from .disk import PREPARED
from .gold import AnnotatorAgreement


@dataclass(frozen=True)
class PreparedClip:
    """One clip of the report.

    part: train, val or test; None where there is no official split. listed: True if the manifest has it.
    num_frames: by the recording's header, which may be wrong; None where it does not say, or is not read.
    num_label_rows, num_not_annotated: of the labels. num_crops, num_without_crop: numbered images, and frames that have
    none.
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
    licence: str | None
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


def terms_beside(media: Sequence[str]) -> Terms:
    """Returns the terms of use of the corpora whose manifests are among some media, as `prepare` recorded them.

    Several licences are joined; one restricted corpus restricts all. Without a prepared manifest, nothing is stated.

    Raises:
        InputError: if a report cannot be read.
    """
    folders = dict.fromkeys(Path(text).parent for text in media if text.lower().endswith(".csv"))
    reports = [_read(folder / PREPARED) for folder in folders if (folder / PREPARED).is_file()]
    licences = dict.fromkeys(str(report["licence"]) for report in reports if report["licence"])
    return Terms("; ".join(licences) or None, any(report["restricted"] for report in reports))


def terms_to_record(
    media: Sequence[str], cache: str, root: Mapping[str, Any] | None, licence: str | None, restricted: bool | None
) -> dict[str, Any]:
    """Returns the keywords `licence` and `restricted` of `open_store` for an extraction of some media.

    What the user states prevails; else a new cache has the terms of the prepared manifests among the media.

    Args:
        media: files, folders and manifests.
        cache: its address.
        root: what an existing cache records; None for a new one.
        licence, restricted: as the user states them; None = not stated.

    Raises:
        InputError: if restricted data would join a cache that is not restricted.
    """
    prepared = terms_beside(media)
    if restricted is not None or not prepared.restricted:
        return {"licence": licence or (None if root else prepared.licence), "restricted": restricted}
    if root and not root["restricted"]:
        todo = "Choose another --out or, if you may, pass --unrestricted."
        raise InputError(cache, f"restricted data ({prepared.licence}) in a cache that is not restricted", todo=todo)
    return {"licence": licence or (None if root else prepared.licence), "restricted": True}


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return {name: report[name] for name in ("licence", "restricted")}
    except (ValueError, KeyError, TypeError) as error:
        todo = "Prepare the corpus again."
        raise InputError(path, f"not a report of `sage-va prepare` ({first_line(error)[:80]})", todo=todo) from error
