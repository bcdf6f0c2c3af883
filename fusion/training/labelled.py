"""The clips that a run learns from: those with labels, loaded, and the part that each plays in a split."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...data.clip import MODALITIES, Clip
from ...data.errors import InputError, MalformedError
from ...data.hashing import json_sha256
from ...data.labels import LabelFolder
from ...data.store.base import Store
from ...data.windows.corpus import Corpus
from ...data.windows.load import choose_streams, load_corpus, normaliser_of, read_clips, stream_hz
from ...data.windows.normalise import Normaliser
from ...data.windows.splits import (
    ROLES,
    Role,
    divided,
    group_clips,
    read_split,
    resampled,
    split_folds,
    split_groups,
)
from ...data.windows.to_grid import CachedClip
from ..config import EARLIER_HZ, Config, SplitConfig
from ..models.variants import find_variant, variant_streams


@dataclass(frozen=True)
class Labelled:
    """The labelled clips of a cache.

    corpus: those clips, on the grid. parts: clip_id -> "train", "val" or "test", where label files lie in folders named
    as Aff-Wild2's. unlabelled: clips of the cache without labels. unused: label files without a clip. features: name of
    each stream -> hash of its features and their times, of all clips. left_out: why clips with labels are missing: a
    line for each whose commit record is malformed.
    """

    corpus: Corpus
    parts: Mapping[str, str]
    unlabelled: list[str]
    unused: list[str]
    features: Mapping[str, str]
    left_out: list[str] = field(default_factory=list[str])


def load_labelled(store: Store, labels: Path | LabelFolder, config: Config) -> Labelled:
    """Reads all clips that have labels, with the streams that the variant takes.

    Raises:
        InputError: if nothing matches, or a labelled clip lacks a stream. DamagedError: if bytes changed, or no clip
            is left of those with labels.
    """
    variant, folder = config.model.variant, LabelFolder.of(labels)
    names = _stream_names(config, store)
    joined = folder.join(store.clip_ids())
    if not joined.files:
        unused, unlabelled = joined.unused[0].stem, joined.unlabelled[0]
        todo = f"Label files are matched by name: {unused!r} has no clip, {unlabelled!r} no labels."
        raise InputError(folder.path, expected=f"labels for clips of {store.url}", got="none that match", todo=todo)
    malformed = list[MalformedError]()
    clips = read_clips(store, sorted(joined.files), malformed)
    if not clips:
        raise malformed[0]
    kind = config.data.normalise
    if kind == "subject":
        _check_unlabelled(store, clips, joined.unlabelled)
    chosen = [replace(stream, normalise=kind) for stream in choose_streams(store, names, clips)]
    streams = variant_streams(variant, chosen)
    truths = joined.truths(clip.clip for clip in clips)
    config, _ = settle_grid(config, store, folder)
    normaliser = normaliser_of(store, streams, config.data.hz)
    corpus = load_corpus(store, streams, clips, grid_hz=config.data.hz, truths=truths, normaliser=normaliser)
    unused = [str(path) for path in joined.unused]
    features, left_out = _features(clips, corpus, normaliser), [str(error) for error in malformed]
    return Labelled(corpus, joined.official_parts, joined.unlabelled, unused, features, left_out)


def _check_unlabelled(store: Store, labelled: Sequence[CachedClip], unlabelled: Sequence[str]) -> None:
    """Refuses subjects with unlabelled clips: these may be test clips, and their features would be trained on."""
    subjects = {clip.clip.subject_id for clip in labelled} - {None}
    for clip_id in unlabelled:
        if (subject := store.clip(clip_id).subject_id) in subjects:
            got = f"{clip_id} of {subject} without any"
            todo = "Set data.normalise=clip, or train on a cache without the clips that have no labels."
            raise InputError("data.normalise", expected="labels for all clips of a subject", got=got, todo=todo)


def _features(clips: Sequence[CachedClip], corpus: Corpus, normaliser: Normaliser) -> dict[str, str]:
    """Returns stream -> hash of the checksums that the records of its entries state, of the grids and normalisation."""
    grids: list[Any] = [[clip.clip_id, astuple(grid)] for clip, grid in zip(corpus.clips, corpus.grids, strict=True)]
    grids += [identity for clip in clips if (identity := normaliser.identity(clip))]
    names = [stream.name for stream in corpus.streams]
    return {name: json_sha256([grids, [clip.records[name]["checksums"] for clip in clips]]) for name in names}


def labelled_hours(store: Store, labels: Path | LabelFolder) -> float:
    """Returns the length of all clips that have labels; parses none."""
    joined = LabelFolder.of(labels).join(store.clip_ids())
    clips = read_clips(store, sorted(joined.files), [])
    return sum(clip.clip.duration_s or 0.0 for clip in clips) / 3600


def _stream_names(config: Config, store: Store) -> tuple[str, ...]:
    only = find_variant(config.model.variant).modality
    return config.data.streams or ((only,) if only else _modalities(store))


def settle_grid(config: Config, store: Store, labels: Path | LabelFolder) -> tuple[Config, str | None]:
    """Returns the configuration with `data.grid_hz: null` replaced by the rate of the slowest stream, and its name.

    Words, ratings and other imported modalities come too rarely to pace a face or a voice, so they count only where
    there is neither. Reads a few clips, parses no labels. The name is None where the configuration has a rate; the rate
    is 25 where no stream has one.
    """
    if config.data.grid_hz is not None:
        return config, None
    clip_ids = sorted(LabelFolder.of(labels).join(store.clip_ids()).files)
    modality = find_variant(config.model.variant).modality
    names = [store.resolve(name) for name in _stream_names(config, store)]
    taken = [name for name in names if modality in (None, name.split("/")[0])]
    pacing = [name for name in taken if name.split("/")[0] in MODALITIES] or taken
    rates = [(hz, name) for name in pacing if (hz := stream_hz(store, name, clip_ids))]
    hz, slowest = min(rates, default=(EARLIER_HZ, None))
    return config.on_grid(hz), slowest


def _modalities(store: Store) -> tuple[str, ...]:
    return tuple(sorted({stream.split("/")[0] for stream in store.streams()}, reverse=True))


def settle_split(config: Config, store: Store, labels: Path | LabelFolder, *, drawn: bool = False) -> Config:
    """Returns the configuration with `split.by: auto` replaced; parses no labels.

    `official` where clips have labels in both of Aff-Wild2's folders; else, or where folds or shares are asked for
    (`drawn`: by other means than the configuration), `subject`.
    """
    split = config.split
    if split.by != "auto":
        return config
    parts = {} if drawn else LabelFolder.of(labels).join(store.clip_ids()).official_parts
    return config.model_copy(update={"split": split.model_copy(update={"by": _drawn_or_official(split, parts)})})


def _drawn_or_official(split: SplitConfig, parts: Mapping[str, str]) -> Literal["subject", "official"]:
    drawn = split.folds is not None or split.fractions != SplitConfig().fractions
    return "official" if not drawn and {"train", "val"} <= set(parts.values()) else "subject"


def groups_of(clips: Sequence[Clip], split: SplitConfig) -> dict[str, str]:
    """Returns clip_id -> name of the group that no split and no cross-fitting divides.

    A group is a recording where `split.by` is "clip"; else the subjects and recordings that clips connect.
    """
    return group_clips(clips, by_subject=split.by != "clip")


def crossfit_folds(corpus: Corpus, training: Sequence[int], config: Config) -> list[list[int]]:
    """Returns the training clips in folds that share no group.

    Raises:
        InputError: if all belong to one group.
    """
    group_of_clip = groups_of(corpus.clips, config.split)
    groups = {index: group_of_clip[corpus.clips[index].clip_id] for index in training}
    names = sorted(set(groups.values()))
    num_folds = min(config.train.crossfit_folds, len(names))
    if num_folds < 2:
        todo = "Add recordings, or set loss.calibration and loss.ordinal to 0."
        expected = "at least 2 subjects or recordings to estimate reliability"
        raise InputError("training clips", expected=expected, got=str(len(names)), todo=todo)
    order = np.random.default_rng(config.seed).permutation(len(names))
    fold_of = {names[place]: k % num_folds for k, place in enumerate(order)}
    return [[index for index in training if fold_of[groups[index]] == fold] for fold in range(num_folds)]


def assign_roles(clips: Sequence[Clip], parts: Mapping[str, str], split: SplitConfig, seed: int) -> dict[str, Role]:
    """Returns clip_id -> train, val or test, as `split` says.

    No recording is divided, with one exception: the official split stays as it was published, unless it is resampled.

    Args:
        parts: clip_id -> "train", "val" or "test" where labels lie in folders named as Aff-Wild2's.

    Raises:
        InputError: if a clip has no part or row that the split needs, a file divides a recording, or there are too
            few groups.
    """
    by = _drawn_or_official(split, parts) if split.by == "auto" else split.by
    groups = groups_of(clips, split)
    if by in ("official", "file"):
        roles = _listed_roles(clips, parts, by, split.file)
        return resampled(roles, groups, seed) if split.resample else roles
    if split.folds is not None:
        return split_folds(groups, split.folds, split.fold or 0, seed)
    return split_groups(groups, split.fractions, seed)


def _listed_roles(clips: Sequence[Clip], parts: Mapping[str, str], by: str, file: str | None) -> dict[str, Role]:
    """The roles that a file or the folders of the labels give."""
    official: dict[str, Role] = {clip_id: role for clip_id, part in parts.items() for role in ROLES if role == part}
    listed: Mapping[str, Role] = official if file is None else read_split(Path(file))
    lacking = [clip.clip_id for clip in clips if clip.clip_id not in listed]
    if lacking:
        todo = "Keep labels in Train_Set and Validation_Set, list every clip in split.file, or set split.by=subject."
        raise InputError(lacking[0], expected=f"a part in the {by} split", got="none", todo=todo)
    roles: dict[str, Role] = {clip.clip_id: listed[clip.clip_id] for clip in clips}
    if file is not None and (leaks := divided(roles, group_clips(clips, by_subject=False))):
        one, other = leaks[0][0], next(clip_id for clip_id in leaks[0] if roles[clip_id] != roles[leaks[0][0]])
        got = f"{one} in {roles[one]} and {other} in {roles[other]}"
        todo = "List them in one part: a model that was trained on one has seen the other."
        raise InputError(file, expected="clips of one recording in one part", got=got, todo=todo)
    return roles


def check_subjects(clips: Sequence[Clip], roles: Mapping[str, Role], config: Config) -> None:
    """Checks that features normalised by subject carry nothing from one part of the split into another.

    Raises:
        InputError: if no clip names its subject, or the clips of one lie in several parts.
    """
    if config.data.normalise != "subject":
        return
    place = "data.normalise"
    parts: dict[str, set[Role]] = {}
    for clip in clips:
        if clip.subject_id is not None and clip.clip_id in roles:
            parts.setdefault(clip.subject_id, set()).add(roles[clip.clip_id])
    if not parts:
        todo = "Name subjects in the manifest (subject_id) and extract again, or set data.normalise=clip."
        raise InputError(place, expected="clips whose subjects are known", got="none", todo=todo)
    for subject, of_subject in parts.items():
        if len(of_subject) > 1:
            got = f"clips of {subject} in {' and '.join(sorted(of_subject))}"
            todo = "Set split.by=subject, or data.normalise=clip: their statistics would pass from one to the other."
            raise InputError(place, expected="each subject in one part of the split", got=got, todo=todo)


@dataclass(frozen=True)
class SplitSummary:
    """A split in figures.

    by: what decided it, as `split.by`. resampled: only its sizes are those of that, as `split.resample`. num_clips:
    clips of each part. num_groups: what was divided among the parts. num_without_subject: clips whose subject is not
    known. divided: the clips of each recording that lies in several parts, which only an official split can cause.
    """

    by: str
    resampled: bool
    num_clips: Mapping[str, int]
    num_groups: int
    num_without_subject: int
    divided: list[list[str]]

    def to_json(self) -> dict[str, Any]:
        """Returns the figures as plain JSON."""
        return asdict(self)


def summarise_split(clips: Sequence[Clip], roles: Mapping[str, Role], split: SplitConfig) -> SplitSummary:
    """Returns the figures of a split, for a line of the log."""
    counts = Counter(roles.values())
    return SplitSummary(
        split.by,
        split.resample,
        {role: counts[role] for role in ROLES if counts[role]},
        len(set(groups_of(clips, split).values())),
        sum(not clip.subject_id for clip in clips),
        divided(roles, group_clips(clips, by_subject=False)),
    )


def labels_sha256(corpus: Corpus) -> str:
    """Returns a hash of all labels with the clips that they belong to."""
    digest = hashlib.sha256()
    for clip, truth in zip(corpus.clips, corpus.truths, strict=True):
        assert truth is not None
        for part in (clip.clip_id.encode(), truth.times_s.tobytes(), truth.va.tobytes(), truth.mask.tobytes()):
            digest.update(part)
    return digest.hexdigest()[:16]
