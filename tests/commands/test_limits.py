"""Few handles and little memory (`ulimit -n`, `ulimit -v`): work is done, or refused in one line; never misjudged."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sage_va.data import open_store
from sage_va.data.maintenance import verify
from sage_va.fusion.config import check_config
from sage_va.tests.synthetic import make_cache, tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    cache, _ = make_cache(folder, num_clips=20, seconds=2)
    source = open_store(cache)
    entries = (source.entry(clip_id, stream) for stream in source.streams() for clip_id in source.clip_ids(stream))
    list(open_store(folder / "cache.h5", "a").add(entries))
    config = check_config(tiny(train={"epochs": 1}, model={"variant": "concat"}), "test")
    (folder / "tiny.yaml").write_text(config.to_yaml(), encoding="utf-8")
    (folder / "media").mkdir()
    for k in range(4):
        soundfile.write(folder / "media" / f"{k}.wav", np.zeros(16_000, np.float32), 16_000)
    return folder


def limited(place: Path, what: int, limit: int, *words: str) -> tuple[int, str]:
    """Runs a command in a folder with a limit; returns its exit code and the last line that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "sage_va", *words],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=lambda: resource.setrlimit(what, (limit, limit)),
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()[-1]


@pytest.mark.parametrize("verb", ["verify", "repair"])
@pytest.mark.parametrize("layout", ["cache.zarr", "cache.h5"])
@pytest.mark.parametrize("limit", [8, 12, 24])
def test_want_of_handles_is_no_damage(place: Path, layout: str, verb: str, limit: int) -> None:
    code, line = limited(place, resource.RLIMIT_NOFILE, limit, "cache", verb, layout, "--workers", "16")
    if code:
        assert line.startswith("Error: ")
        assert "oo many open files" in line
    assert verify(open_store(place / layout)).problems == []
    assert len(open_store(place / layout).clip_ids()) == 20


@pytest.mark.parametrize(
    "words",
    [
        ("train", "cache.zarr", "--labels", "labels", "--out", "run", "--config", "tiny.yaml", "--device", "cpu"),
        ("extract", "media", "--out", "media.zarr", "--audio", "logmel", "--device", "cpu"),
        ("cache", "copy", "cache.zarr", "copied.packs", "--workers", "16"),
    ],
)
def test_twenty_four_handles_are_enough(place: Path, words: tuple[str, ...]) -> None:
    assert limited(place, resource.RLIMIT_NOFILE, 24, *words)[0] == 0


@pytest.mark.parametrize("gigabytes", [1, 2])
def test_little_memory_is_one_line(place: Path, gigabytes: int) -> None:
    words = ("train", "cache.zarr", "--labels", "labels", "--out", "other", "--config", "tiny.yaml", "--device", "cpu")
    code, line = limited(place, resource.RLIMIT_AS, gigabytes << 30, *words)
    assert code == 1
    assert line.startswith("Error: out of memory: ")
