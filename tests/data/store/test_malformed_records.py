"""Records whose checksum is right and whose content is not: only their clip is lost, and `verify` names it."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from sage_va.cli import main
from sage_va.data import Clip, DamagedError, FrameClock, Store, Track, open_store, stream_name
from sage_va.data.store.entry import Entry
from sage_va.data.store.record_checks import record_problem
from sage_va.tests.synthetic import make_cache

FINGERPRINT = {"modality": "visual", "encoder": {"name": "face"}}
STREAM = stream_name("visual", "face", FINGERPRINT)

# what is changed: path into the record, and the value that is put there
MALFORMED: dict[str, tuple[list[str], Any]] = {
    "a time base without a value": (["clip", "clock", "time_base"], "1/0"),
    "a negative time base": (["clip", "clock", "time_base"], "-1/25"),
    "a time base of words": (["clip", "clock", "time_base"], "fast"),
    "a time base of many digits": (["clip", "clock", "time_base"], "1/" + "9" * 5000),
    "an empty clock": (["clip", "clock"], {}),
    "no clock where one is named": (["clip", "clock"], None),
    "a run of 10^30 frames": (["clip", "clock", "runs"], [[0, 1, 10**30]]),
    "a run that fills the memory": (["clip", "clock", "runs"], [[0, 1, 10**12]]),
    "runs that fall": (["clip", "clock", "runs"], [[10, 1, 5], [0, 1, 5]]),
    "frames that stand still": (["clip", "clock", "runs"], [[0, 0, 5]]),
    "a run of two numbers": (["clip", "clock", "runs"], [[0, 1]]),
    "a duration of text": (["clip", "duration_s"], "long"),
    "a negative duration": (["clip", "duration_s"], -1.0),
    "a duration of 401 digits": (["clip", "duration_s"], 10**400),
    "a subject that is a number": (["clip", "subject_id"], 7),
    "media of text": (["clip", "media"], "a.mp4"),
    "a shape of text": (["shape"], "5x4"),
    "a shape of three": (["shape"], [5, 4, 1]),
    "a shape of fractions": (["shape"], [5.5, 4]),
    "a negative shape": (["shape"], [-5, 4]),
    "a shape that fills the memory": (["shape"], [10**12, 10**6]),
    "a dtype that does not exist": (["dtype"], "float12"),
    "a dtype that is a list": (["dtype"], ["float16"]),
    "a report of text": (["report"], "fine"),
    "a fingerprint of numbers": (["fingerprint"], 5),
    "an encoder of text": (["fingerprint", "encoder"], "face"),
    "two columns of one name": (["columns"], [["time_s", "s"], ["mask", "1"], ["q", "1"], ["q", "1"]]),
    "columns without units": (["columns"], [["time_s"], ["mask"]]),
    "checksums of another length": (["checksums", "values"], "abc"),
    "more valid frames than frames": (["num_valid"], 6),
    "true as a number": (["num_valid"], True),
}


def entry_of(clip_id: str) -> Entry:
    clip = Clip(clip_id, "s1", 0.2, FrameClock.regular(25, 5), {"path": "a.mp4", "bytes": 3, "sha256": "ab"})
    track = Track.of(np.ones((5, 4), np.float16), np.arange(5) / 25)
    return Entry.of(clip, STREAM, track, fingerprint=FINGERPRINT, source_sha256="5", report={"num_frames": 5})


def changed(entry: Entry, path: list[str], value: Any) -> Entry:
    record = copy.deepcopy(entry.record)
    place: Any = record
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return replace(entry, record=record)


def test_a_sound_record_has_no_problem() -> None:
    assert record_problem(entry_of("a").record) is None


@pytest.fixture(params=["c.zarr", "c.h5"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    open_store(tmp_path / request.param, "a").commit_all([entry_of("good")])
    return lambda: open_store(tmp_path / request.param, "a")


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_record_is_damage_of_its_clip_alone(opened: Callable[[], Store], name: str) -> None:
    store = opened()
    store._save_entry("bad", changed(entry_of("bad"), *MALFORMED[name]), overwrite=False)
    store = opened()
    with pytest.raises(DamagedError, match="bad"):
        store.record("bad", STREAM)
    assert [clip_id for clip_id, _, problem in store.verify() if problem] == ["bad"]
    assert store.read("good", STREAM).values.shape == (5, 4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of four sound clips, and one for each malformed record; labels for all of them."""
    folder = tmp_path_factory.mktemp("base")
    cache, labels = make_cache(folder, num_clips=4, seconds=1)
    store = open_store(cache, "a")
    stream = store.resolve("visual")
    for k, (path, value) in enumerate(MALFORMED.values()):
        record = copy.deepcopy(store.record("clip00", stream))
        record["clip"]["clip_id"] = f"bad{k}"
        record["clip"].setdefault("clock", {"time_base": "1/25", "runs": [[0, 1, 5]]})
        record["shape"][0] = 5
        bad = changed(Entry(record, np.ones((1, 1), np.float16), np.ones((1, 2))), path, value)
        store._save_entry(f"bad{k}", bad, overwrite=False)
        (labels / f"bad{k}.csv").write_text((labels / "clip00.csv").read_text())
    return folder


@pytest.fixture
def malformed(base: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of `base`: its cache and its labels."""
    copied = Path(shutil.copytree(base, tmp_path / "base"))
    return next(copied.glob("*.zarr")), copied / "labels"


def ran(*words: object) -> Result:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    assert "Traceback" not in done.output
    return done


@pytest.mark.parametrize("verb", ["ls", "info", "gc"])
def test_the_other_clips_are_shown(malformed: tuple[Path, Path], verb: str) -> None:
    done = ran("cache", verb, malformed[0])
    if verb == "gc":
        assert done.exit_code == 0
        return
    assert done.exit_code == 1
    bad = [line for line in done.output.splitlines() if line.startswith("damaged: bad")]
    assert len(bad) == len(MALFORMED)
    assert all(line.endswith("Run `sage-va cache repair`") for line in bad)
    assert ("clip03" if verb == "ls" else "4 clips, ") in done.output
    values = json.loads(ran("cache", verb, malformed[0], "--json").output)
    assert {row["clip_id"] for row in values["damaged"]} == {f"bad{k}" for k in range(len(MALFORMED))}


def test_the_sync_check_names_them(malformed: tuple[Path, Path]) -> None:
    done = ran("sync-check", malformed[0], "--labels", malformed[1], "--json")
    rows = {row["clip_id"]: row["problems"] for row in json.loads(done.output)["clips"]}
    assert all(("malformed" in rows[f"bad{k}"][0]) for k in range(len(MALFORMED) - 2))
    assert not any("malformed" in text for k in range(4) for text in rows[f"clip0{k}"])


def test_a_training_goes_on_without_them_and_says_so(malformed: tuple[Path, Path], tmp_path: Path) -> None:
    cache, labels = malformed
    words = ("--set", "train.epochs=1", "--variant", "concat", "--preset", "tiny", "--device", "cpu")
    done = ran("train", cache, "--labels", labels, "--out", tmp_path / "run", *words)
    assert done.exit_code == 0, done.output
    lines = [line for line in done.output.splitlines() if line.startswith("warning: left out of the training: bad")]
    assert len(lines) == len(MALFORMED)
    assert "4 labelled clips" in done.output
    described = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [line.split()[0] for line in described["left_out"]] == sorted(f"bad{k}" for k in range(len(MALFORMED)))
    assert "bad" not in (tmp_path / "run" / "split.csv").read_text()


def test_a_changed_byte_in_a_record_is_not_left_out_but_refused(malformed: tuple[Path, Path], tmp_path: Path) -> None:
    """It was right once: `repair` and another extraction bring it back."""
    cache, labels = malformed
    path = next(cache.glob("visual/*/clip01/zarr.json"))
    path.write_bytes(path.read_bytes().replace(b"clip01", b"clip02", 1))
    done = ran("train", cache, "--labels", labels, "--out", tmp_path / "run")
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].startswith("Error: clip01 visual/")
    assert "damaged: clip01" in ran("cache", "ls", cache).output


def test_where_all_are_malformed_nothing_is_trained(malformed: tuple[Path, Path], tmp_path: Path) -> None:
    cache, labels = malformed
    for path in labels.glob("clip*.csv"):
        path.unlink()
    done = ran("train", cache, "--labels", labels, "--out", tmp_path / "run")
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].startswith("Error: bad0 visual/")


def test_a_record_that_is_nested_too_deeply_is_damage(tmp_path: Path) -> None:
    store = open_store(tmp_path / "c.zarr", "a")
    store.commit_all([entry_of("good"), entry_of("bad")])
    (tmp_path / "c.zarr" / STREAM / "bad" / "zarr.json").write_text('{"attributes": ' + "[" * 100_000)
    store = open_store(tmp_path / "c.zarr")
    with pytest.raises(DamagedError, match="bad"):
        store.record("bad", STREAM)
    assert [clip_id for clip_id, _, problem in store.verify() if problem] == ["bad"]
