"""Objects that packages add are found by their entry points, or refused in one line."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from sage_va.data import InputError, plugins
from sage_va.data.plugins import added_names, find_added, load_added

GROUP = "sage_va.things"


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"a": ["json:dumps", "json:dumps"], "b": ["no_such_module_at_all:X"], "c": ["json:loads", "json:dumps"]}
    points = EntryPoints(EntryPoint(name, value, GROUP) for name, v in values.items() for value in v)
    monkeypatch.setattr(plugins, "entry_points", points.select)


def test_names_and_objects() -> None:
    assert added_names(GROUP) == ["a", "b", "c"]
    assert added_names("sage_va.others") == []
    assert find_added(GROUP, "d", "thing d") is None
    point = find_added(GROUP, "a", "thing a")  # listed twice, but one object
    assert point is not None
    assert load_added(point, "thing a")([1]) == "[1]"


def test_two_packages_of_one_name_are_refused() -> None:
    message = (
        r"thing c: expected one package that adds it, got json:dumps of an unknown package and json:loads of an "
        r"unknown package\. Uninstall all but one\."
    )
    with pytest.raises(InputError, match=message):
        find_added(GROUP, "c", "thing c")


def test_a_package_that_cannot_be_imported_is_named() -> None:
    point = find_added(GROUP, "b", "thing b")
    assert point is not None
    message = r"thing b: no_such_module_at_all:X cannot be imported: ModuleNotFoundError: .*\. Mend or uninstall an unk"
    with pytest.raises(InputError, match=message):
        load_added(point, "thing b")
