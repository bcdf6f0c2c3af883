"""The cells of a comparison: each the training of one variant with one seed on one fold, a run with its score.

A cell is done again, scored, or left alone by what its folder holds, so a comparison may be killed at any moment:

    empty, or an unfinished run --clear, train--> config.json --score--> score.json (done)
               ^                                       |
               +--- killed while it was trained        +--- killed before its score: scored by the next call

`config.json` and `score.json` are replaced whole, and are the last files of their steps. Before anything is trained,
every finished cell is checked against the settings, labels, streams and split of this call; one of other settings is
refused, never overwritten. Strange files in the folder of a cell are never removed: the cell fails, the others go on.

A process locks a cell while it works on it, by a file beside the cell's folder. A second one (another part of the
comparison, or the successor of a worker that was taken for lost) waits, and then has nothing left to do.
"""

from __future__ import annotations

import fcntl
import functools
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...data.atomic import locked, make_folder
from ...data.errors import InputError
from ...data.store.base import open_store
from ...data.windows.corpus import Corpus
from ...data.windows.placement import place
from ...data.windows.splits import Role, read_split
from ..config import Config, check_config
from ..evaluation.metrics import corpus_moments
from ..evaluation.predict import predict
from ..models.variants import build_model, resolve, variant_streams
from ..result import Result
from ..run_folder import CONFIG, OF_A_RUN, RESOLVED, SPLIT, fold_runs, load_run, origin_of, start_run, write_json
from ..training.crossfit import out_of_fold_errors
from ..training.labelled import assign_roles, check_subjects, labels_sha256, load_labelled
from ..training.lag import settle_lag
from ..training.shared_errors import SharedErrors
from ..training.train import learns_reliability, train_one
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
        """True if it is trained and scored."""
        return (self.path / CONFIG).exists() and (self.path / SCORE).exists()


@dataclass(frozen=True)
class BenchSettings:
    """The data and the device that all processes of a comparison share.

    config: names the streams of all variants. errors: folder of the out-of-fold errors that runs share; None = each run
    computes its own.
    """

    cache: str
    labels: Path
    config: Config
    device: str
    errors: Path | None


def plan(config: Config, variants: Sequence[str], num_seeds: int, folds: int | None, out: Path) -> list[Cell]:
    """Returns all cells, those of one seed and fold together, so that early ones already compare.

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

    All variants use one grid per clip, whatever streams they take, and so are scored on the same labels.
    """

    def __init__(self, settings: BenchSettings) -> None:
        self.settings = settings
        store = open_store(settings.cache)
        self.labelled = load_labelled(store, settings.labels, settings.config)
        folder, features = settings.errors, self.labelled.features
        self.shared_errors = SharedErrors(folder, features, settings.device) if folder else None
        self._keys: dict[Path, str | None] = {}
        self.origin = {**origin_of(store, settings.labels), "labels_sha256": labels_sha256(self.labelled.corpus)}

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The clips, on the device where they fit."""
        return place(self.labelled.corpus, torch.device(self.settings.device))[0]

    def roles(self, cell: Cell) -> dict[str, Role]:
        """Returns the split of a cell: clip_id -> train, val or test."""
        return assign_roles(self.labelled.corpus.clips, self.labelled.parts, cell.config.split, cell.seed)

    def waits(self, cell: Cell, running: Collection[Cell]) -> bool:
        """Returns True if a cell would wait for out-of-fold errors that others, such as running cells, compute."""
        if self.shared_errors is None or (key := self._key(cell)) is None or self.shared_errors.has(key):
            return False
        return any(self._key(other) == key for other in running) or self.shared_errors.in_work(key)

    def _key(self, cell: Cell) -> str | None:
        """Returns the key of the out-of-fold errors that a cell needs; None if it needs none, or cannot be trained."""
        if cell.path not in self._keys:
            self._keys[cell.path] = self._find_key(cell)
        return self._keys[cell.path]

    def _find_key(self, cell: Cell) -> str | None:
        assert self.shared_errors is not None
        corpus, roles = self.labelled.corpus.only(self.streams(cell)), self.roles(cell)
        try:
            if not learns_reliability(build_model(corpus.streams, cell.config.model), cell.config):
                return None
            training = [index for index, clip in enumerate(corpus.clips) if roles[clip.clip_id] == "train"]
            return self.shared_errors.key(corpus, training, settle_lag(corpus, training, cell.config))
        except Exception:  # of a variant of the user's own: the training reports it
            return None

    def streams(self, cell: Cell) -> list[int]:
        """Returns the positions of the streams that the variant of a cell takes."""
        streams = self.labelled.corpus.streams
        return [streams.index(stream) for stream in variant_streams(cell.variant, streams)]

    def check(self, cell: Cell) -> None:
        """Raises an InputError for a cell that cannot be trained, or whose folder holds a result of other settings."""
        streams = [self.labelled.corpus.streams[m].name for m in self.streams(cell)]
        roles = self.roles(cell)
        check_subjects(self.labelled.corpus.clips, roles, cell.config)
        if (cell.path.parent / RESOLVED).exists() or fold_runs(cell.path):
            todo = "Choose another --out, or --folds as before."
            raise InputError(cell.path, expected="a run or folds of it", got="the other", todo=todo)
        if not (cell.path / CONFIG).exists():
            return
        described = read_json(cell.path / CONFIG)
        config = check_config(described.pop("config"), str(cell.path / CONFIG))
        names = ", ".join(stream["name"] for stream in described["streams"])
        kept = {**described, "streams": names, **config.flat()}
        wanted = {**self.origin, "streams": ", ".join(streams), **cell.config.flat()}
        if wanted["labels.lag_s"] == "estimate":  # the run has the number
            del wanted["labels.lag_s"]
        split = {"split": "changed"} if read_split(cell.path / SPLIT) != roles else {}
        for key, value in {**wanted, **split}.items():
            if kept.get(key) != value:
                got = f"one of {key} = {kept.get(key)}"
                todo = "Choose another --out, or the settings of before."
                raise InputError(cell.path, expected=f"a result of {key} = {value}", got=got, todo=todo)

    def do(self, cell: Cell) -> None:
        """Trains a cell unless it is trained, and scores it unless it is scored."""
        make_folder(cell.path.parent)
        with locked(cell.path.with_name(f".lock-{cell.path.name}"), fcntl.LOCK_EX):
            if cell.done:
                return
            if not (cell.path / CONFIG).exists():
                _clear(cell.path)
                self.train(cell)
            corpus = self.corpus.only(self.streams(cell))
            write_json(cell.path / SCORE, score_cell(cell, corpus, self.settings.device).to_json())

    def train(self, cell: Cell, log: Log = lambda event: None) -> None:
        """Trains a cell, whose folder must be new."""
        corpus, roles = self.corpus.only(self.streams(cell)), self.roles(cell)
        start_run(cell.path, cell.config, roles)
        origin = {**self.origin, "left_out": self.labelled.left_out}
        train_one(corpus, roles, cell.config, cell.path, origin, log, self.shared_errors or out_of_fold_errors)


@dataclass(frozen=True)
class CellClip(Result):
    """The (2, 6) moments of valence and arousal of one clip."""

    clip_id: str
    raw: list[list[float]]
    smoothed: list[list[float]]


@dataclass(frozen=True)
class CellScore(Result):
    """All that a table needs of a trained cell, so that nothing is predicted again: the content of `score.json`."""

    variant: str
    seed: int
    fold: int | None
    split: str
    smoothing_s: float
    num_parameters: int
    seconds: float
    random_weights: list[str]
    clips: list[CellClip]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CellScore:
        """Returns what `to_json` wrote."""
        return cls(**{**values, "clips": [CellClip(**clip) for clip in values["clips"]]})


def score_cell(cell: Cell, corpus: Corpus, device: str) -> CellScore:
    """Scores the run of a cell on the clips of its split."""
    run = load_run(cell.path, device)
    chosen = [index for index, clip in enumerate(corpus.clips) if run.roles[clip.clip_id] == run.scored_split]
    predictions = predict(run.model, corpus, chosen, run.config.data)
    raw, smoothed = (corpus_moments(predictions, corpus, width_s) for width_s in (0.0, run.smoothing_s))
    return CellScore(
        cell.variant,
        cell.seed,
        cell.fold,
        run.scored_split,
        run.smoothing_s,
        num_parameters=sum(weight.numel() for weight in run.model.parameters()),
        seconds=(cell.path / CONFIG).stat().st_mtime - (cell.path / RESOLVED).stat().st_mtime,  # its last, its first
        random_weights=run.random_weights,
        clips=[CellClip(a.clip_id, a.all.tolist(), b.all.tolist()) for a, b in zip(raw, smoothed, strict=True)],
    )


def read_score(path: Path) -> CellScore:
    """Reads a `score.json`.

    Raises:
        InputError: if the file holds something else.
    """
    try:
        return CellScore.from_json(read_json(path))
    except (KeyError, TypeError):
        raise _unreadable(path) from None


def _clear(path: Path) -> None:
    """Removes an unfinished run, and nothing else."""
    if (path / RESOLVED).exists() and {file.name for file in path.iterdir()} <= OF_A_RUN:
        shutil.rmtree(path)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file of a run."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise _unreadable(path) from None


def _unreadable(path: Path) -> InputError:
    todo = "Remove the folder; its run will be done again."
    return InputError(path, "this file of a run cannot be read", todo=todo)
