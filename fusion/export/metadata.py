"""The metadata of a saved model, beside weights and configuration: smoothing, terms, numbers of clips, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...data.clip import Clip
from ...data.crops import CropTemplate
from ...data.terms import Terms
from ..evaluation.metrics import Agreement
from ..evaluation.score import Score
from ..result import Result


@dataclass(frozen=True)
class ClipCounts(Result):
    """The number of clips in each split of a training, and the hours of all; None where not known."""

    num_clips: dict[str, int]
    hours: float | None

    @classmethod
    def of(cls, roles: Sequence[str], clips: Sequence[Clip]) -> ClipCounts:
        """Counts the roles of clips; `clips` are all of them, or none where their cache is not at hand."""
        lengths = [clip.duration_s for clip in clips if clip.duration_s is not None]
        hours = sum(lengths) / 3600 if clips and len(lengths) == len(clips) else None
        return cls({role: roles.count(role) for role in ("train", "val", "test")}, hours)


@dataclass(frozen=True)
class PublishedScore(Result):
    """A score without the names of clips: what a model card shows."""

    split: str
    num_clips: int
    num_labels: int
    raw: Agreement
    smoothed: Agreement

    @classmethod
    def of(cls, score: Score) -> PublishedScore:
        """Leaves out names."""
        return cls(score.split, score.num_clips, score.num_labels, score.raw, score.smoothed)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PublishedScore:
        """Returns what `to_json` wrote."""
        kinds = {name: Agreement.from_json(values[name]) for name in ("raw", "smoothed")}
        return cls(values["split"], values["num_clips"], values["num_labels"], **kinds)


@dataclass(frozen=True)
class ModelMetadata(Result):
    """The metadata of a saved model, beside weights and configuration.

    smoothing_s: width of the moving average that was best on the validation clips. sigma: the error at which a stream
    deserves a reliability of 1 / e; None without a trained gate. licence, restricted: terms of the training data.
    data: None where not recorded. scores: of clips that it was not trained on; None where not scored. crop_template: of
    the face crops that it takes; None where it takes none.
    """

    smoothing_s: float = 0.0
    sigma: float | None = None
    licence: str | None = None
    restricted: bool = False
    data: ClipCounts | None = None
    scores: PublishedScore | None = None
    crop_template: CropTemplate | None = None

    @property
    def terms(self) -> Terms:
        """The terms of the training data."""
        return Terms(self.licence, self.restricted)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelMetadata:
        """Returns what `to_json` wrote, from an object that may hold more."""
        plain = {name: values[name] for name in ("smoothing_s", "sigma", "licence", "restricted")}
        data, scores = values["data"], values["scores"]
        return cls(
            **plain,
            data=None if data is None else ClipCounts(**data),
            scores=None if scores is None else PublishedScore.from_json(scores),
            crop_template=CropTemplate.from_json(values.get("crop_template")),
        )
