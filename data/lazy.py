"""Public names of a package that are imported when they are first used: torch takes seconds, numpy a part of one."""

from collections.abc import Callable, Mapping
from importlib import import_module
from sys import modules
from typing import Any


def lazy_names(package: str, files: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns the functions `__getattr__` and `__dir__` of a package.

    Args:
        package: `__name__` of the package.
        files: public name -> the module that defines it, relative to the package.
    """
    attributes = vars(modules[package])

    def get(name: str) -> Any:
        if name not in files:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = attributes[name] = getattr(import_module(files[name], package), name)
        return value

    return get, lambda: sorted({*attributes, *attributes["__all__"]})
