"""Who is trained on and who is tested on: by clip, by subject, in folds, by file, or the official parts."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import InputError

Role = Literal["train", "val", "test"]
ROLES: tuple[Role, ...] = ("train", "val", "test")


def split_groups(groups: Mapping[str, str], fractions: Sequence[float], seed: int) -> dict[str, Role]:
    """A random split that keeps groups whole.

    Args:
        groups: clip_id -> the unit that stays together (a subject, or the clip itself).
        fractions: shares of train, val and test; a share above 0 gets at least one group.
        seed: the same seed gives the same split, whatever the order of `groups`.
    """
    order = _shuffled(groups, seed)
    needed = sum(share > 0 for share in fractions)
    if len(order) < needed:
        todo = "Add recordings, or set a share of split.fractions to 0."
        raise InputError("split", expected=f"at least {needed} groups to part", got=str(len(order)), todo=todo)
    counts = [max(1, round(share / sum(fractions) * len(order))) if share > 0 else 0 for share in fractions]
    counts[0] = len(order) - sum(counts[1:])
    if counts[0] < 1:
        todo = "Lower the shares of val and test in split.fractions."
        raise InputError("split", expected="something left to train on", got="nothing", todo=todo)
    roles: list[Role] = [role for role, count in zip(ROLES, counts, strict=True) for _ in range(count)]
    return _spread(groups, dict(zip(order, roles, strict=True)))


def split_folds(groups: Mapping[str, str], num_folds: int, fold: int, seed: int) -> dict[str, Role]:
    """Cross-validation that keeps groups whole: part `fold` is the test, the next one is for early stopping."""
    order = _shuffled(groups, seed)
    if not 3 <= num_folds <= len(order) or not 0 <= fold < num_folds:
        got = f"fold {fold} of {num_folds}, {len(order)} groups"
        todo = "Set split.folds between 3 and the number of clips (or subjects)."
        raise InputError("split", expected="3 or more folds, no more than groups", got=got, todo=todo)
    parts = {group: index % num_folds for index, group in enumerate(order)}
    names: dict[int, Role] = {fold: "test", (fold + 1) % num_folds: "val"}
    return _spread(groups, {group: names.get(part, "train") for group, part in parts.items()})


def read_split(path: Path) -> dict[str, Role]:
    """A CSV with columns `clip_id,split`, where split is train, val or test.

    Raises:
        InputError: naming the line at fault.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"clip_id", "split"} <= set(reader.fieldnames or ()):
            got = ", ".join(reader.fieldnames or ()) or "no header"
            raise InputError(f"{path}:1", expected="columns clip_id, split", got=got, todo="Add the header line.")
        found: dict[str, Role] = {}
        for line, row in enumerate(reader, 2):
            role: Role | None = next((r for r in ROLES if r == row["split"]), None)
            if role is None or row["clip_id"] in found:
                got = f"{row['clip_id']},{row['split']}"
                todo = "Correct the row."
                raise InputError(f"{path}:{line}", expected="a new clip with train, val or test", got=got, todo=todo)
            found[row["clip_id"]] = role
    return found


def _shuffled(groups: Mapping[str, str], seed: int) -> list[str]:
    names = sorted(set(groups.values()))
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def _spread(groups: Mapping[str, str], roles: Mapping[str, Role]) -> dict[str, Role]:
    return {clip_id: roles[group] for clip_id, group in groups.items()}
