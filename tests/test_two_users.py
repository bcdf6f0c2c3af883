"""Two users of one group share a folder: what one begins, the other resumes, and both may work at once."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SCENARIOS = {
    "stores": (),
    "repository": ("icechunk",),
    "packs": (),
    "training": (),
    "experiments": ("optuna",),
    "homeless": (),
}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter; those of pytest they may not."""
    with tempfile.TemporaryDirectory(prefix="sage-va-users-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become two users")
@pytest.mark.parametrize(
    "scenario",
    [pytest.param(name, marks=pytest.mark.exhaustive if name == "experiments" else ()) for name in SCENARIOS],
)
def test_two_users_of_one_folder(scenario: str, open_folder: Path) -> None:
    for name in SCENARIOS[scenario]:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"not installed: {name}")
    words = [sys.executable, "-m", "sage_va.tests.two_users", scenario, str(open_folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
