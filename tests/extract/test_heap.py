"""Memory that torch frees stays with a process that extracts, whichever thread asks for it next."""

import platform
import subprocess
import sys

import pytest

from sage_va.extract.heap import keep_freed_memory

PROGRAM = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
import torch
from sage_va.extract.heap import keep_freed_memory

def large(_):
    return torch.ones(40 << 20, dtype=torch.uint8)[-1].item()

if sys.argv[1] == "kept":
    keep_freed_memory()
with ThreadPoolExecutor(1) as pool:
    list(pool.map(large, range(20)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    list(pool.map(large, range(4)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C library")
def test_pages_are_not_cleared_again_for_each_block():
    faults = {}
    for way in ("kept", "default"):
        command = [sys.executable, "-c", PROGRAM, way]
        faults[way] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert faults["kept"] < 50
    assert faults["default"] > 1000  # 10,240 pages per block, unless they are huge


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
