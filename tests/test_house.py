"""The house rules that a machine can check: who imports whom, what is packaged, which words and names are used."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BELOW = {  # what a room or file of the root may import, besides itself
    "data": set(),
    "extract": {"data"},
    "fusion": {"data"},
    "api": {"data", "extract", "fusion"},
    "demo": {"data", "extract", "fusion"},
    "commands": {"api", "data", "demo", "extract", "fusion"},
    "cli": {"commands", "data"},
}
ROOMS = ("data", "extract", "fusion", "demo", "commands")
FOREIGN = {"timm", "transformers", "av", "cv2", "torchvision", "librosa", "soxr"}
SOURCES = sorted([*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))])
PYTHON = [*SOURCES, *sorted((ROOT / "benchmarks").rglob("*.py")), *sorted((ROOT / "tests").rglob("*.py"))]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[int, int, str]]:
    """(line, level, dotted name) of every name that a file imports, wherever the import stands."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, 0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = f"{node.module}." if node.module else ""
            yield from ((node.lineno, node.level, prefix + alias.name) for alias in node.names)


def relative_imports(path: Path) -> Iterator[tuple[int, Path]]:
    """(line, imported file) of every relative import of a file."""
    package = path.relative_to(ROOT).parts[:-1]
    for line, level, name in imports(path):
        if level:
            yield line, file_of((*package[: len(package) - level + 1], *name.split(".")))


def file_of(parts: tuple[str, ...]) -> Path:
    """The file that defines a dotted name below the package's root."""
    for depth in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:depth])
        for file in (place.parent / f"{place.name}.py", place / "__init__.py"):
            if file.is_file():
                return file
    return ROOT / "__init__.py"


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def unit_of(path: Path) -> str:
    """The subpackage that holds a file; a file outside of subpackages is a unit of its own."""
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2])


def test_rooms_import_only_downwards() -> None:
    offences = [
        f"{name_of(path)}:{line} imports {name_of(file)}"
        for path in SOURCES
        for line, file in relative_imports(path)
        if room_of(path) in BELOW and room_of(file) not in BELOW[room_of(path)] | {room_of(path), "__init__"}
    ]
    assert not offences


def test_subpackages_form_no_circle() -> None:
    graph = defaultdict(set)
    for path in SOURCES:
        graph[unit_of(path)] |= {unit_of(file) for _, file in relative_imports(path)} - {unit_of(path)}
    circle: list[str] = []
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1]
    assert not circle


def test_imports_inside_are_relative() -> None:
    offences = []
    for path in SOURCES:
        depth = len(path.relative_to(ROOT).parts)
        for line, level, name in imports(path):
            if level > depth or (level == 0 and name.split(".")[0] in {"sage_va", *ROOMS}):
                offences.append(f"{name_of(path)}:{line} imports {name}")
    assert not offences


def test_modules_named_in_text_exist() -> None:
    """Also in code that a test hands to another process, which no type checker reads."""
    offences = []
    for path in (*PYTHON, *PAGES):
        text = path.read_text(encoding="utf-8")
        imported = re.findall(r"\bfrom sage_va\.([\w.]+) import (\w+(?:, \w+)*)", text)
        names = [f"{module}.{name}" for module, group in imported for name in group.split(", ")]
        for name in names + re.findall(rf"\bsage_va\.((?:{'|'.join(ROOMS)})(?:\.\w+)+)", text):
            file = file_of(tuple(name.split(".")))
            module = file.parent if file.name == "__init__.py" else file
            rest = name.split(".")[len(module.relative_to(ROOT).parts) :]
            if rest and not (module / rest[0]).is_dir() and not re.search(rf"\b{rest[0]}\b", file.read_text("utf-8")):
                offences.append(f"{name_of(path)}: sage_va.{name}")
    assert not offences


def test_stage_two_names_no_package_of_stage_one() -> None:
    offences = [
        f"{name_of(path)}:{line} imports {name}"
        for path in SOURCES
        for line, _, name in imports(path)
        if room_of(path) in {"data", "fusion"} and name.split(".")[0] in FOREIGN
    ]
    assert not offences


def test_stage_two_runs_without_the_packages_of_stage_one() -> None:
    modules = [
        ".".join(("sage_va", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for path in SOURCES
        if room_of(path) in {"data", "fusion", "commands", "cli", "api", "__init__"}
    ]
    code = f"""
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(FOREIGN)!r}:
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocker())
for name in {modules!r}:
    importlib.import_module(name)
from sage_va import SAGE, evaluate, open_store, predict, train
print(sorted(set({sorted(FOREIGN)!r}) & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_every_folder_of_code_is_packaged() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {path.parent.relative_to(ROOT) for path in SOURCES}
    packages = {".".join(("sage_va", *folder.parts)) for folder in folders}
    assert set(project["tool"]["setuptools"]["packages"]) == packages
    assert not [name_of(folder) for path in folders if not (folder := ROOT / path / "__init__.py").is_file()]
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_every_file_begins_with_its_purpose() -> None:
    assert not [name_of(path) for path in PYTHON if len(ast.get_docstring(tree_of(path)) or "") < 10]


def test_a_public_class_has_a_name_of_its_own() -> None:
    places = defaultdict(list)
    for path in SOURCES:
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name_of(path))
    assert not {name: files for name, files in places.items() if len(files) > 1}


def test_no_generator_yields_generators() -> None:
    """An inner generator reads the outer one's names when it runs: after the loop, when all hold their last value."""
    offences = [
        f"{name_of(path)}:{node.lineno}"
        for path in PYTHON
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.GeneratorExp | ast.ListComp | ast.SetComp)
        and isinstance(node.elt, ast.GeneratorExp | ast.Lambda)
        and bound_names(node) & {name.id for name in ast.walk(node.elt) if isinstance(name, ast.Name)}
    ]
    assert not offences


def bound_names(node: ast.GeneratorExp | ast.ListComp | ast.SetComp) -> set[str]:
    """The names that the loops of a comprehension bind."""
    targets = (name for loop in node.generators for name in ast.walk(loop.target))
    return {name.id for name in targets if isinstance(name, ast.Name)}


OF_ONE_MACHINE = re.compile(
    r"/work/|/tmp/|/root/|/home/\w|(?<![\w.])10\.\d+\.\d+\.\d+|--(?:extra-)?index-url|--find-links"
)
KINDS = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".cfg", ".cff", ".json", ".sh", ""}


def released() -> Iterator[Path]:
    """The files of a release except the tests: sources, documents and settings."""
    for place in (ROOT, *(ROOT / name for name in (*ROOMS, "docs", "benchmarks", ".ci", ".github"))):
        paths = place.glob("*") if place == ROOT else place.rglob("*")
        yield from (path for path in paths if path.is_file() and path.suffix in KINDS and path.name != ".git")


def test_no_path_or_registry_of_one_machine() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in released()}
    assert not {name_of(path): places for path, text in texts.items() if (places := OF_ONE_MACHINE.findall(text))}


# Language

OPENING = re.compile(r"(?:Of|What|Whether|How|Who|Whom|The same)\b")
PROSE = re.compile(
    r"\b(?:nobody|whoever|whom of|in vain|go(?:es|ne|ing)? on with|unseen error|training forms?|planted|parted|parcels?"
    r"|suspects|the one that writes|heard|told|tells)\b",
    re.IGNORECASE,
)
EMPTY_NAMES = {"found", "told", "made", "seen", "heard", "given"}
HASHED = "nobody is followed into"  # part of the identity of streams with faces: its words cannot change
NOT_PROSE = {"docs/log.md", "CHANGELOG.md", "tests/test_house.py"}  # history, and this list


def openings() -> Iterator[tuple[Path, int, str]]:
    for path in PYTHON:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if OPENING.match(text):
                    yield path, getattr(node, "lineno", 1), text.splitlines()[0]


def words() -> Iterator[tuple[Path, int, str]]:
    for path in (*PYTHON, *PAGES):
        if name_of(path) not in NOT_PROSE:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                yield from ((path, number, word) for word in PROSE.findall(line.replace(HASHED, "")))


def empty_names() -> Iterator[tuple[Path, int, str]]:
    for path in PYTHON:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in EMPTY_NAMES:
                yield path, node.lineno, node.id
            elif isinstance(node, ast.arg) and node.arg in EMPTY_NAMES:
                yield path, node.lineno, node.arg


@pytest.mark.parametrize(
    "offences",
    [
        pytest.param(openings, id="docstrings begin with a verb or a noun"),
        pytest.param(words, id="plain words"),
        pytest.param(empty_names, id="variables are named after what they hold"),
    ],
)
def test_language(offences: Callable[[], Iterator[tuple[Path, int, str]]]) -> None:
    lines = sorted(f"{name_of(path)}:{line} {text}" for path, line, text in offences())
    assert not lines, "\n".join(lines)
