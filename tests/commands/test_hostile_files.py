"""Files that were made to break a reader: each is one line with its place, never a traceback."""

import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sage_va.cli import main
from sage_va.data import InputError
from sage_va.data.labels import read_label_file
from sage_va.data.user_cache import user_cache
from sage_va.tests.attacks import write_hdf5_bomb
from sage_va.tests.synthetic import make_cache

DEEP, DIGITS = "[" * 50_000, "9" * 5_000
HEADER = b"time_s,valence,arousal\n"
NPY_BOMB = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000, 1000000), }"
LEVELS = "".join(f"l{k}: &l{k} [{','.join([f'*l{k - 1}' if k else 'x'] * 9)}]\n" for k in range(9))  # 9^9 values
CONFIGS = {
    "a billion by aliases": f"{LEVELS}model: *l8\n".encode(),
    "nested": DEEP.encode(),
    "digits": f"seed: {DIGITS}".encode(),
    "Latin-1": b"model: {variant: \xe9}",
    "UTF-16": "model: {}".encode("utf-16"),
    "aliases of aliases": b"a: &a [x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nmodel: [*b,*b,*b,*b,*b,*b]\n",
}
MANIFESTS = {
    "nested.jsonl": b'{"clip_id":' + DEEP.encode(),
    "digits.jsonl": b'{"clip_id": "a", "path": "a.mp4", "start_s": ' + DIGITS.encode() + b"}",
    "cell.csv": b"clip_id,path\n" + b"a" * 200_000 + b",x.mp4\n",
    "nul.csv": b"clip_id,path\na\0b,x.mp4\n",
    "latin.csv": b"clip_id,path\n\xe9,x.mp4\n",
}
LABELS = {
    "Latin-1": HEADER + b"0,\xe9,1\n",
    "UTF-16": (HEADER + b"0,0,0\n").decode().encode("utf-16"),
    "digits": HEADER + b"9" * 400 + b",0,0\n",
    "a cell": HEADER + b"0,0," + b"1" * 200_000 + b"\n",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_cache(tmp_path_factory.mktemp("hostile"), num_clips=3, seconds=1)


def refusal(*words: object) -> str:
    """The last line of a command that must fail, and not by an exception of ours."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    return done.output.strip().splitlines()[-1]


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations(place: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    (tmp_path / "c.yaml").write_bytes(CONFIGS[name])
    words = ("--labels", place[1], "--out", tmp_path / "run")
    assert refusal("train", place[0], *words, "--config", tmp_path / "c.yaml").startswith("Error: ")
    assert "c.yaml" in refusal("sweep", place[0], *words, "--space", tmp_path / "c.yaml")


@pytest.mark.parametrize("value", [DEEP[:3000], DIGITS, "a\0b"])
def test_settings(place: tuple[Path, Path], tmp_path: Path, value: str) -> None:
    line = refusal("train", place[0], "--labels", place[1], "--out", tmp_path / "run", "--set", f"seed={value}")
    assert line.startswith("Error: --set seed=")
    assert len(line) < 400


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(MANIFESTS[name])
    assert name in refusal("extract", tmp_path / name, "--out", tmp_path / "c.zarr", "--audio", "logmel")


@pytest.mark.parametrize("name", LABELS)
def test_labels(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.csv").write_bytes(LABELS[name])
    with pytest.raises(InputError, match=r"a\.csv"):
        read_label_file(tmp_path / "a.csv")


def test_a_pipe_among_labels_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"a\.csv: expected a file"):
        read_label_file(tmp_path / "a.csv")


def test_an_array_larger_than_the_memory_is_a_failure_of_its_clip(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "bomb.npy").write_bytes(NPY_BOMB.ljust(127) + b"\n")
    np.save(tmp_path / "features" / "good.npy", np.ones((5, 2), np.float32))
    words = ("cache", "import", tmp_path / "features", "--stream", "visual/x", "--hz", 25, "--out", tmp_path / "c.zarr")
    assert "bomb" in refusal(*words)
    done = CliRunner().invoke(main, ["cache", "ls", str(tmp_path / "c.zarr")])
    assert "good" in done.output


@pytest.mark.parametrize(("name", "words"), [("a\0b", ("cache", "info")), ("a\udcffb", ("cache", "info"))])
def test_names_that_are_none(name: str, words: tuple[str, ...]) -> None:
    assert refusal(*words, f"{name}.zarr").startswith("Error: ")


def test_no_home_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has no entry in passwd."""

    def homeless(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("SAGE_VA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(InputError, match="SAGE_VA_CACHE"):
        user_cache()


def test_a_space_of_thirty_thousand_choices(place: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(f"train.learning_rate: [{', '.join(['0.001'] * 30_000)}]\n", encoding="utf-8")
    line = refusal("sweep", place[0], "--labels", place[1], "--out", tmp_path / "s", "--space", tmp_path / "s.yaml")
    assert "s.yaml: train.learning_rate: expected at most 1000 choices, got 30000. Give a range: {low: …" in line


def test_features_that_inflate_are_a_failure_of_their_clip(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    np.savez_compressed(tmp_path / "features" / "bomb.npz", a=np.zeros((1 << 18, 68), np.float32))
    write_hdf5_bomb(tmp_path / "features" / "bomb2.h5")
    np.savez_compressed(tmp_path / "features" / "good.npz", a=np.zeros((500, 68), np.float32))
    words = ("cache", "import", tmp_path / "features", "--stream", "visual/x", "--hz", 25, "--out", tmp_path / "c.zarr")
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 1
    assert "1 clips in visual/x" in done.output
    assert "failed: bomb: " in done.output
    assert "bytes that inflate to 71,303,296. Save it again as plain arrays" in done.output
    assert "failed: bomb2: " in done.output
    assert "'/a' of 0 bytes that inflate to 4,294,967,296" in done.output
