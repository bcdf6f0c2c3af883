"""YAML that a user wrote: plain values, and one kind of error for whatever is wrong with it."""

from __future__ import annotations

from typing import Any

import yaml


def parse_yaml(text: str) -> Any:
    """Returns the plain values of a YAML text; no objects are made.

    Raises:
        ValueError: if it is no YAML, is nested too deeply, or has a number of thousands of digits.
    """
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError("lists or mappings nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
