"""Importing what people have: every layout, real times, masks for what is missing, no pickles, checks against the clip.

A bad file never stops the rest.
"""

import os
import pickle
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sage_va.data import Clip, FrameClock, InputError, Store, Track, open_store, stream_name
from sage_va.data.store import groups
from sage_va.data.transfer import array_files, read_files
from sage_va.data.transfer.importer import import_features

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
MUSE = """timestamp,segment_id,feat_0,feat_1
0,1,0.5,-1
250,1,0.25,
500,1,1e-3,3.5
1000,2,0,4
"""
OPENFACE = """frame, face_id, timestamp, confidence, success, gaze_0_x, AU01_r, AU01_c
1, 0, 0.000, 0.98, 1, 0.1, 1.5, 1.00
2, 0, 0.033, 0.20, 0, 0.0, 0.0, 0.00
3, 0, 0.067, 0.95, 1, 0.3, 2.5, 0.00
"""
OPENSMILE = "name;frameTime;F0semitone;loudness\n'unknown';0.00;1;0.1\n'unknown';0.02;2;0.2\n"


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "c.zarr", "a")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in/deep").mkdir(parents=True)
    return tmp_path / "in"


def run(store: Store, source: Path, **options: Any) -> tuple[str, list[str], list[tuple[str, str]]]:
    result = import_features(store, source, **{"stream": "visual/openface", "hz": 25, **options})
    return result.stream, result.clips, [(row.clip_id, row.reason) for row in result.failures]


def timed(store: Store, source: Path, **options: Any) -> tuple[str, list[str], list[tuple[str, str]]]:
    return run(store, source, hz=None, **options)


def only(store: Store, source: Path, **options: Any) -> Track:
    stream, done, failures = timed(store, source, **options)
    assert failures == []
    return store.read(done[0], stream)


def reason(store: Store, source: Path, **options: Any) -> str:
    _, done, failures = run(store, source, **options)
    assert done == []
    (((_, text)),) = failures
    return text


def record_media(store: Store, clip_id: str, num_frames: int = 250, fps: int = 25) -> None:
    """Puts a clip into the cache as extraction does."""
    clock = FrameClock(Fraction(1, fps), np.arange(num_frames))
    clip = Clip(clip_id, "ann", num_frames / fps, clock, {"path": clip_id, "bytes": 1, "sha256": "0" * 64})
    fingerprint = {"made": "from media"}
    track = Track.of(np.ones((num_frames, 2), np.float16), clock.times_s)
    name = stream_name("visual", "toy", fingerprint)
    store.commit(clip, name, track, fingerprint=fingerprint, source_sha256="1")


def test_a_folder_of_npy(store: Store, source: Path) -> None:
    holes = ROWS.astype(np.float16)
    holes[1, 2], holes[2, 0] = np.nan, np.inf
    np.save(source / "a.npy", holes)
    np.save(source / "deep/b.npy", ROWS.astype(np.int32))
    np.save(source / ".hidden.npy", ROWS)
    stream, done, failures = run(store, source)
    assert (done, failures) == (["a", "deep/b"], [])
    track = store.read("a", stream)
    assert track.mask.tolist() == [True, False, False, True]
    assert np.isnan(track.values[1:3]).all()
    assert track.values.dtype == np.float16
    assert track.times_s.tolist() == [0, 0.04, 0.08, 0.12]
    assert store.read("deep/b", stream).values.dtype == np.float32
    clip = store.clip("a")
    assert clip.clock is not None
    assert np.array_equal(clip.clock.times_s, track.times_s)
    assert clip.duration_s == 0.16


def test_a_folder_of_npz(store: Store, source: Path) -> None:
    np.savez(source / "a.npz", face=ROWS, pose=ROWS + 1)
    np.savez(source / "b.npz", face=ROWS)
    stream, done, failures = run(store, source)
    assert done == ["b"]
    assert failures[0][0] == "a"
    assert failures[0][1].endswith("expected one array, got face, pose. Choose one with --key.")
    stream, done, failures = run(store, source, key="pose", stream="audio/pose")
    assert done == ["a"]
    assert np.array_equal(store.read("a", stream).values, ROWS + 1)
    assert failures[0][1].endswith("expected an array 'pose', got face. Choose another --key.")


def test_one_npz_of_many(store: Store, source: Path) -> None:
    np.savez(source / "all.npz", **{"run1/visual": ROWS, "run1/audio": ROWS + 1, "run2/visual": ROWS + 2})
    stream, done, _ = run(store, source / "all.npz", key="visual")
    assert done == ["run1", "run2"]
    assert np.array_equal(store.read("run2", stream).values, ROWS + 2)
    stream, done, _ = run(store, source / "all.npz", key="audio", stream="audio/egemaps")
    assert done == ["run1"]
    with pytest.raises(InputError, match=r"expected features named 'text' in \.npy, .*, got none\. See"):
        run(store, source / "all.npz", key="text")
    np.savez(source / "flat.npz", x=ROWS, y=ROWS)
    assert run(store, source / "flat.npz", stream="visual/flat")[1] == ["x", "y"]


def test_hdf5_with_a_group_per_clip(store: Store, source: Path) -> None:
    with h5py.File(source / "vggish.h5", "w") as file:
        for k, clip_id in enumerate(("1", "deep/2")):
            file[f"{clip_id}/feature"] = ROWS.astype(np.float64) + k
            file[f"{clip_id}/timestamp"] = np.arange(4) * 250
    stream, done, failures = timed(store, source / "vggish.h5", time_column="timestamp:ms")
    assert (done, failures) == (["1", "deep/2"], [])
    assert np.array_equal(store.read("deep/2", stream).values, ROWS + 1)
    assert store.read("1", stream).times_s.tolist() == [0, 0.25, 0.5, 0.75]
    assert timed(store, source / "vggish.h5", time_column="timestamp:ms", key="feature")[1] == done
    _, done, failures = timed(store, source / "vggish.h5")
    assert done == []
    assert failures[0][1].endswith(
        "expected times whose unit is known, got 'timestamp', in seconds or milliseconds. "
        "Give --time-column timestamp:s or --time-column timestamp:ms."
    )


def test_hdf5_datasets_and_a_file_per_clip(store: Store, source: Path) -> None:
    with h5py.File(source / "all.hdf5", "w") as file:
        file["a"], file["b"] = ROWS.astype(np.float16), ROWS.astype(np.float16)
    stream, done, _ = run(store, source / "all.hdf5")
    assert done == ["a", "b"]
    assert store.read("a", stream).values.dtype == np.float16
    with h5py.File(source / "deep/c.h5", "w") as file:
        file["feature"], file["time_s"] = ROWS, np.arange(4) + 0.5
    track = only(store, source / "deep", stream="audio/one")
    assert np.array_equal(track.values, ROWS)
    assert track.times_s[0] == 0.5
    assert only(store, source / "deep/c.h5", stream="audio/one").num_frames == 4
    assert timed(store, source / "deep/c.h5", stream="audio/one")[1] == ["c"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16, np.float64, np.int64])
def test_safetensors(store: Store, source: Path, dtype: Any) -> None:
    save_file({"a": ROWS.astype(dtype), "b": ROWS.astype(dtype)}, source / "all.safetensors")
    stream, done, _ = run(store, source / "all.safetensors")
    assert done == ["a", "b"]
    values = store.read("a", stream).values
    assert values.dtype == (np.float32 if dtype in (np.float64, np.int64) else dtype)
    assert np.array_equal(values.astype(np.float32), ROWS)
    save_file({"x": ROWS.astype(dtype)}, source / "deep/c.safetensors")
    assert run(store, source / "deep")[1] == ["c"]


def test_big_endian_numbers(store: Store, source: Path) -> None:
    np.save(source / "a.npy", ROWS.astype(">f4"))
    stream, _, failures = run(store, source)
    assert failures == []
    assert np.array_equal(store.read("a", stream).values, ROWS)


def test_muse_csv(store: Store, source: Path) -> None:
    (source / "5.csv").write_text(MUSE)
    track = only(store, source, time_column="timestamp:ms", stream="audio/egemaps")
    assert track.times_s.tolist() == [0, 0.25, 0.5, 1]
    assert track.mask.tolist() == [True, False, True, True]
    assert track.values[[0, 2, 3]].tolist() == [[0.5, -1], [np.float32(1e-3), 3.5], [0, 4]]
    assert track.values.dtype == np.float32
    assert store.clip("5").clock is None
    assert store.clip("5").duration_s == 1.25
    slow = only(store, source, time_column="timestamp:s", stream="audio/egemaps")
    assert slow.times_s[-1] == 1000
    stream, _, _ = timed(store, source, time_column="timestamp:ms", stream="audio/egemaps")
    assert store.record("5", stream)["fingerprint"] == {
        "schema_version": 1,
        "modality": "audio",
        "encoder": {"kind": "import", "name": "egemaps", "array": None},
        "time_column": "timestamp:ms",
        "times": "file",
    }


def test_openface_csv(store: Store, source: Path) -> None:
    (source / "a.csv").write_text(OPENFACE)
    stream, done, failures = timed(store, source, time_column="timestamp:s", columns=["AU*_r", "gaze*"])
    assert (done, failures) == (["a"], [])
    track = store.read("a", stream)
    assert track.times_s.tolist() == [0, 0.033, 0.067]
    assert track.mask.tolist() == [True, False, True]
    assert track.values[[0, 2]].tolist() == np.float32([[0.1, 1.5], [0.3, 2.5]]).tolist()
    assert track.quality_units == {"confidence": "1"}
    assert track.quality[:, 0].tolist() == np.float32([0.98, 0.2, 0.95]).tolist()
    clock = store.clip("a").clock  # the rows are the frames, as column `frame` says
    assert clock is not None
    assert clock.times_s.tolist() == [0, 0.033, 0.067]
    assert only(store, source, time_column="timestamp:s").dim == 3
    (source / "deep/gap.csv").write_text(OPENFACE.replace("3, 0", "4, 0"))
    (source / "deep/late.csv").write_text(OPENFACE.replace("\n3", "\n7").replace("\n2", "\n6").replace("\n1", "\n5"))
    assert timed(store, source / "deep", time_column="timestamp:s")[1] == ["gap", "late"]
    assert store.clip("gap").clock is store.clip("late").clock is None


def test_opensmile_csv(store: Store, source: Path) -> None:
    (source / "a.csv").write_text(OPENSMILE)
    track = only(store, source, time_column="frameTime:s", stream="audio/lld")
    assert track.times_s.tolist() == [0, 0.02]
    assert track.values.tolist() == np.float32([[1, 0.1], [2, 0.2]]).tolist()


def test_units_in_the_name_of_the_column_are_enough(store: Store, source: Path) -> None:
    for name, scale in (("time_s", 1), ("time_ms", 1000), ("timestamp_ms", 1000)):
        (source / f"{name}.csv").write_text(f"{name},x\n0,1\n{scale},2\n")
    stream, done, failures = timed(store, source)
    assert (len(done), failures) == (3, [])
    assert {tuple(store.read(clip_id, stream).times_s) for clip_id in done} == {(0.0, 1.0)}


def test_csv_without_times_needs_hz(store: Store, source: Path) -> None:
    (source / "a.csv").write_text(",x,y\n0,1,2\n1,3,4\n")  # with an index, as pandas writes it
    stream, done, failures = run(store, source)
    assert (done, failures) == (["a"], [])
    assert store.read("a", stream).values.tolist() == [[1, 2], [3, 4]]
    _, _, failures = timed(store, source)
    assert failures[0][1].endswith(
        "a.csv: expected times or a rate, got neither. Give --hz, or save the times with the features (time_s)."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time_s,x\n0,1\n0,2\n", r"a\.csv:3: expected times that increase, got 0 s after 0 s\. Sort the rows; keep"),
        ("time_s,x\n0,1\n2,1\n1,2\n", r"a\.csv:4: expected times that increase, got 1 s after 2 s\."),
        ("time_s,x\n,1\n", r"a\.csv:2: expected times that increase, got nan s\. Sort"),
        ("time_s,x\n0,1\n1\n", r"a\.csv:3: expected 2 cells, got 1\. Correct or remove the row"),
        ("time_s,x\n0,1\n\n1,2\n", r"a\.csv:3: expected 2 cells, got 0\."),
        ("time_s,x\n0,1\n1,?\n", r"a\.csv:3: expected a number, got '\?' in column 'x'\. Correct it, or leave the col"),
        ("time_s,x,x\n0,1,2\n", r"a\.csv:1: expected a header of different names, got time_s, x, x\. Begin the file"),
        ("0,1\n1,2\n", r"a\.csv:1: expected a header of different names, got 0, 1\."),
        ("", r"a\.csv:1: expected a header of different names, got none\."),
        ("time_s,x\n", r"a\.csv: expected rows of features, got a header alone\. Remove the file"),
        ("time_s,name\n0,anna\n", r"a\.csv: expected numeric columns, got name\. Choose the features with --column"),
        ("time_s,x,mask\n0,1,2\n", r"a\.csv:2: expected 0 or 1, got '2' in column 'mask'\. Rename the column if"),
        ("time_s,time_ms,x\n0,0,2\n", r"expected times whose unit is known, got time_s, time_ms\. Give --time-colu"),
        ("time_s,x\n0,1e39\n", r"^expected values that float32 can hold, got 1e\+39 in row 0, column 0 \(counted fr"),
        ("time_s,x\n0,\udcff\n", r"a\.csv: it is not UTF-8 \(.*\)\. Save it as UTF-8"),
    ],
)
def test_faults_in_a_csv_are_named(store: Store, source: Path, text: str, message: str) -> None:
    (source / "a.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(reason(store, source, hz=None))


def test_rates_and_times_exclude_each_other(store: Store, source: Path) -> None:
    np.save(source / "a.npy", ROWS)
    with pytest.raises(InputError, match=r"in: expected times or a rate, got neither\. Give --hz, or save the times"):
        timed(store, source)
    with pytest.raises(InputError, match=r"expected a rate or times in the files, got both hz and time_column"):
        run(store, source, time_column="t:s")
    for wrong in ("timestamp", "timestamp:min", ":s", ""):
        with pytest.raises(InputError, match=r"^time_column: expected NAME:s or NAME:ms, got .*\. For example times"):
            timed(store, source, time_column=wrong)
    (source / "deep/b.csv").write_text("time_s,x\n0,1\n")
    text = reason(store, source / "deep")
    assert text.endswith("b.csv: expected no times, since --hz is given, got times in the file. Leave --hz out.")
    text = reason(store, source / "deep", hz=None, time_column="t:s")
    assert text.endswith("expected times named 't', got time_s, x. Correct --time-column.")


def test_times_in_arrays_are_checked(store: Store, source: Path) -> None:
    np.savez(source / "a.npz", x=ROWS, time_s=np.array([0, 1, 1, 2]))
    assert "a.npz:2: expected times that increase, got 1 s after 1 s" in reason(store, source, hz=None)
    np.savez(source / "a.npz", x=ROWS, time_s=np.arange(5))
    assert "a.npz: expected one time per row, got (5,) int64 for (4, 3)" in reason(store, source, hz=None)


def test_columns_can_be_chosen(store: Store, source: Path) -> None:
    (source / "a.csv").write_text("time_s,f_0,f_1,pose\n0,1,2,?\n")
    stream, _, failures = timed(store, source, columns=["f_*"])
    assert failures == []
    assert store.read("a", stream).values.tolist() == [[1, 2]]
    assert stream != timed(store, source, columns=["f_0"])[0]
    text = reason(store, source, hz=None, columns=["g_*"])
    assert text.endswith("expected columns like g_*, got f_0, f_1, pose. Choose the features with --column.")
    np.save(source / "deep/b.npy", ROWS)
    with pytest.raises(InputError, match=r"^columns: expected CSV files, got none\. Choose an array with --key"):
        run(store, source / "deep", columns=["f_*"])


def test_one_stream_has_one_set_of_features(store: Store, source: Path) -> None:
    for name, header in {"a": "f_0,f_1", "b": "f_1,f_0", "c": "f_0"}.items():
        (source / f"{name}.csv").write_text(f"time_s,{header}\n0{',1' * len(header.split(','))}\n")
    expected = {
        "b": "expected the columns of a, got others. Choose the same features in all files, with --column or --key.",
        "c": "expected 2 features, as a has, got 1. Choose the same features in all files, with --column or --key.",
    }
    for _ in range(2):  # in one run as in a later one
        _, done, failures = timed(store, source)
        assert done == ["a"]
        assert dict(failures) == expected


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".pt", ".pth", ".joblib"])
def test_pickles_are_never_loaded(store: Store, source: Path, suffix: str) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (source / "exploded",)

    (source / f"a{suffix}").write_bytes(pickle.dumps(Bomb()))
    wanted = (
        f"expected plain arrays, got a pickle ({suffix}). Save the arrays with numpy.save or safetensors where you "
        "trust the file; a pickle can run any code."
    )
    assert reason(store, source).endswith(wanted)
    with pytest.raises(InputError) as caught:
        run(store, source / f"a{suffix}")
    assert str(caught.value).endswith(wanted)
    np.save(source / "b.npy", np.array([[Bomb()]]), allow_pickle=True)
    run(store, source)
    assert not (source / "exploded").exists()


def test_bad_files_are_listed_and_the_others_done(store: Store, source: Path) -> None:
    np.save(source / "good.npy", ROWS)
    np.save(source / "pickle.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(source / "vector.npy", np.arange(4.0))
    np.save(source / "text.npy", np.array([["a", "b"]]))
    np.save(source / "dates.npy", np.zeros((2, 2), "M8[s]"))
    (source / "empty.npy").write_bytes(b"")
    (source / "torn.npy").write_bytes((source / "good.npy").read_bytes()[:-5])
    for name in ("zip.npz", "tree.h5", "tensor.safetensors"):
        (source / name).write_bytes(b"PK\x03\x04 nothing")
    np.save(source / "twice.npy", ROWS)
    (source / "twice.csv").write_text("x\n1\n")
    _, done, failures = run(store, source)
    assert done == ["good"]
    reasons = dict(failures)
    assert len(failures) == len(reasons)
    broken = {"pickle", "empty", "torn", "zip", "tree", "tensor"}
    assert reasons.keys() == {"vector", "text", "dates", "twice", *broken}
    for name in broken:
        assert "expected a file of features, got " in reasons[name]
        assert reasons[name].endswith("Save it again as plain arrays; pickled objects are never loaded.")
    assert "got Object arrays cannot be loaded" in reasons["pickle"]
    assert reasons["vector"] == (
        "expected numbers of shape (T, D), got (4,) float64. Save one row of features per frame."
    )
    assert "<U1" in reasons["text"]
    assert reasons["twice"] == (
        "expected one file per clip, got twice.csv and twice.npy. Keep one of them in the folder."
    )
    journal = (Path(store.url) / ".sage-va/journal.jsonl").read_text()
    assert journal.count('"failure"') == 10


def test_an_unreadable_file_stops_nothing(store: Store, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (source / f"{name}.csv").write_text("x\n1\n")
    open_as_ever = Path.open

    def denied(self: Path, *mode: Any, **more: Any) -> Any:
        if self.name == "a.csv":
            raise PermissionError("Permission denied")
        return open_as_ever(self, *mode, **more)

    monkeypatch.setattr(Path, "open", denied)
    _, done, failures = run(store, source)
    assert done == ["b"]
    assert "a.csv: expected a file of features, got Permission denied." in failures[0][1]


def test_again_skips_and_changes_are_refused(store: Store, source: Path) -> None:
    np.save(source / "a.npy", ROWS)
    (source / "deep/b.csv").write_text("x,y,z\n1,2,3\n")
    stream, _, _ = run(store, source)
    places = [Path(store.url) / stream / key / "zarr.json" for key in ("a", "deep=2Fb")]
    before = [place.stat().st_mtime_ns for place in places]
    assert run(store, source, hz=25.0) == (stream, ["a", "deep/b"], [])
    assert [place.stat().st_mtime_ns for place in places] == before
    np.save(source / "a.npy", ROWS + 1)
    (source / "deep/b.csv").write_text("x,y,z\n1,2,4\n")
    _, done, failures = run(store, source)
    assert done == []
    assert ["got a file with other bytes" in text for _, text in failures] == [True, True]
    assert run(store, source, hz=30)[0] != stream


def test_options_that_are_not_given_leave_no_trace(store: Store, source: Path) -> None:
    np.save(source / "a.npy", ROWS)
    stream, _, _ = run(store, source)
    assert store.record("a", stream)["fingerprint"] == {
        "schema_version": 1,
        "modality": "visual",
        "encoder": {"kind": "import", "name": "openface", "array": None},
        "hz": 25.0,
    }


def test_wrong_options_are_refused(store: Store, source: Path) -> None:
    with pytest.raises(InputError, match=r"expected features in \.npy, \.csv, .*, got none\. See `sage-va cache impo"):
        run(store, source)
    for stream in ("openface", "Text/bert", "visual/"):
        with pytest.raises(InputError, match=r"expected MODALITY/NAME in small letters, got .*\. For example"):
            run(store, source, stream=stream)
    for hz in (0, -1, float("nan")):
        with pytest.raises(InputError, match=r"^hz: expected rows per second, got .*\. Correct it"):
            run(store, source, hz=hz)
    with pytest.raises(InputError, match=r"none\.npz: expected a folder or a file, got neither\. Give a folder of"):
        run(store, source / "none.npz")
    (source / "torn.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"torn\.npz: expected a file of features, got .*zip.*\. Save it again"):
        run(store, source / "torn.npz")
    (source / "a.txt").write_text("1\n")
    with pytest.raises(InputError, match=r"a\.txt: expected features in .*, got none"):
        run(store, source / "a.txt")


def test_features_join_the_recording_that_the_cache_knows(store: Store, source: Path) -> None:
    for clip_id in ("a.mp4", "deep/b.mp4#left", "two.mp4", "two.avi"):
        record_media(store, clip_id)
    values = np.ones((250, 2), np.float32)
    for name in ("a", "deep/b_left", "two", "new"):
        np.save(source / f"{name}.npy", values)
    stream, done, failures = run(store, source)
    assert done == ["a.mp4", "deep/b.mp4#left", "new"]
    assert dict(failures) == {
        "two": "expected the name of one clip, got two.avi and two.mp4. "
        "Name the file after one of them, suffix and all.",
    }
    clip = store.clip("a.mp4")
    assert (clip.subject_id, clip.duration_s, clip.media is not None) == ("ann", 10, True)
    assert clip.clock is not None
    assert store.record("a.mp4", stream)["clip"]["subject_id"] == "ann"


def test_lengths_must_fit_the_recording(store: Store, source: Path) -> None:
    record_media(store, "a.mp4")
    for num_rows in (238, 250, 262):
        np.save(source / "a.npy", np.ones((num_rows, 2), np.float32))
        assert run(store, source, stream=f"visual/fit{num_rows}")[2] == []
    for num_rows in (200, 300):
        np.save(source / "a.npy", np.ones((num_rows, 2), np.float32))
        assert reason(store, source) == (
            f"expected about 250 rows, one per frame of the recording, got {num_rows} rows. "
            "Check --hz, the unit of the times, and that this is the same recording."
        )
    assert reason(store, source, hz=50).startswith(
        "expected features that end at about 10.00 s, where the recording does, got an end at 6.00 s."
    )
    (source / "a.npy").unlink()
    (source / "a.csv").write_text("timestamp,x\n" + "".join(f"{k * 250},1\n" for k in range(40)))
    assert timed(store, source, time_column="timestamp:ms")[1] == ["a.mp4"]
    assert "got an end at 10000.00 s" in reason(store, source, hz=None, time_column="timestamp:s")


def test_lengths_must_fit_the_labels(store: Store, source: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "a.txt").write_text("valence,arousal\n" + "0,0\n" * 251)  # a row more than frames is usual
    (labels / "b.csv").write_text("time_s,valence,arousal\n" + "".join(f"{k / 2},0,0\n" for k in range(20)))
    for name in ("a", "b", "unlabelled"):
        np.save(source / f"{name}.npy", np.ones((250, 2), np.float32))
    assert run(store, source, labels=labels)[1:] == (["a", "b", "unlabelled"], [])
    _, done, failures = run(store, source, hz=50, labels=labels)
    assert done == ["a", "unlabelled"]  # rows of a are frames, whatever their rate
    assert dict(failures)["b"] == (
        "expected features that end at about 10.00 s, as the 20 rows of b.csv do, got an end at 5.00 s after 250 rows. "
        "Check --hz, the unit of the times, and that the labels are those of this clip."
    )
    (labels / "a.txt").write_text("valence,arousal\n" + "0,0\n" * 300)
    _, done, failures = run(store, source, labels=labels, stream="visual/other")
    assert done == ["b", "unlabelled"]
    assert "at about 12.00 s, as the 300 rows of a.txt do, got an end at 10.00 s after 250 rows" in failures[0][1]
    assert "a" in run(store, source, labels=labels, stream="audio/egemaps")[1]  # the times of its frames are unknown


@given(
    st.sampled_from([".npz", ".h5", ".safetensors"]),
    st.integers(1, 20),
    st.integers(1, 5),
    st.sampled_from([np.float16, np.float32]),
    st.integers(0, 2**32),
)
@settings(max_examples=10)
def test_containers_hold_what_was_saved(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, rows: int, dim: int, dtype: Any, seed: int
) -> None:
    place = tmp_path_factory.mktemp("c")
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, dim)).astype(dtype)
    values[rng.random(rows) < 0.2, rng.integers(dim)] = np.nan
    times_s = np.cumsum(rng.random(rows) + 1e-3)
    arrays = {"x/feature": values, "x/time_s": times_s}
    if suffix == ".npz":
        np.savez(place / "all.npz", **arrays)
    elif suffix == ".h5":
        with h5py.File(place / "all.h5", "w") as file:
            for name, array in arrays.items():
                file[name] = array
    else:
        save_file(arrays, place / "all.safetensors")
    track = only(open_store(place / "c.zarr", "a"), place / f"all{suffix}")
    assert np.array_equal(track.times_s, times_s)
    assert np.array_equal(track.mask, np.isfinite(values).all(axis=1))
    assert np.array_equal(track.values[track.mask], values[track.mask])
    assert track.values.dtype == dtype


@pytest.mark.shared
def test_real_series(store: Store, shared: Path) -> None:
    source = shared / "datasets/studyforrest_av_runs8.npz"
    stream, done, failures = run(store, source, key="visual")
    assert (len(done), failures) == (8, [])
    assert store.read(done[0], stream).dim == 148


@pytest.mark.parametrize("kind", ["npz", "safetensors", "h5"])
def test_the_work_on_one_file_grows_with_its_clips_and_not_their_square(
    store: Store, source: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is opened twice, once to list its clips, and every array is read once, however many there are."""
    arrays = {f"clip{k:03}": ROWS + k for k in range(40)}
    path = source / f"all.{kind}"
    if kind == "npz":
        np.savez(path, **arrays)
    elif kind == "safetensors":
        save_file(arrays, path)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    opened, read = list[Path](), list[str]()
    plain = array_files.opened

    @contextmanager
    def counting(path: Path) -> Iterator[Any]:
        opened.append(path)
        with plain(path) as inside:
            yield replace(inside, read=lambda name: read.append(name) or inside.read(name))

    for module in (array_files, read_files):
        monkeypatch.setattr(module, "opened", counting)
    directories = Counter[str]()
    for owner, name in ((zipfile.ZipFile, "_RealGetContents"), (h5py.File, "visititems")):
        call = getattr(owner, name)

        def counted(self: Any, *args: Any, call: Any = call, name: str = name) -> Any:
            directories[name] += 1
            return call(self, *args)

        monkeypatch.setattr(owner, name, counted)
    _, imported, failures = run(store, path)
    assert (len(imported), failures) == (40, [])
    assert opened == [path, path]
    assert sorted(read) == sorted(arrays)
    assert max(directories.values(), default=0) <= 2


def test_a_bad_file_between_good_ones_disturbs_neither(store: Store, source: Path) -> None:
    for name in ("a", "c"):
        np.savez(source / f"{name}.npz", ROWS)
    (source / "b.npz").write_bytes(b"PK no zip")
    _, imported, failures = run(store, source)
    assert (imported, [clip_id for clip_id, _ in failures]) == (["a", "c"], ["b"])


def test_what_cannot_be_committed_is_not_done(store: Store, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit of a group is no fault of the clip that is read next: it ends the import, which says why."""
    for name in ("a", "b", "c"):
        np.save(source / f"{name}.npy", ROWS)
    monkeypatch.setattr(groups, "GROUP_ENTRIES", 1)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_save_entries", mock.Mock(side_effect=InputError("c.zarr", "no room", todo="Make room.")))
        with pytest.raises(InputError, match=r"c\.zarr: no room"):
            run(store, source)
    assert store.clip_ids() == []
    assert store.failures() == {}
    assert run(store, source)[1:] == (["a", "b", "c"], [])
