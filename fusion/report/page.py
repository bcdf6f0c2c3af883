"""The page of a report: markup, styles, script and data in one file.

Everything that comes from runs (names of clips, notes, settings) is JSON inside a script element that the browser does
not run; the page's script sets it as text, never as markup. A policy in the page allows only the styles and the script
that stand in it, by their hashes, and no request to anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...data.atomic import write_text

SHARED = (
    "values.js",
    "plots.js",
    "clips.js",
    "lanes.js",
    "traces.js",
    "sections.js",
)  # with the page of `sage-va view`
SCRIPTS = (*SHARED, "main.js")


def write_page(path: Path, contents: Mapping[str, Any]) -> int:
    """Writes the page of a report; returns its size in bytes.

    Args:
        path: an `.html`, made or replaced.
        contents: see `contents`.
    """
    text = page(contents)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return len(text.encode())


def page(contents: Mapping[str, Any]) -> str:
    """Returns the page of a report as HTML."""
    style = asset("uplot.min.css") + asset("page.css")
    plotting = asset("uplot.min.js")
    script = script_of(asset(name) for name in SCRIPTS)
    parts = {
        "title": html.escape(f"{contents['standing']['base']}: report"),
        "policy": html.escape(policy_of([style], [plotting, script])),
        "style": style,
        "data": embedded_json(contents),
        "licence": html.escape(asset("uplot.LICENSE.txt")),
        "plotting": plotting,
        "script": script,
    }
    return filled(asset("page.html"), parts)


def filled(template: str, parts: Mapping[str, str]) -> str:
    """Puts parts into the places `{{name}}` of a template; what looks like a place inside a part stays as it is."""
    pieces = template.split("{{")
    text = pieces[0]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        text += parts[name] + rest
    return text


def embedded_json(contents: Mapping[str, Any]) -> str:
    """Returns JSON that cannot end the element in which it stands."""
    text = json.dumps(contents, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def script_of(texts: Iterable[str]) -> str:
    """Returns the script of a page: its parts as one, in a scope of its own."""
    return '(() => {\n"use strict";\n' + "\n".join(texts) + "\n})();"


def policy_of(styles: list[str], scripts: list[str], pictures: str = "data: blob:") -> str:
    """Returns the policy of a page: these styles and scripts, pictures that it holds, nothing from elsewhere."""
    hashes = [" ".join(f"'sha256-{_sha256(text)}'" for text in texts) for texts in (styles, scripts)]
    kinds = f"default-src 'none'; style-src {hashes[0]}; script-src {hashes[1]}; img-src {pictures}"
    return f"{kinds}; base-uri 'none'; form-action 'none'"


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def asset(name: str) -> str:
    """Returns a file of the page's assets as text."""
    return (files(__package__ or "") / "assets" / name).read_text(encoding="utf-8")
