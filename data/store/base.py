"""The contract that a cache keeps in every layout, and `open_store(url)`."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, final

from ..clip import Clip, Track
from ..errors import DamagedError, InputError, MalformedError, first_line
from ..hashing import bytes_sha256, json_sha256, unsealed
from ..machine import is_out_of_memory
from .address import check_no_credentials
from .entry import Entry, check_name, clip_of, damaged
from .fingerprint import SCHEMA_VERSION, check_alias, check_stream, clip_id_of, clip_key, stream_alias
from .groups import in_groups
from .ledger import MISSING, PUT_BACK, Ledger, event_of
from .record_checks import record_problem
from .root import check_root

Mode = Literal["r", "a"]
LACKING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


@dataclass(frozen=True)
class Problem:
    """Damage: of a clip and stream, or of the cache itself (then both are "")."""

    clip_id: str
    stream: str
    what: str


@dataclass(frozen=True)
class FailedClip:
    """A clip that was not made or imported, and the reason."""

    clip_id: str
    reason: str


class Store(ABC):
    """A feature cache. Streams of clips are committed whole, once, and every byte is checked when they are read.

    A stream is named `<modality>/<alias>-<8 hex of its fingerprint>`. An entry is one stream of one clip: two arrays
    and a commit record, which holds the whole fingerprint, the clip's metadata, and the SHA-256 of each array.
    Readers see only entries with a record. There is nothing that several writers would have to change together: a
    clip's metadata come from the records of its streams. Subclasses define where bytes lie (the methods that begin
    with `_`); every promise about them is kept here.
    """

    url: str
    mode: Mode
    _pointed: frozenset[str] = frozenset()  # streams whose alias this writer has set

    @abstractmethod
    def _load_root(self) -> dict[str, Any]:
        """Returns the cache's own sealed attributes."""

    @abstractmethod
    def _load_aliases(self) -> dict[str, str]:
        """Returns the full stream name by alias."""

    @abstractmethod
    def _save_alias(self, alias: str, stream: str) -> None:
        """Makes an alias, or points it elsewhere, atomically."""

    @abstractmethod
    def _streams(self) -> list[str]:
        """Returns the sorted stream names that exist as places."""

    @abstractmethod
    def _keys(self, stream: str) -> list[str]:
        """Returns the sorted clip keys of the stream's entries that have a record, sound or damaged."""

    @abstractmethod
    def _exists(self, stream: str, key: str) -> bool:
        """True where `key` is among `_keys`."""

    @abstractmethod
    def _load_record(self, stream: str, key: str) -> dict[str, Any]:
        """Returns the sealed record; {} where there is none, anything unsealed where it cannot be read."""

    @abstractmethod
    def _load_entry(self, stream: str, key: str, record: dict[str, Any]) -> Entry:
        """Reads an entry whole, given its unsealed record; any exception means that it is damaged."""

    @abstractmethod
    def _save_entry(self, key: str, entry: Entry, overwrite: bool) -> None:
        """Puts an entry in its place whole, durable before it is visible.

        A sound entry that is there already stays, unless overwriting; then it goes only when the new one is in place.
        """

    def _save_entries(self, entries: Sequence[Entry], overwrite: bool) -> None:
        """Does what `_save_entry` does for several; a layout may let them share the waits for the disk."""
        for entry in entries:
            self._save_entry(clip_key(entry.clip_id), entry, overwrite)

    @abstractmethod
    def _discard(self, stream: str, key: str) -> None:
        """Removes an entry, committed or not, in one step."""

    @abstractmethod
    def _layout_problems(self) -> Iterator[str]:
        """Yields the damage outside of entries: root, aliases, journal, places without a record."""

    @abstractmethod
    def _entry_layout_problem(self, stream: str, key: str) -> str | None:
        """Returns the damage of the bytes around an entry's arrays and record, if there is any."""

    @abstractmethod
    def _log(self, *events: Mapping[str, Any]) -> None:
        """Appends one line for each event to the journal."""

    def journal(self) -> Iterable[dict[str, Any]]:
        """Returns the events of all writers, oldest first, where the layout keeps a journal."""
        return ()

    def leftovers(self) -> list[str]:
        """Returns temporary places of interrupted writers; harmless, and removed by a later writer or `gc`."""
        return []

    def sweep(self) -> list[str]:
        """Removes leftovers and places without a record, restores what can be derived; returns what was done."""
        return []

    def finish(self) -> None:  # noqa: B027 - most layouts derive nothing
        """Brings up to date what is derived from the entries; called by a writer at its end."""

    def add(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Adds entries that another store has proven, their records untouched; yields each when it is durable."""
        named = set[str]()
        for group in in_groups(entries):
            self._save_entries(group, False)
            for stream in sorted({entry.stream for entry in group} - named):
                self.point(stream, only_new=True)
                named.add(stream)
            self._log(*(event_of("add", entry) for entry in group))
            yield from group

    @final
    def root(self) -> dict[str, Any]:
        """Returns the cache's own attributes: schema_version, created_by, licence, restricted.

        Raises:
            DamagedError: if they are not what was written.
        """
        return check_root(self.url, self._load_root())

    @final
    def streams(self, clip_id: str | None = None) -> list[str]:
        """Returns the sorted full names of the committed streams of a clip, or of all clips."""
        if clip_id is None:
            return [stream for stream in self._streams() if self._keys(stream)]
        key = clip_key(clip_id)
        return [stream for stream in self._streams() if self._exists(stream, key)]

    @final
    def clip_ids(self, stream: str | None = None) -> list[str]:
        """Returns the sorted ids of the clips that have a stream, or any."""
        streams = self._streams() if stream is None else [stream]
        keys = {key: name for name in streams for key in self._keys(name)}
        return sorted(self._clip_id(name, key) for key, name in keys.items())

    @final
    def clip(self, clip_id: str) -> Clip:
        """Returns the metadata of a clip, from the records of all its streams.

        Raises:
            InputError: if there is none. DamagedError: if a record of it is not what was written.
        """
        records = [self.record(clip_id, stream) for stream in self.streams(clip_id)]
        if not records:
            raise InputError(clip_id, expected=f"a clip of {self.url}", got="none of that name", todo="See `cache ls`.")
        return clip_of(records)

    @final
    def aliases(self) -> dict[str, str]:
        """Returns the full stream name by alias, sorted.

        Raises:
            DamagedError: if they are no aliases of streams; no damage of a sealed file makes such a thing.
        """
        try:
            return {check_alias(alias): check_stream(stream) for alias, stream in sorted(self._load_aliases().items())}
        except (InputError, AttributeError, TypeError) as error:
            todo = "Take the cache again from where it came from."
            raise DamagedError(
                self.url, f"its aliases are no aliases of streams: {first_line(error)}", todo=todo
            ) from error

    @final
    def point(self, stream: str, alias: str | None = None, *, only_new: bool = False) -> None:
        """Points an alias (default: the one in the stream's name) to a stream.

        Args:
            only_new: leave an alias that exists as it is.
        """
        alias = check_alias(alias or stream_alias(check_stream(stream)))
        if alias.split("/")[0] != stream.split("/")[0]:
            todo = f"Begin it with {stream.split('/')[0]}/."
            raise InputError(f"alias {alias!r}", expected="MODALITY/NAME of the stream", got=repr(alias), todo=todo)
        known = self._load_aliases().get(alias)
        if known != stream and not (only_new and known):
            self._save_alias(alias, stream)

    @final
    def resolve(self, name: str) -> str:
        """Returns a full stream name from itself, an alias (`visual/dinov2-s`) or a modality with one stream.

        Where an alias has had several streams, it stands for the one that it points to: the one extracted last.

        Raises:
            InputError: if no stream matches, or several do.
        """
        streams, aliases = self.streams(), self.aliases()
        if name in streams:
            return name
        if aliases.get(name) in streams:
            return aliases[name]
        named = sorted({stream for stream in aliases.values() if stream in streams}) or streams
        matching = [s for s in named if name in (stream_alias(s), s.split("/")[0])]
        if len(matching) != 1:
            raise InputError(
                f"stream {name!r}",
                expected="the name of one stream",
                got=f"{len(matching)} that match",
                todo=f"{self.url} holds: {', '.join(matching or streams) or 'nothing'}.",
            )
        return matching[0]

    @final
    def has(self, clip_id: str, stream: str, source_sha256: str) -> bool:
        """True where a stream of a clip is committed; False where its record is damaged, so that it is made again.

        Raises:
            InputError: if it was made from other bytes than those of `source_sha256`.
        """
        record = unsealed(self._attrs_of(stream, clip_key(clip_id)))
        if record is None or record_problem(record):
            return False
        if record["source_sha256"] != source_sha256:
            raise InputError(
                clip_id,
                expected=f"the medium that {stream} was made from",
                got="a file with other bytes",
                todo="Give the new file a name of its own, or pass --overwrite.",
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
        """Adds one stream of one clip, whole or not at all; the first writer of an entry wins.

        The stream's alias points to it from its first commit on.

        Args:
            clip: metadata of the clip.
            stream: full name, as `stream_name` makes it.
            track: values, times, mask and quality.
            fingerprint: all that decides the values; its hash is part of `stream`.
            source_sha256: hash of the medium that the track was made from.
            report: the decoder's report (counts, first times); for people.
            overwrite: replace an entry of the same name.

        Raises:
            InputError: if the entry exists and was made from another medium, and `overwrite` is False.
        """
        entry = self.prepare(
            clip,
            stream,
            track,
            fingerprint=fingerprint,
            source_sha256=source_sha256,
            report=report,
            overwrite=overwrite,
        )
        if entry is not None:
            self.commit_all([entry], overwrite=overwrite)

    @final
    def prepare(
        self,
        clip: Clip,
        stream: str,
        track: Track,
        *,
        fingerprint: Mapping[str, Any],
        source_sha256: str,
        report: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> Entry | None:
        """Returns the entry that `commit` would add, for `commit_all`; None where it is there already.

        Arguments and errors as for `commit`.
        """
        entry = Entry.of(clip, stream, track, fingerprint=fingerprint, source_sha256=source_sha256, report=report)
        return None if not overwrite and self.has(clip.clip_id, stream, source_sha256) else entry

    @final
    def commit_all(self, entries: Sequence[Entry], *, overwrite: bool = False) -> None:
        """Commits prepared entries, each whole or not at all; when it returns, all are durable.

        Many small entries together cost hardly more than one, since they share the waits for the disk. If it is
        interrupted, some may be there, and none has been reported. The first of two entries of one clip and stream
        wins; with `overwrite`, the last.
        """
        by_place: dict[tuple[str, str], Entry] = {}
        for entry in entries:
            if overwrite or (entry.clip_id, entry.stream) not in by_place:
                by_place[entry.clip_id, entry.stream] = entry
        distinct = list(by_place.values())
        for stream in sorted({entry.stream for entry in distinct} - self._pointed):
            self.point(stream)
            self._pointed |= {stream}
        if distinct:
            self._save_entries(distinct, overwrite)
            self._log(*(event_of("commit", entry) for entry in distinct))

    @final
    def log(self, event: str, **facts: Any) -> None:
        """Appends an event to the journal, for people and `status`."""
        self._log({"event": event, **facts})

    @final
    def log_failure(self, clip_id: str, reason: str, *, source_sha256: str = "", streams: Sequence[str] = ()) -> None:
        """Appends a failure to the journal: streams of a clip could not be made from a medium."""
        made_from = {"source_sha256": source_sha256, "streams": list(streams)}
        self._log({"event": "failure", "clip_id": clip_id, "reason": reason, **made_from})

    @final
    def failures(self) -> dict[str, Mapping[str, Any]]:
        """Returns the last failure of each clip whose streams have not been made since, as its journal line."""
        return failures_in(self.journal())

    @final
    def record(self, clip_id: str, stream: str) -> dict[str, Any]:
        """Returns the commit record of a stream: fingerprint, checksums, shape, report.

        Raises:
            InputError: if the stream is not committed for this clip.
            DamagedError: if the record is not what was written; MalformedError, if its checksum is right even so.
        """
        attrs = self._attrs_of(check_stream(stream), clip_key(clip_id))
        if not attrs:
            raise InputError(
                f"{clip_id} {stream}", expected="a committed stream", got="none", todo="Extract or import it first."
            )
        body = unsealed(attrs)
        if body is not None and body.get("schema_version") != SCHEMA_VERSION:
            raise InputError(
                f"{clip_id} {stream}",
                expected=f"cache schema {SCHEMA_VERSION}",
                got=f"schema {body.get('schema_version')}",
                todo="Read it with the version of sage-va that wrote it, or extract again.",
            )
        problem = "another one" if body is None else record_problem(body)
        if body is None or problem or (body["clip"]["clip_id"], body["stream"]) != (clip_id, stream):
            kind = MalformedError if body is not None and problem else DamagedError
            raise damaged((clip_id, stream), "the record that was committed", problem or "another entry's", kind)
        return body

    @final
    def sound_records(self, clip_id: str) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
        """Returns the records of a clip by stream, and the damage of those that are not sound."""
        records, problems = dict[str, dict[str, Any]](), list[Problem]()
        for stream in self.streams(clip_id):
            try:
                records[stream] = self.record(clip_id, stream)
            except DamagedError as error:
                problems.append(Problem(clip_id, stream, error.problem))
        return records, problems

    def _attrs_of(self, stream: str, key: str) -> dict[str, Any]:
        try:
            return self._load_record(stream, key)
        except RecursionError:
            return {"unreadable": "nested too deeply"}

    @final
    def entry(self, clip_id: str, stream: str, record: dict[str, Any] | None = None) -> Entry:
        """Reads one entry, every byte of its arrays checked against its record.

        Args:
            clip_id: the clip.
            stream: full name.
            record: as `record` returned it, for a reader that has it already; None = it is read.

        Raises:
            InputError: if the stream is not committed for this clip.
            DamagedError: if an array is missing, short or changed.
        """
        record = self.record(clip_id, stream) if record is None else record
        try:
            entry = self._load_entry(stream, clip_key(clip_id), record)
        except Exception as error:  # reading may fail in any way on damaged bytes
            if is_outage(error):
                raise
            got = first_line(error)
            raise damaged((clip_id, stream), "two readable arrays", got) from error
        entry.check()
        return entry

    @final
    def read(self, clip_id: str, stream: str) -> Track:
        """Reads one stream of one clip as a Track; checked like `entry`, times and mask too."""
        return self.entry(clip_id, stream).track()

    @final
    def discard(self, clip_id: str, stream: str) -> None:
        """Removes one entry; the next extraction makes it again."""
        self._log({"event": "discarding", "clip_id": clip_id, "stream": stream})
        self._discard(stream, clip_key(clip_id))
        self._log({"event": "discard", "clip_id": clip_id, "stream": stream})

    @final
    def verify(
        self, subset: Callable[[str], bool] | None = None, jobs: int = 4
    ) -> Iterator[tuple[str, str, Problem | None]]:
        """Compares every byte with its checksum, and every entry with the journal.

        Yields (clip_id, stream, problem or None), "" for the cache itself; entries that the journal has and the cache
        lacks come last.

        Args:
            subset: selects entries by `<stream>/<clip_key>`; None = all.
            jobs: entries checked in parallel.
        """
        for what in self._layout_problems():
            yield "", "", Problem("", "", what)
        is_chosen = subset or (lambda name: True)
        ledger = Ledger(self.journal())
        places = [(stream, key) for stream in self._streams() for key in self._keys(stream)]
        chosen, doubted = [place for place in places if is_chosen("/".join(place))], list[tuple[str, str]]()
        with ThreadPoolExecutor(jobs, "sage-va-verify") as pool:
            checked = pool.map(lambda place: self._verify_entry(place[0], place[1], ledger), chosen)
            for place, row in zip(chosen, checked, strict=True):
                if row[2] and row[2].what == PUT_BACK:
                    doubted.append(place)
                else:
                    yield row
        missing = [row for row in ledger.missing(places) if is_chosen("/".join(row[1:]))]
        if doubted or missing:
            yield from self._verify_history(doubted, missing)

    def _verify_history(
        self, doubted: list[tuple[str, str]], missing: list[tuple[str, str, str]]
    ) -> Iterator[tuple[str, str, Problem | None]]:
        """Looks again at what the journal contradicts: another writer may have been at work between the two."""
        ledger = Ledger(self.journal())
        yield from (self._verify_entry(*place, ledger) for place in doubted)
        still_missing = set(ledger.missing([]))
        for clip_id, stream, key in missing:
            if (clip_id, stream, key) in still_missing and not self._exists(stream, key):
                yield clip_id, stream, Problem(clip_id, stream, MISSING)

    def _verify_entry(self, stream: str, key: str, ledger: Ledger) -> tuple[str, str, Problem | None]:
        clip_id = self._clip_id(stream, key)
        try:
            if clip_key(clip_id) != key:
                raise damaged((clip_id, stream), "a place that is named after its clip", repr(key))
            record = self.record(clip_id, stream)
            check_name(stream, record["fingerprint"])
            self.read(clip_id, stream)
            what = self._entry_layout_problem(stream, key) or ledger.problem(stream, key, json_sha256(record))
        except InputError as error:
            if is_outage(error):
                raise
            what = error.problem
        return clip_id, stream, Problem(clip_id, stream, what) if what else None

    @final
    def content_sha256(self) -> str:
        """Returns one hash over all commit records: equal content has an equal hash, in every layout and order.

        Raises:
            DamagedError: if a record is not what was written.
        """
        pairs = sorted((clip_id, stream) for stream in self._streams() for clip_id in self.clip_ids(stream))
        return json_sha256([[clip_id, stream, json_sha256(self.record(clip_id, stream))] for clip_id, stream in pairs])

    def _clip_id(self, stream: str, key: str) -> str:
        whole = clip_id_of(key)
        if whole is not None:
            return whole
        record = unsealed(self._attrs_of(stream, key))
        return record["clip"]["clip_id"] if record and not record_problem(record) else key


def failures_in(journal: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Returns `Store.failures` of the lines of a journal."""
    failures: dict[str, Mapping[str, Any]] = {}
    for line in journal:
        clip_id = line.get("clip_id", "")
        if line["event"] == "failure":
            failures[clip_id] = line
        elif line["event"] == "commit" and line["stream"] in failures.get(clip_id, {}).get("streams", ()):
            del failures[clip_id]
    return failures


def is_outage(error: BaseException) -> bool:
    """True where a read failed for want of network, rights, memory or handles, which proves nothing about the bytes."""
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return False
    if isinstance(error, ConnectionError | TimeoutError | PermissionError | MemoryError):
        return True
    lacking = isinstance(error, OSError) and error.errno in LACKING
    return lacking or is_out_of_memory(error) or "Too many open files" in str(error)  # HDF5 has no numbers


def in_subset(text: str) -> Callable[[str], bool]:
    """Returns the test for a fixed part of all entries: `1/7` is the first of seven, `5%` a sample of that size.

    Raises:
        InputError: if the text is neither.
    """

    def place(name: str) -> int:
        return int(bytes_sha256(name.encode())[:12], 16)

    first, slash, second = text.partition("/")
    try:
        if slash and 1 <= int(first) <= int(second):
            return lambda name: place(name) % int(second) == int(first) - 1
        if text.endswith("%") and 0 < float(text[:-1]) <= 100:
            return lambda name: place(name) < 16**12 * float(text[:-1]) / 100
    except ValueError:
        pass
    raise InputError("subset", expected="a part like 1/7 or 5%", got=repr(text), todo="Correct it.")


def is_cache(url: str) -> bool:
    """True for the address of a cache, False for a recording, a folder or a manifest."""
    return _kind_of(url.removeprefix("file://")) is not None


def _kind_of(url: str) -> str | None:
    """Returns the module for caches of this address."""
    plain = url.rstrip("/").lower()
    if plain.startswith("icechunk://"):
        return "icechunk_store"
    if plain.endswith((".zip", ".packs")) or "://" in plain:
        return "pack_store"
    if plain.endswith(".zarr"):
        return "zarr_store"
    return "hdf5_store" if plain.endswith((".h5", ".hdf5")) else None


def open_store(
    url: str | Path, mode: Mode = "r", *, licence: str | None = None, restricted: bool | None = None
) -> Store:
    """Opens a feature cache.

    Args:
        url: `x.zarr` (Zarr v3 folder), `x.h5` (HDF5), `icechunk://PLACE[@tag]`; to read also `x.zarr.zip`, `x.packs`
            and packs behind `s3://`, `gs://`, `hf://`, `https://`.
        mode: "r" to read an existing cache; "a" to add to it, making it where there is none.
        licence: terms of use to record in a new cache; an existing one must have the same.
        restricted: True where it may leave this machine only with permission; recorded like the licence.

    Raises:
        InputError: if there is no cache at `url`, or one of an unknown kind, or one under other terms.
    """
    text = str(url).removeprefix("file://")
    check_no_credentials(text)
    kind = _kind_of(text)
    if kind is None:
        raise InputError(
            url,
            expected="a cache: *.zarr, *.h5, *.zarr.zip, *.packs, icechunk://…, s3://…, gs://…, hf://… or https://…",
            got=f"{Path(text).name!r}",
            todo="Give a path that ends in .zarr or .h5, or an address.",
        )
    module = import_module(f".{kind}", __package__)
    return module.open_cache(text, mode, licence, restricted)
