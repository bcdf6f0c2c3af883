"""Exporting: what is read back is what the cache held, terms travel along, and every clip has a file of its own."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sage_va.data import InputError, Store, Track, open_store
from sage_va.data.atomic import part_of, write_bytes
from sage_va.data.store.fingerprint import check_clip_id
from sage_va.data.transfer.exporter import Exported, _file_name, _files, export
from sage_va.data.transfer.importer import import_features
from sage_va.data.transfer.read_csv import Rules, read_csv
from sage_va.testing import SHA, VISUAL, VISUAL_NAME, make_track, put, same, tracks

NAMES = ["a", "deep/b.mp4", "ü #1", "x" * 300, "a.frames", "a.npy/c", "b//c", ".hidden", "k=2Fl", "~t", "CACHE.json"]


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "c.zarr", "a")


def run(store: Store, out: Path, form: Any = "npy", clips: Sequence[str] = (), **more: Any) -> Exported:
    return export(store, out, stream="visual/toy", file_format=form, clips=clips, **more)


def again(place: Path, source: Path, **terms: Any) -> dict[str, Track]:
    """The tracks that an import of the exported folder gives."""
    store = open_store(place, "a", **terms)
    result = import_features(store, source, stream="visual/again")
    assert result.failures == []
    return {clip_id: store.read(clip_id, result.stream) for clip_id in result.clips}


def widened(track: Track, *kinds: Any) -> Track:
    """The track as float32 where its values are of one of the kinds."""
    if track.values.dtype not in kinds:
        return track
    return Track(track.values.astype(np.float32), track.times_s, track.mask, track.quality, track.quality_units)


@given(tracks())
@settings(max_examples=10)
@pytest.mark.parametrize("form", ["npy", "csv"])
def test_what_is_exported_is_imported_again(tmp_path_factory: pytest.TempPathFactory, form: str, track: Track) -> None:
    place = tmp_path_factory.mktemp("e")
    store = open_store(place / "c.zarr", "a")
    put(store, "deep/a", track=track)
    run(store, place / "out", form)
    tracks_ = again(place / "again.zarr", place / "out")
    kinds = (ml_dtypes.bfloat16,) if form == "npy" else (ml_dtypes.bfloat16, np.float16)
    assert same(tracks_["deep/a"], widened(track, *kinds))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
@example([7.038531e-26, 1e-45, -0.0, 3.4028234663852886e38, 16777217.0, 0.1])  # read through float64, rounded twice
def test_a_csv_holds_every_float32(tmp_path_factory: pytest.TempPathFactory, numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)[:, None]
    times_s = np.arange(len(values)) / 3
    ((path, content),) = _files(tmp_path_factory.getbasetemp() / "a.csv", Track.of(values, times_s), "csv")
    path.write_bytes(content)
    features = read_csv(path, Rules(), "")
    assert features.values.astype(np.float32).tobytes() == values.tobytes()
    assert features.times_s is not None
    assert features.times_s.tolist() == times_s.tolist()


def test_npy_files_are_plain(store: Store, tmp_path: Path) -> None:
    put(store, "deep/a.mp4", track=make_track(3, num_frames=20))
    track = store.read("deep/a.mp4", VISUAL_NAME)
    done = run(store, tmp_path / "out")
    assert (done.clips, done.failures) == ({"deep/a.mp4": "deep/a.mp4.npy"}, [])
    values = np.load(tmp_path / "out/deep/a.mp4.npy", allow_pickle=False)
    assert np.array_equal(values, track.values, equal_nan=True)
    assert np.isnan(values[~track.mask]).all()
    assert not track.mask.all()
    frames = np.load(tmp_path / "out/deep/a.mp4.frames.npy", allow_pickle=False)
    assert frames.dtype.names == ("time_s", "mask", "quality:score [1]")
    assert np.array_equal(frames["time_s"], track.times_s)
    assert np.array_equal(frames["mask"], track.mask)
    assert np.array_equal(frames["quality:score [1]"], track.quality[:, 0])


def test_a_csv_is_what_a_person_expects(store: Store, tmp_path: Path) -> None:
    values = np.array([[0.5, -1], [7, 7], [1e-3, 0]], np.float32)
    quality = {"blur, all": ("px", np.array([1.5, np.nan, 0]))}
    put(store, "a", track=Track.of(values, np.array([0, 0.1, 1 / 3]), np.array([True, False, True]), quality))
    run(store, tmp_path / "out", "csv")
    assert (tmp_path / "out/a.csv").read_text() == (
        'time_s,mask,"quality:blur, all [px]",feat_0,feat_1\n'
        "0.0,1,1.5,0.5,-1\n"
        "0.1,0,,,\n"
        "0.3333333333333333,1,0,0.00100000005,0\n"
    )


def test_facts_and_terms_travel(tmp_path: Path) -> None:
    store = open_store(tmp_path / "c.zarr", "a", licence="EULA", restricted=True)
    put(store, "a")
    put(store, "b")
    with pytest.raises(InputError, match=r"got a restricted one \(licence: EULA\)\. .* pass --i-have-perm"):
        run(store, tmp_path / "out", "csv", ["b"])
    assert not (tmp_path / "out").exists()
    done = run(store, tmp_path / "out", "csv", ["b"], permission=True)
    assert done.stream == VISUAL_NAME
    facts = json.loads((tmp_path / "out/cache.json").read_text())
    assert facts.pop("created_by").startswith("sage-va ")
    assert facts == {
        "stream": VISUAL_NAME,
        "fingerprint": VISUAL,
        "licence": "EULA",
        "restricted": True,
        "form": "csv",
        "columns": [["time_s", "s"], ["mask", "1"], ["score", "1"]],
        "clips": {"b": "b.csv"},
    }
    text = r"expected the licence that the cache was made with, None, got 'EULA'"
    for source in (tmp_path / "out", tmp_path / "out/b.csv"):
        with pytest.raises(InputError, match=text):
            again(tmp_path / "open.zarr", source)
    with pytest.raises(InputError, match=r"expected the restricted that the cache was made with, False, got True"):
        again(tmp_path / "free.zarr", tmp_path / "out", licence="EULA")
    assert list(again(tmp_path / "same.zarr", tmp_path / "out", licence="EULA", restricted=True)) == ["b"]


@pytest.mark.parametrize("form", ["npy", "csv"])
def test_every_clip_has_a_file_and_its_own_name_again(store: Store, tmp_path: Path, form: str) -> None:
    for k, clip_id in enumerate(NAMES):
        put(store, clip_id, seed=k)
    done = run(store, tmp_path / "out", form)
    assert done.clips["a"] == f"a.{form}"
    assert done.clips["deep/b.mp4"] == f"deep/b.mp4.{form}"
    assert done.clips["k=2Fl"] == f"k=3D2Fl.{form}"
    assert (tmp_path / "out" / done.clips["x" * 300]).is_file()
    tracks_ = again(tmp_path / "again.zarr", tmp_path / "out")
    assert tracks_.keys() == set(NAMES)
    for k, clip_id in enumerate(NAMES):
        kinds = () if form == "npy" else (np.float16,)
        assert same(tracks_[clip_id], widened(make_track(k), *kinds))


@given(st.lists(st.text(st.sampled_from("ab./=~#npycsv_frames "), min_size=1, max_size=12), unique=True, max_size=8))
@settings(max_examples=200)
def test_no_two_clips_share_a_file(clip_ids: list[str]) -> None:
    files = set()
    for clip_id in clip_ids:
        try:
            name = _file_name(check_clip_id(clip_id))
        except InputError:
            continue
        assert not name.startswith((".", "/"))
        mine = {f"{name}.npy", f"{name}.frames.npy"}
        assert not mine & files
        files |= mine
    assert not {"/".join(f.split("/")[:k]) for f in files for k in range(1, f.count("/") + 1)} & files


def test_an_interrupted_export_goes_on_and_others_are_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "a", seed=1)
    put(store, "b", seed=2)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(store, whole)
    wanted = {p.name: p.read_bytes() for p in whole.iterdir()}
    for stop in range(len(wanted)):
        left = iter(range(stop))

        def cutting(path: Path, content: bytes, left: Any = left) -> None:
            if next(left, None) is not None:
                return write_bytes(path, content)
            path.parent.mkdir(parents=True, exist_ok=True)
            part_of(path).write_bytes(content[: len(content) // 2])
            raise KeyboardInterrupt

        monkeypatch.setattr("sage_va.data.transfer.exporter.write_bytes", cutting)
        with pytest.raises(KeyboardInterrupt):
            run(store, cut)
        for path in cut.iterdir():
            assert path.name.startswith(".") or path.read_bytes() == wanted[path.name]
    monkeypatch.undo()
    run(store, cut)
    assert {p.name: p.read_bytes() for p in cut.iterdir()} == wanted
    text = r"cut: expected a new folder, or one that the same export began, got other files\. Choose another folder"
    for form, clips in (("csv", []), ("npy", ["a"])):
        with pytest.raises(InputError, match=text):
            run(store, cut, form, clips)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=text.replace("cut", "file")):
        run(store, tmp_path / "file")


def test_a_damaged_clip_is_listed_and_the_others_done(store: Store, tmp_path: Path) -> None:
    for clip_id in ("a", "b", "c"):
        put(store, clip_id)
    for name in ("a/values/c/0/0", "c/zarr.json"):
        path = tmp_path / "c.zarr" / VISUAL_NAME / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    done = run(store, tmp_path / "out")
    assert list(done.clips) == ["b"]
    assert sorted(clip_id for clip_id, _ in done.failures) == ["a", "c"]
    assert all("Run `sage-va cache repair`" in reason for _, reason in done.failures)
    other = open_store(tmp_path / "again.zarr", "a")
    result = import_features(other, tmp_path / "out", stream="visual/again")
    assert result.clips == ["b"]
    assert result.failures[0].clip_id == "a"
    assert result.failures[0].reason.endswith("a.npy: expected a file that the export names, got none. Export again.")


def test_what_is_not_there_is_refused(store: Store, tmp_path: Path) -> None:
    put(store, "a")
    with pytest.raises(InputError, match=r"clip 'z': expected a clip_id or a pattern of some, got no match"):
        run(store, tmp_path / "out", clips=["a", "z"])
    with pytest.raises(InputError, match="stream 'audio': expected the name of one stream, got 0 that match"):
        export(store, tmp_path / "out", stream="audio", file_format="npy")
    assert not (tmp_path / "out").exists()


def test_frames_that_do_not_fit_are_refused(store: Store, tmp_path: Path) -> None:
    put(store, "a")
    run(store, tmp_path / "out")
    frames = np.load(tmp_path / "out/a.frames.npy")
    for wrong in (frames[:-1], frames["time_s"]):
        np.save(tmp_path / "out/a.frames.npy", wrong)
        other = open_store(tmp_path / "again.zarr", "a")
        failures = import_features(other, tmp_path / "out", stream="visual/again").failures
        assert "a.frames.npy: expected time_s and mask of each row, got " in failures[0].reason
    (tmp_path / "out/cache.json").write_text("{")
    with pytest.raises(InputError, match=r"cache\.json: expected the facts of an export, got .*\. Export again, or"):
        import_features(other, tmp_path / "out", stream="visual/again")


def test_a_cache_json_of_somebody_else_says_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in/a.npy", np.ones((3, 2), np.float32))
    for text in ('{"stream": 1}', "[]"):
        (tmp_path / "in/cache.json").write_text(text)
        assert import_features(store, tmp_path / "in", stream="visual/x", hz=25).clips == ["a"]


def test_changed_times_are_another_source(store: Store, tmp_path: Path) -> None:
    put(store, "a", source_sha256=SHA)
    run(store, tmp_path / "out")
    other = open_store(tmp_path / "again.zarr", "a")
    import_features(other, tmp_path / "out", stream="visual/again")
    frames = np.load(tmp_path / "out/a.frames.npy")
    frames["time_s"] += 1
    np.save(tmp_path / "out/a.frames.npy", frames)
    failures = import_features(other, tmp_path / "out", stream="visual/again").failures
    assert "got a file with other bytes" in failures[0].reason
