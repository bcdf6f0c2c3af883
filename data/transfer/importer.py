"""Features that people already have, into the cache: checked, and given their times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..clip import VALUE_DTYPES, Clip, FrameClock, Track
from ..errors import DamagedError, InputError, printable
from ..hashing import json_sha256
from ..labels import LabelFile, LabelFolder, label_names
from ..store.base import FailedClip, Store
from ..store.entry import Entry
from ..store.fingerprint import SCHEMA_VERSION, is_modality, stream_name
from ..store.groups import EntryGroup
from ..store.root import check_terms
from .array_files import OpenFiles
from .length_checks import check_labels, check_length, last_end_s
from .read_csv import Features, Rules
from .read_files import ClipFile, exported_facts, find_features


@dataclass(frozen=True)
class Imported:
    """The outcome of `import_features`.

    Args:
        stream: its full name.
        clips: ids of the imported clips; those that were there already included.
        failures: unreadable files, and lengths that do not fit the recording in the cache.
    """

    stream: str
    clips: list[str]
    failures: list[FailedClip]

    def to_json(self) -> dict[str, Any]:
        """Returns all fields as plain values."""
        return asdict(self)


def import_features(
    store: Store,
    source: Path,
    *,
    stream: str,
    hz: float | None = None,
    key: str | None = None,
    time_column: str | None = None,
    columns: Sequence[str] = (),
    labels: Path | None = None,
    overwrite: bool = False,
) -> Imported:
    """Adds one stream to a cache from arrays of shape (T, D), one per clip.

    Times are those in the files, else row k stands at k / hz seconds. Rows that hold NaN or infinity are masked.
    float16, bfloat16 and float32 stay what they are, other numbers become float32. `a/video` is the clip
    `a/video.mp4`, and `video_left` the clip `video.mp4#left`, where the cache has those.

    Args:
        source: a folder of one `.npy`, `.npz`, `.csv`, `.h5` or `.safetensors` per clip, named by clip and searched
            recursively; or one `.npz`, `.h5` or `.safetensors` whose arrays are named `<clip_id>` or
            `<clip_id>/<key>`, or stand in a group per clip together with their times.
        stream: `visual/NAME` or `audio/NAME`.
        hz: rows per second, where the files have no times.
        key: which array to take where a file, or a clip's group in it, holds several.
        time_column: `NAME:s` or `NAME:ms`: the times in the files, where their name does not have the unit, as `time_s`
            and `time_ms` have.
        columns: patterns of the CSV columns to take; by default all that are numbers, except times, `segment_id`,
            `frame`, `face_id`, and OpenFace's `success` (a mask) and `confidence` (a quality signal).
        labels: a folder of label files; a clip whose length does not fit its labels fails.
        overwrite: replace entries that were made from other files.

    Raises:
        InputError: if an option is wrong, nothing is found, or the cache is not under the terms of an export.
    """
    files = check_import(source, stream=stream, hz=hz, key=key, time_column=time_column, columns=columns)
    rules, (modality, alias) = Rules(key, time_column, tuple(columns)), _checked(stream)
    facts = exported_facts(source)
    check_terms(store.url, store.root(), facts.get("licence"), True if facts.get("restricted") else None)
    fingerprint = _fingerprint(modality, alias, hz, rules)
    full = stream_name(modality, alias, fingerprint)
    joined = LabelFolder(labels).join([one.clip_id for one in files]).files if labels else {}
    return _Import(store, full, fingerprint, hz, rules, joined, overwrite).run(files)


def check_import(
    source: Path, *, stream: str, hz: float | None, key: str | None, time_column: str | None, columns: Sequence[str]
) -> list[ClipFile]:
    """Returns what `import_features` would import; called before a cache is made for it.

    Raises:
        InputError: if an option is wrong or nothing is found.
    """
    _checked(stream)
    _check_hz(hz, time_column)
    files = find_features(source, Rules(key, time_column, tuple(columns)))
    if hz is None and all(one.needs_hz() for one in files):
        raise _no_times(source)
    return files


def _checked(stream: str) -> tuple[str, str]:
    modality, _, alias = stream.partition("/")
    if not is_modality(modality) or not alias:
        todo = "For example --stream visual/openface or text/bert."
        raise InputError(f"stream {stream!r}", expected="MODALITY/NAME in small letters", got=repr(stream), todo=todo)
    return modality, alias


def _check_hz(hz: float | None, time_column: str | None) -> None:
    if hz is not None and not 0.001 <= hz <= 100_000:
        raise InputError("hz", expected="rows per second", got=f"{hz}", todo="Correct it.")
    if hz is not None and time_column:
        todo = "Leave one of them out."
        raise InputError("hz", expected="a rate or times in the files", got="both hz and time_column", todo=todo)


def _fingerprint(modality: str, alias: str, hz: float | None, rules: Rules) -> dict[str, Any]:
    """Returns all that decides the values; options that are not given leave no trace."""
    encoder: dict[str, Any] = {"kind": "import", "name": alias, "array": rules.key}
    if rules.columns:
        encoder["columns"] = sorted(rules.columns)
    facts = {"schema_version": SCHEMA_VERSION, "modality": modality, "encoder": encoder}
    if rules.time_column:
        facts["time_column"] = rules.time_column
    return {**facts, "times": "file"} if hz is None else {**facts, "hz": float(hz)}


@dataclass(frozen=True)
class _Import:
    """One run: where to, and by what rules."""

    store: Store
    stream: str
    fingerprint: Mapping[str, Any]
    hz: float | None
    rules: Rules
    labels: Mapping[str, LabelFile]
    overwrite: bool

    def run(self, clip_files: list[ClipFile]) -> Imported:
        """Imports clip by clip, and commits them in groups; a bad file never stops the rest."""
        done, failures, group = list[str](), list[FailedClip](), EntryGroup()

        def failed(clip_id: str, error: InputError) -> None:
            clip_id = printable(clip_id)
            failures.append(FailedClip(clip_id, error.about(clip_id)))
            self.store.log_failure(clip_id, error.about(clip_id), streams=[self.stream])

        with OpenFiles() as files:
            for one in clip_files:
                try:
                    clip_id = self._name_in_cache(one.clip_id)
                except InputError as error:
                    failed(one.clip_id, error)
                    continue
                if group.full or any(entry.clip_id == clip_id for entry in group.entries):
                    self.store.commit_all(group.take(), overwrite=self.overwrite)
                try:
                    entry = self._entry(one, clip_id, files)
                except InputError as error:
                    failed(clip_id, error)
                    continue
                done.append(clip_id)
                if entry is not None:
                    group.add(entry)
        self.store.commit_all(group.take(), overwrite=self.overwrite)
        return Imported(self.stream, done, failures)

    @cached_property
    def _clips(self) -> dict[str, list[str]]:
        """The clips of the cache by each name that a file of theirs may have; their own name counts alone."""
        clip_ids = self.store.clip_ids()
        by_name: dict[str, list[str]] = {}
        for clip_id in clip_ids:
            for name in set(label_names(clip_id)):
                by_name.setdefault(name, []).append(clip_id)
        return {**by_name, **{clip_id: [clip_id] for clip_id in clip_ids}}

    def _name_in_cache(self, name: str) -> str:
        clip_ids = self._clips.get(name, [name])
        if len(clip_ids) > 1:
            todo = "Name the file after one of them, suffix and all."
            raise InputError(name, expected="the name of one clip", got=" and ".join(clip_ids), todo=todo)
        return clip_ids[0]

    def _entry(self, file: ClipFile, clip_id: str, files: OpenFiles) -> Entry | None:
        """Returns what is to be committed; None where it is there already."""
        early = file.sha256()
        if early and not self.overwrite and self.store.has(clip_id, self.stream, early):
            return None
        features = file.load(self.rules, files)
        if not self.overwrite and self.store.has(clip_id, self.stream, features.sha256):
            return None
        track = self._track(file, features)
        known = self._recording(clip_id)
        clip = known or self._new_clip(clip_id, track, features)
        if known:
            check_length(known, track, self.hz)
        if file.clip_id in self.labels:
            check_labels(clip, track, self.labels[file.clip_id].labels)
        report = {"path": file.path.name, "array": self.rules.key, "num_rows": track.num_frames}
        if features.names:
            report["columns_sha256"] = json_sha256(features.names)
        self._check_alike(clip_id, track, report.get("columns_sha256"))
        return self.store.prepare(
            clip,
            self.stream,
            track,
            fingerprint=self.fingerprint,
            source_sha256=features.sha256,
            report=report,
            overwrite=self.overwrite,
        )

    def _track(self, file: ClipFile, features: Features) -> Track:
        values = _as_values(file.clip_id, features.values)
        if self.hz is not None and features.times_s is not None:
            todo = "Leave --hz out."
            raise InputError(file.path, expected="no times, since --hz is given", got="times in the file", todo=todo)
        if self.hz is not None:
            times_s = FrameClock.regular(self.hz, len(values)).times_s
        elif features.times_s is not None:
            times_s = features.times_s
        else:
            raise _no_times(file.path)
        finite = np.asarray(np.isfinite(values).all(axis=1))
        mask = finite if features.mask is None else finite & features.mask
        return Track.of(values, times_s, mask, features.quality)

    def _recording(self, clip_id: str) -> Clip | None:
        """Returns the clip as the cache has it from its medium, or None."""
        if clip_id not in self._clips:
            return None
        with suppress(DamagedError):  # of this stream perhaps, which is about to be made again
            clip = self.store.clip(clip_id)
            return clip if clip.media else None
        return None

    def _new_clip(self, clip_id: str, track: Track, features: Features) -> Clip:
        """A clip of which only the features are known. Rows of a visual stream at a constant rate are its frames."""
        if self.hz is not None:
            clock = FrameClock.regular(self.hz, track.num_frames) if self.stream.startswith("visual/") else None
            return Clip(clip_id, duration_s=track.num_frames / self.hz, clock=clock)
        pts = np.rint(track.times_s * 1e6).astype(np.int64)
        known = features.rows_are_frames and self.stream.startswith("visual/") and (np.diff(pts) > 0).all()
        return Clip(
            clip_id, duration_s=last_end_s(track.times_s), clock=FrameClock(Fraction(1, 10**6), pts) if known else None
        )

    @cached_property
    def _like(self) -> dict[str, Any]:
        """The width and columns that the stream has so far; filled by the first clip where the cache has none."""
        for clip_id in self.store.clip_ids(self.stream):
            with suppress(DamagedError):
                record = self.store.record(clip_id, self.stream)
                columns_sha256 = record["report"].get("columns_sha256")
                return {"clip_id": clip_id, "dim": record["shape"][1], "columns_sha256": columns_sha256}
        return {}

    def _check_alike(self, clip_id: str, track: Track, columns_sha256: str | None) -> None:
        """Refuses features of another width, or other columns, than the stream has so far."""
        first = self._like
        todo = "Choose the same features in all files, with --column or --key."
        if first and track.dim != first["dim"]:
            expected = f"{first['dim']} features, as {first['clip_id']} has"
            raise InputError(clip_id, expected=expected, got=f"{track.dim}", todo=todo)
        if first.get("columns_sha256") is None:
            first.update(clip_id=clip_id, dim=track.dim, columns_sha256=columns_sha256)
        if columns_sha256 not in (None, first["columns_sha256"]):
            raise InputError(clip_id, expected=f"the columns of {first['clip_id']}", got="others", todo=todo)


def _no_times(place: Path) -> InputError:
    todo = "Give --hz, or save the times with the features (time_s)."
    return InputError(place, expected="times or a rate", got="neither", todo=todo)


def _as_values(clip_id: str, values: NDArray[Any]) -> NDArray[Any]:
    """The features as the cache can hold them.

    Raises:
        InputError: if they are no numbers of shape (T, D), or too large for float32.
    """
    if values.ndim != 2 or 0 in values.shape or not (values.dtype.kind in "fiu" or values.dtype.name == "bfloat16"):
        got = f"{values.shape} {values.dtype}"
        todo = "Save one row of features per frame."
        raise InputError(clip_id, expected="numbers of shape (T, D)", got=got, todo=todo)
    if values.dtype.name in VALUE_DTYPES:
        return values
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    lost = np.argwhere(np.isinf(narrow) & np.isfinite(values))
    if len(lost):
        row, column = lost[0]
        got = f"{values[row, column]:g} in row {row}, column {column} (counted from 0)"
        raise InputError(clip_id, expected="values that float32 can hold", got=got, todo="Rescale the features.")
    return narrow
