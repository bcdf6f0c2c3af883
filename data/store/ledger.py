"""The entries that a journal promises: which records may be in place, and which entries must be there.

A checksum proves that an entry is whole, not that it is the newest, nor that it is there at all. The journal does:

    commit, add   an entry with this record is in place, beside those that other writers may have put there first
    replacing     about to put this record in the place of another; from here on either may be there, or none
    discarding    about to remove an entry; from here on it may be there or not
    discard       it was removed

The announcements come before the change, so that a writer that is killed between the change and the line behind it
leaves nothing that looks wrong; that line ends what was true before the announcement. In a repository with transactions
the line is the change itself (`replaces`), and nothing is announced. An entry whose first line is missing, since its
writer was killed before it, is not known here: any record of it is right. Lines of earlier versions name no record: any
is right, but the entry must be there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import InputError
from ..hashing import json_sha256
from .entry import Entry
from .fingerprint import clip_key

ANY, NONE = "any", "none"  # besides the SHA-256 of a record: any record; no entry
PUT_BACK = "an older copy of this entry was put back, the journal names a later one"
MISSING = "the journal names this entry, and it is gone"
Place = tuple[str, str]  # stream, clip key


class Ledger:
    """The entries of a cache by its journal.

    Args:
        journal: its lines, oldest first.
    """

    def __init__(self, journal: Iterable[Mapping[str, Any]]) -> None:
        self._states: dict[Place, dict[str, int]] = {}  # what may be in place -> the line that last allowed it
        self._announced: dict[tuple[Place, str], int] = {}
        self._clip_ids: dict[Place, str] = {}
        for number, line in enumerate(journal, 1):
            for place, record, clip_id in _changes(line):
                self._clip_ids[place] = clip_id
                if line["event"] in ("replacing", "discarding"):
                    self._announce(number, place, record)
                else:
                    self._change(number, place, record, alone=record == NONE or bool(line.get("replaces")))

    def _announce(self, number: int, place: Place, record: str) -> None:
        self._states.setdefault(place, {ANY: 0}).update({record: number, NONE: number})
        self._announced[place, record] = number

    def _change(self, number: int, place: Place, record: str, alone: bool) -> None:
        """Ends what was true before the change was announced; all of it where the line is the change (`alone`)."""
        state = self._states.setdefault(place, {})
        begun = self._announced.pop((place, record), number if alone else 0)
        for other in [key for key, last in state.items() if last < begun or key == NONE]:
            del state[other]
        state[record] = number

    def problem(self, stream: str, key: str, record_sha256: str) -> str | None:
        """Returns what the journal has against an entry with this record; None where it has nothing."""
        state = self._states.get((stream, key), {ANY: 0})
        if state.keys() & {ANY, NONE, record_sha256}:
            return None
        return PUT_BACK

    def missing(self, present: Iterable[Place]) -> Iterator[tuple[str, str, str]]:
        """Yields (clip_id, stream, key) of all entries that must be there and are not.

        Args:
            present: the places of the entries that are there.
        """
        there = set(present)
        for place, state in sorted(self._states.items()):
            if NONE not in state and place not in there:
                yield self._clip_ids[place], *place


def event_of(event: str, entry: Entry) -> dict[str, Any]:
    """Returns the journal's line about an entry, with the hash of its record; see `Ledger`."""
    record = json_sha256(entry.record)
    return {"event": event, "clip_id": entry.clip_id, "stream": entry.stream, "record": record}


def _changes(line: Mapping[str, Any]) -> Iterator[tuple[Place, str, str]]:
    """Yields (place, record or NONE, clip_id) of the entries that a line is about."""
    if line.get("event") not in ("commit", "add", "replacing", "discarding", "discard"):
        return
    rows: list[list[Any]] = line.get("entries") or [[line.get("clip_id"), line.get("stream"), line.get("record")]]
    for clip_id, stream, *record in rows:
        if not (isinstance(clip_id, str) and isinstance(stream, str)):
            continue
        with contextlib.suppress(InputError):  # a name that no writer of ours gives
            wanted = NONE if line["event"].startswith("discard") else (record[0] if record else None) or ANY
            yield (stream, clip_key(clip_id)), wanted, clip_id
