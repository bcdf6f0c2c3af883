"""The page of `sage-va view`: markup, styles and scripts of its own around the traces of the report."""

from __future__ import annotations

import html
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from ..report.page import SHARED, asset, embedded_json, filled, policy_of, script_of

SCRIPTS = ("player.js", "faces.js", "moments.js", "labels.js", "main.js")
PICTURES = "'self' data: blob:"
FROM_SERVER = "media-src 'self'; connect-src 'self'; frame-ancestors 'none'"


def view_page(contents: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the page as HTML, and its content security policy.

    Only the styles and scripts that stand in the page run, by their hashes; it reaches nothing but its own server.

    Args:
        contents: see `Viewing.contents`.
    """
    style = asset("uplot.min.css") + asset("page.css") + _own("view.css")
    plotting = asset("uplot.min.js")
    script = script_of([*map(asset, SHARED), *map(_own, SCRIPTS)])
    policy = f"{policy_of([style], [plotting, script], PICTURES)}; {FROM_SERVER}"
    parts = {
        "title": html.escape(f"{contents['standing']['base']}: view"),
        "style": style,
        "data": embedded_json(contents),
        "licence": html.escape(asset("uplot.LICENSE.txt")),
        "plotting": plotting,
        "script": script,
    }
    return filled(_own("view.html"), parts), policy


def _own(name: str) -> str:
    return (files(__package__ or "") / "assets" / name).read_text(encoding="utf-8")
