"""Work list of a run: its clips, and the backlog from which decoder threads take them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from ...data.errors import InputError
from ...data.manifest import Source
from ..faces.people import name_people
from ..options import ExtractOptions


def work_list(sources: Sequence[Source], options: ExtractOptions) -> list[Source]:
    """Returns the clips of a run, with `--person left` and `right` under names of their own.

    Raises:
        InputError: if two of them share a clip_id.
    """
    named = name_people(sources, options.person)
    if len({source.clip_id for source in named}) != len(named):
        todo = "Give each clip a name of its own."
        raise InputError("extract", expected="each clip_id once", got="one twice", todo=todo)
    return named


class Backlog(Protocol):
    """The clips that are still to be started; used by several threads."""

    def take(self) -> Source | None:
        """Returns the next clip, waiting if need be; None = there is no more."""
        ...

    def put_first(self, sources: Sequence[Source]) -> None:
        """Adds clips that come before all others: the people of a clip."""
        ...

    def stop(self) -> None:
        """Drops the clips that have not started; threads that wait in `take` get None."""
        ...


class ListBacklog:
    """A backlog that is complete from the start."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._pending = deque(sources)

    def take(self) -> Source | None:
        """Returns the next clip, or None."""
        with contextlib.suppress(IndexError):
            return self._pending.popleft()
        return None

    def put_first(self, sources: Sequence[Source]) -> None:
        """Adds clips that come before all others."""
        self._pending.extendleft(reversed(sources))

    def stop(self) -> None:
        """Drops the clips that have not started."""
        self._pending.clear()
