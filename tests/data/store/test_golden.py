"""Caches that were written by version 0.1.0 in every form are read for ever, or refused by name."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_va.data import InputError, open_store
from sage_va.data.hashing import sealed
from sage_va.data.store.zarr_layout import group_attrs, group_file
from sage_va.testing import problems, same

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
CONTENT = "a06f1bb08e9068380989c93f641a8242102e937cb848c84ba7d68d64a7321580"
FORMS = ("c.zarr", "c.h5", "one.h5", "c.zarr.zip", "c.packs", "c.icechunk")


@pytest.fixture(scope="module")
def maker() -> Any:
    spec = importlib.util.spec_from_file_location("make_caches", GOLDEN / "make_caches.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(form: str, maker: Any, tmp_path: Path) -> None:
    place = GOLDEN / "schema-1" / form
    if form == "c.icechunk":
        pytest.importorskip("icechunk")
    (shutil.copytree if place.is_dir() else shutil.copy)(place, tmp_path / form)
    store = open_store(f"icechunk://{tmp_path / form}" if form == "c.icechunk" else tmp_path / form)
    assert store.content_sha256() == CONTENT
    assert problems(store) == []
    assert store.clip_ids() == sorted(maker.CLIPS)
    assert store.aliases()["visual/paper"] == maker.STREAMS["visual"]
    assert (store.root()["licence"], store.root()["restricted"]) == ("CC0-1.0", True)
    for number, clip_id in enumerate(maker.CLIPS):
        for modality, stream in maker.STREAMS.items():
            assert same(store.read(clip_id, stream), maker.golden_track(number, modality))
        clock = store.clip(clip_id).clock
        assert clock is not None
        assert np.array_equal(clock.pts, [0, 40, 80, 130, 200, 240])


def test_what_is_written_today_is_the_same_content(maker: Any, tmp_path: Path) -> None:
    store = open_store(tmp_path / "c.zarr", "a")
    maker.fill(store)
    assert store.content_sha256() == CONTENT


def test_another_schema_is_refused_by_name(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "schema-1/c.zarr", tmp_path / "c.zarr")
    root = tmp_path / "c.zarr/zarr.json"
    attrs = {**group_attrs(root.read_bytes()), "schema_version": 7}
    del attrs["attrs_sha256"]
    root.write_bytes(group_file(sealed(attrs)))
    with pytest.raises(InputError, match=r"c\.zarr: expected cache schema 1, got schema 7\. Use the version"):
        open_store(tmp_path / "c.zarr")
    assert json.loads(root.read_text())["attributes"]["schema_version"] == 7
