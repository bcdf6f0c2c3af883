"""Objects that installed packages add by entry points: encoders, face detectors, fusion variants."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import InputError, first_line


def added_names(group: str) -> list[str]:
    """Returns the sorted names that packages add to a group."""
    return sorted({point.name for point in entry_points(group=group)})


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
