"""The cache as a Zarr v3 folder: `<stream>/<clip_key>/{values,frames}`, each array one uncompressed chunk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import Mode
from .entry import Entry
from .folder_store import Files, FolderStore, restore_root
from .zarr_layout import META, decode, encode, group_attrs, group_file, layout_problem, record_of


class ZarrStore(FolderStore):
    """A local Zarr v3 folder. The chunk file of an array is the array's bytes and nothing else."""

    ROOT = META

    def _root_file(self, attrs: Mapping[str, Any]) -> bytes:
        return group_file(attrs)

    def _root_attrs(self, content: bytes) -> dict[str, Any]:
        return group_attrs(content)

    def _group_files(self) -> Files:
        return {META: group_file({})}

    def _keys(self, stream: str) -> list[str]:
        folder = f"{self.path}/{stream}/"
        return [key for key in self._places(stream) if os.path.exists(f"{folder}{key}/{META}")]

    def _exists(self, stream: str, key: str) -> bool:
        return (self._place(stream, key) / META).exists()

    def _encode(self, entry: Entry) -> Files:
        return encode(entry)

    def _read_record(self, place: Path) -> dict[str, Any]:
        return record_of((place / META).read_bytes())

    def _read_entry(self, place: Path, record: dict[str, Any]) -> Entry:
        return decode(lambda name: (place / name).read_bytes(), record)

    def _place_problem(self, place: Path) -> str | None:
        files = {p.relative_to(place).as_posix(): p for p in place.rglob("*") if p.is_file()}
        return layout_problem(files.keys(), lambda name: files[name].read_bytes())


def open_cache(url: str, mode: Mode, licence: str | None, restricted: bool | None) -> ZarrStore:
    """Opens a Zarr folder."""
    return ZarrStore(Path(url), mode, licence, restricted)


def restore(path: Path) -> str | None:
    """Writes a damaged or lost root again; returns what was done."""
    return restore_root(ZarrStore, path)
