"""The public contract finds what is wrong with a store: each of these breaks one promise."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sage_va.data import Store
from sage_va.data.store.entry import Entry
from sage_va.data.store.fingerprint import clip_id_of
from sage_va.data.store.zarr_store import ZarrStore
from sage_va.testing import StoreContract


class Sound(ZarrStore):
    """Keeps all promises."""


class LastWriterWins(ZarrStore):
    """Replaces what is there."""

    def _save_entry(self, key: str, entry: Entry, overwrite: bool) -> None:
        super()._save_entry(key, entry, True)


class NeverOverwrites(ZarrStore):
    """Keeps an entry that should be replaced."""

    def _save_entry(self, key: str, entry: Entry, overwrite: bool) -> None:
        super()._save_entry(key, entry, False)


class ZeroForMissing(ZarrStore):
    """Returns 0 where there is no value."""

    def _load_entry(self, stream: str, key: str, record: dict[str, Any]) -> Entry:
        entry = super()._load_entry(stream, key, record)
        values = entry.values.copy()
        values[entry.frames[:, 1] == 0] = 0
        return Entry(entry.record, values, entry.frames)


class NoAliases(ZarrStore):
    """Forgets aliases."""

    def _save_alias(self, alias: str, stream: str) -> None:
        pass


class KeepsDiscarded(ZarrStore):
    """Removes nothing."""

    def _discard(self, stream: str, key: str) -> None:
        pass


class NoTerms(ZarrStore):
    """Forgets under which terms it was made."""

    def __init__(self, path: Path, mode: Any, licence: str | None, restricted: bool | None) -> None:
        super().__init__(path, mode, None, None)


class LongNamesLost(ZarrStore):
    """Does not list clips whose key was cut."""

    def _keys(self, stream: str) -> list[str]:
        return [key for key in super()._keys(stream) if clip_id_of(key) is not None]


PROMISES: Mapping[type[ZarrStore], set[str]] = {
    Sound: set(),
    LastWriterWins: {"test_what_is_there_stays_when_another_is_added"},
    NeverOverwrites: {"test_overwriting_replaces", "test_content_hash_depends_on_content_alone"},
    ZeroForMissing: {"test_what_is_read_is_what_was_committed"},
    NoAliases: {"test_an_alias_means_the_stream_that_was_extracted_last"},
    KeepsDiscarded: {"test_a_discarded_entry_is_made_again"},
    NoTerms: {"test_the_terms_stay"},
    LongNamesLost: {"test_content_hash_depends_on_content_alone"},
}


def promises() -> Iterator[tuple[str, Callable[..., None]]]:
    for name, test in inspect.getmembers(StoreContract(), inspect.ismethod):
        if name.startswith("test_") and "clip_id" not in inspect.signature(test).parameters:
            yield name, test


def broken_promises(kind: type[ZarrStore], folder: Path) -> set[str]:
    """Runs each test of the contract on new stores; returns the names of those that fail."""
    failed = set[str]()
    for test_name, test in promises():
        place = folder / test_name

        def opened(
            mode: Any = "a", name: str = "cache", licence: Any = None, restricted: Any = None, place: Path = place
        ) -> Store:
            return kind(place / name, mode, licence, restricted)

        fixtures: dict[str, Callable[[], Any]] = {
            "opened": lambda opened=opened: opened,
            "store": opened,
            "tmp_path": lambda place=place: place,
        }
        try:
            test(**{name: fixtures[name]() for name in inspect.signature(test).parameters})
        except (Exception, pytest.fail.Exception):
            failed.add(test_name)
    return failed


@pytest.mark.parametrize("kind", PROMISES, ids=lambda kind: kind.__name__)
def test_each_broken_promise_is_found(kind: type[ZarrStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    failed = broken_promises(kind, tmp_path)
    assert failed >= PROMISES[kind]
    assert bool(failed) == (kind is not Sound)


def test_the_package_does_not_need_it() -> None:
    """Pytest and hypothesis are imported with `sage_va.testing` alone."""
    root = Path(__file__).resolve().parents[1]
    places = [path for path in root.iterdir() if path.name not in {"tests", "testing.py"} and path.name[0] != "."]
    sources = [path for place in places for path in (place.rglob("*.py") if place.is_dir() else [place])]
    sources = [path for path in sources if path.suffix == ".py"]
    assert len(sources) > 100
    assert not [
        path for path in sources if "import pytest" in path.read_text() or "hypothesis import" in path.read_text()
    ]
