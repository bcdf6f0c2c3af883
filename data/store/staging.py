"""The staging of a cache in a folder: where a writer makes what it then renames to its place.

Every writer has a folder of its own, `.sage-va/staging/<host>-<random>`, on the cache's disk. An entry's way:

    encode -> <mine>/new -> fsync of files, then folders -> rename to <stream>/<key> -> fsync of <stream> -> committed

Where an old entry is to be replaced, it is set aside first, and goes only when its successor is in place:

    <stream>/<key>   <mine>/new   <mine>/old/<stream>/<key>
        old             new              -
         -              new             old           1. the old entry was set aside
        new              -              old           2. the new one was renamed to its place
        new              -               -            3. `old` was renamed below `replaced`, which is not restored

Entries that are committed together, most of them small, share the waits for the disk:

    encode all -> <mine>/new-<k> -> one sync of them all -> rename each -> one fsync of each <stream> -> committed

A writer that dies before the sync leaves none of them; one that dies later leaves some, each whole. None has been
reported. An entry that replaces another is put in its place by itself, in the three steps above.

A writer that dies leaves its folder. The next one removes it, and first moves an `old` entry back to its place if that
is empty (death between 1 and 2); behind 2 there is a successor, so it is not moved. A reader sees at each moment the
old entry, none, or the new one, but never a part of one.

All writers hold a shared lock on `staging/lock` while they have a folder. Only a writer that gets the lock exclusively
tidies: then no other is at work on this host. Other hosts may not see our locks (a network file system), so what their
writers left stays for a week.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from ..atomic import HOST, WEEK_S, disk_time_s, folders, locked, make_folder, move_new, sync

SIDE = ".sage-va"  # all that does not belong to the tree itself
STAGING = f"{SIDE}/staging"


class Staging:
    """The staging of the cache in a folder; see this file's first lines."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.path = cache, cache / STAGING

    def make(self) -> None:
        """Makes the folder that all writers share."""
        make_folder(self.path)

    def try_lock(self) -> None:
        """Tries the lock as writers do, so that a disk without locks is noticed before the work begins."""
        self.make()
        with locked(self.path / "lock", fcntl.LOCK_SH | fcntl.LOCK_NB):
            pass

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Path]:
        """Yields a folder to write in. While any writer has one, none tidies."""
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path / "lock", fcntl.LOCK_SH):
            temporary = self._new_folder()
            try:
                yield temporary
            finally:
                self._drop(temporary)

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Yields True where no other writer is at work; then none can begin before the end."""
        self.make()
        with locked(self.path / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
            yield alone

    def set_aside(self, place: Path, temporary: Path) -> None:
        """Moves an old entry out of its place, from where it returns if the writer dies before it has a successor."""
        old = temporary / "old" / place.relative_to(self.cache)
        old.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            place.rename(old)

    def settle(self, place: Path, temporary: Path) -> None:
        """Ends a replacement: the old entry has its successor, and must not return."""
        old, replaced = (temporary / name / place.relative_to(self.cache) for name in ("old", "replaced"))
        replaced.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            old.rename(replaced)

    def discard(self, place: Path) -> None:
        """Removes an entry in one step, with all that was set aside for it and would return to the empty place."""
        with self.temporary() as temporary, contextlib.suppress(FileNotFoundError):
            for number, old in enumerate(self.path.glob(f"*/old/{place.relative_to(self.cache)}")):
                with contextlib.suppress(FileNotFoundError):
                    old.rename(temporary / f"forgotten-{number}")
            place.rename(temporary / "discarded")
            sync(place.parent)

    def bury(self, place: Path) -> None:
        """Removes a place in one step; the caller is alone."""
        aside = self._new_folder()
        place.rename(aside / "buried")
        sync(place.parent)
        shutil.rmtree(aside, ignore_errors=True)

    def leftovers(self) -> list[str]:
        """Returns the folders of all writers, at work or dead, relative to the cache."""
        return [f"{STAGING}/{name}" for name in folders(self.path)]

    def tidy(self) -> list[str]:
        """Removes what dead writers left; returns it."""
        if not self.leftovers():
            return []
        with self.alone() as alone:
            now_s = disk_time_s(self.path / "lock") if alone else 0.0
            ours = [place for place in self.leftovers() if alone and self._may_go(self.cache / place, now_s)]
            for place in ours:
                self._drop(self.cache / place)
            return ours

    @staticmethod
    def _may_go(place: Path, now_s: float) -> bool:
        return place.name.startswith(f"{HOST}-") or now_s - place.stat().st_mtime > WEEK_S

    def _new_folder(self) -> Path:
        """Makes a folder whose name begins with its writer's host."""
        aside = self.path / f"{HOST}-{uuid.uuid4().hex}"
        aside.mkdir()
        return aside

    def _drop(self, temporary: Path) -> None:
        """Removes a writer's folder; an entry that was set aside, and has no successor yet, returns first."""
        for old in (temporary / "old").glob("*/*/*"):
            move_new(old, self.cache / old.relative_to(temporary / "old"))
        shutil.rmtree(temporary, ignore_errors=True)
