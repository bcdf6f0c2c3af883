"""The store contract that every cache format keeps, and `open_store(url)`."""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from numpy.typing import NDArray

from .clip import MODALITIES, Clip, Track
from .errors import DamagedError, InputError
from .fingerprint import (
    ARRAYS,
    SCHEMA_VERSION,
    array_sha256,
    clip_id_of,
    clip_key,
    json_sha256,
    sealed,
    stream_alias,
    unsealed,
)

Mode = Literal["r", "a"]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Problem:
    """Something `verify` found: the clip and stream it concerns ("" for the cache itself) and what is wrong."""

    clip_id: str
    stream: str
    what: str


class Store(ABC):
    """A feature cache. Streams of clips go in whole, once, and come out checked.

    A stream is named `<modality>/<alias>-<8 hex of its fingerprint>`; its record (the commit mark) is written last
    and holds the whole fingerprint, what is known of the clip, and the SHA-256 of each array. Readers see only entries
    with a record. Nothing that several writers would have to change together exists: a clip is what the records of
    its streams say. Subclasses say where bytes lie; everything that is promised about them is decided here.
    """

    url: str

    @abstractmethod
    def root(self) -> dict[str, Any]:
        """The cache's own attributes: schema_version, created_by, licence."""

    @abstractmethod
    def _keys(self) -> list[str]:
        """Sorted clip keys that exist as places, committed or not."""

    @abstractmethod
    def _names(self, key: str) -> list[str]:
        """Sorted stream names that exist as places under a clip, committed or not."""

    @abstractmethod
    def _load_clip(self, key: str) -> dict[str, Any]:
        """The attributes of a clip's place; {} where there are none."""

    @abstractmethod
    def _save_clip(self, key: str, attrs: Mapping[str, Any]) -> None:
        """Makes a clip's place, or replaces its attributes, atomically."""

    @abstractmethod
    def _load_record(self, key: str, stream: str) -> dict[str, Any]:
        """The stream's attributes; {} where there are none, anything unsealed where they cannot be read."""

    @abstractmethod
    def _load_arrays(self, key: str, stream: str) -> Arrays:
        """The four arrays of a stream, read whole."""

    @abstractmethod
    def _save_stream(self, key: str, stream: str, arrays: Arrays, record: Mapping[str, Any], overwrite: bool) -> None:
        """Puts a stream in its place whole, durable before it is visible.

        A sound entry that is there already stays, unless overwriting; then it goes only when the new one is in place.
        """

    @abstractmethod
    def _damaged_places(self) -> list[str]:
        """Places that hold clips and streams together and are not as they were written."""

    @abstractmethod
    def leftovers(self) -> list[str]:
        """Temporary places that an interrupted writer left; harmless, and cleared by a later writer."""

    @abstractmethod
    def _log(self, entry: Mapping[str, Any]) -> None:
        """Appends one line to the journal."""

    @final
    def clip_ids(self) -> list[str]:
        """Sorted ids of the clips that have at least one committed stream."""
        return sorted(self._clip_id(key) for key in self._keys() if self._committed(key))

    @final
    def clip(self, clip_id: str) -> Clip:
        """What the cache knows of a clip: all that was said of it when its streams were committed.

        Raises:
            InputError: if there is none. DamagedError: if a record of it is not what was written.
        """
        known: dict[str, Any] = {}
        for stream in self._committed(clip_key(clip_id)):  # audio first: visual, which has the frame clock, prevails
            known |= self.record(clip_id, stream)["clip"]
        if not known:
            raise InputError(clip_id, expected=f"a clip of {self.url}", got="none of that name", todo="See `cache ls`.")
        return Clip.from_json(known)

    @final
    def streams(self, clip_id: str | None = None) -> list[str]:
        """Sorted full names of the committed streams of a clip, or of all clips."""
        keys = self._keys() if clip_id is None else [clip_key(clip_id)]
        return sorted({stream for key in keys for stream in self._committed(key)})

    @final
    def resolve(self, name: str) -> str:
        """A full stream name from a full name, an alias (`visual/dinov2-s`) or a modality with one stream (`visual`).

        Raises:
            InputError: if none or several streams are meant.
        """
        streams = self.streams()
        found = [s for s in streams if name in (s, stream_alias(s), s.split("/")[0])]
        if len(found) != 1:
            raise InputError(
                f"stream {name!r}",
                expected="the name of one stream",
                got=f"{len(found)} that match",
                todo=f"{self.url} holds: {', '.join(found or streams) or 'nothing'}.",
            )
        return found[0]

    @final
    def has(self, clip_id: str, stream: str, source_sha256: str) -> bool:
        """Whether a stream of a clip is committed; False where its record is damaged, so that it is made again.

        Raises:
            InputError: if it is, but was made from other bytes than `source_sha256` names.
        """
        record = unsealed(self._load_record(clip_key(clip_id), stream))
        if record is None:
            return False
        if record["source_sha256"] != source_sha256:
            raise InputError(
                clip_id,
                expected=f"the medium that {stream} was made from",
                got="a file with other bytes",
                todo="Give the new file a name of its own, or extract with --overwrite.",
            )
        return True

    @final
    def commit(
        self,
        clip: Clip,
        stream: str,
        track: Track,
        *,
        fingerprint: Mapping[str, Any],
        source_sha256: str,
        report: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Puts one stream of one clip into the cache, whole or not at all; the first writer of an entry wins.

        Args:
            fingerprint: all that decides the values; its hash is part of `stream`.
            source_sha256: hash of the medium that the track was made from.
            report: what the decoder saw (counts, first times); for people.
            overwrite: replace an entry of the same name.

        Raises:
            InputError: if the entry exists and was made from another medium, and `overwrite` is False.
        """
        self._check_name(stream, fingerprint)
        key = clip_key(clip.clip_id)
        place = sealed({"clip_id": clip.clip_id})
        if self._load_clip(key) != place:
            self._save_clip(key, place)
        if not overwrite and self.has(clip.clip_id, stream, source_sha256):
            return
        arrays: Arrays = {name: getattr(track, name) for name in ARRAYS}
        record: dict[str, Any] = {
            "commit": True,
            "schema_version": SCHEMA_VERSION,
            "clip": clip.to_json(),
            "fingerprint": dict(fingerprint),
            "source_sha256": source_sha256,
            "checksums": {name: array_sha256(array) for name, array in arrays.items()},
            "num_frames": track.num_frames,
            "num_valid": int(track.mask.sum()),
            "dim": track.dim,
            "quality_units": dict(track.quality_units),
            "report": dict(report or {}),
        }
        plain = json.loads(json.dumps(record, allow_nan=False))  # as it will be read, so that the seal holds
        self._save_stream(key, stream, arrays, sealed(plain), overwrite)
        self._log({"event": "commit", "clip_id": clip.clip_id, "stream": stream})

    @final
    def log_failure(self, clip_id: str, reason: str) -> None:
        """Notes in the journal why a clip could not be extracted."""
        self._log({"event": "failure", "clip_id": clip_id, "reason": reason})

    @final
    def record(self, clip_id: str, stream: str) -> dict[str, Any]:
        """The commit record of a stream: fingerprint, checksums, counts, report.

        Raises:
            InputError: if the stream is not committed for this clip.
            DamagedError: if the record is not what was written.
        """
        found = self._load_record(clip_key(clip_id), stream)
        if not found:
            raise InputError(
                f"{clip_id} {stream}", expected="a committed stream", got="none", todo="Extract or import it first."
            )
        body = unsealed(found)
        if body is None or body["clip"]["clip_id"] != clip_id:
            raise _damaged(clip_id, stream, "the record that was committed", "another one")
        if body["schema_version"] != SCHEMA_VERSION:
            raise InputError(
                f"{clip_id} {stream}",
                expected=f"cache schema {SCHEMA_VERSION}",
                got=f"schema {body['schema_version']}",
                todo="Read it with the version of sage-va that wrote it, or extract again.",
            )
        return body

    @final
    def read(self, clip_id: str, stream: str) -> Track:
        """One stream of one clip, every byte checked against the commit record.

        Raises:
            InputError: if the stream is not committed for this clip.
            DamagedError: if an array is missing, short or changed.
        """
        record = self.record(clip_id, stream)
        try:
            arrays = self._load_arrays(clip_key(clip_id), stream)
        except Exception as error:  # a decoder may fail in any way on damaged bytes
            got = f"{type(error).__name__}: {error}".splitlines()[0]
            raise _damaged(clip_id, stream, "four readable arrays", got) from error
        for name in ARRAYS:
            if array_sha256(arrays[name]) != record["checksums"][name]:
                raise _damaged(clip_id, stream, f"the bytes of {name!r} that were committed", "others")
        try:
            return Track(**arrays, quality_units=record["quality_units"])
        except InputError as error:
            raise _damaged(clip_id, stream, error.expected, error.got) from error

    @final
    def verify(self) -> Iterator[tuple[str, str, Problem | None]]:
        """Checks everything; yields (clip_id, stream, problem or None) for each entry as it goes."""
        for place in self._damaged_places():
            yield "", "", Problem("", "", f"{place} is not what was written")
        for key in self._keys():
            clip_id = self._clip_id(key)
            yield clip_id, "", self._clip_problem(key, clip_id)
            for stream in self._names(key):
                yield clip_id, stream, self._stream_problem(key, clip_id, stream)

    @final
    def content_sha256(self) -> str:
        """One hash over all commit records: equal for caches with equal content, however made.

        Raises:
            DamagedError: if a record is not what was written.
        """
        rows = [
            [clip_id, stream, json_sha256(self.record(clip_id, stream))]
            for clip_id in self.clip_ids()
            for stream in self.streams(clip_id)
        ]
        return json_sha256(rows)

    def _committed(self, key: str) -> list[str]:
        """The streams that have a record, sound or damaged: what was lost must not pass for never made."""
        return [stream for stream in self._names(key) if self._load_record(key, stream)]

    def _clip_id(self, key: str) -> str:
        whole = clip_id_of(key)
        if whole is not None:
            return whole
        records = (unsealed(self._load_record(key, stream)) for stream in self._names(key))
        known = [unsealed(self._load_clip(key)), *(record and record["clip"] for record in records)]
        return next((found["clip_id"] for found in known if found), key)

    def _clip_problem(self, key: str, clip_id: str) -> Problem | None:
        with contextlib.suppress(InputError):
            if clip_key(clip_id) == key and self._load_clip(key) == sealed({"clip_id": clip_id}):
                return None
        return Problem(clip_id, "", "attributes of the clip are not those that were written")

    def _stream_problem(self, key: str, clip_id: str, stream: str) -> Problem | None:
        if not self._load_record(key, stream):
            return Problem(clip_id, stream, "not committed: an interrupted writer left it")
        try:
            self._check_name(stream, self.record(clip_id, stream)["fingerprint"])
            self.read(clip_id, stream)
        except InputError as error:
            return Problem(clip_id, stream, f"expected {error.expected}, got {error.got}")
        return None

    @staticmethod
    def _check_name(stream: str, fingerprint: Mapping[str, Any]) -> None:
        modality, _, name = stream.partition("/")
        if modality not in MODALITIES or name[-9:] != f"-{json_sha256(fingerprint)[:8]}":
            raise InputError(
                f"stream {stream!r}",
                expected="<visual|audio>/<alias>-<first 8 hex of its fingerprint>",
                got=f"fingerprint {json_sha256(fingerprint)[:8]}",
                todo="Name streams with sage_va.data.stream_name.",
            )


def _damaged(clip_id: str, stream: str, expected: str, got: str) -> DamagedError:
    return DamagedError(
        f"{clip_id} {stream}",
        expected=expected,
        got=got,
        todo="Run `sage-va cache verify`, then extract it again with --overwrite.",
    )


def open_store(url: str | Path, mode: Mode = "r", *, licence: str | None = None) -> Store:
    """Opens a feature cache.

    Args:
        url: a folder ending in `.zarr`.
        mode: "r" to read an existing cache; "a" to add to it, making it where there is none.
        licence: terms of use to record in a new cache; an existing one must have the same.

    Raises:
        InputError: if there is no cache at `url`, or none of a kind that is known, or one under another licence.
    """
    from .store_zarr import ZarrStore

    if not str(url).rstrip("/").endswith(".zarr") or "://" in str(url):
        raise InputError(
            url,
            expected="a local folder named *.zarr",
            got=f"{Path(url).name!r}" if "://" not in str(url) else "an address",
            todo="Give the path of a cache that ends in .zarr.",
        )
    return ZarrStore(Path(url), mode, licence)
