"""Splits into train, val and test that never divide a recording: drawn, in folds, or read from a file.

Two clips of one recording share the room, the voice and often the person, so a model that was trained on one has
seen the other. `group_clips` joins what must stay together: clips of one subject, of one recording (by its bytes, by
its audio or by its name) and, as both may overlap, everything that a chain of such clips connects.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from ..clip import Clip
from ..errors import InputError
from ..manifest import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from ..text_file import read_utf8

Role = Literal["train", "val", "test"]
ROLES: tuple[Role, ...] = ("train", "val", "test")
_SIDE = re.compile(r"(?<=[^/])_(left|right)$")  # Aff-Wild2: two persons of one recording


def group_clips(clips: Sequence[Clip], *, by_subject: bool = True) -> dict[str, str]:
    """Returns clip_id -> name of its group: the clips that no split may divide.

    A group is a connected component of the graph whose edges join clips of one subject or one recording. It is named
    after its least member: a subject_id where that is known, else the clip_id without `#person`. So groups do not
    depend on the order of `clips`, and where no recording has two subjects, they are the subjects.

    Args:
        clips: all clips of the split.
        by_subject: False joins recordings alone.
    """
    parents: dict[Hashable, Hashable] = {}

    def root(node: Hashable) -> Hashable:
        while (parent := parents.setdefault(node, node)) != node:
            parents[node] = node = parents.setdefault(parent, parent)
        return node

    for clip in clips:
        for key in _recording_keys(clip):
            parents[root(key)] = root(_unit(clip, by_subject))
    names: dict[Hashable, str] = {}
    for clip in clips:
        unit = _unit(clip, by_subject)
        names[root(unit)] = min(names.get(root(unit), unit), unit)
    return {clip.clip_id: names[root(_unit(clip, by_subject))] for clip in clips}


def _unit(clip: Clip, by_subject: bool) -> str:
    """The subject, or the recording where no subject is known or wanted."""
    return (clip.subject_id if by_subject else None) or clip.clip_id.partition("#")[0]


def _recording_keys(clip: Clip) -> list[tuple[str, str]]:
    """Everything that clips of the same recording have in common with this one; each alone is enough."""
    hashes = {*clip.recording_sha256, (clip.media or {}).get("sha256")} - {None}
    return [("name", _recording_name(clip.clip_id)), *(("sha256", sha256) for sha256 in hashes)]


def _recording_name(clip_id: str) -> str:
    """The name of a clip without person, suffix and side: `a/v.mp4#0`, `a/v_left` and `a/v.wav` are all `a/v`."""
    name = PurePosixPath(clip_id.partition("#")[0])
    stem = name.with_suffix("") if name.suffix.lower() in VIDEO_SUFFIXES | AUDIO_SUFFIXES else name
    return _SIDE.sub("", str(stem))


def divided(roles: Mapping[str, Role], groups: Mapping[str, str]) -> list[list[str]]:
    """Returns the clips of each group that lies in several parts of a split, [] for a split without leaks."""
    members: dict[str, list[str]] = {}
    for clip_id in sorted(roles):
        members.setdefault(groups[clip_id], []).append(clip_id)
    return [clips for clips in members.values() if len({roles[clip_id] for clip_id in clips}) > 1]


def split_groups(groups: Mapping[str, str], fractions: Sequence[float], seed: int) -> dict[str, Role]:
    """Returns a random split that keeps groups whole.

    Args:
        groups: clip_id -> name of its group, as `group_clips` gives it.
        fractions: shares of train, val and test; a share above 0 gets at least one group.
        seed: the same seed gives the same split, whatever the order of `groups`.
    """
    order = _shuffled(groups, seed)
    needed = sum(share > 0 for share in fractions)
    if len(order) < needed:
        todo = "Add recordings or set a share of split.fractions to 0; clips of one subject or recording are one group."
        raise InputError("split", expected=f"at least {needed} groups to split", got=str(len(order)), todo=todo)
    counts = [max(1, round(share / sum(fractions) * len(order))) if share > 0 else 0 for share in fractions]
    counts[0] = len(order) - sum(counts[1:])
    if counts[0] < 1:
        todo = "Lower the shares of val and test in split.fractions."
        raise InputError("split", expected="something left to train on", got="nothing", todo=todo)
    roles: list[Role] = [role for role, count in zip(ROLES, counts, strict=True) for _ in range(count)]
    return _spread(groups, dict(zip(order, roles, strict=True)))


def resampled(roles: Mapping[str, Role], groups: Mapping[str, str], seed: int) -> dict[str, Role]:
    """Returns a random split that keeps groups whole, with as many groups in each part as a split has.

    Args:
        roles: the split; a group counts for the part of its first clip.
        groups: as for `split_groups`.
        seed: the same seed gives the same split.
    """
    parts = {groups[clip_id]: roles[clip_id] for clip_id in sorted(roles, reverse=True)}
    counts = Counter(parts.values())
    return split_groups({clip_id: groups[clip_id] for clip_id in roles}, [counts[role] for role in ROLES], seed)


def split_folds(groups: Mapping[str, str], num_folds: int, fold: int, seed: int) -> dict[str, Role]:
    """Returns one split of a cross-validation that keeps groups whole.

    Of the `num_folds` parts, part `fold` is tested, the next one stops the training, and the others are trained on.
    """
    order = _shuffled(groups, seed)
    if not 3 <= num_folds <= len(order) or not 0 <= fold < num_folds:
        got = f"fold {fold} of {num_folds}, {len(order)} groups"
        todo = "Set split.folds between 3 and the number of groups; clips of one subject or recording are one group."
        raise InputError("split", expected="3 or more folds, no more than groups", got=got, todo=todo)
    parts = {group: index % num_folds for index, group in enumerate(order)}
    names: dict[int, Role] = {fold: "test", (fold + 1) % num_folds: "val"}
    return _spread(groups, {group: names.get(part, "train") for group, part in parts.items()})


def read_split(path: Path) -> dict[str, Role]:
    """Reads a CSV with columns `clip_id,split`, where split is train, val or test.

    Raises:
        InputError: naming the line at fault.
    """
    reader = csv.DictReader(io.StringIO(read_utf8(path), newline=""))
    try:
        if not {"clip_id", "split"} <= set(reader.fieldnames or ()):
            got = ", ".join(reader.fieldnames or ()) or "no header"
            raise InputError(f"{path}:1", expected="columns clip_id, split", got=got, todo="Add the header line.")
        return _roles(path, reader)
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}", f"no row of CSV: {error}", todo="Correct the row.") from error


def _roles(path: Path, rows: Iterable[Mapping[str, str]]) -> dict[str, Role]:
    """The roles in the rows of a split, by clip."""
    roles: dict[str, Role] = {}
    for line, row in enumerate(rows, 2):
        role: Role | None = next((r for r in ROLES if r == row["split"]), None)
        if role is None or row["clip_id"] in roles:
            got, todo = f"{row['clip_id']},{row['split']}", "Correct the row."
            raise InputError(f"{path}:{line}", expected="a new clip with train, val or test", got=got, todo=todo)
        roles[row["clip_id"]] = role
    return roles


def _shuffled(groups: Mapping[str, str], seed: int) -> list[str]:
    names = sorted(set(groups.values()))
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def _spread(groups: Mapping[str, str], roles: Mapping[str, Role]) -> dict[str, Role]:
    return {clip_id: roles[group] for clip_id, group in groups.items()}
