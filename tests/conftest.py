"""Settings for all tests: the Hypothesis profile, and the skips for material or hardware that a machine lacks."""

import atexit
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from sage_va.tests.browser import lacking

HOME = tempfile.mkdtemp(prefix="sage-va-tests-")  # nothing of a test stays with its user
os.environ["SAGE_VA_CACHE"] = HOME
os.environ.setdefault("NUMBA_CACHE_DIR", f"{sys.prefix}/.numba")  # to compile librosa's functions takes 15 s
os.environ.setdefault("OMP_NUM_THREADS", "1")  # one test process per core; torch reads it when it is imported
# By default Ray's workers yield to all other processes: beside other tests each took minutes.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
pytest.register_assert_rewrite("sage_va.testing")
SHARED = Path(__file__).resolve().parents[2] / "shared"

settings.register_profile(
    "sage", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("sage")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests that need ../shared, a CUDA device or a browser where there is none.

    Files with slow tests come first, so that at the end no process waits long for the other.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    for item in items:
        if item.get_closest_marker("shared") and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"no material at {SHARED}"))
        if item.get_closest_marker("gpu") and not has_cuda():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("browser") and (reason := lacking()):
            item.add_marker(pytest.mark.skip(reason=reason))


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of media and data beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"no material at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def ray_token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token of Ray's, one for all clusters that a process starts: Ray keeps the first that it reads."""
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text(secrets.token_hex(32))
    return token


@pytest.fixture(scope="module")
def ray(ray_token: Path) -> Iterator[Any]:
    """A cluster of four cores on this machine, with a token of its own: Ray would put one into the user's home."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(ray_token))
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
        yield ray
        ray.shutdown()
