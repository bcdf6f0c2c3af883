"""Files of tensors: no flipped byte is read as if it were another value."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sage_va.data.tensor_file import KEY, DamagedTensorsError, load_tensors, save_tensors

TENSORS = {
    "weight": torch.arange(12.0).reshape(3, 4),
    "half": torch.ones(5, dtype=torch.bfloat16),
    "mask": torch.tensor([True, False]),
    "number": torch.tensor(7),
    "none": torch.zeros(0, 3),
}


def test_what_is_read_is_what_was_saved(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a.safetensors", TENSORS, {"facts": "é"})
    tensors, metadata = load_tensors(tmp_path / "a.safetensors")
    assert metadata == {"facts": "é"}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_no_flipped_byte_is_read_as_another_value(tmp_path: Path) -> None:
    """Each byte in turn, in header and data: refused, or of no meaning (a name in the header that nothing reads)."""
    path = tmp_path / "a.safetensors"
    save_tensors(path, TENSORS, {"facts": "a"})
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    expected, num_refused = load_tensors(path), 0
    for place in range(len(whole)):
        flipped = whole.copy()
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped.tobytes())
        try:
            tensors, metadata = load_tensors(path)
        except DamagedTensorsError:
            num_refused += 1
            continue
        assert metadata in (expected[1], {})  # {}: the key by which it is looked for has another name
        assert all(torch.equal(tensors[name], tensor) for name, tensor in expected[0].items())
    assert num_refused > 0.9 * len(whole)


def test_a_file_without_a_hash_is_read(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "b.safetensors")
    assert torch.equal(load_tensors(tmp_path / "b.safetensors")[0]["weight"], torch.ones(2))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.safetensors").write_bytes(content)
    with pytest.raises(DamagedTensorsError):
        load_tensors(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    "about",
    [
        '["x"]',
        '{"metadata":["x"],"sha256":"0"}',
        '{"metadata":{"a":1}}',
        '{"metadata":null}',
        '{"metadata":{"a":"\\ud800"},"sha256":"0"}',
        pytest.param("[" * 100_000, id="nested"),
    ],
)
def test_a_header_of_another_form_is_damage(tmp_path: Path, about: str) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "d.safetensors", {KEY: about})
    with pytest.raises(DamagedTensorsError, match=r"\S"):
        load_tensors(tmp_path / "d.safetensors")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_umask_decides_who_may_read(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        save_tensors(tmp_path / "a.safetensors", TENSORS)
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == mode


def test_a_full_disk_is_an_os_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    """In a process of its own, whose files may have no more than 1000 bytes."""
    path = tmp_path / "a.safetensors"
    save_tensors(path, TENSORS)
    before = path.read_bytes()
    script = """
import resource, signal, sys, torch
from pathlib import Path
from sage_va.data.tensor_file import save_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save_tensors(Path(sys.argv[1]), {"a": torch.zeros(10_000)})
except OSError as error:
    print(error.strerror, Path(error.filename).name)
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "File too large a.safetensors"
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".safetensors"] == ["a.safetensors"]
