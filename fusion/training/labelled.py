"""Which clips a run learns from: those with labels, loaded, and the part each plays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data.clip import Clip
from ...data.errors import InputError
from ...data.labels import join_labels, read_labels
from ...data.store.base import Store
from ...data.windows.corpus import Corpus, choose_streams, load_corpus
from ...data.windows.splits import Role, read_split, split_folds, split_groups
from ..config import Config, SplitConfig
from ..models.variants import find_variant, variant_streams


@dataclass(frozen=True)
class Labelled:
    """The labelled clips of a cache.

    corpus: those clips, on the grid. parts: clip_id -> "train" or "val", where label files lie in Aff-Wild2's
    folders. unlabelled: clips of the cache without labels. unused: label files without a clip.
    """

    corpus: Corpus
    parts: Mapping[str, str]
    unlabelled: list[str]
    unused: list[str]


def load_labelled(store: Store, labels: Path, config: Config) -> Labelled:
    """Reads all clips that have labels, with the streams that the variant takes.

    Raises:
        InputError: if nothing matches, or a labelled clip lacks a stream. DamagedError: if bytes changed.
    """
    variant = config.model.variant
    only = find_variant(variant).modality
    names = config.data.streams or ((only,) if only else _modalities(store))
    streams = variant_streams(variant, choose_streams(store, names))
    found, unlabelled, unused = join_labels(read_labels(labels), store.clip_ids())
    if not found:
        todo = f"Label files are matched by name: {unused[0].stem!r} has no clip, {unlabelled[0]!r} no labels."
        raise InputError(labels, expected=f"labels for clips of {store.url}", got="none that match", todo=todo)
    truths = {clip_id: label.timed(store.clip(clip_id)) for clip_id, label in found.items()}
    corpus = load_corpus(store, streams, sorted(found), grid_hz=config.data.grid_hz, truths=truths)
    parts = {clip_id: label.part for clip_id, label in found.items() if label.part}
    return Labelled(corpus, parts, unlabelled, [str(path) for path in unused])


def labelled_hours(store: Store, labels: Path) -> float:
    """How long the clips are that have labels."""
    found, _, _ = join_labels(read_labels(labels), store.clip_ids())
    return sum(store.clip(clip_id).duration_s or 0.0 for clip_id in found) / 3600


def _modalities(store: Store) -> tuple[str, ...]:
    return tuple(sorted({stream.split("/")[0] for stream in store.streams()}, reverse=True))


def group_of(clip: Clip, split: SplitConfig) -> str:
    """What a clip shares with others that stay on its side of a split, and of cross-fitting.

    Its subject where that is known, else its recording; the recording alone if `split.by` is "clip".
    """
    recording = clip.clip_id.partition("#")[0]
    return recording if split.by == "clip" else clip.subject_id or recording


def assign_roles(clips: Sequence[Clip], parts: Mapping[str, str], split: SplitConfig, seed: int) -> dict[str, Role]:
    """Who is trained on, clip_id -> train, val or test, as `split` says.

    Raises:
        InputError: if a clip has no part or row that the split needs, or there are too few.
    """
    if split.by in ("official", "file"):
        known = _known_roles(parts, split)
        lacking = [clip.clip_id for clip in clips if clip.clip_id not in known]
        if lacking:
            todo = "Keep labels in Train_Set and Validation_Set, or list every clip in split.file."
            raise InputError(lacking[0], expected=f"a part in the {split.by} split", got="none", todo=todo)
        return {clip.clip_id: known[clip.clip_id] for clip in clips}
    groups = {clip.clip_id: group_of(clip, split) for clip in clips}
    if split.folds is not None:
        return split_folds(groups, split.folds, split.fold or 0, seed)
    return split_groups(groups, split.fractions, seed)


def _known_roles(parts: Mapping[str, str], split: SplitConfig) -> Mapping[str, Role]:
    if split.file is not None:
        return read_split(Path(split.file))
    return {clip_id: "train" if part == "train" else "val" for clip_id, part in parts.items()}


def labels_sha256(corpus: Corpus) -> str:
    """Of all labels, with the clips that they belong to."""
    digest = hashlib.sha256()
    for clip, truth in zip(corpus.clips, corpus.truths, strict=True):
        assert truth is not None
        for part in (clip.clip_id.encode(), truth.times_s.tobytes(), truth.va.tobytes(), truth.mask.tobytes()):
            digest.update(part)
    return digest.hexdigest()[:16]
