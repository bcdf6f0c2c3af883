"""The house rules that a machine can check: who imports whom, what is packaged, what must not be in a file."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("data", "extract", "fusion")
FOREIGN = {"timm", "transformers", "av", "cv2", "torchvision", "librosa", "soxr"}
SOURCES = sorted([*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))])
IN_REPOSITORY = [*SOURCES, *sorted((ROOT / "benchmarks").glob("*.py"))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(level, dotted name) of every import of a file, wherever it stands; `from . import x` counts as `x`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, node.module or alias.name) for alias in node.names)


def rooms_of(path: Path) -> set[str]:
    """The rooms that a file imports, other than its own."""
    depth = len(path.relative_to(ROOT).parts)
    return {name.split(".")[0] for level, name in imports(path) if level == depth} & set(ROOMS)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_rooms_import_only_downwards(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    allowed = {"data": set(), "extract": {"data"}, "fusion": {"data"}}.get(room, set(ROOMS))
    assert rooms_of(path) <= allowed


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_inside_are_relative(path: Path) -> None:
    depth = len(path.relative_to(ROOT).parts)
    assert not [name for level, name in imports(path) if level == 0 and name.split(".")[0] in {"sage_va", *ROOMS}]
    assert max((level for level, _ in imports(path)), default=0) <= depth


@pytest.mark.parametrize("room", ["data", "fusion"])
def test_stage_two_names_no_package_of_stage_one(room: str) -> None:
    found = {name.split(".")[0] for path in (ROOT / room).rglob("*.py") for _, name in imports(path)}
    assert not found & FOREIGN


def test_every_folder_of_code_is_packaged() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = {"sage_va", *(f"sage_va.{path.parent.name}" for path in ROOT.glob("*/__init__.py"))}
    assert set(project["tool"]["setuptools"]["packages"]) == found
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_stage_two_runs_without_the_packages_of_stage_one() -> None:
    code = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(FOREIGN)!r}:
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocker())
import sage_va, sage_va.cli, sage_va.data.transfer.importer, sage_va.data.transfer.exporter, sage_va.data.store.info, sage_va.data.manifest
import sage_va.data.transfer.copy, sage_va.data.maintenance, sage_va.data.store.status
import sage_va.fusion.training.train, sage_va.fusion.evaluation.score, sage_va.fusion.evaluation.report
import sage_va.fusion.experiments.compare, sage_va.fusion.evaluation.robustness, sage_va.fusion.training.calibrate, sage_va.fusion.models.variants
import sage_va.fusion.export.pretrained, sage_va.fusion.export.onnx, sage_va.api, sage_va.prediction, sage_va.cli_models
from sage_va import SAGE, evaluate, open_store, predict, train
print(sorted(set({sorted(FOREIGN)!r}) & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", [*IN_REPOSITORY, *sorted((ROOT / "tests").glob("*.py"))], ids=name_of)
def test_every_file_begins_with_its_purpose(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith('"""')
    assert len(ast.get_docstring(ast.parse(text)) or "") >= 10


OF_THIS_MACHINE = re.compile(r"/work/|/tmp/|/root/|/home/\w|(?<![\w.])10\.\d+\.\d+\.\d+|--index-url|--extra-index-url")


def texts() -> list[Path]:
    """What a release would hold, less the tests: sources, documents and settings."""
    kinds = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".cfg", ".json", ""}
    places = [ROOT, *(ROOT / name for name in (*ROOMS, "docs", "benchmarks", ".ci"))]
    return sorted(p for place in places for p in place.glob("*") if p.is_file() and p.suffix in kinds)


@pytest.mark.parametrize("path", texts(), ids=name_of)
def test_no_path_or_registry_of_one_machine(path: Path) -> None:
    assert not OF_THIS_MACHINE.findall(path.read_text(encoding="utf-8"))
