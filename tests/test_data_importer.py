"""Importing arrays that people have: three layouts, NaN as a mask, no pickles, and a bad file never stops the rest."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_va.data import InputError, Store, open_store
from sage_va.data.importer import import_features

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "c.zarr", "a")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in/deep").mkdir(parents=True)
    return tmp_path / "in"


def run(store: Store, source: Path, **options: Any) -> tuple[str, list[str], list[tuple[str, str]]]:
    return import_features(store, source, **{"stream": "visual/openface", "hz": 25, **options})


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
    with pytest.raises(InputError, match=r"expected \.npy or \.npz arrays named 'text', got none\. See"):
        run(store, source / "all.npz", key="text")
    np.savez(source / "flat.npz", x=ROWS, y=ROWS)
    assert run(store, source / "flat.npz", stream="visual/flat")[1] == ["x", "y"]


def test_bad_files_are_listed_and_the_others_done(store: Store, source: Path) -> None:
    np.save(source / "good.npy", ROWS)
    np.save(source / "pickle.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(source / "vector.npy", np.arange(4.0))
    np.save(source / "text.npy", np.array([["a", "b"]]))
    np.save(source / "dates.npy", np.zeros((2, 2), "M8[s]"))
    (source / "empty.npy").write_bytes(b"")
    (source / "torn.npy").write_bytes((source / "good.npy").read_bytes()[:-5])
    (source / "torn.npz").write_bytes(b"PK\x03\x04 nothing")
    _, done, failures = run(store, source)
    assert done == ["good"]
    reasons = dict(failures)
    assert reasons.keys() == {"pickle", "vector", "text", "dates", "empty", "torn"}
    assert reasons["pickle"].endswith("Save it again with numpy.save; pickled objects are never loaded.")
    assert "expected a plain numpy array, got Object arrays cannot be loaded" in reasons["pickle"]
    assert reasons["vector"] == (
        "expected numbers of shape (T, D), got (4,) float64. Save one row of features per frame."
    )
    assert "<U1" in reasons["text"]
    journal = (Path(store.url) / "journal.jsonl").read_text()
    assert journal.count('"failure"') == 7


def test_again_skips_and_changes_are_refused(store: Store, source: Path) -> None:
    np.save(source / "a.npy", ROWS)
    stream, _, _ = run(store, source)
    place = Path(store.url) / stream / "a/zarr.json"
    before = place.stat().st_mtime_ns
    assert run(store, source, hz=25.0) == (stream, ["a"], [])
    assert place.stat().st_mtime_ns == before
    np.save(source / "a.npy", ROWS + 1)
    _, done, failures = run(store, source)
    assert done == []
    assert "got a file with other bytes" in failures[0][1]
    assert run(store, source, hz=30)[0] != stream


def test_wrong_options_are_refused(store: Store, source: Path) -> None:
    with pytest.raises(InputError, match=r"expected \.npy or \.npz arrays, got none"):
        run(store, source)
    for stream in ("openface", "text/bert", "visual/"):
        with pytest.raises(InputError, match=r"expected visual/NAME or audio/NAME, got .*\. For example"):
            run(store, source, stream=stream)
    for hz in (0, -1, float("nan")):
        with pytest.raises(InputError, match=r"expected rows per second, got .*\. Correct --hz"):
            run(store, source, hz=hz)
    with pytest.raises(InputError, match=r"expected a folder or an \.npz file, got neither"):
        run(store, source / "none.npz")
    (source / "torn.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"expected an \.npz archive, got .*\. Save it again with numpy.savez"):
        run(store, source / "torn.npz")


@pytest.mark.shared
def test_real_series(store: Store, shared: Path) -> None:
    source = shared / "datasets/studyforrest_av_runs8.npz"
    stream, done, failures = run(store, source, key="visual")
    assert (len(done), failures) == (8, [])
    assert store.read(done[0], stream).dim == 148
