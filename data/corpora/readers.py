"""From the formats of annotations to one shape: labels with times, valence and arousal."""

from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..labels import NOT_ANNOTATED, Labels, read_label_file
from ..manifest import Source
from .base import ListedClip, attempt
from .gold import AnnotatorAgreement, Traces, agreement_of, gold_standard
from .tables import Table, header_of, read_table

TARGETS = ("valence", "arousal")
SPAN_HZ = 10.0  # instants per second that stand for a rating of a span
Spans = Sequence[tuple[float, float, float]]  # start, end, value
_TIMES = {"time_s": 1.0, "time_ms": 1000.0, "time": 1.0, "frametime": 1.0}
_TIER = re.compile(r"(valence|arousal)(?:[@_. -](.+))?", re.IGNORECASE)
_DELTA = re.compile(r"(?:(\d+) days? )?(?:(\d+):(\d+):)?(\d+(?:\.\d*)?)")


Rated = tuple[Labels, dict[str, AnnotatorAgreement]]


def labelled(source: Source, part: str | None, problems: Sequence[str], read: Callable[[], Rated]) -> ListedClip:
    """Returns a clip with the labels that `read` returns; where they cannot be read, that is a problem of the clip.

    Args:
        source: the clip.
        part: of the official split.
        problems: those that are known.
        read: returns labels and the agreement of their annotators.
    """
    known = list(problems)
    labels, agreement = attempt(known, source.clip_id, read) or (None, {})
    notes = beyond_note(labels) if labels else {}
    return ListedClip(source, labels, part, agreement=agreement, problems=tuple(known), notes=notes)


def read_frames(path: Path) -> Labels:
    """Reads a label file as training takes it, without its warnings, which `beyond_note` repeats.

    Raises:
        InputError: if it is malformed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_label_file(path)


def beyond_note(labels: Labels) -> dict[str, str]:
    """Returns a note about rows outside of [-1, 1], which training leaves out; {} where there are none."""
    beyond = int(((np.abs(labels.va) > 1) & (labels.va != NOT_ANNOTATED)).any(axis=1).sum())
    return {"label rows outside [-1, 1], not counted": f"{beyond} of {len(labels.va)}"} if beyond else {}


def fused(path: Path, targets: Mapping[str, Traces], gold: str) -> Rated:
    """Returns the labels of a clip and the agreement of its annotators.

    Args:
        path: names the file in errors.
        targets: valence and arousal; others are ignored.
        gold: how several annotators become one.

    Raises:
        InputError: if a target is missing, the two have different times, nothing is annotated, or annotators disagree.
    """
    lacking = [name for name in TARGETS if name not in targets]
    if lacking:
        raise InputError(path, f"no {lacking[0]}", todo="Both targets are needed.")
    times = [targets[name].times_s for name in TARGETS]
    if len(times[0]) != len(times[1]) or not np.allclose(times[0], times[1], atol=1e-6):
        raise InputError(path, "valence and arousal have different times", todo="Bring both to one time base.")
    try:
        va = np.stack([gold_standard(targets[name], gold) for name in TARGETS], axis=1).astype(np.float32)
    except InputError as error:
        raise error.at(path) from error
    labels = Labels(path, va, times[0])
    if not labels.mask.any():
        raise InputError(
            path, "no instant with valence and arousal in [-1, 1]", todo="Rescale them, or remove the file."
        )
    agreement = {name: one for name in TARGETS if (one := agreement_of(targets[name]))}
    return labels, agreement


def read_targets(name: str, paths: Mapping[str, Path], gold: str, time: tuple[str, float] | None = None) -> Rated:
    """Reads one file for each target of a clip.

    Args:
        name: the clip, named in errors where there is no file.
        paths: target -> file.
        gold: how several annotators become one.
        time: column of times and its units per second; None = by its name.

    Raises:
        InputError: if a target is missing, a file is malformed, or the two do not go together.
    """
    place = next(iter(paths.values()), Path(name))
    return fused(place, {target: read_trace(path, time) for target, path in paths.items()}, gold)


def time_column(table: Table) -> tuple[str, float] | None:
    """Returns the column of times and its units per second.

    `time_s`, `time` and `frameTime` are seconds, `time_ms` milliseconds; `timestamp` is milliseconds beside MuSe's
    `segment_id`, else seconds.
    """
    muse = "segment_id" in table.names
    units = {**_TIMES, "timestamp": 1000.0 if muse else 1.0}
    return next(((name, units[name.lower()]) for name in table.names if name.lower() in units), None)


def read_trace(path: Path, time: tuple[str, float] | None = None) -> Traces:
    """Reads one target of one clip: a column of times, and one column per annotator.

    Columns `name`, `Instance_name` and `segment_id` are no annotators. `time` is as for `read_targets`.

    Raises:
        InputError: if it has no times or no values.
    """
    table = read_table(path)
    time = time or _time(table)
    annotators = [name for name in table.names if name != time[0] and name.lower() not in _NO_VALUES]
    if not annotators:
        raise InputError(f"{path}:1", "no column of values", todo="Add the column.")
    values = np.stack([table.numbers(name) for name in annotators], axis=1)
    return Traces(table.times_s(*time), values)


def read_both(path: Path) -> dict[str, Traces]:
    """Reads a table with times and a column for each target.

    Raises:
        InputError: if a column is missing.
    """
    table = read_table(path)
    columns = {name.lower(): name for name in table.names}
    lacking = [name for name in TARGETS if name not in columns]
    if lacking:
        raise InputError(f"{path}:1", expected=f"a column {lacking[0]}", got=", ".join(table.names), todo="Add it.")
    times_s = table.times_s(*_time(table))
    return {name: Traces(times_s, table.numbers(columns[name])[:, None]) for name in TARGETS}


def _time(table: Table) -> tuple[str, float]:
    time = time_column(table)
    if time is None:
        expected = "a column time_s, time_ms, time, timestamp or frameTime"
        raise InputError(f"{table.path}:1", expected=expected, got=", ".join(table.names) or "none", todo="Name it so.")
    return time


_NO_VALUES = {"name", "instance_name", "segment_id", "file", ""}


# Ratings of spans


def instants(columns: Mapping[str, Spans], place: object) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns times (S,) and values (S, K) of K columns of spans; NaN where a column has none.

    A rating holds throughout its span: 10 instants per second, evenly spaced inside it and never on its ends.

    Raises:
        InputError: if spans of a column overlap, or end before they begin.
    """
    arrays = {name: np.array(sorted(spans), np.float64).reshape(-1, 3) for name, spans in columns.items()}
    for spans in arrays.values():
        _check_spans(spans, place)
    edges = np.unique(np.concatenate([np.empty(0), *(spans[:, :2].ravel() for spans in arrays.values())]))
    starts, lengths = edges[:-1], np.diff(edges)
    values = np.stack([_values_at(starts + lengths / 2, spans) for spans in arrays.values()], axis=1)
    rated = np.isfinite(values).any(axis=1)
    starts, lengths, values = starts[rated], lengths[rated], values[rated]
    num = np.maximum(1, np.round(lengths * SPAN_HZ).astype(int))
    place_in_span = np.arange(num.sum()) - np.repeat(np.cumsum(num) - num, num) + 0.5
    times = np.repeat(starts, num) + place_in_span * np.repeat(lengths / num, num)
    return times, np.repeat(values, num, axis=0)


def _check_spans(spans: NDArray[np.float64], place: object) -> None:
    starts, ends = spans[:, 0], spans[:, 1]
    empty, overlapping = ends <= starts, starts[1:] < ends[:-1] - 1e-6
    if empty.any():
        row = int(empty.argmax())
        raise InputError(place, f"a rating from {starts[row]:g} s to {ends[row]:g} s", todo="Correct its times.")
    if overlapping.any():
        row = int(overlapping.argmax())
        problem = f"two ratings overlap: one ends at {ends[row]:g} s, the next begins at {starts[row + 1]:g} s"
        raise InputError(place, problem, todo="Rate each instant once.")


def _values_at(times_s: NDArray[np.float64], spans: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ratings at instants; NaN outside of all spans."""
    if not len(spans):
        return np.full(len(times_s), np.nan)
    rows = np.searchsorted(spans[:, 0], times_s, side="right") - 1
    return np.where((rows >= 0) & (times_s < spans[rows, 1]), spans[rows, 2], np.nan)


def read_eaf(path: Path) -> dict[str, Traces]:
    """Reads an ELAN file: tiers `valence` and `arousal`, or one per annotator, such as `valence@A1`.

    The text of an annotation is the rating of its span. Times count from the TIME_ORIGIN of the recording.

    Raises:
        InputError: if there are no such tiers, an annotation has no time, its text is no number, or the file names
            recordings with different origins.
    """
    try:
        # expat reads no external entity, and bounds what entities amplify
        root = ET.parse(path).getroot()  # nosec B314
    except ET.ParseError as error:
        raise InputError(path, f"no ELAN file: {error}", todo="Save it again in ELAN.") from error
    slots = {slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in root.iter("TIME_SLOT")}
    tiers: dict[str, list[tuple[float, float, float]]] = {}
    for tier in root.iter("TIER"):
        name = tier.get("TIER_ID", "")
        if _TIER.fullmatch(name):
            tiers[name] = [_annotation(one, slots, f"{path} tier {name}") for one in tier.iter("ALIGNABLE_ANNOTATION")]
    if not tiers:
        got = ", ".join(tier.get("TIER_ID", "") for tier in root.iter("TIER")) or "none"
        raise InputError(
            path, expected="tiers valence and arousal", got=got, todo="Name them so, or valence@ANNOTATOR."
        )
    times_s, values = instants(tiers, path)
    return _by_target(times_s + _origin_s(root, path), values, list(tiers))


def _origin_s(root: ET.Element, path: Path) -> float:
    """Seconds of the recording at which the annotations begin."""
    cells = [media.get("TIME_ORIGIN", "0") for media in root.iter("MEDIA_DESCRIPTOR")]
    wrong = [cell for cell in cells if not re.fullmatch(r"[+-]?\d+", cell)]
    if wrong:
        expected = "a TIME_ORIGIN in milliseconds"
        raise InputError(path, expected=expected, got=repr(wrong[0]), todo="Correct it, or save it again in ELAN.")
    origins = sorted({int(cell) for cell in cells})
    if len(origins) > 1:
        problem = f"two recordings with different TIME_ORIGIN, {origins[0]} and {origins[1]} ms"
        raise InputError(path, problem, todo="Keep the one that was annotated, in ELAN's Linked Files.")
    return origins[0] / 1000 if origins else 0.0


def _by_target(times_s: NDArray[np.float64], values: NDArray[np.float64], names: Sequence[str]) -> dict[str, Traces]:
    targets = [match[1].lower() for name in names if (match := _TIER.fullmatch(name))]
    chosen = {target: [k for k, name in enumerate(targets) if name == target] for target in dict.fromkeys(targets)}
    return {target: Traces(times_s, values[:, columns]) for target, columns in chosen.items()}


def _annotation(one: ET.Element, slots: Mapping[str | None, str | None], place: str) -> tuple[float, float, float]:
    times = [slots.get(one.get(name)) for name in ("TIME_SLOT_REF1", "TIME_SLOT_REF2")]
    text = (one.findtext("ANNOTATION_VALUE") or "").strip()
    if None in times:
        raise InputError(place, f"annotation {text!r} has no time", todo="Align it in ELAN.")
    try:
        return float(times[0] or 0) / 1000, float(times[1] or 0) / 1000, float(text.replace(",", "."))
    except ValueError:
        raise InputError(place, expected="a number", got=repr(text[:60]), todo="Correct the annotation.") from None


def is_audformat(path: Path) -> bool:
    """True for a CSV table of audformat: columns file, start, end, valence, arousal."""
    return path.suffix.lower() == ".csv" and {"file", "start", "end", *TARGETS} <= set(header_of(path))


def read_audformat(path: Path) -> dict[str, dict[str, Traces]]:
    """Reads a segmented table of audformat: file -> target -> ratings of its spans.

    Raises:
        InputError: if a file, a start or an end is missing, a start or an end is no time, or spans of a file overlap.
    """
    table = read_table(path)
    cells = {name: zip(table.texts(name), table.lines, strict=True) for name in ("start", "end")}
    starts, ends = ([_seconds(cell, path, line) for cell, line in column] for column in cells.values())
    columns = {name: table.numbers(name) for name in TARGETS}
    rows: dict[str, list[int]] = {}
    for row, (file, line) in enumerate(zip(table.texts("file"), table.lines, strict=True)):
        if not PurePosixPath(file).name:
            todo = "Name the recording of each segment."
            raise InputError(f"{path}:{line}", expected="a file", got=repr(file), todo=todo)
        rows.setdefault(file, []).append(row)
    result: dict[str, dict[str, Traces]] = {}
    for file, own in rows.items():
        spans = {
            name: [(starts[row], ends[row], float(values[row])) for row in own] for name, values in columns.items()
        }
        times_s, values = instants({name: spans[name] for name in TARGETS}, f"{path}, {file}")
        result[file] = {name: Traces(times_s, values[:, [k]]) for k, name in enumerate(TARGETS)}
    return result


def _seconds(cell: str, path: Path, line: int) -> float:
    """Seconds of `0 days 00:00:01.5`, `00:00:01.5` or `1.5`."""
    match = _DELTA.fullmatch(cell)
    if not match:
        todo = "Give start and end of each segment."
        raise InputError(f"{path}:{line}", expected="a time", got=repr(cell), todo=todo)
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
