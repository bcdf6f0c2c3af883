"""Every snippet of the page on the cache format runs, with plain zarr, h5py and icechunk."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_va.data import Store, open_store
from sage_va.data.transfer.copy import copy
from sage_va.testing import SHA, VISUAL_NAME, make_track, put

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs/cache-format.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One clip in every form, under the names that the documents use."""
    folder = tmp_path_factory.mktemp("docs")
    pytest.importorskip("icechunk")
    for url in (folder / "x.zarr", folder / "x.h5", f"icechunk://{folder}/team"):
        store: Store = open_store(url, "a")
        put(store, "talk.mp4", track=make_track(3), source_sha256=SHA)
        store.finish()
    for name in ("one.h5", "x.zarr.zip"):
        copy(str(folder / "x.zarr"), str(folder / name))
    return folder


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippets_run(snippet: str, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(places)
    names: dict[str, Any] = {}
    exec(snippet.replace("visual/resnet18-1a2b3c4d", VISUAL_NAME), names)
    if "StoreContract" in names:
        assert issubclass(names["TestMyStore"], names["StoreContract"])
        return
    if "frames" not in names:
        assert names["values"][0] == 1.5
        assert np.isnan(names["values"][1])
        return
    track = make_track(3)
    assert np.array_equal(names["values"], track.values, equal_nan=True)
    assert np.array_equal(names["frames"][:, 0], track.times_s)
    if "mask" in names:
        assert np.array_equal(names["times_s"], track.times_s)
        assert np.array_equal(names["mask"], track.mask)
        assert np.array_equal(names["quality"], track.quality, equal_nan=True)


def test_the_seal_is_what_the_page_says(places: Path) -> None:
    content = (places / "one.h5").read_bytes()
    assert hashlib.sha256(content[512:]).hexdigest() in content.split(b"\n")[0].decode()
