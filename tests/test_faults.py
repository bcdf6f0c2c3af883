"""The short form of `make faults`: a few kills, and a few turns in one process."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def printed(program: str, *words: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / program), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs pidfd")
def test_killed_verbs_end_as_if_nothing_had_happened(tmp_path: Path) -> None:
    for name in ("icechunk", "librosa", "optuna"):
        pytest.importorskip(name)
    text = printed(
        "faults.py", "--kills", "6", "--folder", str(tmp_path), "--only", "import:zarr", "cache export", "gc:zarr"
    )
    assert len([line for line in text.splitlines() if line.endswith("| 0 |")]) == 6  # as they end, and in the table


@pytest.mark.slow
def test_a_few_turns_leave_no_handle_thread_or_file(tmp_path: Path) -> None:
    pytest.importorskip("librosa")
    text = printed("soak.py", "--hours", "0", "--folder", str(tmp_path))
    assert "threads, the same difference: 0" in text
