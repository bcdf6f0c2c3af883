"""Features in files of many kinds: found by clip, and read when their turn comes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..file_tree import walk
from ..hashing import array_sha256, file_sha256, json_sha256
from .array_files import Arrays, OpenFiles, opened, readable, reason_of
from .read_csv import QUALITY, Features, Rules, checked_times, read_csv

CONTAINERS = (".npz", ".h5", ".hdf5", ".safetensors")
SUFFIXES = (".npy", ".csv", *CONTAINERS)
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib")
FRAMES = ".frames.npy"  # times, mask and quality of an exported clip
FACTS = "cache.json"


@dataclass(frozen=True)
class ClipFile:
    """The features of one clip, not read yet.

    Args:
        clip_id: the name of its place.
        path: the file that they lie in.
        members: the arrays of that file which are the clip's; None = all.
        problem: the reason why they cannot be read; None = they may be.
    """

    clip_id: str
    path: Path
    members: tuple[str, ...] | None = None
    problem: InputError | None = None

    @property
    def frames_path(self) -> Path | None:
        """Times, mask and quality of an exported clip."""
        path = self.path.with_suffix(FRAMES)
        return path if self.path.suffix == ".npy" and path.exists() else None

    def needs_hz(self) -> bool:
        """True where the file cannot have times of its own."""
        return self.path.suffix == ".npy" and not self.frames_path

    def sha256(self) -> str | None:
        """Hash of the file, where that is known without taking it apart."""
        if self.problem or self.path.suffix.lower() != ".csv":
            return None
        with readable(self.path):
            return file_sha256(self.path)

    def load(self, rules: Rules, files: OpenFiles) -> Features:
        """Reads the features.

        Args:
            rules: which arrays or columns to take.
            files: is shared by all clips.

        Raises:
            InputError: if the file cannot be read or holds something else.
        """
        if self.problem:
            raise self.problem
        kind = self.path.suffix.lower()
        with readable(self.path):
            if kind == ".csv":
                return read_csv(self.path, rules, file_sha256(self.path))
            return self._load_npy() if kind == ".npy" else self._load_member(rules, files.arrays(self.path))

    def _load_npy(self) -> Features:
        values = np.load(self.path, allow_pickle=False)
        if not isinstance(values, np.ndarray):
            raise ValueError("an archive named .npy")
        if self.frames_path is None:
            return Features(values, None, None, {}, None, False, array_sha256(values))
        frames = np.load(self.frames_path, allow_pickle=False)
        fields = frames.dtype.names or ()
        plain = all(frames.dtype[name].kind in "fb" for name in fields)
        if frames.shape != values.shape[:1] or fields[:2] != ("time_s", "mask") or not plain:
            todo = "Export the clip again."
            got = f"{', '.join(fields) or 'no fields'} of shape {frames.shape}"
            raise InputError(self.frames_path, expected="time_s and mask of each row", got=got, todo=todo)
        times_s = checked_times(self.frames_path, frames["time_s"].astype(np.float64), first_line=0)
        quality = {m[1]: (m[2], frames[name]) for name in fields if (m := QUALITY.fullmatch(name))}
        sha256 = json_sha256([array_sha256(values), array_sha256(frames)])
        return Features(values, times_s, frames["mask"].astype(bool), quality, None, False, sha256)

    def _load_member(self, rules: Rules, arrays: Arrays) -> Features:
        members = list(self.members or arrays.names)
        by_name = {_base(name): name for name in members}
        time = rules.find_time(self.path, list(by_name)) if len(members) > 1 or rules.time_column else None
        values = arrays.read(self._choose(members, rules))
        if time is None:
            return Features(values, None, None, {}, None, False, array_sha256(values))
        ticks = arrays.read(by_name[time[0]])
        if ticks.shape != values.shape[:1] or ticks.dtype.kind not in "fiu":
            got = f"{ticks.shape} {ticks.dtype} for {values.shape}"
            raise InputError(self.path, expected="one time per row", got=got, todo="Correct the times.")
        times_s = checked_times(self.path, ticks.astype(np.float64) / time[1], first_line=0)
        sha256 = json_sha256([array_sha256(values), array_sha256(ticks)])
        return Features(values, times_s, None, {}, None, False, sha256)

    def _choose(self, names: list[str], rules: Rules) -> str:
        """Returns the name of the array that holds the clip's features."""
        features = [n for n in names if not rules.is_time(_base(n))] if len(names) > 1 else names
        chosen = [n for n in features if rules.key is None or f"/{n}".endswith(f"/{rules.key}")]
        if len(chosen) == 1:
            return chosen[0]
        got = ", ".join(features) or "none"
        if rules.key is None:
            raise InputError(self.path, expected="one array", got=got, todo="Choose one with --key.")
        raise InputError(self.path, expected=f"an array {rules.key!r}", got=got, todo="Choose another --key.")


def find_features(source: Path, rules: Rules) -> list[ClipFile]:
    """All features in a folder or a file, sorted by clip.

    Raises:
        InputError: if there are none, or options do not fit what is there.
    """
    if not source.exists():
        todo = "Give a folder of files, one per clip, or one file of many clips."
        raise InputError(source, expected="a folder or a file", got="neither", todo=todo)
    kind = source.suffix.lower()
    if source.is_dir():
        files = _in_folder(source)
    elif kind in CONTAINERS:
        files = _in_container(source, rules)
    else:
        files = [ClipFile(source.stem, source, problem=_pickle(source))] if kind in (*SUFFIXES, *PICKLES) else []
        for only in files:
            if only.problem:
                raise only.problem
    if not files:
        named = f" named {rules.key!r}" if rules.key else ""
        todo = "See `sage-va cache import --help` for the layouts."
        raise InputError(source, expected=f"features{named} in {', '.join(SUFFIXES)}", got="none", todo=todo)
    if rules.columns and not any(one.path.suffix.lower() == ".csv" for one in files):
        raise InputError("columns", expected="CSV files", got="none", todo="Choose an array with --key.")
    return sorted(files, key=lambda one: one.clip_id)


def exported_facts(source: Path) -> dict[str, Any]:
    """Returns the facts that `sage-va cache export` wrote to a folder, or to that of a file; {} where there are none.

    Raises:
        InputError: if it cannot be read.
    """
    path = (source if source.is_dir() else source.parent) / FACTS
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        ours = isinstance(facts, dict) and facts.keys() >= {"stream", "clips", "licence", "restricted"}
        if ours and not all(isinstance(place, str) for place in facts["clips"].values()):
            raise TypeError("files whose names are no texts")
        return facts if ours else {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        todo = "Export again, or remove the file if it is none of ours."
        raise InputError(path, expected="the facts of an export", got=reason_of(error), todo=todo) from None


def _in_folder(folder: Path) -> list[ClipFile]:
    """One file per clip, `<clip_id><suffix>`, or as the facts of an export name them."""
    clip_ids = {place: clip_id for clip_id, place in exported_facts(folder).get("clips", {}).items()}
    by_clip: dict[str, list[Path]] = {}
    for path in sorted(Path(parent, name) for parent, _, names in walk(folder) for name in names):
        place = path.relative_to(folder).as_posix()
        if path.suffix.lower() not in (*SUFFIXES, *PICKLES) or "/." in f"/{place}" or not path.is_file():
            continue
        if place.endswith(FRAMES) and path.with_name(f"{path.name.removesuffix(FRAMES)}.npy").exists():
            continue
        clip_id = clip_ids.pop(place, place[: -len(path.suffix)])
        by_clip.setdefault(clip_id, []).append(path)
    lost = [ClipFile(clip_id, folder / place, problem=_lost(folder / place)) for place, clip_id in clip_ids.items()]
    return lost + [ClipFile(c, paths[0], problem=_rival(c, paths) or _pickle(paths[0])) for c, paths in by_clip.items()]


def _lost(path: Path) -> InputError:
    return InputError(path, expected="a file that the export names", got="none", todo="Export again.")


def _rival(clip_id: str, paths: list[Path]) -> InputError | None:
    if len(paths) == 1:
        return None
    got = " and ".join(path.name for path in paths)
    return InputError(clip_id, expected="one file per clip", got=got, todo="Keep one of them in the folder.")


def _pickle(path: Path) -> InputError | None:
    """Returns the error for a pickle, None for other files."""
    if path.suffix.lower() not in PICKLES:
        return None
    todo = "Save the arrays with numpy.save or safetensors where you trust the file; a pickle can run any code."
    return InputError(path, expected="plain arrays", got=f"a pickle ({path.suffix})", todo=todo)


def _in_container(path: Path, rules: Rules) -> list[ClipFile]:
    """Many clips: `<clip_id>`, `<clip_id>/<key>`, or a group per clip that holds features and their times."""
    with readable(path), opened(path) as arrays:
        groups: dict[str, list[str]] = {}
        for name in arrays.names:
            groups.setdefault(name.rpartition("/")[0], []).append(name)
    files: dict[str, ClipFile] = {}
    for group, members in groups.items():
        timed = any(rules.is_time(_base(name)) for name in members)
        for name in members:
            whole, siblings = name, (name,)
            if rules.key:
                if not f"/{name}".endswith(f"/{rules.key}"):
                    continue
                whole, siblings = name[: -len(rules.key)].rstrip("/"), tuple(members)
            elif timed:
                whole, siblings = group, tuple(members)
            clip_id = whole or path.stem  # the file of one clip
            files[clip_id] = ClipFile(clip_id, path, siblings)
    return list(files.values())


def _base(name: str) -> str:
    return name.rpartition("/")[2]
