"""A disk that is full at any write of a training, an export or a prediction: one line, nothing half under a final name.

Each command works on a disk of 4 KB, 8 KB, …, until it has room enough; then again on the first that was too small,
enlarged, as a user would.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sage_va.cli import main
from sage_va.data import open_store
from sage_va.data.tensor_file import load_tensors
from sage_va.fusion.config import check_config
from sage_va.fusion.training.train import train
from sage_va.tests.synthetic import make_cache, tiny

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small disk")]
LARGE_KB = 20_000


class SmallDisk:
    """A file system in memory, of a size that can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def resize(self, kilobytes: int, *, new: bool) -> None:
        if new:
            self.close()
        words = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k{'' if new else ',remount'}", "tmpfs", str(self.path)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk in memory can be mounted: {done.stderr.strip()}")

    def close(self) -> None:
        if os.path.ismount(self.path):
            subprocess.run(["umount", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    disk.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache, labels, a configuration and a run."""
    folder = tmp_path_factory.mktemp("place")
    cache, labels = make_cache(folder, num_clips=6, seconds=4)
    small = {"dim": 8, "tcn_blocks": 1, "layers": 0, "variant": "concat"}
    config = check_config(tiny(train={"epochs": 1, "batch_size": 64}, model=small), "test")
    (folder / "tiny.yaml").write_text(config.to_yaml(), encoding="utf-8")
    train(open_store(cache), labels, folder / "run", config)
    return folder


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def commands(place: Path, disk: Path) -> dict[str, list[Any]]:
    train_words = ["--labels", place / "labels", "--config", place / "tiny.yaml", "--device", "cpu", "--resume"]
    return {
        "train": ["train", place / "cache.zarr", "--out", disk / "out", *train_words],
        "predict": ["predict", place / "run", place / "cache.zarr", "--out", disk / "out"],
        "export": ["export", place / "run", "--out", disk / "out"],
    }


def contents(folder: Path) -> dict[str, Any]:
    """The contents of the files of a folder by name; weights as they are read."""
    read: dict[str, Any] = {}
    for path in folder.rglob("[!.]*"):
        if path.suffix == ".safetensors":
            read[path.name] = {name: tensor.tolist() for name, tensor in load_tensors(path)[0].items()}
        elif path.suffix in (".csv", ".md") and path.name != "metrics.csv":
            read[path.name] = path.read_bytes()
    return read


@pytest.mark.parametrize("verb", ["train", "predict", "export"])
def test_nothing_half_is_left_and_the_command_can_be_repeated(place: Path, disk: SmallDisk, verb: str) -> None:
    words = commands(place, disk.path)[verb]
    disk.resize(LARGE_KB, new=True)
    assert run(*words).exit_code == 0
    whole = contents(disk.path / "out")
    assert whole
    step_kb = max(4, sum(path.stat().st_size for path in disk.path.rglob("*") if path.is_file()) // 12_000 // 4 * 4)
    size_kb = 0
    for size_kb in range(4, LARGE_KB, step_kb):
        disk.resize(size_kb, new=True)
        done = run(*words)
        if done.exit_code == 0:
            break
        assert isinstance(done.exception, SystemExit), repr(done.exception)
        line = done.output.strip().splitlines()[-1]
        assert line.startswith(("Error: ", "failed: ")), line
        assert "No space left on device" in line
        assert str(disk.path) in line, line
        left = contents(disk.path / "out")
        assert all(left[name] == whole[name] for name in left.keys() & whole.keys()), left.keys()
        disk.resize(LARGE_KB, new=False)
        assert run(*words).exit_code == 0
        assert contents(disk.path / "out") == whole
    assert size_kb > 3 * step_kb
