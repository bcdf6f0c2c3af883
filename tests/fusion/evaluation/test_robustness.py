"""Corruptions at evaluation: kinds, strengths, and the resulting curves of scores."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sage_va.cli import main
from sage_va.commands.evaluate import describe_robustness
from sage_va.data import Grid, InputError, open_store
from sage_va.data.windows.corpus import Corpus
from sage_va.fusion.ccc import ccc_of_moments, moments
from sage_va.fusion.config import check_config
from sage_va.fusion.evaluation import robustness_files
from sage_va.fusion.evaluation.corruption import CORRUPTIONS, corrupted
from sage_va.fusion.evaluation.metrics import Interval, score
from sage_va.fusion.evaluation.paired import Gain
from sage_va.fusion.evaluation.predict import predict
from sage_va.fusion.evaluation.robustness import Robustness, RobustnessCurve, RobustnessReport, robustness
from sage_va.fusion.evaluation.score import load_part, score_run
from sage_va.fusion.run_folder import load_run
from sage_va.fusion.training.train import train
from sage_va.tests.synthetic import make_cache, random_corpus, streams_of, tiny

torch.set_num_threads(1)
STREAMS = streams_of((8, 6, 5), (1, 2, 0))  # visual, audio, visual
SCALES = [torch.linspace(0.5, 2, stream.dim) for stream in STREAMS]
HIDING = ["visual-occlusion", "audio-silence", "visual-dropped", "audio-dropped"]


def corpus_of(lengths: tuple[int, ...] = (400, 30, 250, 1)) -> Corpus:
    corpus = random_corpus(STREAMS, lengths)
    for m in range(len(STREAMS)):
        corpus.values[m] = corpus.values[m].half() * corpus.mask[:, m, None]
    return corpus


def parts_of(corpus: Corpus) -> list[torch.Tensor]:
    return [*corpus.values, *corpus.quality, corpus.mask, corpus.va, corpus.va_mask]


def same(one: Corpus, other: Corpus) -> bool:
    return all(
        torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in zip(parts_of(one), parts_of(other), strict=True)
    )


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_repeats_itself_and_touches_only_its_modality_and_never_the_corpus_given(kind: str) -> None:
    corpus, kept = corpus_of(), corpus_of()
    corrupted_corpus = corrupted(corpus, kind, 0.6, SCALES)
    assert same(corpus, kept)
    assert same(corrupted_corpus, corrupted(corpus_of(), kind, 0.6, SCALES))
    assert not same(corrupted_corpus, corpus)
    assert not all(same(corrupted_corpus, corrupted(corpus, kind, 0.6, SCALES, seed=seed)) for seed in range(1, 9))
    assert (corrupted_corpus.va, corrupted_corpus.va_mask, corrupted_corpus.truths, corrupted_corpus.grids) == (
        corpus.va,
        corpus.va_mask,
        corpus.truths,
        corpus.grids,
    )
    assert [v.dtype for v in parts_of(corrupted_corpus)] == [v.dtype for v in parts_of(corpus)]
    for m, stream in enumerate(STREAMS):
        assert (corrupted_corpus.values[m] is not corpus.values[m]) == (stream.modality == CORRUPTIONS[kind].modality)
        if stream.modality != CORRUPTIONS[kind].modality:
            assert torch.equal(corrupted_corpus.mask[:, m], corpus.mask[:, m])
            assert corrupted_corpus.quality[m] is corpus.quality[m]
        assert not corrupted_corpus.values[m][~corrupted_corpus.mask[:, m]].any()


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_strength_zero_and_a_modality_that_is_not_there_change_nothing(kind: str) -> None:
    corpus = corpus_of()
    assert corrupted(corpus, kind, 0.0, SCALES) is corpus
    other = corpus.only([m for m, stream in enumerate(STREAMS) if stream.modality != CORRUPTIONS[kind].modality])
    assert corrupted(other, kind, 1.0, []) is other


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_what_befalls_a_clip_does_not_depend_on_its_company_or_on_the_streams(kind: str) -> None:
    corpus, clip_ids = corpus_of(), [f"clip{i:02}" for i in range(4)]
    whole = corrupted(corpus, kind, 0.5, SCALES)
    steps, first = corpus.steps(2), int(corpus.offsets[2])
    alone = replace(
        corpus,
        clips=[corpus.clips[2]],
        grids=[corpus.grids[2]],
        offsets=np.array([0, 250]),
        values=[values[steps] for values in corpus.values],
        quality=[quality[steps] for quality in corpus.quality],
        mask=corpus.mask[steps],
    )
    corrupted_corpus = corrupted(alone, kind, 0.5, SCALES, clip_ids=clip_ids)
    assert torch.equal(corrupted_corpus.mask, whole.mask[first : first + 250])
    assert all(torch.equal(a, b[steps]) for a, b in zip(corrupted_corpus.values, whole.values, strict=True))
    fewer = corrupted(corpus.only([0, 1]), kind, 0.5, SCALES[:2])
    assert torch.equal(fewer.mask, whole.mask[:, :2])
    assert torch.equal(fewer.values[1], whole.values[1])


@pytest.mark.parametrize("kind", HIDING)
def test_greater_strength_hides_what_a_smaller_one_did_and_more_until_all_is_hidden(kind: str) -> None:
    corpus = corpus_of()
    streams = [m for m, stream in enumerate(STREAMS) if stream.modality == CORRUPTIONS[kind].modality]
    before = corpus
    for strength in (0.25, 0.5, 0.75, 1.0):
        corrupted_corpus = corrupted(corpus, kind, strength, SCALES)
        assert not (corrupted_corpus.mask & ~before.mask).any()
        assert corrupted_corpus.mask.sum() < before.mask.sum()
        gone = corpus.mask & ~corrupted_corpus.mask
        for m in streams:
            assert not corrupted_corpus.values[m][gone[:, m]].any()
            assert corrupted_corpus.quality[m][gone[:, m]].isnan().all()
            assert torch.equal(
                corrupted_corpus.values[m][corrupted_corpus.mask[:, m]], corpus.values[m][corrupted_corpus.mask[:, m]]
            )
            assert torch.equal(
                corrupted_corpus.quality[m][corrupted_corpus.mask[:, m]], corpus.quality[m][corrupted_corpus.mask[:, m]]
            )
        before = corrupted_corpus
    assert not before.mask[:, streams].any()


@pytest.mark.parametrize("kind", ["visual-occlusion", "audio-silence"])
@pytest.mark.parametrize("first_step", [0, 2])
def test_spans_are_the_share_of_each_clip_and_of_half_to_three_seconds(kind: str, first_step: int) -> None:
    corpus = random_corpus(STREAMS, [5000, 40])
    corpus = replace(corpus, mask=torch.ones_like(corpus.mask), grids=[Grid(25.0, first_step, n) for n in (5000, 40)])
    m = [stream.modality for stream in STREAMS].index(CORRUPTIONS[kind].modality)
    for strength in (0.1, 0.5):
        hidden = ~corrupted(corpus, kind, strength, SCALES).mask[:, m]
        assert [int(hidden[:5000].sum()), int(hidden[5000:].sum())] == [5000 * strength, 40 * strength]
    lengths = np.diff(
        np.flatnonzero(np.diff(np.r_[0, (~corrupted(corpus, kind, 0.1, SCALES).mask[:5000, m]).int(), 0]))
    )
    assert 0.5 * 25 - 1 <= np.median(lengths[::2]) <= 3 * 25 + 1
    assert sum(lengths[::2] < 0.5 * 25 - 1) <= 1  # the last span is cut to the share
    both = ~corrupted(corpus, kind, 0.5, SCALES).mask
    assert torch.equal(both[:, 0], both[:, 2])


def test_models_with_other_grids_miss_the_same_seconds() -> None:
    corpus = random_corpus(STREAMS, [3000])
    corpus = replace(corpus, mask=torch.ones_like(corpus.mask), grids=[Grid(25.0, 0, 3000)])
    cut = replace(
        corpus.only([0]), grids=[Grid(25.0, 10, 2980)], offsets=np.array([0, 2980]), mask=corpus.mask[:2980, :1]
    )
    cut = replace(cut, values=[cut.values[0][:2980]], quality=[cut.quality[0][:2980]])
    one, other = (corrupted(c, "visual-occlusion", 0.3, SCALES).mask[:, 0] for c in (corpus, cut))
    assert (one[10:2990] == other).float().mean() > 0.99


@pytest.mark.parametrize("kind", ["visual-noise", "audio-noise"])
def test_noise_is_three_standard_deviations_at_most_and_lies_on_valid_steps(kind: str) -> None:
    corpus = corpus_of((3000,))
    for strength in (0.25, 1.0):
        corrupted_corpus = corrupted(corpus, kind, strength, SCALES)
        assert torch.equal(corrupted_corpus.mask, corpus.mask)
        for m, stream in enumerate(STREAMS):
            if stream.modality == CORRUPTIONS[kind].modality:
                added = (corrupted_corpus.values[m].float() - corpus.values[m].float())[corpus.mask[:, m]]
                torch.testing.assert_close(added.std(0), 3 * strength * SCALES[m], rtol=0.1, atol=0)
                assert corrupted_corpus.quality[m] is corpus.quality[m]


def wrong_parts(kind: str, strength: float, num_steps: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of the audio stream of one clip, clean and corrupted, at its valid steps."""
    corpus = corpus_of((num_steps,))
    wrong = corrupted(corpus, kind, strength, SCALES)
    assert torch.equal(wrong.mask, corpus.mask)
    assert wrong.quality[1] is corpus.quality[1]
    valid = corpus.mask[:, 1]
    return corpus.values[1][valid].float(), wrong.values[1][valid].float()


@pytest.mark.parametrize("kind", ["audio-zeros", "audio-frozen", "audio-displaced"])
def test_spans_that_are_wrong_are_that_share(kind: str) -> None:
    clean, wrong = wrong_parts(kind, 0.5)
    changed = (clean != wrong).any(-1)
    assert changed.float().mean() == pytest.approx(0.5, abs=0.01)
    if kind == "audio-zeros":
        assert not wrong[changed].any()
    if kind == "audio-frozen":  # each holds the features of the step before
        places = torch.nonzero(changed)[:, 0]
        assert torch.equal(wrong[places[places > 0]], wrong[places[places > 0] - 1])
    if kind == "audio-displaced":
        distance = (wrong[changed][:, None] - clean[None]).abs().sum(-1).min(1)
        assert distance.values.max() == 0
        away = (distance.indices - torch.nonzero(changed)[:, 0]).remainder(len(clean))
        assert len(away.unique()) == 1


def test_gain_offset_and_drift() -> None:
    clean, wrong = wrong_parts("audio-gain", 1.0)
    factor = (wrong / clean).nan_to_num(3.0)
    assert factor.median() == pytest.approx(3, rel=0.01) or factor.median() == pytest.approx(1 / 3, rel=0.01)
    clean, wrong = wrong_parts("audio-offset", 0.5)
    torch.testing.assert_close((wrong - clean).abs().mean(0), 1.5 * SCALES[1], rtol=0.01, atol=0.01)
    clean, wrong = wrong_parts("audio-drift", 1.0)
    torch.testing.assert_close((wrong - clean)[0], torch.zeros(6))
    torch.testing.assert_close((wrong - clean)[-1].abs(), 3 * SCALES[1], rtol=0.01, atol=0.01)


def test_misaligned_audio_is_the_same_audio_earlier_or_later() -> None:
    corpus = random_corpus(STREAMS, [200] * 12)
    corrupted_corpus = corrupted(corpus, "misalignment", 0.5, SCALES)
    ways = set()
    for index in range(12):
        first = int(corpus.offsets[index])
        clean, moved = (c.values[1][first : first + 200] for c in (corpus, corrupted_corpus))
        mask, late = corrupted_corpus.mask[first : first + 200, 1], torch.equal(moved[25:], clean[:-25])
        ways.add(late)
        gone, stays = (slice(0, 25), slice(25, 200)) if late else (slice(175, 200), slice(0, 175))
        source = slice(0, 175) if late else slice(25, 200)
        assert torch.equal(moved[stays], clean[source])
        assert torch.equal(mask[stays], corpus.mask[first : first + 200, 1][source])
        assert not mask[gone].any()
        assert not moved[gone].any()
        assert corrupted_corpus.quality[1][first : first + 200][gone].isnan().all()
    assert ways == {True, False}


def test_dropped_clips_are_that_share_of_all_that_are_scored() -> None:
    corpus = random_corpus(STREAMS, [20] * 8)
    gone = [not corrupted(corpus, "audio-dropped", 0.5, SCALES).mask[corpus.steps(i), 1].any() for i in range(8)]
    assert sum(gone) == 4
    assert (
        not corrupted(corpus, "audio-dropped", 0.5, SCALES).mask[:, 1][torch.tensor(gone).repeat_interleave(20)].any()
    )


def test_unknown_kinds_and_strengths_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected one of visual-occlusion, .*, got 'fog'\. Name one of them\."):
        corrupted(corpus_of(), "fog", 0.5, SCALES)
    with pytest.raises(InputError, match=r"strength of visual-noise: expected 0 to 1, got 1\.5\."):
        corrupted(corpus_of(), "visual-noise", 1.5, SCALES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sage`, `visual`, and `folds` of concat, on one small cache."""
    folder = tmp_path_factory.mktemp("robust")
    cache, labels = make_cache(folder, num_clips=8, seconds=4, weights="random")
    short = {"epochs": 5, "crossfit_epochs": 1}
    for name, sections in {
        "sage": {},
        "visual": {"model": {"variant": "visual"}},
        "folds": {"model": {"variant": "concat"}, "split": {"folds": 3}},
    }.items():
        train(open_store(cache), labels, folder / name, check_config(tiny(train=short, **sections), "test"))
    return folder


@pytest.fixture(scope="module")
def result(runs: Path) -> Robustness:
    return robustness(runs / "sage")


def test_strength_zero_is_the_plain_score(runs: Path, result: Robustness) -> None:
    score = score_run(runs / "sage")
    assert result.clean == score.raw.ccc
    for kind in result.kinds.values():
        assert kind.ccc is not None
        assert {name: ccc[0] for name, ccc in kind.ccc.items()} == score.raw.ccc
    assert (result.num_labels, result.split) == (score.num_labels, "test")
    assert result.clip_ids == [clip.clip_id for clip in score.clips]


def test_a_dropped_modality_is_what_the_model_makes_of_a_mask_that_is_false_everywhere(
    runs: Path, result: Robustness
) -> None:
    run = load_run(runs / "sage")
    corpus = load_part(run, open_store(run.cache), Path(run.labels), "test")
    blind = replace(corpus, mask=corpus.mask & torch.tensor([stream.modality != "visual" for stream in corpus.streams]))
    wanted = score(predict(run.model, blind, range(len(blind.clips)), run.config.data), blind)
    kind = result.kinds["visual-dropped"]
    assert kind.ccc is not None
    assert {name: ccc[-1] for name, ccc in kind.ccc.items()} == pytest.approx(wanted, abs=1e-9)
    assert kind.ccc["mean"][-1] != kind.ccc["mean"][0]
    assert kind.weight is not None
    assert kind.reliability is not None
    assert (kind.weight[-1], kind.reliability[-1]) == (0, None)
    assert 0 < (kind.weight[0] or 0) < 1


def test_the_area_is_the_mean_height_of_the_curve(result: Robustness) -> None:
    kind = result.kinds["audio-noise"]
    assert kind.ccc is not None
    assert kind.area is not None
    a, b, c, d, e = kind.ccc["valence"]
    assert kind.area["valence"] == pytest.approx((a / 2 + b + c + d + e / 2) / 4)
    assert result.strengths == [0, 0.25, 0.5, 0.75, 1]


def test_a_unimodal_run_names_what_it_does_not_take_and_loses_all_with_its_own_modality(runs: Path) -> None:
    result = robustness(runs / "visual", strengths=(0, 1))
    assert {name: kind.taken for name, kind in result.kinds.items()} == {
        name: name.startswith("visual") for name in CORRUPTIONS
    }
    assert set(result.to_json()["kinds"]["misalignment"]) == {"modality", "means", "taken"}
    assert result.clean["mean"] > 0.3
    means = {name: kind.ccc["mean"][1] for name, kind in result.kinds.items() if kind.ccc is not None}
    assert list(means) == [name for name, kind in CORRUPTIONS.items() if kind.modality == "visual"]
    assert all(mean < result.clean["mean"] - 0.1 for name, mean in means.items() if name != "visual-gain")
    assert abs(means["visual-dropped"]) < 0.1
    text = describe_robustness(RobustnessReport.of([result]))
    assert "  misalignment       audio not taken: the score does not change" in text.splitlines()


def test_folds_are_pooled_and_repeat_themselves(runs: Path) -> None:
    ticks: list[int] = []
    first = robustness(runs / "folds", strengths=(0, 0.5), tick=lambda: ticks.append(1))
    assert first == robustness(runs / "folds", strengths=(0, 0.5))
    assert first != robustness(runs / "folds", strengths=(0, 0.5), seed=1)
    assert (first.num_folds, len(first.clip_ids), len(ticks)) == (3, 8, len(CORRUPTIONS))
    assert first.kinds["visual-noise"].weight is None
    clean = score_run(runs / "folds").raw.ccc
    assert all({name: ccc[0] for name, ccc in (kind.ccc or {}).items()} == clean for kind in first.kinds.values())


@pytest.mark.parametrize("strengths", [(0,), (0, 0), (0, 1, 0.5), (0.5, 1), (0, 2)])
def test_strengths_that_make_no_curve_are_refused(runs: Path, strengths: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="strengths: expected numbers rising from 0 to 1, got"):
        robustness(runs / "sage", strengths=strengths)


def evaluated(*arguments: Any) -> str:
    result = CliRunner().invoke(main, ["eval", *map(str, arguments), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_one_run_as_text_and_as_json(runs: Path, result: Robustness) -> None:
    report = RobustnessReport.of([result])
    text = describe_robustness(report)
    assert text.startswith("UNTRAINED ENCODER (random weights): audio/voice-")
    assert f"{runs / 'sage'} (sage), test: " in text
    assert [line.split()[0] for line in text.splitlines()[3 : 3 + len(CORRUPTIONS)]] == list(CORRUPTIONS)
    assert "nan" not in text.lower()
    assert json.loads(evaluated(runs / "sage", "--robustness", "--json")) == report.to_json()


def test_several_runs_are_one_table_three_files_and_a_figure_per_kind(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Path] = []
    monkeypatch.setattr(robustness_files, "draw_kind", lambda report, kind: None)
    monkeypatch.setattr(robustness_files, "save_pictures", lambda figure, path: figures.append(path))
    text = evaluated(runs / "sage", runs / "visual", "--robustness", "--out", tmp_path / "out")
    assert figures == [tmp_path / "out" / name for name in ("robustness", *CORRUPTIONS)]
    sage, visual = [line for line in text.splitlines() if line.startswith(f"  {runs}")]
    assert sage.startswith(f"  {runs / 'sage'} (sage)  ")
    assert float(sage.split()[2]) == pytest.approx(score_run(runs / "sage").raw.ccc["mean"], abs=1e-3)
    assert "not taken" not in sage
    assert visual.count("not taken") == sum(kind.modality == "audio" for kind in CORRUPTIONS.values())
    assert "do not compare" not in text
    with (tmp_path / "out" / "robustness.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kept = json.loads((tmp_path / "out" / "robustness.json").read_text(encoding="utf-8"))
    visual_alone = [name for name, kind in CORRUPTIONS.items() if kind.modality == "visual"]
    assert len(rows) == (len(CORRUPTIONS) + len(visual_alone)) * 5
    assert float(rows[1]["mean"]) == kept["runs"][0]["kinds"]["visual-occlusion"]["ccc"]["mean"][1]
    assert rows[0]["random_weights"].startswith("visual/face-")


def doubled(run: Robustness, variant: str, seed: int, noise: float) -> Robustness:
    """A run of another variant and seed, on six clips; its estimates are the labels and some noise at all strengths."""
    truth = torch.rand(6, 2, 300, generator=torch.Generator().manual_seed(seed)) - 0.5
    estimate = truth + noise * torch.randn(truth.shape, generator=torch.Generator().manual_seed(seed))
    sums = moments(estimate, truth, torch.ones_like(truth, dtype=torch.bool)).double()
    each = {kind: sums.expand(len(run.strengths), -1, -1, -1) for kind in run.kinds}
    clip_ids = [f"clip{seed + index}" for index in range(6)]
    return replace(run, variant=variant, run_seed=seed, clip_ids=clip_ids, moments=each)


def test_gains_in_area_are_paired_by_seed_and_clip(result: Robustness, tmp_path: Path) -> None:
    better, worse = ([doubled(result, name, seed, noise) for seed in (0, 3)] for name, noise in NOISES)
    report = RobustnessReport.of([*better, *worse, doubled(result, "late", 9, 0.1)])
    (gain,) = report.differences  # `late` has no seed in common with `concat`
    assert (gain.variant, gain.base, gain.seeds) == ("sage", "concat", [0, 3])
    area = gain.kinds["audio-zeros"]["mean"]
    assert area.mean == pytest.approx(score_of(better) - score_of(worse), abs=1e-9)
    assert 0 < area.interval.low < area.mean < area.interval.high
    (same,) = RobustnessReport.of([*worse, *(replace(run, variant="sage") for run in worse)]).differences
    assert same.kinds["audio-zeros"]["mean"].interval == (0, 0)
    assert "sage − concat, 2 seeds: area" in describe_robustness(report)
    assert "moments" not in report.to_json()["runs"][0]
    curves, gains = robustness_files.draw_kind(report, "audio-zeros").axes
    assert [text.get_text() for text in curves.get_legend().get_texts()] == ["sage", "concat", "late"]
    assert gains.get_title(loc="left") == "area − area of concat, 95 %"


NOISES = (("sage", 0.1), ("concat", 0.3))


def score_of(runs: list[Robustness]) -> float:
    return float(np.mean([ccc_of_moments(run.moments["audio-zeros"][0].sum(0)).mean() for run in runs]))


def test_areas_of_runs_on_other_clips_do_not_compare(result: Robustness) -> None:
    other = replace(result, clip_ids=[*result.clip_ids, "another"])
    assert "their areas do not compare" in describe_robustness(RobustnessReport.of([result, other]))


def test_of_two_runs_with_one_variant_seed_and_clips_none_is_compared(result: Robustness) -> None:
    better, worse = (doubled(result, name, 0, noise) for name, noise in NOISES)
    again = doubled(result, "sage", 0, 0.2)
    for runs in ([better, again, worse], [again, better, worse]):
        assert RobustnessReport.of(runs).differences == []
    others = [replace(run, run_seed=1) for run in (better, worse)]
    (difference,) = RobustnessReport.of([better, again, worse, *others]).differences
    assert difference.seeds == [1]


def test_clips_without_labels_do_not_widen_an_interval(result: Robustness) -> None:
    better, worse = (doubled(result, name, 0, noise) for name, noise in NOISES)

    def with_unlabelled(run: Robustness) -> Robustness:
        more = {kind: torch.cat([sums, torch.zeros_like(sums)], 1) for kind, sums in run.moments.items()}
        return replace(run, clip_ids=[*run.clip_ids, *(f"zz{clip_id}" for clip_id in run.clip_ids)], moments=more)

    (alone,) = RobustnessReport.of([better, worse]).differences
    (among,) = RobustnessReport.of([with_unlabelled(better), with_unlabelled(worse)]).differences
    assert among.kinds == alone.kinds


def test_names_that_look_like_formulas_are_drawn(result: Robustness, tmp_path: Path) -> None:
    robustness_files.write_robustness(tmp_path, RobustnessReport.of([replace(result, run="runs/$a_$b{")]))
    assert (tmp_path / "robustness.svg").stat().st_size > 0


def drawn_result(variant: str, modality: str, rise: float) -> Robustness:
    """A run of one modality, whose estimates are off by more and more under one kind of corruption."""
    truth = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (3, 2, 40)))
    counted = torch.ones(truth.shape, dtype=torch.bool)
    sums = torch.stack([moments(truth + rise * strength, truth, counted) for strength in (0, 1)])
    kind = f"{modality}-noise"
    kinds = {kind: RobustnessCurve(modality, "noise", True, {}, {"mean": 0.5})}
    places = {"run": variant, "variant": variant, "split": "test", "num_folds": None, "random_weights": []}
    about: dict[str, Any] = {**places, "clip_ids": ["a", "b", "c"], "num_labels": 120, "strengths": [0.0, 1.0]}
    return Robustness(**about, seed=0, clean={"mean": 1.0}, kinds=kinds, run_seed=0, moments={kind: sums})


def test_runs_of_different_modalities_compare(tmp_path: Path) -> None:
    report = RobustnessReport.of([drawn_result("sage", "text", 0.5), drawn_result("concat", "visual", 0.0)])
    assert [list(run.kinds) for run in report.runs] == [["text-noise", "visual-noise"]] * 2
    assert [run.kinds["text-noise"].taken for run in report.runs] == [True, False]
    (difference,) = report.differences
    assert difference.kinds["text-noise"]["mean"].mean < -0.1
    assert difference.kinds["visual-noise"]["mean"] == Gain(0.0, Interval(0.0, 0.0))
    header, sage, concat = [line for line in describe_robustness(report).splitlines() if line.startswith("  ")][:3]
    assert header.split() == ["clean", "text-noise", "visual-noise"]
    assert sage.split()[2:] == ["1.000", "0.500", "not", "taken"]
    assert concat.split()[2:] == ["1.000", "not", "taken", "0.500"]


def test_a_plain_score_writes_nothing(runs: Path) -> None:
    result = CliRunner().invoke(main, ["eval", str(runs / "sage"), "--out", str(runs / "x")])
    assert result.exit_code == 2
    assert "--out and --media need --robustness." in result.stderr
