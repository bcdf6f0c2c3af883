"""Folders that cannot be read: named, and the others are searched."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage_va.data.corpora.disk import Disk
from sage_va.data.file_tree import walk
from sage_va.data.labels import LabelFolder
from sage_va.data.manifest import find_sources
from sage_va.data.transfer.read_csv import Rules
from sage_va.data.transfer.read_files import find_features


def named(folder: Path) -> dict[str, Callable[[], list[str]]]:
    """The clips, recordings, label files and features that are found below a folder."""
    return {
        "clips": lambda: [source.clip_id for source in find_sources([str(folder)])],
        "recordings": lambda: [path.name for path in Disk.scan(folder).videos],
        "labels": lambda: [file.path.name for file in LabelFolder(folder).files],
        "features": lambda: [file.clip_id for file in find_features(folder, Rules())],
    }


@pytest.mark.parametrize("what", ["clips", "recordings", "labels", "features"])
def test_what_lies_in_an_unreadable_folder_is_not_passed_over_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for name in ("open/a", "shut/b"):
        for suffix in (".mp4", ".csv"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).with_suffix(suffix).write_bytes(b"1")
    scandir = os.scandir

    def refused(place: Any) -> Any:
        if os.fspath(place).endswith("shut"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.warns(UserWarning, match=r"shut: this folder cannot be read \(Permission denied\)"):
        paths = named(tmp_path)[what]()
    assert [Path(name).stem for name in paths] == ["a"]


@pytest.mark.filterwarnings("error")
def test_no_folder_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert [*walk(tmp_path / "none"), *walk(tmp_path / "file")] == []
