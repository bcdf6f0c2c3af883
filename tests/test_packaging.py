"""A wheel holds every module of the package, and its core needs none of the extras."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def with_dependencies(requirements: list[str]) -> set[str]:
    """The distributions that an installation of some requirements brings, as far as they are installed here."""
    names: set[str] = set()
    todo = [Requirement(text) for text in requirements]
    for requirement in todo:
        if normal(requirement.name) not in names and (
            not requirement.marker or requirement.marker.evaluate({"extra": ""})
        ):
            names.add(normal(requirement.name))
            todo += map(Requirement, requirements_of(requirement.name))
    return names


def requirements_of(name: str) -> list[str]:
    try:
        return requires(name) or []
    except ModuleNotFoundError:
        return []


def modules_of_extras() -> list[str]:
    """The top-level modules that only the extras bring."""
    core = with_dependencies(PROJECT["dependencies"])
    extras = {normal(Requirement(text).name) for texts in PROJECT["optional-dependencies"].values() for text in texts}
    sources = packages_distributions().items()
    return sorted(
        module for module, names in sources if (owners := set(map(normal, names))) & extras and not owners & core
    )


def test_a_wheel_holds_every_module() -> None:
    code = """
from setuptools.config.pyprojecttoml import apply_configuration
from setuptools.dist import Distribution
command = apply_configuration(Distribution({"script_name": "setup.py"}), "pyproject.toml").get_command_obj("build_py")
command.ensure_finalized()
data = [f"{folder}/{name}" for _, folder, _, names in command.data_files for name in names]
print(*command.get_source_files(), *data, sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    packed = {Path(line).as_posix() for line in done.stdout.splitlines()}
    rooms = [path.parent for path in ROOT.glob("*/__init__.py")]
    modules = [*ROOT.glob("*.py"), *(path for room in rooms for path in room.rglob("*.py"))]
    assert {path.relative_to(ROOT).as_posix() for path in modules} == {name for name in packed if name.endswith(".py")}
    folders = (ROOT / "fusion" / "report" / "assets", ROOT / "demo" / "assets" / "drawn-faces")
    assets = {path.relative_to(ROOT).as_posix() for folder in folders for path in folder.iterdir()}
    assert {"py.typed", *assets} <= packed


def test_the_core_runs_without_any_extra() -> None:
    blocked = modules_of_extras()
    assert {"timm", "transformers", "av", "cv2", "pytest", "optuna"} <= set(blocked)
    assert not {"torch", "numpy", "zarr", "click"} & set(blocked)
    code = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
from sage_va import SAGE, Clip, Track, evaluate, open_store, predict, train
from sage_va.cli import main
for command in main.list_commands(None):
    main(["--help"], standalone_mode=False)
    main([command, "--help"], standalone_mode=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
