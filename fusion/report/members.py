"""The runs of a report: each scored on its own held-out clips, and runs that differ in their seed alone put together.

    RUN, RUN, … --expand--> runs --read_member--> ReportMember (clips, moments) --group--> ReportModel (members)

A run is one training, or all folds of one; the folder of a comparison stands for all of its runs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...data.clip import Clip
from ...data.errors import InputError
from ...data.labels import Truth
from ...data.windows.corpus import Corpus, Stream
from ..config import load_config
from ..evaluation.metrics import ClipMoments, corpus_moments
from ..evaluation.predict import Prediction, averaged, predict
from ..evaluation.reliability import ReliabilityReport, reliability_report
from ..evaluation.score import ScoredRuns, load_scored
from ..run_folder import CONFIG, RESOLVED, Run, fold_runs

TABLE = "table.json"  # of a comparison


@dataclass(frozen=True)
class MemberClip:
    """One clip of a run: its estimate, and its labels at their own times (None where it has none)."""

    clip: Clip
    hz: float
    prediction: Prediction
    truth: Truth | None


@dataclass(frozen=True)
class ReportMember:
    """A run, or all folds of one, on the clips that it is scored on.

    raw, smoothed: moments of each labelled clip. heads: for each stream those of its own estimate; empty without a
    gate. reliability: a report per run with a gate.
    """

    scored: ScoredRuns
    clips: Mapping[str, MemberClip]
    raw: list[ClipMoments]
    smoothed: list[ClipMoments]
    heads: list[list[ClipMoments]]
    reliability: list[ReliabilityReport]

    @property
    def first(self) -> Run:
        """The run, or the first of its folds."""
        return self.scored.runs[0]

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.first.config.seed


@dataclass(frozen=True)
class ReportModel:
    """Runs that differ in their seed alone, under the name by which the report shows them."""

    title: str
    members: list[ReportMember]

    @property
    def streams(self) -> list[Stream]:
        """Its inputs."""
        return self.members[0].first.streams

    @property
    def clip_ids(self) -> list[str]:
        """The clips that any of its runs is scored on, sorted."""
        return sorted({clip_id for member in self.members for clip_id in member.clips})

    def of_clip(self, clip_id: str) -> list[MemberClip]:
        """Returns the clip as each run sees it that is scored on it."""
        return [member.clips[clip_id] for member in self.members if clip_id in member.clips]

    def prediction(self, clip_id: str) -> Prediction | None:
        """Returns the mean of its runs for a clip; None where none of them is scored on it."""
        each = [one.prediction for one in self.of_clip(clip_id)]
        return averaged(each) if each else None


def expand(places: Sequence[Path]) -> list[Path]:
    """Returns the runs at these places; the folder of a comparison becomes its runs, those of the base last.

    Raises:
        InputError: if such a folder holds no finished run.
    """
    return [run for place in places for run in (_compared(place) if (place / TABLE).is_file() else [place])]


def _compared(place: Path) -> list[Path]:
    try:
        table = json.loads((place / TABLE).read_text(encoding="utf-8"))
        names = sorted((row["variant"] for row in table["rows"]), key=lambda name: name == table["base"])
    except (ValueError, KeyError, TypeError):
        raise InputError(place / TABLE, "this table cannot be read", todo="Run `sage-va compare` again.") from None
    runs = [run for name in names for run in sorted((place / name).glob("seed-*")) if _finished(run)]
    if not runs:
        raise InputError(place, "the comparison has no finished run", todo="Run `sage-va compare` again.")
    return runs


def _finished(run: Path) -> bool:
    return (run / CONFIG).is_file() or bool(fold_runs(run))


def read_member(path: Path, tick: Callable[[], None] = lambda: None, **places: Any) -> ReportMember:
    """Predicts the clips that a run, or all folds of one, is scored on.

    Args:
        path: of the run.
        tick: called when it is done.
        places: cache, labels, split and device, as for `load_scored`.

    Raises:
        InputError: as `load_scored`, and if no label falls on the clips.
    """
    scored = load_scored(path, **places)
    member = ReportMember(scored, {}, [], [], [], [])
    for run, corpus in scored.parts():
        member = _with_part(member, run, corpus)
    scored.check(member.raw)
    tick()
    return member


def _with_part(member: ReportMember, run: Run, corpus: Corpus) -> ReportMember:
    predictions = predict(run.model, corpus, range(len(corpus.clips)), run.config.data)
    clips = {
        one.clip_id: MemberClip(corpus.clips[index], corpus.hz, one, corpus.truths[index])
        for index, one in enumerate(predictions)
    }
    heads, reliability = member.heads, member.reliability
    if run.sigma is not None:
        reliability = [*reliability, reliability_report(predictions, corpus, run.sigma)]
        if len(corpus.streams) > 1:
            of_streams = [corpus_moments(_alone(predictions, m), corpus) for m in range(len(corpus.streams))]
            heads = [before + now for before, now in zip(heads or [[] for _ in of_streams], of_streams, strict=True)]
    return replace(
        member,
        clips={**member.clips, **clips},
        raw=member.raw + corpus_moments(predictions, corpus),
        smoothed=member.smoothed + corpus_moments(predictions, corpus, run.smoothing_s),
        heads=heads,
        reliability=reliability,
    )


def _alone(predictions: Sequence[Prediction], stream: int) -> list[Prediction]:
    """The estimates of one stream by itself."""
    return [replace(one, va=np.asarray(one.unimodal[:, stream])) for one in predictions]


def group(members: Sequence[ReportMember]) -> list[ReportModel]:
    """Puts runs together that differ in their seed alone; a second run of the same seed begins another model."""
    groups: list[list[ReportMember]] = []
    of_kind = defaultdict[object, list[list[ReportMember]]](list)
    for member in members:
        alike = of_kind[_kind(member)]
        known = next((known for known in alike if member.seed not in {one.seed for one in known}), None)
        if known is None:
            known = list[ReportMember]()
            alike.append(known)
            groups.append(known)
        known.append(member)
    variants = [known[0].first.config.model.variant for known in groups]
    titles = [
        variant if variants.count(variant) == 1 else f"{variant} ({known[0].scored.path.name})"
        for variant, known in zip(variants, groups, strict=True)
    ]
    unique = [title if titles.count(title) == 1 else f"{title}, {k + 1}" for k, title in enumerate(titles)]
    return [ReportModel(title, known) for title, known in zip(unique, groups, strict=True)]


def _kind(member: ReportMember) -> tuple[object, ...]:
    """The settings that a run began with: a lag to be estimated may differ between seeds once it is."""
    began = load_config(member.first.path / RESOLVED).flat()
    streams = tuple(stream.name for stream in member.first.streams)
    settings = tuple((key, str(value)) for key, value in began.items() if key not in ("seed", "split.fold"))
    return streams, member.scored.split, settings
