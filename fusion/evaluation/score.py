"""The score of a run, or of all folds of one, by the protocol: `sage-va eval`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ...data.clip import Clip
from ...data.errors import InputError
from ...data.labels import LabelFolder
from ...data.store.base import Store, open_store
from ...data.windows.corpus import Corpus
from ...data.windows.load import load_corpus, read_clips
from ..run_folder import Run, fold_runs, load_run
from .groups import Grouping, GroupReport
from .metrics import ClipMoments, SplitScore, corpus_moments, num_labels, summarise
from .predict import predict
from .reliability import ReliabilityReport, reliability_report


@dataclass(frozen=True)
class ScoredModel:
    """The facts about the scored model that every result holds.

    run: its place; None for a model without one. split: train, val, test, or all. num_folds: of which the clips are
    pooled; None for a single run. random_weights: streams whose encoders were never trained.
    """

    run: str | None
    variant: str
    split: str
    num_folds: int | None
    random_weights: list[str]


@dataclass(frozen=True)
class Score(SplitScore, ScoredModel):
    """The score of a model on a split.

    smoothing_s: width of the moving average of each run. reliability: a report for each run whose gate was trained; its
    key in the JSON is `trust`. groups: scores of groups of clips; None where none were asked for.
    """

    OPTIONAL = SplitScore.OPTIONAL | {"groups"}
    smoothing_s: list[float]
    reliability: list[ReliabilityReport]
    groups: GroupReport | None = None

    @classmethod
    def of(
        cls,
        model: ScoredModel,
        score: SplitScore,
        smoothing_s: list[float],
        reliability: list[ReliabilityReport],
        groups: GroupReport | None = None,
    ) -> Score:
        """Puts its parts together."""
        return cls(**vars(model), **vars(score), smoothing_s=smoothing_s, reliability=reliability, groups=groups)

    def to_json(self) -> dict[str, Any]:
        """Returns facts of the model, then the score, as plain values."""
        values = super().to_json()
        head = [*(field.name for field in fields(ScoredModel)), "smoothing_s"]
        return {**{name: values.pop(name) for name in head}, "trust": values.pop("reliability"), **values}


@dataclass(frozen=True)
class ScoredRuns:
    """The runs that are scored together, one or all folds of one, and the split of their clips that counts.

    runs: on their device. split: train, val or test. num_folds: None for a single run. cache, labels: other ones than
    the run was trained with.
    """

    path: Path
    runs: list[Run]
    split: str
    num_folds: int | None
    cache: str | None
    labels: Path | None
    device: torch.device

    @property
    def model(self) -> ScoredModel:
        """The facts of these runs that every result holds."""
        first = self.runs[0]
        return ScoredModel(str(self.path), first.config.model.variant, self.split, self.num_folds, first.random_weights)

    def parts(self, cache: Store | None = None) -> Iterator[tuple[Run, Corpus]]:
        """Yields each run with the clips that it is scored on, on its device; from another cache, if one is given."""
        folders: dict[Path, LabelFolder] = {}
        for run in self.runs:
            store, labels = cache or open_store(self.cache or run.cache), self.labels or Path(run.labels)
            if labels not in folders:
                folders[labels] = LabelFolder(labels)
            yield run, load_part(run, store, folders[labels], self.split).to(self.device)

    @property
    def clip_ids(self) -> list[str]:
        """The clips that are scored, sorted."""
        return sorted(clip for run in self.runs for clip, role in run.roles.items() if role == self.split)

    def check(self, sums: list[ClipMoments]) -> None:
        """Raises an InputError if no label of any clip counts."""
        if not num_labels(sums):
            todo = "Check that labels and features cover the same seconds."
            raise InputError(self.path, f"no label falls on the {self.split} clips", todo=todo)


def load_scored(
    path: Path, *, cache: str | None = None, labels: Path | None = None, split: str | None = None, device: str = "cpu"
) -> ScoredRuns:
    """Loads a run, or all folds below `path`, to be scored on the test clips (validation clips where there are none).

    Args:
        path: of a run, or of the folder of its folds.
        cache, labels: other ones than the run was trained with.
        split: another split than that.
        device: where to compute.

    Raises:
        InputError: if a run is unfinished, a fold is lacking, or folds were to be scored on their training clips.
    """
    folds = fold_runs(path)
    runs = [load_run(fold, device) for fold in folds] or [load_run(path, device)]
    wanted = runs[0].config.split.folds if folds else None
    if wanted and (len(runs) != wanted or split == "train"):
        got = f"{len(runs)} of {wanted} folds, split {split or 'test'}"
        todo = "Train all folds; a clip is trained on in several of them, so only held-out clips are pooled."
        raise InputError(path, expected="all folds, and held-out clips", got=got, todo=todo)
    chosen = split or runs[0].scored_split
    return ScoredRuns(path, runs, chosen, len(runs) if folds else None, cache, labels, torch.device(device))


def score_run(
    path: Path,
    *,
    cache: str | None = None,
    labels: Path | None = None,
    split: str | None = None,
    device: str = "cpu",
    grouping: Grouping | None = None,
) -> Score:
    """Returns the score of a run's test clips (or of another split), pooled over folds where there are folds.

    Args:
        path, cache, labels, split, device: as for `load_scored`.
        grouping: divides the clips into groups that are scored too.

    Raises:
        InputError: if the run is unfinished, no clip of that split is in the cache with labels, or the group of none
            is known.
    """
    scored = load_scored(path, cache=cache, labels=labels, split=split, device=device)
    raw: list[ClipMoments] = []
    smoothed: list[ClipMoments] = []
    reliability: list[ReliabilityReport] = []
    clips: list[Clip] = []
    for run, corpus in scored.parts():
        predictions = predict(run.model, corpus, range(len(corpus.clips)), run.config.data)
        clips += corpus.clips
        raw += corpus_moments(predictions, corpus)
        smoothed += corpus_moments(predictions, corpus, run.smoothing_s)
        if run.sigma is not None:
            reliability.append(reliability_report(predictions, corpus, run.sigma))
    scored.check(raw)
    widths = [run.smoothing_s for run in scored.runs]
    groups = grouping.score(clips, raw) if grouping else None
    return Score.of(scored.model, summarise(raw, smoothed), widths, reliability, groups)


def load_part(run: Run, store: Store, labels: Path | LabelFolder, split: str) -> Corpus:
    """Returns the clips of one split of a run, with labels, on the run's grid."""
    wanted = sorted(clip_id for clip_id, role in run.roles.items() if role == split)
    joined = LabelFolder.of(labels).join(wanted, others=run.roles)
    if joined.unlabelled or not wanted:
        got = f"no labels for {joined.unlabelled[0]}" if joined.unlabelled else "none"
        raise InputError(run.path, expected=f"labelled {split} clips", got=got, todo="Check --labels and --split.")
    clips = read_clips(store, wanted)
    truths = joined.truths(clip.clip for clip in clips)
    return load_corpus(store, run.streams, clips, grid_hz=run.config.data.hz, truths=truths)
