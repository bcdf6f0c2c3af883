"""Results as plain JSON."""

from __future__ import annotations

import math
from typing import Any


def plain(found: Any) -> Any:
    """The same nested values with None for NaN, which JSON does not know."""
    if isinstance(found, dict):
        return {key: plain(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [plain(value) for value in found]
    return None if isinstance(found, float) and math.isnan(found) else found
