"""Every flag that a message, a docstring or a page of the manual names is one that the command line has."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from sage_va.tests.pages import options

ROOT = Path(__file__).resolve().parents[2]
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9](?![\w{-])")
OTHER_TOOLS = re.compile(
    r"SBATCH|\b(?:accelerate launch|benchmarks/|git|hf|pip install|ray start|sbatch|srun|tensorboard|uv pip)"
)
ARROW = re.compile(r"--[\w ,]+-->")  # of a diagram
OF_OTHERS = {"--no-deps", "--porcelain", "--untracked-files", "--gres", "--requeue", "--signal", "--equal"}
ROOMS = {"data", "extract", "fusion", "demo", "commands"}
HISTORY = {"CHANGELOG.md", "log.md"}


def texts() -> Iterator[tuple[str, str]]:
    """(place, text) of every string of the package and every line of the manual."""
    for path in [*ROOT.glob("*.py"), *(p for p in ROOT.glob("*/**/*.py") if p.parts[len(ROOT.parts)] in ROOMS)]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):  # a flag alone is its definition
                yield f"{path.relative_to(ROOT)}:{node.lineno}", ARROW.sub("", node.value)
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if path.name not in HISTORY:
                yield f"{path.relative_to(ROOT)}:{number}", line


def test_every_flag_named_exists():
    known = options() | OF_OTHERS
    unknown = [
        f"{place} {match[0]}"
        for place, text in texts()
        for match in FLAG.finditer(text)
        if match[0] not in {*known, text} and not OTHER_TOOLS.search(text, 0, match.start())
    ]
    assert not unknown
    assert len(known) > 60
