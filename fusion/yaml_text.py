"""YAML that a user wrote: plain values, and one kind of error for whatever is wrong with it."""

from __future__ import annotations

from typing import Any

import yaml

MAX_VALUES = 100_000


def parse_yaml(text: str) -> Any:
    """Returns the plain values of a YAML text; no objects are made.

    Raises:
        ValueError: if it is no YAML, is nested too deeply, or has numbers of thousands of digits or too many values.
    """
    try:
        values = yaml.safe_load(text)
    except RecursionError:
        raise ValueError("lists or mappings nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    _check_number(values)
    return values


def _check_number(values: Any) -> None:
    """Refuses values that are too many once aliases are written out: a few lines of aliases can be 10^9 values."""
    waiting, num_values = [values], 0
    while waiting:
        value = waiting.pop()
        num_values += 1
        if num_values > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values, aliases written out")
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += value
