"""Corrected labels: a folder beside that of the labels, `NAME-corrected`, which training takes in its place.

The originals are never written to. With the first correction the folder gets a copy of every label file, so that it is
complete; a corrected clip then has a CSV with its own times in the place of its copy.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.atomic import contained, locked, replacing, write_text
from ...data.clip import Clip
from ...data.errors import InputError
from ...data.labels import LabelFile, LabelFolder, Truth, label_names
from ...data.timebase import usual_gap_s

Floats = NDArray[np.float64]
SUFFIX = "-corrected"
MOST_EDITS, MOST_POINTS = 2000, 100_000
ROUNDED_S = 1e-4  # the times of the page have four digits
_TODO = "Load the page again."


@dataclass(frozen=True)
class Edit:
    """A new course of valence or arousal.

    Args:
        target: 0 valence, 1 arousal.
        times_s: (P,) times that do not decrease, seconds on the clip's clock; labels from the first to the last change.
        values: (P,) values between which straight lines run; NaN throughout = not annotated.
    """

    target: int
    times_s: Floats
    values: Floats

    @classmethod
    def of(cls, value: Any) -> Edit:
        """Checks an edit from outside: `{"target": 0, "points": [[time_s, value or null], …]}`.

        Raises:
            InputError: if it is anything else.
        """
        try:
            target, points = value["target"], value["points"]
            pairs = [(float(time_s), math.nan if level is None else float(level)) for time_s, level in points]
        except (TypeError, KeyError, ValueError, OverflowError):
            raise _refused("it is no list of times and values") from None
        if target not in (0, 1) or isinstance(target, bool | float) or not 1 <= len(pairs) <= MOST_POINTS:
            raise _refused("it names no trace, or no times")
        times_s, values = np.array(pairs, np.float64).T
        if not np.isfinite(times_s).all() or (np.diff(times_s) < 0).any():
            raise _refused("its times do not increase")
        missing = np.isnan(values)
        if (missing.any() and not missing.all()) or not (np.abs(values[~missing]) <= 1).all():
            raise _refused("its values are not between −1 and 1")
        return cls(target, times_s, values)


def _refused(problem: str) -> InputError:
    return InputError("correction", problem, todo=_TODO)


def read_edits(value: Any) -> list[Edit]:
    """Checks the edits of a request to save: `{"edits": […]}`.

    Raises:
        InputError: if it is anything else.
    """
    edits = value.get("edits") if isinstance(value, dict) else None
    if not isinstance(edits, list) or not 1 <= len(edits) <= MOST_EDITS:
        raise _refused("it holds no edits, or too many")
    return [Edit.of(edit) for edit in edits]


def check_within(edits: Sequence[Edit], first_s: float, last_s: float) -> None:
    """Checks that edits lie between two instants: those of a clip, beyond which there is nothing to label.

    Raises:
        InputError: if one does not.
    """
    if any(edit.times_s[0] < first_s or edit.times_s[-1] > last_s for edit in edits):
        raise _refused(f"its times are not those of the clip, {first_s:.2f} to {last_s:.2f} s")


def corrected(truth: Truth, edits: Sequence[Edit], gap_s: float) -> Truth:
    """Returns labels with edits applied, one after the other.

    Where an edit gives values and there is no label within three quarters of the gap, labels are added, `gap_s` apart.

    Args:
        truth: the labels so far; their rows stay, also those that are not annotated.
        edits: see `Edit`.
        gap_s: between labels that are added.
    """
    times_s, va = truth.times_s, truth.va.astype(np.float64)
    for edit in edits:
        first, last = edit.times_s[0] - ROUNDED_S, edit.times_s[-1] + ROUNDED_S
        if not np.isnan(edit.values).any():
            added = _added(times_s, first, last, gap_s)
            order = np.argsort(np.concatenate([times_s, added]), kind="stable")
            va = np.concatenate([va, np.full((len(added), 2), np.nan)])[order]
            times_s = np.concatenate([times_s, added])[order]
        inside = (times_s >= first) & (times_s <= last)
        va[inside, edit.target] = np.interp(times_s[inside], edit.times_s, edit.values)
    return Truth(times_s, va.astype(np.float32), np.asarray((np.abs(va) <= 1).all(axis=1)))


def _added(times_s: Floats, first: float, last: float, gap_s: float) -> Floats:
    wanted = np.arange(math.ceil(first / gap_s), math.floor(last / gap_s) + 1).astype(np.float64) * gap_s
    if not len(times_s):
        return wanted
    after = np.searchsorted(times_s, wanted).clip(0, len(times_s) - 1)
    distance = np.minimum(np.abs(times_s[after] - wanted), np.abs(times_s[(after - 1).clip(0)] - wanted))
    return wanted[distance > 0.75 * gap_s]


class Corrections:
    """The corrected labels beside a folder of labels.

    Args:
        labels: the originals, open.
        clip_ids: the clips that may be corrected.
        others: further clips of the run, whose label files are theirs.

    Raises:
        InputError: if the place of the corrections is that of the originals, or corrections there are malformed.
    """

    def __init__(self, labels: LabelFolder, clip_ids: Sequence[str], others: Iterable[str] = ()) -> None:
        self._labels, self._originals = labels, labels.join(clip_ids, others).files
        path = labels.path.absolute()
        self.folder = path.with_name(f"{path.name}{SUFFIX}")
        if self.folder.exists() and self.folder.resolve() == path.resolve():
            todo = "Remove the link."
            raise InputError(self.folder, "it leads to the original labels, which are never written", todo=todo)

    def place(self, clip_id: str) -> Path:
        """Returns the CSV of a clip's corrected labels, whether it is there or not."""
        original = self._originals.get(clip_id)
        name = f"{label_names(clip_id)[0]}.csv" if original is None else self._name(original).with_suffix(".csv")
        return contained(self.folder, str(name))

    def read(self, clip: Clip) -> Truth | None:
        """Returns the corrected labels of a clip; None where it has not been corrected.

        Raises:
            InputError: if they cannot be read.
        """
        place = self._corrected_file(clip.clip_id)
        return None if place is None else LabelFile(place).labels.timed(clip)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes from writing, so that labels that are read and changed are those that are replaced.

        Raises:
            InputError: if the folder cannot be written.
        """
        with self._written(), locked(self.folder.with_name(f".{self.folder.name}.lock"), fcntl.LOCK_EX):
            yield

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            todo = "Make room or give rights there, or start with --labels and a copy of the labels."
            raise InputError(self.folder, f"it cannot be written ({error.strerror})", todo=todo) from None

    def write(self, clip_id: str, truth: Truth) -> Path:
        """Writes the corrected labels of a clip, whole or not at all; returns their file.

        Its own file there in another format goes: `read` has returned what it held.

        Raises:
            InputError: if none of them is annotated, or the folder cannot be written.
        """
        if not truth.mask.any():
            problem = "these corrections leave no label of both valence and arousal"
            raise InputError(clip_id, problem, todo="Give both somewhere, or remove the clip's label file.")
        with self._written():
            return self._write(clip_id, truth)

    def _write(self, clip_id: str, truth: Truth) -> Path:
        place = self.place(clip_id)
        self._copy_others(place)
        if not place.parent.resolve().is_relative_to(self.folder.resolve()):
            raise InputError(place, f"it lies outside of {self.folder}", todo="Remove the link.")
        write_text(place, _csv(truth))
        original = self._originals.get(clip_id)
        if original is not None and original.path.suffix != ".csv":
            contained(self.folder, str(self._name(original))).unlink(missing_ok=True)  # a clip has one label file
        return place

    def _name(self, file: LabelFile) -> Path:
        return file.path.relative_to(self._labels.path)

    def _corrected_file(self, clip_id: str) -> Path | None:
        """The label file of a clip in the folder, in the format of its original or as CSV, unless it is a mere copy."""
        original, places = self._originals.get(clip_id), [self.place(clip_id)]
        if original is not None:
            places.append(contained(self.folder, str(self._name(original))))
        place = next((place for place in places if place.is_file()), None)
        is_copy = place is not None and original is not None and original.path.read_bytes() == place.read_bytes()
        return None if is_copy else place

    def _copy_others(self, place: Path) -> None:
        """Copies label files that the folder lacks; it has a clip's file already where its CSV is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in self._labels.files:
            copy = contained(self.folder, str(self._name(file)))
            if not copy.exists() and not copy.with_suffix(".csv").exists() and copy.with_suffix(".csv") != place:
                with replacing(copy) as part:
                    part.write_bytes(file.path.read_bytes())


def _csv(truth: Truth) -> str:
    """Returns labels as CSV with the numbers as they were read: the shortest that give the same bits again."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["time_s", "valence", "arousal"])
    for time_s, levels in zip(truth.times_s.tolist(), truth.va, strict=True):
        writer.writerow([repr(time_s), *("" if np.isnan(level) else str(level) for level in levels)])
    return text.getvalue()


def empty_truth() -> Truth:
    """Returns the labels of a clip that has none."""
    return Truth(np.zeros(0), np.zeros((0, 2), np.float32), np.zeros(0, bool))


def gap_of(truth: Truth, hz: float) -> float:
    """Returns the seconds between labels: those of the file, else of the grid."""
    return float(usual_gap_s(truth.times_s)) if len(truth.times_s) > 1 else 1 / hz


def summary(truth: Truth) -> Mapping[str, int]:
    """Returns how many rows there are, and how many of them are annotated."""
    return {"rows": len(truth.times_s), "annotated": int(truth.mask.sum())}
