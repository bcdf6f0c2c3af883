"""The labelled clips of a run, and their split: official where the labels are, and no recording is divided."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sage_va.commands.train import describe_grid, describe_split
from sage_va.data import Clip, FrameClock, InputError, Store, Track, open_store, stream_name
from sage_va.data import labels as labels_module
from sage_va.data.windows.load import stream_hz
from sage_va.fusion.config import Config, DataConfig, SplitConfig, check_config
from sage_va.fusion.evaluation.score import score_run
from sage_va.fusion.run_folder import load_run
from sage_va.fusion.training.labelled import (
    assign_roles,
    groups_of,
    labelled_hours,
    load_labelled,
    settle_grid,
    settle_split,
    summarise_split,
)
from sage_va.fusion.training.train import train
from sage_va.tests.synthetic import Kind, make_cache, tiny

NAMES = ["a", "b_left", "b_right", "c", "c_right", "d.mp4", "d.mp4#1", "e", "f", "g"]


def config_of(**sections: Mapping[str, Any]) -> Config:
    return check_config(tiny(**sections), "test")


def write_labels(folder: Path, names: Sequence[str], part: str = "") -> Path:
    (folder / part).mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / part / f"{name}.txt").write_text("valence,arousal\n" + "0.1,0.2\n0.3,0.1\n" * 30)
    return folder


def cache_of(folder: Path, clips: Sequence[Clip], sounds: Sequence[int] = ()) -> Store:
    """One visual and one audio stream of random features; clips of one number in `sounds` have the same audio."""
    store = open_store(folder / "cache.zarr", "a")
    for k, clip in enumerate(clips):
        for name, seed in (("visual/face", k), ("audio/voice", 1000 + (sounds[k] if sounds else k))):
            modality, alias = name.split("/")
            fingerprint = {"modality": modality, "encoder": {"name": alias}}
            values = np.random.default_rng(seed).standard_normal((60, 4)).astype(np.float16)
            track = Track.of(values, np.arange(60) / 25)
            full = stream_name(modality, alias, fingerprint)
            store.commit(clip, full, track, fingerprint=fingerprint, source_sha256=f"{k}")
    return store


def clips_of(names: Sequence[str], **facts: Any) -> list[Clip]:
    return [Clip(name, duration_s=2.4, clock=FrameClock.regular(25, 60), **facts) for name in names]


@pytest.mark.parametrize("by", ["auto", "subject", "clip"])
@pytest.mark.parametrize("folds", [None, 3])
def test_pairs_of_aff_wild2_are_never_divided(by: str, folds: int | None) -> None:
    """`video5_left` was in test and `video5_right` in val; `10-60-1280x720` in test, its `_right` in train."""
    pairs = [("video5_left", "video5_right"), ("10-60-1280x720", "10-60-1280x720_right"), ("v.mp4#0", "v.mp4#left")]
    clips = clips_of([name for pair in pairs for name in pair] + [f"other{k}" for k in range(9)])
    for seed in range(20):
        split = SplitConfig(by=by, folds=folds, fold=None if folds is None else seed % folds)
        roles = assign_roles(clips, {}, split, seed)
        assert all(roles[one] == roles[other] for one, other in pairs)


def test_clips_of_one_medium_or_sound_are_never_divided(tmp_path: Path) -> None:
    names = [f"clip{k}" for k in range(10)]
    media = [{"path": "x.mp4", "bytes": 3, "sha256": str(k // 2)} for k in range(4)]
    clips = [*(clips_of([name], media=medium)[0] for name, medium in zip(names[:4], media, strict=True))]
    store = cache_of(tmp_path, [*clips, *clips_of(names[4:])], sounds=[0, 1, 2, 3, 4, 4, 1, 7, 8, 9])
    labels = write_labels(tmp_path / "labels", names)
    for variant in ("concat", "visual"):  # the audio counts even if the model does not take it
        corpus = load_labelled(store, labels, config_of(model={"variant": variant})).corpus
        groups = groups_of(corpus.clips, SplitConfig())
        together = [{name for name in names if groups[name] == group} for group in sorted(set(groups.values()))]
        assert together == [
            {"clip0", "clip1", "clip6"}, {"clip2", "clip3"}, {"clip4", "clip5"}, {"clip7"}, {"clip8"}, {"clip9"}
        ]  # fmt: skip


def test_two_clips_without_any_audible_step_are_not_one_recording(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache.zarr", "a")
    fingerprint = {"modality": "audio", "encoder": {"name": "voice"}}
    silent = Track.of(np.zeros((60, 4), np.float16), np.arange(60) / 25, np.zeros(60, bool))
    for clip in clips_of(["a", "b"]):
        full = stream_name("audio", "voice", fingerprint)
        store.commit(clip, full, silent, fingerprint=fingerprint, source_sha256=clip.clip_id)
    assert len(set(groups_of([store.clip("a"), store.clip("b")], SplitConfig()).values())) == 2


def test_subjects_stay_whole_unless_the_split_is_by_clip() -> None:
    clips = [Clip(f"clip{k:02}", f"s{k // 2}") for k in range(12)]
    for seed in range(5):
        roles = assign_roles(clips, {}, SplitConfig(), seed)
        assert all(roles[f"clip{k:02}"] == roles[f"clip{k + 1:02}"] for k in range(0, 12, 2))
    by_clip = [assign_roles(clips, {}, SplitConfig(by="clip"), seed) for seed in range(5)]
    assert any(roles["clip00"] != roles["clip01"] for roles in by_clip)


def test_a_labels_folder_of_aff_wild2_gives_the_official_split(tmp_path: Path) -> None:
    store = cache_of(tmp_path, clips_of(NAMES))
    labels = write_labels(tmp_path / "labels", ["a", "b_left", "b_right", "c", "c_right", "d", "d_1"], "Train_Set")
    write_labels(labels, ["e", "f"], "Validation_Set")
    events: list[dict[str, Any]] = []
    train(store, labels, tmp_path / "run", config_of(train={"epochs": 1, "crossfit_epochs": 1}), log=events.append)
    run = load_run(tmp_path / "run")
    assert run.config.split.by == "official"
    assert {name for name, role in run.roles.items() if role == "val"} == {"e", "f"}
    assert set(run.roles.values()) == {"train", "val"}
    (event,) = [event for event in events if event["event"] == "split"]
    assert describe_split(event) == [
        "split: 7 train, 2 val (the official one, by the folders Train_Set and Validation_Set; "
        "split.by=subject draws another)"
    ]


@pytest.mark.parametrize(
    "asked", [{"by": "subject"}, {"by": "clip"}, {"folds": 3, "fold": 0}, {"fractions": [0.6, 0.2, 0.2]}], ids=str
)
def test_another_split_is_drawn_where_one_is_asked_for(tmp_path: Path, asked: dict[str, Any]) -> None:
    store = cache_of(tmp_path, clips_of(NAMES))
    labels = write_labels(write_labels(tmp_path / "labels", NAMES[:3], "Train_Set"), ["e", "f"], "Validation_Set")
    config = config_of(split=asked)
    assert settle_split(config, store, labels).split == config.split.model_copy(
        update={"by": asked.get("by", "subject")}
    )
    assert settle_split(config_of(), store, labels, drawn=True).split.by == "subject"
    assert settle_split(config_of(), store, labels).split.by == "official"


def test_one_folder_alone_is_no_official_split(tmp_path: Path) -> None:
    store = cache_of(tmp_path, clips_of(NAMES))
    labels = write_labels(tmp_path / "labels", NAMES[:3], "Train_Set")
    assert settle_split(config_of(), store, labels).split.by == "subject"
    write_labels(labels, ["no_such_clip"], "Validation_Set")
    assert settle_split(config_of(), store, labels).split.by == "subject"


def test_a_clip_outside_the_official_folders_is_refused(tmp_path: Path) -> None:
    store = cache_of(tmp_path, clips_of(NAMES))
    labels = write_labels(write_labels(tmp_path / "labels", NAMES[:3], "Train_Set"), ["e", "f"], "Validation_Set")
    write_labels(labels, ["g"])
    with pytest.raises(
        InputError, match=r"g: expected a part in the official split, got none.*or set split\.by=subject"
    ):
        train(store, labels, tmp_path / "run", config_of())
    assert not (tmp_path / "run").exists()


def test_an_official_split_stays_as_published_and_a_divided_recording_is_reported() -> None:
    clips = [Clip(name) for name in ("v_left", "v_right", "w")]
    parts = {"v_left": "train", "v_right": "val", "w": "train"}
    split = SplitConfig(by="official")
    roles = assign_roles(clips, parts, split, 0)
    assert roles == parts
    summary = summarise_split(clips, roles, split)
    assert summary.divided == [["v_left", "v_right"]]
    assert describe_split(summary.to_json())[-1] == (
        "warning: this split divides 1 recordings, such as v_left and v_right"
    )


def test_a_file_that_divides_a_recording_is_refused(tmp_path: Path) -> None:
    clips = [Clip(name, "anna") for name in ("v_left", "v_right", "w")]
    split = SplitConfig(by="file", file=str(tmp_path / "split.csv"))
    Path(str(split.file)).write_text("clip_id,split\nv_left,train\nv_right,train\nw,val\n", encoding="utf-8")
    assert assign_roles(clips, {}, split, 0) == {"v_left": "train", "v_right": "train", "w": "val"}
    with pytest.raises(InputError, match="x: expected a part in the file split, got none"):
        assign_roles([*clips, Clip("x")], {}, split, 0)
    Path(str(split.file)).write_text("clip_id,split\nv_left,train\nv_right,test\nw,val\n", encoding="utf-8")
    text = (
        r"split\.csv: expected clips of one recording in one part, got v_left in train and v_right in test\. List them"
    )
    with pytest.raises(InputError, match=text):
        assign_roles(clips, {}, split, 0)


def test_a_split_from_a_file_is_resampled_by_the_seed(tmp_path: Path) -> None:
    clips = [*clips_of([f"c{k:02}" for k in range(18)]), *(Clip(f"v_{side}", "anna") for side in ("left", "right"))]
    listed = {clip.clip_id: "test" if k < 4 else "val" if k < 7 else "train" for k, clip in enumerate(clips)}
    rows = "".join(f"{clip_id},{role}\n" for clip_id, role in listed.items())
    (tmp_path / "split.csv").write_text(f"clip_id,split\n{rows}")
    split = SplitConfig(by="file", file=str(tmp_path / "split.csv"), resample=True)
    drawn = [assign_roles(clips, {}, split, seed) for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2]
    assert drawn[0] != drawn[1]
    for roles in drawn:
        assert roles["v_left"] == roles["v_right"]
        assert sorted(Counter(roles[clip] for clip in roles if clip != "v_left").items()) == [
            ("test", 4), ("train", 12), ("val", 3),
        ]  # fmt: skip
    lines = describe_split(summarise_split(clips, drawn[0], split).to_json())
    assert "dealt anew from 19 groups of clips, as many to each part as in the file split" in lines[0]


def test_a_drawn_split_is_not_resampled() -> None:
    with pytest.raises(InputError, match=r"split\.resample: expected true only where split\.by is official or file"):
        config_of(split={"by": "clip", "resample": True})


def test_the_log_states_how_clips_were_divided() -> None:
    clips = [Clip("v_left", "anna"), Clip("v_right", "bert"), *(Clip(f"w{k}") for k in range(4))]
    for by, origin in (
        ("subject", "drawn from 5 groups of clips that share a subject or recording"),
        ("clip", "drawn from 5 recordings; a subject may be in several parts"),
    ):
        split = SplitConfig(by=by)
        lines = describe_split(summarise_split(clips, assign_roles(clips, {}, split, 1), split).to_json())
        assert f"({origin})" in lines[0]
        subjects = ["4 clips without subject_id: each recording counts as a subject"]
        assert lines[1:] == (subjects if by == "subject" else [])


def test_hours_are_counted_without_parsing_a_label_file(tmp_path: Path) -> None:
    cache, labels = make_cache(tmp_path, num_clips=3, seconds=36)
    (labels / "clip00.csv").write_text("not a label file")
    assert labelled_hours(open_store(cache), labels) == pytest.approx(0.03)


@pytest.mark.parametrize("variant", ["concat", "visual"])
def test_each_record_and_each_label_file_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    cache, labels = make_cache(tmp_path, num_clips=4, seconds=2)
    store = open_store(cache)
    places = sorted((stream, clip_id) for stream in store.streams() for clip_id in store.clip_ids())
    records, files = list[tuple[str, ...]](), list[str]()
    load, parse = type(store)._load_record, labels_module.read_label_file
    monkeypatch.setattr(type(store), "_load_record", lambda self, *place: records.append(place) or load(self, *place))
    monkeypatch.setattr(labels_module, "read_label_file", lambda path: files.append(path.name) or parse(path))
    load_labelled(store, labels, config_of(model={"variant": variant}).on_grid(25))
    assert sorted(records) == places
    assert sorted(files) == [f"clip{k:02}.csv" for k in range(4)]


def kinds_of(**rates: float) -> dict[str, Kind]:
    return {f"{name}/x": Kind(hz=hz, dim=4) for name, hz in rates.items()}


@pytest.mark.parametrize(
    ("variant", "streams", "hz", "slowest"),
    [("concat", (), 12.5, "visual"), ("audio", (), 50.0, "audio"), ("audio", ("visual", "audio"), 50.0, "audio")],
)
def test_the_grid_has_the_rate_of_the_slowest_stream_that_is_taken(
    tmp_path: Path, variant: str, streams: tuple[str, ...], hz: float, slowest: str
) -> None:
    cache, labels = make_cache(tmp_path, num_clips=12, seconds=2, kinds=kinds_of(visual=12.5, audio=50))
    (labels / "clip00.csv").write_text("not parsed")
    store, config = open_store(cache), config_of(model={"variant": variant}, data={"streams": list(streams)})
    settled, stream = settle_grid(config, store, labels)
    assert settled == config.on_grid(hz)
    assert stream is not None
    assert stream.startswith(f"{slowest}/x-")
    assert settle_grid(config.on_grid(5), store, labels) == (config.on_grid(5), None)


def test_a_rate_is_that_of_most_clips_and_of_the_usual_gap(tmp_path: Path) -> None:
    """Not of the clip whose frames are few, nor of a hole in another."""
    store, fingerprint = open_store(tmp_path / "cache.zarr", "a"), {"modality": "visual"}
    stream = stream_name("visual", "face", fingerprint)
    ntsc = np.arange(90) * 1001 / 30000
    times = [ntsc, ntsc, np.delete(ntsc, slice(20, 60)), np.arange(10.0), ntsc[:1]]
    for k, times_s in enumerate(times):
        track = Track.of(np.zeros((len(times_s), 2), np.float16), times_s)
        store.commit(Clip(f"clip{k}"), stream, track, fingerprint=fingerprint, source_sha256=f"{k}")
    clip_ids = store.clip_ids()
    assert stream_hz(store, stream, [*clip_ids, "absent"]) == 29.97
    assert stream_hz(store, stream, clip_ids[-1:]) is None
    assert stream_hz(store, stream, []) is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, "grid 12.5 Hz (slowest stream: visual), windows 2.4 s = 30 steps, hop 1.6 s"),
        ({"grid_hz": 5}, "grid 5 Hz (data.grid_hz), windows 2.4 s = 12 steps, hop 1.6 s"),
        (
            {"window_s": 60},
            "grid 12.5 Hz (slowest stream: visual), windows 4.08 s = 51 steps, the longest clip, hop 1.6 s",
        ),
    ],
)
def test_a_training_states_its_grid_and_windows_and_keeps_them(
    tmp_path: Path, data: dict[str, float], expected: str
) -> None:
    cache, labels = make_cache(tmp_path, num_clips=6, seconds=4, kinds=kinds_of(visual=12.5, audio=50))
    events: list[dict[str, Any]] = []
    config = config_of(model={"variant": "concat"}, train={"epochs": 1}, data=data)
    train(open_store(cache), labels, tmp_path / "run", config, log=events.append)
    (event,) = [event for event in events if event["event"] == "grid"]
    assert describe_grid(event) == expected
    assert load_run(tmp_path / "run").config.data.grid_hz == data.get("grid_hz", 12.5)
    train(open_store(cache), labels, tmp_path / "run", config, resume=True)  # the rate is settled alike


def test_a_run_folder_with_windows_in_steps_still_loads(tmp_path: Path) -> None:
    cache, labels = make_cache(tmp_path, num_clips=6, seconds=2.4)
    run = tmp_path / "run"
    train(open_store(cache), labels, run, config_of(model={"variant": "concat"}, train={"epochs": 1}))
    expected = score_run(run).to_json()
    described = json.loads((run / "config.json").read_text(encoding="utf-8"))
    data = described["config"]["data"]
    data |= {"window_steps": 60, "hop_steps": 40}
    del data["window_s"], data["hop_s"]
    (run / "config.json").write_text(json.dumps(described), encoding="utf-8")
    (run / "config.yaml").write_text(yaml.safe_dump(described["config"]), encoding="utf-8")
    assert load_run(run).config.data == DataConfig(grid_hz=25, window_s=2.4, hop_s=1.6)
    assert score_run(run).to_json() == expected
    again = config_of(model={"variant": "concat"}, train={"epochs": 1})
    assert train(open_store(cache), labels, run, again, resume=True) == [run]
