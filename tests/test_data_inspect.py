"""What `cache info`, `ls` and `verify` say, as values and as text."""

from pathlib import Path

import numpy as np
import pytest

from sage_va.data import Clip, Store, Track, open_store, stream_name
from sage_va.data.inspect import describe_clips, describe_info, describe_verified, info, list_clips, verify

FINGERPRINT = {"modality": "visual", "encoder": {"name": "toy", "weights": "random"}}
STREAM = stream_name("visual", "toy", FINGERPRINT)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(tmp_path / "c.zarr", "a", licence="EULA")
    for clip_id, seconds in (("a.mp4", 1800.0), ("b.mp4", None)):
        track = Track.of(np.ones((4, 2), np.float16), np.arange(4.0), np.array([True, True, False, True]))
        clip = Clip(clip_id, "ann", seconds)
        store.commit(clip, STREAM, track, fingerprint=FINGERPRINT, source_sha256="5")
    return store


def test_info(store: Store) -> None:
    found = info(store)
    assert (found["clips"], found["hours"], found["licence"], found["schema_version"]) == (2, 0.5, "EULA", 1)
    row = found["streams"][STREAM]
    assert (row["clips"], row["frames"], row["valid"], row["dim"]) == (2, 8, 6, 2)
    text = describe_info(found)
    assert "2 clips, 0.50 h, schema 1, licence EULA" in text
    assert f"{STREAM}: 2 clips, 8 frames x 2, 75.0 % valid  RANDOM WEIGHTS" in text
    assert store.content_sha256()[:16] in text


def test_an_empty_cache(tmp_path: Path) -> None:
    empty = open_store(tmp_path / "e.zarr", "a")
    assert "0 clips" in describe_info(info(empty))
    assert "licence not stated" in describe_info(info(empty))
    assert describe_clips(list_clips(empty)) == ""
    assert describe_verified(verify(empty)).endswith("0 streams checked, whole")


def test_ls(store: Store) -> None:
    found = list_clips(store)
    assert found["clips"][0] == {
        "clip_id": "a.mp4", "subject_id": "ann", "duration_s": 1800.0, "streams": {STREAM: 4},
    }  # fmt: skip
    lines = describe_clips(found).splitlines()
    assert lines == [f"a.mp4  1800.00 s  ann  {STREAM} (4)", f"b.mp4        ? s  ann  {STREAM} (4)"]


def test_verify_counts_problems_but_not_leftovers(store: Store) -> None:
    seen: list[str] = []
    (Path(store.url) / ".sage-va/staging/elsewhere-1").mkdir()
    found = verify(store, seen.append)
    assert (found["streams_checked"], found["problems"], found["leftovers"]) == (2, [], [".sage-va/staging/elsewhere-1"])
    assert set(seen) == {"a.mp4", "b.mp4"}
    assert "elsewhere-1: left by an interrupted writer; harmless" in describe_verified(found)
    assert describe_verified(found).endswith("2 streams checked, whole")
    (Path(store.url) / STREAM / "a.mp4/values/c/0/0").unlink()
    found = verify(store)
    assert [(p["clip_id"], p["stream"]) for p in found["problems"]] == [("a.mp4", STREAM)]
    text = describe_verified(found)
    assert f"a.mp4 {STREAM}: expected the bytes of 'values' that were committed, got others" in text
    assert text.endswith("2 streams checked, 1 problems")
