"""`status`: progress of a running extraction, read from its journal."""

import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from sage_va.cli import main
from sage_va.commands.status import describe_status
from sage_va.data import open_store
from sage_va.data.store.status import status
from sage_va.testing import AUDIO_NAME, SHA, VISUAL_NAME, put


def test_how_far_it_is(tmp_path: Path) -> None:
    store = open_store(tmp_path / "c.zarr", "a")
    assert (status(store).left_s, status(store).state) == (None, "idle")
    store.log("list", clips=4)
    assert status(store).state == "starting"
    store.log("start", clips=4, streams=[AUDIO_NAME, VISUAL_NAME])
    for clip_id in ("a", "b"):
        put(store, clip_id)
        put(store, clip_id, "audio")
    store.log_failure("c", "no face", source_sha256=SHA, streams=[VISUAL_NAME])
    result = status(open_store(tmp_path / "c.zarr"))
    assert (result.clips, result.state) == (4, "running")
    assert result.done == {AUDIO_NAME: 2, VISUAL_NAME: 2}
    assert result.to_json()["failures"] == [{"clip_id": "c", "reason": "no face"}]
    assert result.clips_per_hour > 0
    assert result.left_s > 0
    assert result.quiet_s < 60
    text = describe_status(result)
    assert text.startswith("running: ")
    assert f"{VISUAL_NAME}: 2 of 4 clips" in text
    assert "failed: c: no face" in text
    for clip_id in ("c", "d"):
        put(store, clip_id)
        put(store, clip_id, "audio")
    result = status(store)
    assert (result.failures, result.left_s, result.state) == ([], 0.0, "finished")
    assert describe_status(result).startswith("finished, 0 failed; last event ")


def test_an_extraction_that_ended_early_or_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "c.zarr", "a")
    store.log("start", clips=2, streams=[VISUAL_NAME])
    put(store, "a")
    monkeypatch.setattr("time.time", lambda now=time.time(): now + 1500)  # noqa: B008
    assert describe_status(status(store)).startswith("quiet: ")
    assert "last event 25 min ago" in describe_status(status(store))
    store.log("end", clips=1)
    assert status(store).state == "stopped"
    assert "run the same command to resume" in describe_status(status(store))


def test_a_cache_that_is_not_there_yet(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["status", str(tmp_path / "c.zarr")])
    assert result.exit_code == 1
    assert (
        "got no such folder or not one. If an extraction has just begun, it is loading its encoders: wait."
        in result.stderr
    )
