"""`sage_va.extract`: the names for authors of extensions, loaded on first use."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sage_va.extract as extract_room

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "timm", "transformers", "torchvision", "librosa")
MODULES = [
    "sage_va.extract",
    "sage_va.extract.options",
    "sage_va.extract.identity",
    "sage_va.extract.encoders.factory",
    "sage_va.extract.encoders.audio_windows",
    "sage_va.extract.encoders.vad",
    "sage_va.extract.faces.preview",
    "sage_va.extract.engine.dry_run",
    "sage_va.extract.engine.pipeline",
    "sage_va.extract.engine.scheduler",
    "sage_va.extract.engine.local_engine",
]


def test_all_modules_but_those_of_encoders_load_without_torch():
    code = f"""
import importlib, sys
for name in {MODULES!r}:
    importlib.import_module(name)
print(sorted(set({HEAVY!r}) & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", extract_room.__all__)
def test_every_public_name_is_there(name):
    assert getattr(extract_room, name).__name__ == name
    assert name in dir(extract_room)


def test_type_checkers_and_programs_see_the_same_names():
    tree = ast.parse((ROOT / "extract/__init__.py").read_text(encoding="utf-8"))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: f"{'.' * node.level}{node.module}"
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == extract_room._MODULES
    assert sorted(typed) == sorted(extract_room.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'sage_va\.extract' has no attribute 'Encodr'"):
        extract_room.Encodr  # noqa: B018


def test_the_manual_imports_from_the_room_alone():
    text = (ROOT / "docs/encoders.md").read_text(encoding="utf-8")
    modules = re.findall(r"^from (sage_va\S*) import", text, re.MULTILINE)
    assert modules
    assert set(modules) == {"sage_va.extract"}
