"""`status`: progress of a running extraction, read from its journal."""

from pathlib import Path

from sage_va.commands.status import describe_status
from sage_va.data import open_store
from sage_va.data.store.status import status
from sage_va.testing import AUDIO_NAME, SHA, VISUAL_NAME, put


def test_how_far_it_is(tmp_path: Path) -> None:
    store = open_store(tmp_path / "c.zarr", "a")
    assert status(store).left_s is None
    store.log("start", clips=4, streams=[AUDIO_NAME, VISUAL_NAME])
    for clip_id in ("a", "b"):
        put(store, clip_id)
        put(store, clip_id, "audio")
    store.log_failure("c", "no face", source_sha256=SHA, streams=[VISUAL_NAME])
    result = status(open_store(tmp_path / "c.zarr"))
    assert result.clips == 4
    assert result.done == {AUDIO_NAME: 2, VISUAL_NAME: 2}
    assert result.to_json()["failures"] == [{"clip_id": "c", "reason": "no face"}]
    assert result.clips_per_hour > 0
    assert result.left_s > 0
    assert result.quiet_s < 60
    text = describe_status(result)
    assert f"{VISUAL_NAME}: 2 of 4 clips" in text
    assert "failed: c: no face" in text
    for clip_id in ("c", "d"):
        put(store, clip_id)
        put(store, clip_id, "audio")
    result = status(store)
    assert (result.failures, result.left_s) == ([], 0.0)
