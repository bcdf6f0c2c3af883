"""The trainer: cached features and labels in, a run out. Everything is resident; windows are cut by index."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.errors import InputError
from ..data.labels import Truth, join_labels, read_labels
from ..data.splits import Role, read_split, split_folds, split_groups
from ..data.store import Store
from ..data.windows import Corpus, Windows, choose_streams, cut, load_corpus, plan_windows
from .checkpoint import METRICS, finish_run, start_run
from .config import Config, TrainConfig
from .evaluate import best_smoothing_s, corpus_sums, pooled_ccc, predict
from .losses import total_loss
from .model import FusionModel
from .variants import build_model, variant_streams

Log = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Dataset:
    """Labelled clips of a cache, loaded, with the part each plays.

    unlabelled: clips of the cache without labels; unused: label files without a clip.
    """

    corpus: Corpus
    roles: Mapping[str, Role]
    licence: str | None
    unlabelled: list[str]
    unused: list[str]

    def clips(self, role: Role) -> list[int]:
        """Positions of the clips that play a role."""
        return self.corpus.find([clip.clip_id for clip in self.corpus.clips if self.roles.get(clip.clip_id) == role])


def load_labelled(
    store: Store, labels: Path, config: Config, progress: Callable[[str], None] | None = None
) -> tuple[Corpus, dict[str, str], list[str], list[str]]:
    """Clips that have labels and all wanted streams, on the grid.

    Returns:
        The corpus; clip_id -> official part, where label files lie in one; clips without labels; files without a clip.

    Raises:
        InputError: if nothing matches, or a labelled clip lacks a stream.
    """
    streams = variant_streams(config.model.variant, choose_streams(store, config.data.streams or _modalities(store)))
    found, unlabelled, unused = join_labels(read_labels(labels), store.clip_ids())
    if not found:
        todo = f"Label files are matched by name: {unused[0].stem!r} has no clip, {unlabelled[0]!r} no labels."
        raise InputError(labels, expected=f"labels for clips of {store.url}", got="none that match", todo=todo)
    truths: dict[str, Truth] = {clip_id: label.timed(store.clip(clip_id)) for clip_id, label in found.items()}
    corpus = load_corpus(store, streams, sorted(found), grid_hz=config.data.grid_hz, truths=truths, progress=progress)
    parts = {clip_id: label.part for clip_id, label in found.items() if label.part}
    return corpus, parts, unlabelled, [str(path) for path in unused]


def _modalities(store: Store) -> tuple[str, ...]:
    return tuple(sorted({stream.split("/")[0] for stream in store.streams()}, reverse=True))


def assign_roles(corpus: Corpus, parts: Mapping[str, str], config: Config) -> dict[str, Role]:
    """Who is trained on, as `config.split` says.

    Raises:
        InputError: if a clip has no subject, part or row that the split needs.
    """
    split, ids = config.split, [clip.clip_id for clip in corpus.clips]
    if split.by in ("official", "file"):
        known = _known_roles(parts, split.by, split.file)
        lacking = [clip_id for clip_id in ids if clip_id not in known]
        if lacking:
            todo = "Keep labels in Train_Set and Validation_Set, or list every clip in split.file."
            raise InputError(lacking[0], expected=f"a part in the {split.by} split", got="none", todo=todo)
        return {clip_id: known[clip_id] for clip_id in ids}
    groups = {clip.clip_id: clip.subject_id or clip.clip_id for clip in corpus.clips}
    if split.by == "subject" and (nameless := [clip.clip_id for clip in corpus.clips if not clip.subject_id]):
        todo = "Extract with a manifest that has subject_id, or set split.by=clip."
        raise InputError(nameless[0], expected="a subject_id", got="none", todo=todo)
    if split.by == "clip":
        groups = {clip_id: clip_id for clip_id in ids}
    if split.folds is not None:
        return split_folds(groups, split.folds, split.fold or 0, config.seed)
    return split_groups(groups, split.fractions, config.seed)


def _known_roles(parts: Mapping[str, str], by: str, file: str | None) -> Mapping[str, Role]:
    if by == "official":
        return {clip_id: "train" if part == "train" else "val" for clip_id, part in parts.items()}
    if not file:
        todo = "Set split.file to a CSV with columns clip_id, split."
        raise InputError("split.by=file", expected="split.file", got="none", todo=todo)
    return read_split(Path(file))


def train(
    store: Store, labels: Path, out: Path, config: Config, *, device: str = "cpu", log: Log | None = None
) -> list[Path]:
    """Trains one run, or one run per fold, and writes them.

    Args:
        store: the feature cache.
        labels: folder of label files.
        out: folder of the run, which must be new. With `split.folds` and no `split.fold`, it holds `fold-0`, ….
        config: what changes the numbers.
        device: where to compute.
        log: called with one dictionary per event (`loaded`, `crossfit`, `epoch`, `done`).

    Returns:
        Folders of the finished runs.

    Raises:
        InputError: if clips, labels, streams and split do not go together, or the loss is no longer finite.
    """
    log = log or (lambda event: None)
    corpus, parts, unlabelled, unused = load_labelled(store, labels, config)
    log(
        {
            "event": "loaded",
            "num_clips": len(corpus.clips),
            "unlabelled": unlabelled,
            "unused": unused,
            "random_weights": [stream.name for stream in corpus.streams if stream.random_weights],
        }
    )
    corpus = corpus.to(torch.device(device))
    runs = []
    for fold_config, place in _runs(config, out):
        dataset = Dataset(corpus, assign_roles(corpus, parts, fold_config), store.root()["licence"], unlabelled, unused)
        start_run(place, fold_config, dataset.roles)
        log({"event": "run", "path": str(place), "fold": fold_config.split.fold})
        train_one(dataset, fold_config, place, {"cache": store.url, "labels": str(labels)}, log)
        runs.append(place)
    return runs


def _runs(config: Config, out: Path) -> list[tuple[Config, Path]]:
    split = config.split
    if split.folds is None or split.fold is not None:
        return [(config, out)]
    if out.exists() and any(out.iterdir()):
        raise InputError(out, expected="a new folder", got="one with files in it", todo="Choose another --out.")
    each = [config.model_copy(update={"split": split.model_copy(update={"fold": k})}) for k in range(split.folds)]
    return [(fold_config, out / f"fold-{k}") for k, fold_config in enumerate(each)]


def train_one(dataset: Dataset, config: Config, out: Path, origin: Mapping[str, str], log: Log) -> FusionModel:
    """Trains and writes one run on data that is loaded already."""
    corpus, training, validation = dataset.corpus, dataset.clips("train"), dataset.clips("val")
    for role, clips in (("train", training), ("val", validation)):
        if not any(corpus.va_mask[corpus.steps(index)].any() for index in clips):
            todo = "Check that labels and features cover the same seconds, and the split."
            raise InputError(f"split {role}", expected="clips with labels that count", got="none", todo=todo)
    torch.manual_seed(config.seed)
    model = build_model(corpus.streams, config.model).to(corpus.mask.device)
    errors = None
    if model.weighs_streams and (config.loss.calibration or config.loss.ordinal):
        errors = unseen_errors(corpus, training, config, log)
    with (out / METRICS).open("a", encoding="utf-8") as file:

        def record(event: dict[str, Any]) -> None:
            file.write(json.dumps(event) + "\n")
            file.flush()
            log(event)

        fit(model, corpus, training, validation, config, errors, record)
    predictions = predict(model, corpus, validation, config.data)
    found = {"smoothing_s": best_smoothing_s(predictions, corpus), "licence": dataset.licence}
    finish_run(out, model, config, {**origin, **found})
    log({"event": "done", "path": str(out), "val": score(predictions, corpus), **found})
    return model


def score(predictions: Sequence[Any], corpus: Corpus) -> dict[str, float]:
    """The protocol's CCC of predictions, raw."""
    return pooled_ccc([clip.all for clip in corpus_sums(predictions, corpus)])


def unseen_errors(corpus: Corpus, training: Sequence[int], config: Config, log: Log) -> Tensor:
    """(N, M) absolute error (valence + arousal) of each stream on clips that its estimator has not seen.

    The training clips are parted into folds (subjects stay together where known); for each stream a TCN with a head is
    trained on all but one and tried on that one. On the clips that it was trained on, a stream that only memorises
    looks as good as one that generalises, and a gate taught there trusts both alike.
    """
    groups = {index: corpus.clips[index].subject_id or corpus.clips[index].clip_id for index in training}
    names = sorted(set(groups.values()))
    num_folds = min(config.train.crossfit_folds, len(names))
    if num_folds < 2:
        got, todo = str(len(names)), "Add recordings, or set loss.calibration and loss.ordinal to 0."
        raise InputError("training clips", expected="at least 2 to estimate reliability", got=got, todo=todo)
    order = np.random.default_rng(config.seed).permutation(len(names))
    fold_of = {names[place]: k % num_folds for k, place in enumerate(order)}
    errors = torch.full((corpus.num_steps, len(corpus.streams)), torch.nan, device=corpus.mask.device)
    for m, stream in enumerate(corpus.streams):
        for fold in range(num_folds):
            seen = [i for i in training if fold_of[groups[i]] != fold]
            unseen = [i for i in training if fold_of[groups[i]] == fold]
            _fill_errors(errors, m, corpus, seen, unseen, config)
            log({"event": "crossfit", "stream": stream.name, "fold": fold, "num_folds": num_folds})
    return errors


def _fill_errors(
    errors: Tensor, m: int, corpus: Corpus, seen: Sequence[int], unseen: Sequence[int], config: Config
) -> None:
    alone = corpus.only([m])
    small = config.model.model_copy(update={"variant": "concat", "layers": 0})
    steps = config.train.model_copy(update={"epochs": config.train.crossfit_epochs, "modality_dropout": 0.0})
    probe_config = config.model_copy(update={"model": small, "train": steps})
    probe = build_model(alone.streams, small).to(corpus.mask.device)
    fit(probe, alone, seen, [], probe_config, None, lambda event: None)
    for index, prediction in zip(unseen, predict(probe, alone, unseen, config.data), strict=True):
        steps_of = corpus.steps(index)
        va = torch.from_numpy(prediction.va).to(errors)
        error = (va - corpus.va[steps_of]).abs().sum(-1)
        counted = corpus.va_mask[steps_of] & corpus.mask[steps_of, m]
        errors[steps_of, m] = torch.where(counted, error, torch.nan)


def fit(
    model: FusionModel,
    corpus: Corpus,
    training: Sequence[int],
    validation: Sequence[int],
    config: Config,
    errors: Tensor | None,
    log: Log,
) -> None:
    """Trains a model in place and leaves it with the weights of its best epoch on the validation clips.

    Args:
        errors: (N, M) unseen errors of each stream, for the gate; None for a model without one.
        log: called once per epoch with losses, score and speed.
    """
    model.fit_normalisation(corpus, training)
    rng = np.random.default_rng(config.seed)
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=config.train.learning_rate,
        weight_decay=config.train.weight_decay,
    )
    per_epoch = -(
        -len(plan_windows(corpus, training, config.data.window_steps, config.data.hop_steps)) // config.train.batch_size
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _warmup_cosine(config.train, per_epoch))
    sigma = torch.ones(()) if errors is None else errors.nanmedian().clamp(min=1e-3)
    best, best_epoch, kept = -math.inf, 0, None
    for epoch in range(config.train.epochs):
        started = time.perf_counter()
        losses, num_windows = _epoch(model, corpus, training, config, errors, sigma, optimiser, schedule, rng)
        event = {"event": "epoch", "epoch": epoch, "lr": schedule.get_last_lr()[0], "loss": losses}
        event["windows_per_s"] = round(num_windows / (time.perf_counter() - started), 1)
        if validation:
            event["val"] = score(predict(model, corpus, validation, config.data), corpus)
            if np.nan_to_num(event["val"]["mean"], nan=-1.0) > best:
                best, best_epoch = float(np.nan_to_num(event["val"]["mean"], nan=-1.0)), epoch
                kept = copy.deepcopy(model.state_dict())
        log(event)
        if validation and epoch - best_epoch >= config.train.patience:
            break
    if kept is not None:
        model.load_state_dict(kept)


def _warmup_cosine(config: TrainConfig, per_epoch: int) -> Callable[[int], float]:
    total = config.epochs * per_epoch
    warm = max(1, round(config.warmup * total))
    return lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(step / max(total, 1), 1))))


def _epoch(
    model: FusionModel,
    corpus: Corpus,
    training: Sequence[int],
    config: Config,
    errors: Tensor | None,
    sigma: Tensor,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    rng: np.random.Generator,
) -> tuple[dict[str, float], int]:
    model.train()
    plan = plan_windows(corpus, training, config.data.window_steps, config.data.hop_steps, rng)
    rng.shuffle(plan)
    totals: dict[str, float] = {}
    batches = np.array_split(plan, -(-len(plan) // config.train.batch_size))
    for rows in batches:
        windows = corrupt(cut(corpus, rows, config.data.window_steps), config, rng)
        error = (
            torch.full_like(windows.mask, torch.nan, dtype=torch.float32) if errors is None else errors[windows.steps]
        )
        terms = total_loss(model(windows), windows, error, sigma.to(error), config.loss)
        if not torch.isfinite(terms["loss"]):
            todo = "Lower train.learning_rate."
            raise InputError("training", expected="a finite loss", got=str(terms["loss"].item()), todo=todo)
        optimiser.zero_grad(set_to_none=True)
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
        optimiser.step()
        schedule.step()
        for name, value in terms.items():
            totals[name] = totals.get(name, 0.0) + value.item() / len(batches)
    return totals, len(plan)


def corrupt(windows: Windows, config: Config, rng: np.random.Generator) -> Windows:
    """Hides streams for a whole window, or for spans of 0.5 to 3 s, and adds noise; never hides every stream at once.

    Labels, and which steps count, stay as they are.
    """
    batch, length, num_streams = windows.mask.shape
    hidden = np.zeros((batch, length, num_streams), bool)
    if num_streams > 1:
        dropped = rng.random(batch) < config.train.modality_dropout
        hidden[dropped, :, rng.integers(num_streams, size=batch)[dropped]] = True
    for b, m in np.argwhere(rng.random((batch, num_streams)) < config.train.span_dropout):
        span = max(1, round(rng.uniform(0.5, 3.0) * config.data.grid_hz))
        start = int(rng.integers(max(1, length - span)))
        hidden[b, start : start + span, m] = True
    kept = windows.mask & ~torch.from_numpy(hidden).to(windows.mask.device)
    lost = windows.mask.any(-1, keepdim=True) & ~kept.any(-1, keepdim=True)
    values = windows.values
    if config.train.noise:
        values = [v + config.train.noise * v.float().std() * torch.randn_like(v.float()) for v in values]
    return Windows(
        values,
        windows.quality,
        torch.where(lost, windows.mask, kept),
        windows.inside,
        windows.va,
        windows.va_mask,
        windows.steps,
    )
