"""Machines that misbehave: disks without locks or room, clocks that jump, memory that ran out."""

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sage_va.cli import main
from sage_va.data import InputError, open_store
from sage_va.data import journal as journal_module
from sage_va.data.atomic import WEEK_S, lock_if_free, write_new
from sage_va.data.machine import is_out_of_memory
from sage_va.data.maintenance import verify
from sage_va.data.store import status as status_module
from sage_va.data.store.staging import Staging
from sage_va.testing import put

NO_LOCKS = "this file system has no locks"


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def _no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS without a lock service, and some FUSE file systems."""

    def refuse(*_: Any) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("_no_locks")
def test_a_cache_without_locks_is_written_and_warned_of_at_the_start(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=NO_LOCKS):
        store = open_store(tmp_path / "c.zarr", "a")
    with pytest.warns(UserWarning, match="let no two commands write to the same cache, run or comparison at once"):
        put(store, "a")
    (tmp_path / "c.zarr/.sage-va/staging/elsewhere-1").mkdir()
    with pytest.warns(UserWarning, match=NO_LOCKS):
        store = open_store(tmp_path / "c.zarr", "a")
    assert verify(store).problems == []
    assert store.leftovers() == [".sage-va/staging/elsewhere-1"]  # it may be at work: nothing proves the contrary


@pytest.mark.usefixtures("_no_locks")
def test_a_training_without_locks_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=f"{tmp_path}: {NO_LOCKS}"), lock_if_free(tmp_path / ".lock-run") as free:
        assert free


@pytest.mark.usefixtures("_no_locks")
def test_a_repository_in_a_folder_needs_locks(tmp_path: Path) -> None:
    pytest.importorskip("icechunk", reason="icechunk is not installed")
    with pytest.warns(UserWarning, match=NO_LOCKS), pytest.raises(InputError, match="expected a disk that can lock"):
        open_store(f"icechunk://{tmp_path / 'repo'}", "a")


def test_half_a_line_of_the_journal_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """write() reports success where it had room for a part."""
    store = open_store(tmp_path / "c.zarr", "a")
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(journal_module.os, "write", lambda descriptor, lines: write(descriptor, lines[:20]))
        with pytest.raises(OSError, match="No space left on device") as full:
            put(store, "a")
    assert str(full.value.filename).endswith("journal.jsonl")
    put(store, "b")
    assert verify(open_store(store.url)).problems == []


def test_errors_of_the_disk_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="Input/output error") as failed:
        write_new(tmp_path / "a", b"x")
    assert failed.value.filename == str(tmp_path / "a")


def test_a_clock_that_is_wrong_removes_nothing_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A week is measured by the disk's clock: a machine whose own is a year ahead leaves what another is making."""
    put(open_store(tmp_path / "c.zarr", "a"), "a")
    other = tmp_path / "c.zarr/.sage-va/staging/elsewhere-1"
    other.mkdir()
    real_s = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real_s + 365 * 24 * 3600)
        open_store(tmp_path / "c.zarr", "a")
    assert other.exists()
    os.utime(other, (0, real_s - WEEK_S - 60))
    assert Staging(tmp_path / "c.zarr").tidy() == [".sage-va/staging/elsewhere-1"]


def test_progress_under_a_clock_that_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "c.zarr", "a")
    store.log("list", clips=9)
    store.log("start", clips=9, streams=["visual/x-00000000"])
    put(store, "a")
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s - 86_400)
    result = status_module.status(store)
    assert result.quiet_s == 0
    assert (result.clips_per_hour, result.left_s) == (0, None)


def torch_on_cpu() -> None:
    torch.empty(2**60)


def numpy_on_cpu() -> None:
    np.empty(2**50)


@pytest.mark.parametrize("fill", [torch_on_cpu, numpy_on_cpu])
def test_memory_that_ran_out_is_one_line(fill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage_va.data.open_store", lambda *_: fill())
    done = CliRunner().invoke(main, ["cache", "info", "c.zarr"])
    assert done.exit_code == 1
    assert done.output.startswith("Error: out of memory: ")
    assert "enforce fail" not in done.output
    assert "Lower the batch size, close other programs" in done.output
    assert len(done.output.splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("std::bad_alloc"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_every_name_of_it_is_known(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(type(error)("something else"))
