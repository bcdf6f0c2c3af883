"""The attributes of a whole cache: its schema, and the terms under which its features may be used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import DamagedError, InputError
from ..hashing import sealed, unsealed
from .fingerprint import SCHEMA_VERSION


def new_root(licence: str | None, restricted: bool) -> dict[str, Any]:
    """Returns the sealed attributes of a new cache."""
    from importlib.metadata import version  # it costs a fifth of `cache info`

    version_ = f"sage-va {version('sage-va')}"
    terms = {"licence": licence, "restricted": restricted}
    return sealed({"schema_version": SCHEMA_VERSION, "created_by": version_, **terms})


def check_root(url: str, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the attributes of a cache without their seal.

    Raises:
        InputError: if they are not those of a cache, or of another schema. DamagedError: if they were changed.
    """
    if not attrs.keys() & {"attrs_sha256", "schema_version", "unreadable"}:
        raise InputError(url, expected="a feature cache", got="something of another kind", todo="Check the path.")
    root = unsealed(attrs)
    if root is None:
        todo = "Run `sage-va cache repair`; the clips in it are not concerned."
        raise DamagedError(url, expected="the attributes that were written", got="others", todo=todo)
    if root["schema_version"] != SCHEMA_VERSION or "restricted" not in root:
        todo = "Use the version of sage-va that wrote it, or extract again."
        got = f"schema {root['schema_version']}" + ("" if "restricted" in root else ", a draft of it")
        raise InputError(url, expected=f"cache schema {SCHEMA_VERSION}", got=got, todo=todo)
    return root


def check_terms(url: str, root: Mapping[str, Any], licence: str | None, restricted: bool | None) -> None:
    """Refuses terms of use that differ from those of an existing cache; None is not compared."""
    for name, wanted in (("licence", licence), ("restricted", restricted)):
        if wanted is not None and wanted != root[name]:
            todo = "Leave it out, or choose another cache."
            expected = f"the {name} that the cache was made with, {root[name]!r}"
            raise InputError(url, expected=expected, got=repr(wanted), todo=todo)
