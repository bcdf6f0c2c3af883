"""A folder that is watched for complete recordings, and the ledger of those that are done.

A recording is complete when its size and the time of its last change have been the same for some seconds. Polling needs
no help of the file system, so that it also works on network shares.

The ledger is a journal (`data/journal.py`). Each version of a recording has these lines:

    begin ──► done | failed
          ──► release (the file changed or was away; or the process was asked to stop, and `done` may still follow)

A kill leaves a `begin` alone: the next start does the recording again. One that has been begun three times without an
end or release has probably taken the process with it, and counts as failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from .errors import InputError
from .hashing import json_sha256
from .journal import append_line, read_lines
from .manifest import Source, recordings_in

SETTLE_S = 5.0
MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class FileVersion:
    """The size of a file in bytes and the time of its last change: another version has another of the two."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileVersion | None:
        """Returns the version of a file; None where there is none."""
        try:
            status = path.stat()
        except OSError:
            return None
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Recording:
    """A complete recording: its source, and the version that was complete."""

    source: Source
    version: FileVersion

    @property
    def changed(self) -> bool:
        """True where the file has changed or gone since."""
        assert self.source.path is not None, "a recording has a path"
        return FileVersion.of(self.source.path) != self.version


@dataclass
class WatchedFolder:
    """Finds recordings in a folder, and in all below it, once they are complete.

    Args:
        folder: that is watched; hidden names, other suffixes and empty files are passed over.
        settle_s: seconds for which a file must stay the same.
        clock: seconds that only grow.
    """

    folder: Path
    settle_s: float = SETTLE_S
    clock: Callable[[], float] = monotonic
    _since: dict[str, tuple[FileVersion, float]] = field(default_factory=dict[str, tuple[FileVersion, float]])

    def complete(self, is_done: Callable[[str, FileVersion], bool]) -> list[Recording]:
        """Looks once; returns complete recordings that are not done, the oldest first.

        Args:
            is_done: True for a clip_id and version that need nothing more.
        """
        now, since, ready = self.clock(), dict[str, tuple[FileVersion, float]](), list[Recording]()
        for source in recordings_in(self.folder):
            version = FileVersion.of(source.path) if source.path else None
            if version is None or version.size == 0 or is_done(source.clip_id, version):
                continue
            known = self._since.get(source.clip_id)
            begun = known[1] if known and known[0] == version else now
            since[source.clip_id] = version, begun
            if now - begun >= self.settle_s:
                ready.append(Recording(source, version))
        self._since = since
        return sorted(ready, key=lambda recording: (recording.version.mtime_ns, recording.source.clip_id))


class WatchLedger:
    """The recordings that are done or failed, on disk.

    Args:
        path: of the file, which is made if it is missing.
        settings: that predictions depend on; plain JSON.

    Raises:
        InputError: if the ledger was written under other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self._ended = path, dict[tuple[str, FileVersion], bool]()
        self._begun = Counter[tuple[str, FileVersion]]()
        settings_sha256 = json_sha256(dict(settings))
        lines = list(read_lines(path))
        if any(line["event"] == "settings" and line["sha256"] != settings_sha256 for line in lines):
            todo = "Choose another --out, or delete this file to do all recordings again."
            raise InputError(path, "it was written with other models or options", todo=todo)
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            append_line(path, {"event": "settings", "sha256": settings_sha256})
        self._read(line for line in lines if line["event"] != "settings")

    def _read(self, lines: Iterable[Mapping[str, Any]]) -> None:
        for line in lines:
            key = line["clip_id"], FileVersion(line["size"], line["mtime_ns"])
            if line["event"] in ("begin", "release"):
                self._begun[key] += 1 if line["event"] == "begin" else -1
            else:
                self._ended[key] = line["event"] == "done"

    @property
    def num_done(self) -> int:
        """Recordings that are done, in any version."""
        return len({clip_id for (clip_id, _), done in self._ended.items() if done})

    def is_done(self, clip_id: str, version: FileVersion) -> bool:
        """True where a version of a recording is done, or has failed."""
        return (clip_id, version) in self._ended

    def num_attempts(self, recording: Recording) -> int:
        """Returns how often a recording was begun without an end."""
        return self._begun[recording.source.clip_id, recording.version]

    def begin(self, recording: Recording) -> None:
        """Notes that work on a recording begins."""
        self._append("begin", recording)
        self._begun[recording.source.clip_id, recording.version] += 1

    def release(self, recording: Recording) -> None:
        """Notes that work on a recording is about to be given up for a reason that is not its own."""
        self._append("release", recording)
        self._begun[recording.source.clip_id, recording.version] -= 1

    def end(self, recording: Recording, *, reason: str | None = None) -> None:
        """Notes that a recording is done; or, with a reason, that it has failed and is not to be tried again."""
        self._append("failed" if reason else "done", recording, **({"reason": reason} if reason else {}))
        self._ended[recording.source.clip_id, recording.version] = reason is None

    def _append(self, event: str, recording: Recording, **facts: Any) -> None:
        version = {"size": recording.version.size, "mtime_ns": recording.version.mtime_ns}
        append_line(self.path, {"event": event, "clip_id": recording.source.clip_id, **version, **facts})
