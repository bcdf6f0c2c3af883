"""The store contract that every cache format keeps, and `open_store(url)`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from numpy.typing import NDArray

from .clip import MODALITIES, Clip, Track
from .errors import DamagedError, InputError
from .fingerprint import ARRAYS, SCHEMA_VERSION, array_sha256, clip_id_of, clip_key, json_sha256, stream_alias

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
    and holds the whole fingerprint and the SHA-256 of each array. Readers see only entries with a record.
    Subclasses say where bytes lie; everything that is promised about them is decided here.
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
        """The clip's attributes; {} where there are none."""

    @abstractmethod
    def _save_clip(self, key: str, attrs: Mapping[str, Any]) -> None:
        """Replaces the clip's attributes atomically."""

    @abstractmethod
    def _load_record(self, key: str, stream: str) -> dict[str, Any]:
        """The stream's attributes; {} where there are none."""

    @abstractmethod
    def _load_arrays(self, key: str, stream: str) -> Arrays:
        """The four arrays of a stream, read whole."""

    @abstractmethod
    def _save_stream(self, key: str, stream: str, arrays: Arrays, record: Mapping[str, Any], overwrite: bool) -> None:
        """Puts a stream in its place whole, durable before it is visible. First writer wins unless overwriting."""

    @abstractmethod
    def _leftovers(self) -> list[str]:
        """Temporary places that an interrupted writer left."""

    @abstractmethod
    def _log(self, entry: Mapping[str, Any]) -> None:
        """Appends one line to the journal."""

    @final
    def clip_ids(self) -> list[str]:
        """Sorted ids of the clips that have at least one committed stream."""
        return sorted(self._clip_id(key) for key in self._keys() if self._committed(key))

    @final
    def clip(self, clip_id: str) -> Clip:
        """What the cache knows of a clip.

        Raises:
            InputError: if there is none.
        """
        attrs = self._load_clip(clip_key(clip_id))
        if not attrs:
            raise InputError(clip_id, expected=f"a clip of {self.url}", got="none of that name", todo="See `cache ls`.")
        return Clip.from_json(attrs["clip"])

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
        """Whether a stream of a clip is committed.

        Raises:
            InputError: if it is, but was made from other bytes than `source_sha256` names.
        """
        record = self._load_record(clip_key(clip_id), stream)
        if not record.get("commit"):
            return False
        if record.get("source_sha256") != source_sha256:
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
        """Puts one stream of one clip into the cache, whole or not at all.

        Args:
            fingerprint: all that decides the values; its hash is part of `stream`.
            source_sha256: hash of the medium that the track was made from.
            report: what the decoder saw (counts, first times); for people.
            overwrite: replace an entry of the same name.
        """
        self._check_name(stream, fingerprint)
        key = clip_key(clip.clip_id)
        arrays: Arrays = {name: getattr(track, name) for name in ARRAYS}
        record: dict[str, Any] = {
            "commit": True,
            "schema_version": SCHEMA_VERSION,
            "fingerprint": dict(fingerprint),
            "source_sha256": source_sha256,
            "checksums": {name: array_sha256(array) for name, array in arrays.items()},
            "num_frames": track.num_frames,
            "num_valid": int(track.mask.sum()),
            "dim": track.dim,
            "quality_units": dict(track.quality_units),
            "report": dict(report or {}),
        }
        record["record_sha256"] = json_sha256(record)
        known = self._load_clip(key)
        merged = {**known.get("clip", {}), **clip.to_json()}
        if merged != known.get("clip"):
            self._save_clip(key, {"clip": merged, "clip_sha256": json_sha256(merged)})
        self._save_stream(key, stream, arrays, record, overwrite)
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
        record = self._load_record(clip_key(clip_id), stream)
        if not record.get("commit"):
            raise InputError(
                f"{clip_id} {stream}", expected="a committed stream", got="none", todo="Extract or import it first."
            )
        body = {key: value for key, value in record.items() if key != "record_sha256"}
        if json_sha256(body) != record.get("record_sha256"):
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
        return Track(**arrays, quality_units=record["quality_units"])

    @final
    def verify(self) -> Iterator[tuple[str, str, Problem | None]]:
        """Checks everything; yields (clip_id, stream, problem or None) for each entry as it goes."""
        for place in self._leftovers():
            yield "", "", Problem("", "", f"temporary place {place} of an interrupted writer; harmless")
        for key in self._keys():
            clip_id = self._clip_id(key)
            yield clip_id, "", self._clip_problem(key, clip_id)
            for stream in self._names(key):
                yield clip_id, stream, self._stream_problem(key, clip_id, stream)

    @final
    def content_sha256(self) -> str:
        """One hash over all clips and commit records: equal for caches with equal content, however made."""
        rows = [
            [key, self._load_clip(key), [[s, self._load_record(key, s)["record_sha256"]] for s in self._committed(key)]]
            for key in self._keys()
        ]
        return json_sha256([row for row in rows if row[2]])

    def _committed(self, key: str) -> list[str]:
        return [stream for stream in self._names(key) if self._load_record(key, stream).get("commit")]

    def _clip_id(self, key: str) -> str:
        return clip_id_of(key) or self._load_clip(key).get("clip", {}).get("clip_id", key)

    def _clip_problem(self, key: str, clip_id: str) -> Problem | None:
        attrs = self._load_clip(key)
        if not attrs:
            return Problem(clip_id, "", "clip without attributes")
        if json_sha256(attrs.get("clip")) != attrs.get("clip_sha256") or clip_key(attrs["clip"]["clip_id"]) != key:
            return Problem(clip_id, "", "attributes of the clip are not those that were written")
        return None

    def _stream_problem(self, key: str, clip_id: str, stream: str) -> Problem | None:
        if not self._load_record(key, stream).get("commit"):
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
        f"{clip_id} {stream}", expected=expected, got=got, todo="Run `sage-va cache verify`, then extract it again."
    )


def open_store(url: str | Path, mode: Mode = "r", *, licence: str | None = None) -> Store:
    """Opens a feature cache.

    Args:
        url: a folder ending in `.zarr`.
        mode: "r" to read an existing cache; "a" to add to it, making it where there is none.
        licence: terms of use to record in a new cache.

    Raises:
        InputError: if there is no cache at `url`, or none of a kind that is known.
    """
    from .store_zarr import ZarrStore

    if not str(url).rstrip("/").endswith(".zarr"):
        raise InputError(
            url,
            expected="a cache named *.zarr",
            got=f"{Path(url).name!r}",
            todo="Give the cache a name ending in .zarr.",
        )
    return ZarrStore(Path(url), mode, licence)
