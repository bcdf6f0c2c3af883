"""The cells of a comparison: each the training of one variant with one seed on one fold, a run with its score."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data.errors import InputError
from ...data.store.base import open_store
from ...data.windows.corpus import Corpus
from ...data.windows.placement import place
from ...data.windows.splits import Role, read_split
from ..config import Config, check_config
from ..evaluation.metrics import corpus_sums
from ..evaluation.predict import predict
from ..models.variants import resolve, variant_streams
from ..run_folder import CONFIG, OF_A_RUN, RESOLVED, SPLIT, fold_runs, load_run, origin_of, start_run, write_json
from ..training.crossfit import crossfit_config, out_of_fold_errors
from ..training.labelled import assign_roles, labels_sha256, load_labelled
from ..training.train import train_one
from ..training.trainer import Log

SCORE = "score.json"


@dataclass(frozen=True)
class Cell:
    """One training: a variant with a seed, on a fold where there are folds, and the folder of its run."""

    variant: str
    seed: int
    fold: int | None
    config: Config
    path: Path

    @property
    def done(self) -> bool:
        """Whether it is trained and scored."""
        return (self.path / CONFIG).exists() and (self.path / SCORE).exists()


@dataclass(frozen=True)
class Job:
    """What all processes of a comparison share; `config` names the streams of all variants."""

    cache: str
    labels: Path
    config: Config
    device: str


def plan(config: Config, variants: Sequence[str], num_seeds: int, folds: int | None, out: Path) -> list[Cell]:
    """All cells, those of one seed and fold together, so that early ones already compare.

    Raises:
        InputError: if a variant is not known, or the split has no folds.
    """
    cells = []
    for seed in range(num_seeds):
        for fold in range(folds) if folds else (None,):
            for variant in variants:
                raw = config.model_dump()
                raw |= {"seed": seed, "model": {**raw["model"], "variant": variant}}
                if folds:
                    raw["split"] |= {"folds": folds, "fold": fold}
                place = out / variant / f"seed-{seed}"
                path = place if fold is None else place / f"fold-{fold}"
                cells.append(Cell(variant, seed, fold, resolve(check_config(raw, variant)), path))
    return cells


class Bench:
    """The labelled clips, loaded once, on which the cells of a process are trained and scored.

    All variants stand on one grid per clip, whatever streams they take, and so are scored on the same labels.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        store = open_store(job.cache)
        self.found = load_labelled(store, job.labels, job.config)
        self._errors: dict[str, Tensor] = {}
        self.origin = {**origin_of(store, job.labels), "labels_sha256": labels_sha256(self.found.corpus)}

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The clips on the device."""
        return place(self.found.corpus, torch.device(self.job.device))[0]

    def roles(self, cell: Cell) -> dict[str, Role]:
        """Who is trained on in a cell."""
        return assign_roles(self.found.corpus.clips, self.found.parts, cell.config.split, cell.seed)

    def _unseen(self, corpus: Corpus, training: list[int], config: Config, log: Log) -> Tensor:
        """`out_of_fold_errors`, remembered, as all variants with a gate learn from the same ones."""
        probe = crossfit_config(config)
        key = json.dumps([training, [s.name for s in corpus.streams], probe.model_dump(mode="json")])
        if key not in self._errors:
            self._errors = {key: out_of_fold_errors(corpus, training, config, log)}
        return self._errors[key]

    def streams(self, cell: Cell) -> list[int]:
        """Which streams the variant of a cell takes."""
        streams = self.found.corpus.streams
        return [streams.index(stream) for stream in variant_streams(cell.variant, streams)]

    def check(self, cell: Cell) -> None:
        """Refuses a cell that cannot be done, or whose folder holds the result of something else.

        Raises:
            InputError: if so.
        """
        streams = [self.found.corpus.streams[m].name for m in self.streams(cell)]
        roles = self.roles(cell)
        if (cell.path.parent / RESOLVED).exists() or fold_runs(cell.path):
            todo = "Choose another --out, or --folds as before."
            raise InputError(cell.path, expected="a run or folds of it", got="the other", todo=todo)
        if not (cell.path / CONFIG).exists():
            return
        told = read_json(cell.path / CONFIG)
        kept = check_config(told.pop("config"), str(cell.path / CONFIG))
        found = {**told, "streams": ", ".join(stream["name"] for stream in told["streams"]), **kept.flat()}
        wanted = {**self.origin, "streams": ", ".join(streams), **cell.config.flat()}
        split = {"split": "changed"} if read_split(cell.path / SPLIT) != roles else {}
        for key, value in {**wanted, **split}.items():
            if found.get(key) != value:
                got = f"one of {key} = {found.get(key)}"
                todo = "Choose another --out, or the settings of before."
                raise InputError(cell.path, expected=f"a result of {key} = {value}", got=got, todo=todo)

    def do(self, cell: Cell) -> None:
        """Trains a cell unless that is done, and scores it."""
        if not (cell.path / CONFIG).exists():
            _clear(cell.path)
            self.train(cell)
        corpus = self.corpus.only(self.streams(cell))
        write_json(cell.path / SCORE, score_cell(cell, corpus, self.job.device))

    def train(self, cell: Cell, log: Log = lambda event: None) -> None:
        """Trains a cell, whose folder must be new."""
        corpus, roles = self.corpus.only(self.streams(cell)), self.roles(cell)
        start_run(cell.path, cell.config, roles)
        train_one(corpus, roles, cell.config, cell.path, self.origin, log, self._unseen)


def score_cell(cell: Cell, corpus: Corpus, device: str) -> dict[str, Any]:
    """All that a table needs of a trained cell, so that nothing is predicted again.

    Returns:
        `clips`: of each scored clip the (2, 6) moments of valence and arousal, raw and smoothed.
    """
    run = load_run(cell.path, device)
    chosen = [index for index, clip in enumerate(corpus.clips) if run.roles[clip.clip_id] == run.scored_split]
    predictions = predict(run.model, corpus, chosen, run.config.data)
    raw, smoothed = (corpus_sums(predictions, corpus, width_s) for width_s in (0.0, run.smoothing_s))
    return {
        "variant": cell.variant,
        "seed": cell.seed,
        "fold": cell.fold,
        "split": run.scored_split,
        "smoothing_s": run.smoothing_s,
        "num_parameters": sum(weight.numel() for weight in run.model.parameters()),
        "seconds": (cell.path / CONFIG).stat().st_mtime - (cell.path / RESOLVED).stat().st_mtime,  # its last, its first
        "random_weights": run.random_weights,
        "clips": [
            {"clip_id": a.clip_id, "raw": a.all.tolist(), "smoothed": b.all.tolist()}
            for a, b in zip(raw, smoothed, strict=True)
        ],
    }


def _clear(path: Path) -> None:
    """Removes an unfinished run, and nothing else."""
    if (path / RESOLVED).exists() and {file.name for file in path.iterdir()} <= OF_A_RUN:
        shutil.rmtree(path)


def read_json(path: Path) -> dict[str, Any]:
    """What a file of a run holds."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        todo = "Remove the folder; its run will be done again."
        raise InputError(path, expected="JSON", got="something else", todo=todo) from None
