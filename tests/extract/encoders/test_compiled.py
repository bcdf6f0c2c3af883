"""Compiled functions: of processes that begin at once, one makes their files; half of a pair is never kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

FUNCTIONS = """
import numba

@numba.guvectorize(["void(float64[:], float64[:])"], "(n)->()", cache=True)
def total(values, result):
    result[0] = 0.0
    for value in values:
        result[0] += value
"""
CALL = """
import sys
from sage_va.extract.encoders.compiled import compiled_by_one_process
with compiled_by_one_process("functions") as is_new:
    from functions import total
    if is_new:
        total([1.0])
print(total([1.0, 2.0]), is_new)
"""


def begun(folder: Path, **variables: str) -> subprocess.Popen[str]:
    surroundings = {**os.environ, "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}", **variables}
    surroundings.setdefault("NUMBA_CACHE_DIR", str(folder / "numba"))
    return subprocess.Popen([sys.executable, "-c", CALL], stdout=subprocess.PIPE, text=True, env=surroundings)


def end_of(process: subprocess.Popen[str]) -> str:
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return printed.strip()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(path.name.split(".")[0] for path in (folder / "numba").rglob("*") if path.is_file())


WHOLE = ["functions", "functions", "guf-functions", "guf-functions"]  # an index and the code, of both halves


@pytest.mark.slow
def test_of_many_at_once_one_compiles(folder: Path) -> None:
    processes = [begun(folder) for _ in range(5)]
    assert sorted(end_of(process) for process in processes) == ["3.0 False"] * 4 + ["3.0 True"]
    assert [name for name in files(folder) if "functions" in name] == WHOLE
    assert not list(folder.glob("__pycache__/*.nb*"))  # numba's own place


@pytest.mark.slow
def test_a_half_is_compiled_anew(folder: Path) -> None:
    end_of(begun(folder))
    (mark,) = folder.glob("numba/*/complete")
    mark.unlink()
    for half in folder.glob("numba/**/guf-*"):
        half.write_bytes(b"killed at this point")
    assert end_of(begun(folder)) == "3.0 True"
    assert end_of(begun(folder)) == "3.0 False"


@pytest.mark.slow
def test_another_version_of_the_functions_is_compiled_too(folder: Path) -> None:
    end_of(begun(folder))
    os.utime(folder / "functions.py", (1, 1))
    assert end_of(begun(folder)) == "3.0 True"


def test_without_a_place_to_write_each_compiles_for_itself(folder: Path) -> None:
    (folder / "numba").write_text("not a folder")
    assert end_of(begun(folder)) == "3.0 True"
    assert (folder / "numba").read_text() == "not a folder"
