"""Results of the verbs of a cache, as values, as text and as JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_va.commands.cache import describe_clips, describe_info, describe_verified
from sage_va.data import Clip, Store, Track, open_store, stream_name
from sage_va.data.maintenance import collect_garbage, repair, verify
from sage_va.data.store.info import info, list_clips
from sage_va.data.store.status import status
from sage_va.data.transfer.copy import copy
from sage_va.data.transfer.exporter import export

FINGERPRINT = {"modality": "visual", "encoder": {"name": "toy", "weights": "random"}}
STREAM = stream_name("visual", "toy", FINGERPRINT)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(tmp_path / "c.zarr", "a", licence="EULA", restricted=True)
    for clip_id, seconds in (("a.mp4", 1800.0), ("b.mp4", None)):
        track = Track.of(np.ones((4, 2), np.float16), np.arange(4.0), np.array([True, True, False, True]))
        clip = Clip(clip_id, "ann", seconds)
        store.commit(clip, STREAM, track, fingerprint=FINGERPRINT, source_sha256="5")
    return store


def test_info(store: Store) -> None:
    result = info(store)
    assert (result.clips, result.hours, result.licence, result.schema_version) == (2, 0.5, "EULA", 1)
    row = result.streams[STREAM]
    assert (row.clips, row.frames, row.valid, row.dim, row.dtype) == (2, 8, 6, 2, "float16")
    assert (row.bytes, row.aliases, result.aliases) == (160, ["visual/toy"], {"visual/toy": STREAM})
    text = describe_info(result)
    assert "2 clips, 0.50 h, schema 1, licence EULA, RESTRICTED" in text
    assert f"{STREAM}: 2 clips, 8 frames x 2 float16, 75.0 % valid  RANDOM WEIGHTS  <- visual/toy" in text
    assert store.content_sha256()[:16] in text


def test_a_stream_without_an_alias_says_so(store: Store) -> None:
    newer = {**FINGERPRINT, "layer": 3}
    track = Track.of(np.ones((4, 2), np.float16), np.arange(4.0))
    name = stream_name("visual", "toy", newer)
    store.commit(Clip("a.mp4"), name, track, fingerprint=newer, source_sha256="5")
    text = describe_info(info(store))
    assert f"{STREAM}: 2 clips, 8 frames x 2 float16, 75.0 % valid  RANDOM WEIGHTS  (no alias)" in text
    assert "100.0 % valid  RANDOM WEIGHTS  <- visual/toy" in text
    assert all(f"{stream} (4)" in describe_clips(list_clips(store)).splitlines()[0] for stream in (STREAM, name))


def test_an_empty_cache(tmp_path: Path) -> None:
    empty = open_store(tmp_path / "e.zarr", "a")
    assert "0 clips" in describe_info(info(empty))
    assert "licence not stated" in describe_info(info(empty))
    assert describe_clips(list_clips(empty)) == ""
    assert describe_verified(verify(empty)).endswith("0 streams checked, whole")


def test_ls(store: Store) -> None:
    result = list_clips(store)
    assert result.to_json()["clips"][0] == {
        "clip_id": "a.mp4", "subject_id": "ann", "duration_s": 1800.0, "streams": {STREAM: 4},
    }  # fmt: skip
    lines = describe_clips(result).splitlines()
    assert lines == [f"a.mp4  1800.00 s  ann  {STREAM} (4)", f"b.mp4        ? s  ann  {STREAM} (4)"]


@pytest.mark.parametrize(
    ("verb", "keys"),
    [
        (
            lambda store, out: info(store),
            "url schema_version created_by licence restricted clips hours streams aliases content_sha256 damaged",
        ),
        (lambda store, out: list_clips(store), "url clips damaged"),
        (
            lambda store, out: status(store),
            "url state clips done failures clips_per_hour left_s quiet_s writing",
        ),
        (lambda store, out: verify(store), "url streams_checked problems leftovers"),
        (lambda store, out: repair(store.url), "url done requeued"),
        (lambda store, out: collect_garbage(store.url), "url dry_run streams leftovers forms done"),
        (lambda store, out: copy(store, f"{out}.zarr"), "copied skipped bytes objects failures content_sha256"),
        (
            lambda store, out: export(store, out, stream="visual", file_format="npy", permission=True),
            "stream clips failures",
        ),
    ],
)
def test_the_json_of_results_keeps_its_keys(
    store: Store, tmp_path: Path, verb: Callable[[Store, Path], Any], keys: str
) -> None:
    values = json.loads(json.dumps(verb(store, tmp_path / "out").to_json(), allow_nan=False))
    assert list(values) == keys.split()
