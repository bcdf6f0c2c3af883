"""The pages of promises name tests; each of these tests exists, and each promise has one."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("guarantees.md", "determinism.md", "threats.md")
NAMED = re.compile(r"`((?:tests/[\w/]+|testing)\.py)(?:::(\w+))?`")


@cache
def functions_of(path: str) -> set[str]:
    """Names of all functions and classes of a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def rows_of(page: str) -> list[list[str]]:
    """The cells of all rows of the tables of promises of a page, without headers; behind them stand the figures."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").partition("## Kills")[0].splitlines()
    tables = [line for line in lines if line.startswith("|")]
    headers = {k - 1 for k, line in enumerate(tables) if set(line) <= set("|- ")}
    rows = [line for k, line in enumerate(tables) if k not in headers and not set(line) <= set("|- ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page: str) -> None:
    named = NAMED.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
    assert named
    missing = [f"{path}::{name}" for path, name in named if not (ROOT / path).is_file()]
    missing += [
        f"{path}::{name}" for path, name in named if (ROOT / path).is_file() and name and name not in functions_of(path)
    ]
    assert not missing


@pytest.mark.parametrize("page", ["guarantees.md", "determinism.md"])
def test_every_promise_has_a_test(page: str) -> None:
    rows = rows_of(page)
    assert len(rows) > 20
    assert not [row[0] for row in rows if not NAMED.search(" ".join(row)) and "benchmarks/" not in " ".join(row)]
