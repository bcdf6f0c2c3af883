"""The page of a report: its numbers are those of the score, its traces those of the prediction, its names only text."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sage_va import report
from sage_va.cli import main
from sage_va.data import Clip, InputError
from sage_va.data.clip_preview import ClipPreview
from sage_va.data.labels import Truth
from sage_va.fusion.ccc import moments
from sage_va.fusion.config import load_config
from sage_va.fusion.evaluation.metrics import ClipMoments
from sage_va.fusion.evaluation.predict import Prediction
from sage_va.fusion.evaluation.score import score_run
from sage_va.fusion.report.members import MemberClip, ReportMember, ReportModel, expand, group, read_member
from sage_va.fusion.report.page import page
from sage_va.fusion.report.standing import standing
from sage_va.fusion.report.traces import trace, traces
from sage_va.fusion.run_folder import CONFIG, RESOLVED
from sage_va.tests.synthetic import streams_of

torch.set_num_threads(1)
EVIL = "</script><script>window.evil=1</script><img src=x onerror=window.evil=1>{{script}}"


def contents_of(path: Path) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="contents">(.*?)</script>', path.read_text("utf-8"), re.S)
    assert match
    return json.loads(match[1])


@pytest.fixture(scope="module")
def shown(runs: dict[str, Path]) -> dict[str, Any]:
    """The contents of a page of sage-0 beside concat-0."""
    out = runs["sage-0"].parent / "page.html"
    result = report([runs["sage-0"], runs["concat-0"]], out)
    assert (result.models, result.num_runs, result.num_previews) == (["sage", "concat"], 2, 0)
    assert result.num_bytes == out.stat().st_size
    return contents_of(out)


def test_scores_are_those_of_eval(runs: dict[str, Path], shown: dict[str, Any]) -> None:
    score = score_run(runs["sage-0"])
    row = shown["standing"]["rows"][0]
    for name in ("valence", "arousal", "mean"):
        assert row["raw"][name]["value"] == pytest.approx(score.raw.ccc[name])
        assert (row["raw"][name]["low"], row["raw"][name]["high"]) == pytest.approx(score.raw.interval[name])
        assert row["smoothed"][name]["value"] == pytest.approx(score.smoothed.ccc[name])
    assert score.raw.face_frames_only is not None
    assert row["face_only"]["mean"] == pytest.approx(score.raw.face_frames_only["mean"])
    assert shown["standing"]["num_labels"] == score.num_labels
    by_clip = {clip["id"]: clip for clip in shown["clips"]}
    assert set(by_clip) == {clip.clip_id for clip in score.clips}
    for clip in score.clips:
        assert by_clip[clip.clip_id]["ccc"]["valence"] == pytest.approx(clip.ccc["valence"])


def test_the_lead_is_the_difference_to_each_of_the_others(shown: dict[str, Any]) -> None:
    first, *others = shown["standing"]["rows"]
    assert shown["standing"]["too_few"]
    assert [row["title"] for row in others] == ["concat", "sage, visual only", "sage, audio only"]
    assert first["lead"] is None
    for row in others:
        lead = row["lead"]["mean"]
        assert lead["value"] == pytest.approx(first["raw"]["mean"]["value"] - row["raw"]["mean"]["value"], abs=1e-6)
        assert lead["low"] <= lead["value"] <= lead["high"]


def test_untrained_encoders_curves_and_calibration_are_there(shown: dict[str, Any]) -> None:
    assert len(shown["random_weights"]) == 2
    assert [curve["epoch"] for curve in shown["learning"]] == [[0, 1], [0, 1]]
    assert [stream["label"] for stream in shown["calibration"]] == ["visual", "audio"]
    assert sum(shown["calibration"][0]["count"]) > 0


def test_no_place_of_this_machine_is_in_the_page(runs: dict[str, Path], shown: dict[str, Any]) -> None:
    text = (runs["sage-0"].parent / "page.html").read_text(encoding="utf-8")
    assert str(runs["sage-0"].parent) not in text
    assert shown["provenance"][0]["cache"] == "cache.zarr"
    assert shown["provenance"][0]["licence"] == "test"


def test_seeds_are_one_model_with_a_range(runs: dict[str, Path], tmp_path: Path) -> None:
    models = group([read_member(runs[name]) for name in ("sage-0", "sage-1", "concat-0")])
    assert [(model.title, len(model.members)) for model in models] == [("sage", 2), ("concat", 1)]
    common = [clip_id for clip_id in models[0].clip_ids if len(models[0].of_clip(clip_id)) == 2]
    whole = models[0].clip_ids
    assert common or len(whole) > 2
    shown = traces(models, {})
    for clip_id in common:
        low, mean, high = (levels(shown[clip_id][name][0]) for name in ("low", "va", "high"))
        assert (low <= mean + 1e-4).all()
        assert (mean <= high + 1e-4).all()


def test_seeds_with_a_lag_of_their_own_are_one_model(runs: dict[str, Path], tmp_path: Path) -> None:
    places = []
    for name, lag_s in (("sage-0", 0.2), ("sage-1", 0.4)):
        run = Path(shutil.copytree(runs[name], tmp_path / name))
        settled = json.loads((run / CONFIG).read_text())
        settled["config"]["labels"]["lag_s"] = lag_s
        (run / CONFIG).write_text(json.dumps(settled))
        (run / RESOLVED).write_text(load_config(run / RESOLVED, ["labels.lag_s=estimate"]).to_yaml())
        places.append(run)
    (model,) = group([read_member(run) for run in places])
    assert [member.first.config.labels.lag_s for member in model.members] == [0.2, 0.4]


def test_a_second_run_of_the_same_seed_is_another_model(runs: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs["sage-0"], tmp_path / "calibrated"))
    models = group([read_member(runs["sage-0"]), read_member(copy)])
    assert [model.title for model in models] == ["sage (sage-0)", "sage (calibrated)"]


def test_other_clips_are_not_compared(runs: dict[str, Path], tmp_path: Path) -> None:
    report([runs["sage-0"], runs["other"]], tmp_path / "page.html")
    row = contents_of(tmp_path / "page.html")["standing"]["rows"][1]
    assert row["lead"] is None
    assert row["not_compared"] == "scored on other clips or labels"


def drawn_model(title: str, noise: float, num_clips: int = 8) -> ReportModel:
    """A model of one run, scored on drawn clips."""
    rng, sums = np.random.default_rng(0), list[ClipMoments]()
    for number in range(num_clips):
        truth = torch.from_numpy(rng.uniform(-1, 1, (2, 50)))
        estimate = truth + noise * torch.from_numpy(rng.standard_normal((2, 50)))
        sums.append(ClipMoments(f"clip{number}", moments(estimate, truth, torch.ones(2, 50, dtype=torch.bool)), None))
    config = SimpleNamespace(seed=0)
    run: Any = SimpleNamespace(config=config, streams=[], smoothing_s=0.0, random_weights=[], model=torch.nn.Identity())
    scored: Any = SimpleNamespace(runs=[run], split="test")
    clips: Any = {clip.clip_id: None for clip in sums}
    return ReportModel(title, [ReportMember(scored, clips, sums, sums, [], [])])


def test_a_model_that_is_not_compared_is_none_of_holms_family() -> None:
    models = [drawn_model("sage", 0.1), drawn_model("concat", 0.5), drawn_model("late", 0.7)]
    rows = standing([*models, drawn_model("other", 0.5, num_clips=7)])["rows"]
    assert rows[:3] == standing(models)["rows"]
    assert rows[1]["lead"]["mean"]["p_holm"] == pytest.approx(2 * rows[1]["lead"]["mean"]["p"])
    assert (rows[3]["title"], rows[3]["lead"]) == ("other", None)
    assert rows[3]["not_compared"] == "scored on other clips or labels"


def test_other_seeds_are_not_compared(runs: dict[str, Path], tmp_path: Path) -> None:
    report([runs["sage-1"], runs["concat-0"]], tmp_path / "page.html")
    assert contents_of(tmp_path / "page.html")["standing"]["rows"][1]["not_compared"] == "no seed in common"


def test_the_folder_of_a_comparison_stands_for_its_runs(runs: dict[str, Path], tmp_path: Path) -> None:
    for name, place in (("sage-0", "sage/seed-0"), ("sage-1", "sage/seed-1"), ("concat-0", "concat/seed-0")):
        shutil.copytree(runs[name], tmp_path / place)
    (tmp_path / "sage" / "seed-2").mkdir()
    table = {"base": "concat", "rows": [{"variant": "concat"}, {"variant": "sage"}]}
    (tmp_path / "table.json").write_text(json.dumps(table))
    expected = [tmp_path / "sage/seed-0", tmp_path / "sage/seed-1", tmp_path / "concat/seed-0"]
    assert expand([tmp_path]) == expected


@pytest.mark.parametrize(
    ("table", "message"),
    [("{", "this table cannot be read"), ('{"base": "a", "rows": []}', "the comparison has no finished run")],
)
def test_a_comparison_without_runs_is_refused(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "table.json").write_text(table)
    with pytest.raises(InputError, match=message):
        expand([tmp_path])


def test_robustness_of_the_run_is_shown(runs: dict[str, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs["concat-0"], tmp_path / "run"))
    (run / "robustness").mkdir()
    kind = {"means": "zeros", "taken": True, "ccc": {"mean": [0.5, None]}}
    curves = {"run": "x/run", "variant": "concat", "strengths": [0, 1], "kinds": {"zero": kind}}
    file = run / "robustness" / "robustness.json"
    file.write_text(json.dumps({"runs": [curves]}))
    report(run, tmp_path / "page.html")
    (shown,) = contents_of(tmp_path / "page.html")["robustness"]
    assert shown["title"] == "run (concat)"
    assert shown["kinds"]["zero"]["ccc"] == [0.5, None]
    file.write_text("{}")
    with pytest.raises(InputError, match="not the result of a robustness test"):
        report(run, tmp_path / "page.html")


def test_scores_on_corrupted_recordings_are_shown(runs: dict[str, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs["concat-0"], tmp_path / "run"))
    score = {"ccc": {"mean": 0.4}, "valid": {"visual": 1.0}, "weight": None, "reliability": None}
    kind = {"means": "dark", "score": score, "difference": {"mean": {"mean": -0.1, "interval": [None, None]}}}
    file = run / "media.json"
    file.write_text(
        json.dumps({"runs": [{"run": "x/run", "variant": "concat", "clean": score, "kinds": {"dark": kind}}]})
    )
    report(run, tmp_path / "page.html")
    (shown,) = contents_of(tmp_path / "page.html")["recordings"]
    loss = {"value": -0.1, "low": None, "high": None}
    assert shown["kinds"] == [{"name": "dark", "means": "dark", **score, "loss": loss}]
    file.write_text('{"runs": [1]}')
    with pytest.raises(InputError, match=r"media\.json: this is not the result of a robustness test"):
        report(run, tmp_path / "page.html")


def test_scores_on_clips_that_decided_something_are_marked(runs: dict[str, Path], tmp_path: Path) -> None:
    cautions = {}
    for split in ("train", "val", "test"):
        report(runs["concat-0"], tmp_path / "page.html", split=split)
        cautions[split] = contents_of(tmp_path / "page.html")["cautions"]
    assert cautions["test"] == []
    assert "the clips that chose the epoch" in cautions["val"][0]
    assert "clips that the model was trained on" in cautions["train"][0]


def test_a_damaged_metrics_log_is_named(runs: dict[str, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs["concat-0"], tmp_path / "run"))
    (run / "metrics.jsonl").write_text('{"epoch": 0}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl: this metrics log cannot be read"):
        report(run, tmp_path / "page.html")


def test_the_verb(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "page.html"
    done = CliRunner().invoke(main, ["report", str(runs["concat-0"]), "--out", str(out), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "concat: 1 run, 2 clips" in done.output
    assert "Untrained encoder (random weights): " in done.output
    done = CliRunner().invoke(main, ["report", str(runs["concat-0"]), "--out", str(out), "--device", "cpu", "--json"])
    assert json.loads(done.stdout)["models"] == ["concat"]


def test_names_are_data_and_end_nothing(shown: dict[str, Any]) -> None:
    text = page(with_name(shown, EVIL))
    assert "<img src=x" not in text
    assert text.count("</script>") == page(shown).count("</script>")
    assert text.count("\nconst contents = ") == 1


def test_every_text_is_data(shown: dict[str, Any]) -> None:
    """Names of runs, streams, settings and licences, too: all texts of a page at once."""

    def evil(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: evil(each) for key, each in value.items()}
        return [evil(each) for each in value] if isinstance(value, list) else EVIL if isinstance(value, str) else value

    text = page(evil(shown))
    assert text.count("&lt;/script&gt;") >= 1  # in the title
    assert "<img src=x" not in text
    assert text.count("</script>") == page(shown).count("</script>")


def with_name(shown: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns the contents with another name of the first clip."""
    old = shown["clips"][0]["id"]
    clips = [{**shown["clips"][0], "id": name}, *shown["clips"][1:]]
    clip_traces = {name if key == old else key: value for key, value in shown["traces"].items()}
    return {**shown, "clips": clips, "traces": clip_traces, "limits": [name]}


def levels(text: str) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(text), "<i2")
    return np.where(values == -32768, np.nan, values / 10_000)


def model_of(num_clips: int, num_steps: int, hz: float = 25.0, label_hz: float = 25.0) -> ReportModel:
    """A model with a gate and drawn estimates, without a run on disk."""
    rng = np.random.default_rng(0)
    times_s = np.arange(num_steps) / hz
    labels_s = np.arange(round(num_steps / hz * label_hz)) / label_hz
    clips = {}
    for k in range(num_clips):
        va = rng.uniform(-1, 1, (num_steps, 2))
        mask = np.ones((num_steps, 2), bool)
        mask[num_steps // 4 : num_steps // 2, 0] = False
        share = rng.random((num_steps, 2))
        stage = np.eye(3)[np.arange(num_steps) * 3 // num_steps]
        one = Prediction(f"clip{k}", times_s, va, mask, share, share, stage, np.zeros((num_steps, 2, 2)))
        truth = Truth(labels_s, rng.uniform(-1, 1, (len(labels_s), 2)).astype(np.float32), np.ones(len(labels_s), bool))
        clips[one.clip_id] = MemberClip(Clip(one.clip_id), hz, one, truth)
    scored = SimpleNamespace(runs=[SimpleNamespace(streams=streams_of())])
    return ReportModel("sage", [ReportMember(scored, clips, [], [], [], [])])


def test_traces_are_those_of_the_prediction() -> None:
    model = model_of(1, 200)
    clip = model.members[0].clips["clip0"]
    shown = trace([model], "clip0", 1000, None)
    assert (shown["num"], shown["step_s"], shown["mask"]) == (200, 0.04, [[50, 100], []])
    assert np.abs(levels(shown["va"][1]) - clip.prediction.va[:, 1]).max() < 1e-4
    assert clip.truth is not None
    assert np.abs(levels(shown["truth"][0]) - clip.truth.va[:, 0]).max() < 1e-4
    reliability = np.frombuffer(base64.b64decode(shown["reliability"][0]), np.uint8)
    assert (reliability[50:100] == 255).all()
    assert clip.prediction.reliability is not None
    assert np.abs(reliability[100:] / 250 - clip.prediction.reliability[100:, 0]).max() < 0.003
    assert shown["stage"] == {"num": 3, "starts": [0, 67, 134], "stages": [0, 1, 2]}


def test_many_steps_become_means() -> None:
    model = model_of(1, 205)
    shown = trace([model], "clip0", 25, None)
    va = model.members[0].clips["clip0"].prediction.va
    assert (shown["width"], shown["num"], shown["step_s"]) == (9, 23, 0.36)
    assert levels(shown["va"][0])[:2] == pytest.approx([va[:9, 0].mean(), va[9:18, 0].mean()], abs=1e-4)
    assert shown["start_s"] == 0.16


def test_between_sparse_labels_the_gold_standard_is_a_line_and_in_a_gap_it_is_missing() -> None:
    model = model_of(1, 100, label_hz=5)
    clip = model.members[0].clips["clip0"]
    assert clip.truth is not None
    clip.truth.mask[8:12] = False
    shown = levels(trace([model], "clip0", 1000, None)["truth"][0])
    known = clip.truth.va[:, 0]
    assert shown[[0, 5]] == pytest.approx(known[:2], abs=1e-4)
    assert shown[1] == pytest.approx(0.8 * known[0] + 0.2 * known[1], abs=1e-4)
    assert np.isnan(shown[41:54]).all()


def pages_of_100(shown: dict[str, Any]) -> Iterator[str]:
    model = model_of(100, 3000)
    rng = np.random.default_rng(0)
    peaks = rng.integers(-128, 127, (400, 2)).astype(np.int8)
    preview = ClipPreview(np.arange(12.0), rng.bytes(6500), (48, 48), peaks, (0.0, 120.0))
    clips = [{**shown["clips"][0], "id": clip_id} for clip_id in model.clip_ids]
    yield page({**shown, "clips": clips, "traces": traces([model], dict.fromkeys(model.clip_ids, preview))})


def test_a_page_of_100_clips_with_pictures_is_below_3_mb(shown: dict[str, Any]) -> None:
    (text,) = pages_of_100(shown)
    assert 1_500_000 < len(text.encode()) < 3_000_000
