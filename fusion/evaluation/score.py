"""`sage-va eval`: a run, or the folds of one, scored by the protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...data.errors import InputError
from ...data.labels import LabelFolder
from ...data.store.base import Store, open_store
from ...data.windows.corpus import Corpus
from ...data.windows.load import load_corpus, read_clips
from ..result import plain
from ..run_folder import Run, fold_runs, load_run
from .metrics import ClipSums, corpus_sums, summarise
from .predict import predict
from .reliability import trust_report


@dataclass(frozen=True)
class Scored:
    """What is scored together: a run or all folds of one, and the part of their clips that counts.

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
    def about(self) -> dict[str, Any]:
        """What every result says of it."""
        first = self.runs[0]
        return {
            "run": str(self.path),
            "variant": first.config.model.variant,
            "split": self.split,
            "num_folds": self.num_folds,
            "random_weights": first.random_weights,
        }

    def parts(self) -> Iterator[tuple[Run, Corpus]]:
        """Each run with the clips that it is scored on, on its device."""
        folders: dict[Path, LabelFolder] = {}
        for run in self.runs:
            store, labels = open_store(self.cache or run.cache), self.labels or Path(run.labels)
            if labels not in folders:
                folders[labels] = LabelFolder(labels)
            yield run, load_part(run, store, folders[labels], self.split).to(self.device)

    def check(self, sums: list[ClipSums]) -> None:
        """Refuses a score of nothing.

        Raises:
            InputError: if no label of any clip counts.
        """
        if not sum(clip.all[0, 0] for clip in sums):
            todo = "Check that labels and features cover the same seconds."
            raise InputError(self.path, expected=f"labels that fall on the {self.split} clips", got="none", todo=todo)


def load_scored(
    path: Path, *, cache: str | None = None, labels: Path | None = None, split: str | None = None, device: str = "cpu"
) -> Scored:
    """A run, or all folds below `path`, for the test clips (validation clips where there are none) or another part.

    Raises:
        InputError: if a run is unfinished, a fold is lacking, or folds were to be scored on clips they learnt from.
    """
    folds = fold_runs(path)
    runs = [load_run(fold, device) for fold in folds] or [load_run(path, device)]
    wanted = runs[0].config.split.folds if folds else None
    if wanted and (len(runs) != wanted or split == "train"):
        got = f"{len(runs)} of {wanted} folds, split {split or 'test'}"
        todo = "Train all folds; a clip is trained on in several of them, so only held-out clips are pooled."
        raise InputError(path, expected="all folds, and held-out clips", got=got, todo=todo)
    chosen = split or runs[0].scored_split
    return Scored(path, runs, chosen, len(runs) if folds else None, cache, labels, torch.device(device))


def score_run(
    path: Path, *, cache: str | None = None, labels: Path | None = None, split: str | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """The score of a run's test clips (or of another part), pooled over folds where there are folds.

    Fit for JSON: a number that is not defined, such as the interval of a single clip, is None. `trust` holds, where a
    gate was taught, the `trust_report` of each run.

    Raises:
        InputError: if the run is unfinished, or no clip of that part is in the cache with labels.
    """
    scored = load_scored(path, cache=cache, labels=labels, split=split, device=device)
    raw: list[ClipSums] = []
    smoothed: list[ClipSums] = []
    trust: list[dict[str, Any]] = []
    for run, corpus in scored.parts():
        predictions = predict(run.model, corpus, range(len(corpus.clips)), run.config.data)
        raw += corpus_sums(predictions, corpus)
        smoothed += corpus_sums(predictions, corpus, run.smoothing_s)
        if run.sigma is not None:
            trust.append(trust_report(predictions, corpus, run.sigma))
    scored.check(raw)
    widths = [run.smoothing_s for run in scored.runs]
    return plain({**scored.about, "smoothing_s": widths, "trust": trust, **summarise(raw, smoothed)})


def load_part(run: Run, store: Store, labels: Path | LabelFolder, split: str) -> Corpus:
    """The clips of one part of a run's split, with labels, on the run's grid."""
    wanted = sorted(clip_id for clip_id, role in run.roles.items() if role == split)
    joined = LabelFolder.of(labels).join(wanted)
    if joined.unlabelled or not wanted:
        got = f"no labels for {joined.unlabelled[0]}" if joined.unlabelled else "none"
        raise InputError(run.path, expected=f"labelled {split} clips", got=got, todo="Check --labels and --split.")
    clips = read_clips(store, wanted)
    truths = joined.truths(clip.clip for clip in clips)
    return load_corpus(store, run.streams, clips, grid_hz=run.config.data.grid_hz, truths=truths)
