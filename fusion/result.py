"""The base of typed results: frozen dataclasses that know their JSON."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
else:
    DataclassInstance = object


class Result(DataclassInstance):
    """A frozen dataclass whose fields are the keys of the JSON that users read.

    OPTIONAL: fields that the JSON leaves out where they are None.
    """

    OPTIONAL: ClassVar[frozenset[str]] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Returns the fields in their order, as plain values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: plain(value) for name, value in values.items() if value is not None or name not in self.OPTIONAL}


def plain(value: Any) -> Any:
    """Returns nested values as JSON: None for NaN, a list for an array or tuple, an object for what has `to_json`."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and math.isnan(value) else value


def number_of(value: float | None) -> float:
    """Returns a number from JSON, where None stands for NaN."""
    return math.nan if value is None else value
