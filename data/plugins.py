"""Objects that installed packages add by entry points: encoders, face detectors, fusion variants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from .errors import InputError, did_you_mean, first_line

Named = TypeVar("Named")


def added_names(group: str) -> list[str]:
    """Returns the sorted names that packages add to a group."""
    return sorted({point.name for point in entry_points(group=group)})


def names_with_added(group: str, own: Iterable[str]) -> list[str]:
    """Returns our own names in their order, then those that packages add."""
    own = list(own)
    return [*own, *(name for name in added_names(group) if name not in own)]


def find_by_name(
    what: str, group: str, own: Mapping[str, Named], name: str, fault: Callable[[Any], str | None]
) -> Named:
    """Returns our own object of a name, or else the one that a package adds.

    Args:
        what: `variant`, for errors.
        group: of the entry points.
        own: our objects by name.
        name: as the user wrote it.
        fault: what an added object is instead, such as `a str, not a Variant`; None where it is right.

    Raises:
        InputError: for an unknown name, or if a package's object is not right.
    """
    if name in own:
        return own[name]
    place, known = f"{what} {name}", names_with_added(group, own)
    point = find_added(group, name, place)
    if point is None:
        todo = did_you_mean(name, known, f"Known: {', '.join(known)}.")
        raise InputError(place, expected=f"a known {what}", got=repr(name), todo=todo)
    added = load_added(point, place)
    if wrong := fault(added):
        raise InputError(place, f"{point.value} is {wrong}", todo=mend(point))
    return added


def find_added(group: str, name: str, place: str) -> EntryPoint | None:
    """Returns the entry point of a name, or None where no package adds it.

    Args:
        group: such as `sage_va.encoders`.
        name: exactly as the package writes it.
        place: names it in errors, such as `encoder palette`.

    Raises:
        InputError: if several packages add different objects under the name.
    """
    points = {point.value: point for point in sorted(entry_points(group=group, name=name), key=lambda p: p.value)}
    if len(points) > 1:
        got = " and ".join(f"{value} of {package_of(point)}" for value, point in points.items())
        raise InputError(place, expected="one package that adds it", got=got, todo="Uninstall all but one.")
    return next(iter(points.values()), None)


def load_added(point: EntryPoint, place: str) -> Any:
    """Returns the object that an entry point names.

    Raises:
        InputError: if its import fails, for whatever reason.
    """
    try:
        return point.load()
    except Exception as error:
        raise InputError(
            place, f"{point.value} cannot be imported: {first_line(error)[:200]}", todo=mend(point)
        ) from error


def package_of(point: EntryPoint) -> str:
    """Returns name and version of the package that adds an entry point."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"


def mend(point: EntryPoint) -> str:
    """Returns what a user can do about a package that does not work."""
    return f"Mend or uninstall {package_of(point)}."
