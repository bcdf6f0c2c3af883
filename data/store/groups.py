"""Groups of entries that are committed together: a wait for the disk for each group, not for each entry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import monotonic

from .entry import Entry

GROUP_ENTRIES, GROUP_BYTES, GROUP_S = 256, 32 << 20, 1.0  # at which a group of entries is committed


class EntryGroup:
    """Entries that gather until they are committed together."""

    def __init__(self) -> None:
        self.entries, self._nbytes, self._start_s = list[Entry](), 0, monotonic()

    def add(self, entry: Entry) -> None:
        """Takes one more."""
        self.entries.append(entry)
        self._nbytes += entry.nbytes

    @property
    def full(self) -> bool:
        """True once the group is large, or has taken long to gather: a kill loses no more than this."""
        return is_full_group(len(self.entries), self._nbytes) or monotonic() > self._start_s + GROUP_S

    def take(self) -> list[Entry]:
        """Returns the entries, and begins the next group."""
        entries = self.entries
        self.__init__()
        return entries


def in_groups(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Yields entries in groups to be committed together. If the source fails, those before it are yielded first."""
    group = EntryGroup()
    try:
        for entry in entries:
            group.add(entry)
            if group.full:
                yield group.take()
    except Exception:
        if group.entries:
            yield group.take()
        raise
    if group.entries:
        yield group.take()


def is_full_group(num: int, nbytes: int) -> bool:
    """True where so many entries of so many bytes in all should be committed before further ones are gathered."""
    return num >= GROUP_ENTRIES or nbytes >= GROUP_BYTES
