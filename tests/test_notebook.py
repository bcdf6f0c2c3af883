"""The notebook of the manual: its cells run one after the other, and what it shows names no place of a machine."""

import re
from pathlib import Path
from typing import Any

import pytest

from sage_va.tests.pages import SPAN, parse

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"
OF_A_MACHINE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|usr|var|work|Users)\b|site-packages|Warning|Traceback")


@pytest.fixture
def notebook() -> Any:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(PAGE, 4)
    nbformat.validate(notebook)
    return notebook


def texts_of(cell: Any) -> str:
    """All texts that the outputs of a cell show."""
    outputs = cell.get("outputs", [])
    return "\n".join(
        [output.get("text", "") for output in outputs]
        + [text for output in outputs for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    )


def test_its_outputs_are_small_whole_and_of_no_machine(notebook: Any) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    assert {output.output_type for cell in code for output in cell.outputs} <= {
        "stream",
        "execute_result",
        "display_data",
    }
    assert not [texts_of(cell) for cell in code if OF_A_MACHINE.search(texts_of(cell) + cell.source)]
    assert "image/png" in code[-1].outputs[-1].data
    assert PAGE.stat().st_size < 300_000


def test_its_links_and_commands_exist(notebook: Any) -> None:
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "untrained" in prose
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        assert (PAGE.parent / target).exists(), target
    commands = [span for span in SPAN.findall(prose) if span.startswith("sage-va ")]
    for command in commands:
        parse(command.split()[1:])
    assert commands


@pytest.mark.slow
def test_its_cells_run(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("nbclient", "ipykernel", "pandas", "av", "timm", "librosa"):
        pytest.importorskip(package)
    from nbclient import NotebookClient

    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    (tmp_path / "work").mkdir()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path / "work")}}).execute()
    assert "10 clips done, 0 failed; 640 frames" in "\n".join(map(texts_of, notebook.cells))
    assert "image/png" in notebook.cells[-1].outputs[-1].data
