"""Variants side by side: what is done is kept, what is not is done again, and the table says what the cells say."""

import contextlib
import csv
import fcntl
import json
import math
import multiprocessing
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from sage_va.cli import main
from sage_va.commands.compare import describe_table
from sage_va.data import InputError, open_store
from sage_va.fusion.ccc import ccc_of_moments, moments
from sage_va.fusion.config import Config, check_config, load_config
from sage_va.fusion.evaluation.metrics import Interval
from sage_va.fusion.evaluation.score import score_run
from sage_va.fusion.experiments import compare as compare_module
from sage_va.fusion.experiments import runs as cells_module
from sage_va.fusion.experiments.compare import compare, of_all
from sage_va.fusion.experiments.runs import Bench, BenchSettings, CellClip, CellScore, plan, read_score
from sage_va.fusion.experiments.table import Difference, difference, holm, tabulate
from sage_va.fusion.experiments.table_files import write_table
from sage_va.fusion.experiments.table_picture import draw_table
from sage_va.fusion.experiments.workers import next_item
from sage_va.fusion.training import shared_errors
from sage_va.fusion.training.crossfit import decides_errors
from sage_va.fusion.training.labelled import load_labelled
from sage_va.fusion.training.train import train
from sage_va.tests.synthetic import make_cache, tiny
from sage_va.tests.waiting import MOST_S, held, num_held, until

torch.set_num_threads(1)
SHORT = {"epochs": 2, "crossfit_epochs": 1, "crossfit_folds": 2}
SMALL = {"dim": 8, "tcn_blocks": 1, "layers": 0}
VARIANTS = ["sage", "concat", "visual"]
NAMES = ("valence", "arousal", "mean")
PICTURE = b"\x89PNG\r\n\x1a\n"


def config_of(**sections: Any) -> Config:
    return check_config(tiny(**{"train": SHORT, "model": SMALL, **sections}), "test")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_cache(tmp_path_factory.mktemp("cache"), num_clips=6, seconds=2.4, weights="random")


def compared(
    cache: tuple[Path, Path], out: Path, variants: list[str], config: Config | None = None, **options: Any
) -> dict[str, Any]:
    settings: dict[str, Any] = {"num_seeds": 2, "folds": 3, "jobs": 1, **options}
    return compare(open_store(cache[0]), cache[1], out, config or config_of(), variants, **settings).to_json()


@pytest.fixture(scope="module")
def finished(cache: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("compared") / "out"
    return out, compared(cache, out, VARIANTS)


@pytest.fixture
def copied(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "copied"))


def results_of(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows without what a clock decides."""
    return [{key: value for key, value in row.items() if key != "seconds_per_cell"} for row in comparison["rows"]]


def training_forbidden(*_: Any) -> None:
    raise AssertionError("trained again")


def test_the_table_is_the_protocols_score(finished: tuple[Path, dict[str, Any]]) -> None:
    out, comparison = finished
    assert (comparison["num_cells"], comparison["num_trained"], comparison["num_skipped"]) == (18, 18, 0)
    assert (comparison["failures"], comparison["interrupted"], comparison["base"], comparison["num_folds"]) == (
        [],
        False,
        "concat",
        3,
    )
    assert json.loads((out / "table.json").read_text(encoding="utf-8")) == comparison
    assert "table" not in comparison
    assert [row["variant"] for row in comparison["rows"]] == VARIANTS
    for row in comparison["rows"]:
        assert row["seeds"] == [0, 1]
        of_seed = [score_run(out / row["variant"] / f"seed-{seed}") for seed in (0, 1)]
        assert {score.num_labels for score in of_seed} == {comparison["num_labels"]}
        for kind in ("raw", "smoothed"):
            for name in NAMES:
                each = [getattr(score, kind).ccc[name] for score in of_seed]
                assert row[kind][name]["each"] == pytest.approx(each, abs=1e-6)
                assert row[kind][name]["mean"] == pytest.approx(np.mean(each), abs=1e-6)
                assert row[kind][name]["std"] == pytest.approx(np.std(each, ddof=1), abs=1e-6)
    sage, concat, visual = comparison["rows"]
    assert concat["raw_difference"] is None
    for row in (sage, visual):
        for name in NAMES:
            gain = row["raw_difference"][name]
            assert gain["mean"] == pytest.approx(row["raw"][name]["mean"] - concat["raw"][name]["mean"], abs=1e-9)
            assert gain["interval"][0] < gain["mean"] < gain["interval"][1]
    assert sage["num_parameters"] > concat["num_parameters"] > visual["num_parameters"] > 0
    assert all(row["seconds_per_cell"] > 0 for row in comparison["rows"])
    assert len(concat["random_weights"]) == 2
    assert [name.split("/")[0] for name in visual["random_weights"]] == ["visual"]


def test_variants_share_clips_folds_and_labels(finished: tuple[Path, dict[str, Any]]) -> None:
    out, _ = finished
    for seed in (0, 1):
        tested: list[str] = []
        for fold in range(3):
            runs = [out / variant / f"seed-{seed}" / f"fold-{fold}" for variant in VARIANTS]
            assert len({(run / "split.csv").read_text(encoding="utf-8") for run in runs}) == 1
            scores = [json.loads((run / "score.json").read_text(encoding="utf-8")) for run in runs]
            counts = [[(clip["clip_id"], clip["raw"][0][0]) for clip in score["clips"]] for score in scores]
            assert counts[0] == counts[1] == counts[2]
            tested += [clip_id for clip_id, _ in counts[0]]
        assert sorted(tested) == [f"clip{i:02}" for i in range(6)]


def test_what_is_done_is_skipped_and_more_can_be_added(
    finished: tuple[Path, dict[str, Any]], copied: Path, cache: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("model.safetensors")}
    comparison = compared(cache, copied, [*VARIANTS, "audio"], num_seeds=1)
    assert (comparison["num_cells"], comparison["num_trained"], comparison["num_skipped"]) == (12, 3, 9)
    assert [len(row["seeds"]) for row in comparison["rows"]] == [1] * 4
    assert comparison["rows"][0]["raw"]["mean"]["std"] is None
    assert {path: path.stat().st_mtime_ns for path in before} == before
    monkeypatch.setattr(cells_module, "train_one", training_forbidden)
    comparison = compared(cache, copied, VARIANTS, base="visual")
    assert (comparison["num_trained"], comparison["num_skipped"], comparison["base"]) == (0, 18, "visual")
    for row, first in zip(comparison["rows"], finished[1]["rows"], strict=True):
        assert row["raw"] == first["raw"]
    opposite = comparison["rows"][1]["raw_difference"]["mean"]["mean"]
    assert opposite == pytest.approx(-finished[1]["rows"][2]["raw_difference"]["mean"]["mean"])


def test_labels_and_features_are_loaded_once(
    cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, calls = cells_module.load_labelled, []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return load(*arguments)

    monkeypatch.setattr(cells_module, "load_labelled", counted)
    comparison = compared(cache, tmp_path / "out", ["concat", "visual"], config_of(train={"epochs": 1}), num_seeds=1)
    assert (len(calls), comparison["num_trained"]) == (1, 6)


def test_an_unfinished_run_is_done_again_and_a_run_without_a_score_is_scored(
    finished: tuple[Path, dict[str, Any]], copied: Path, cache: tuple[Path, Path]
) -> None:
    killed = copied / "sage/seed-1/fold-2"
    for name in ("config.json", "score.json", "model.safetensors"):
        (killed / name).unlink()
    (killed / ".part-model.safetensors").write_bytes(b"half")
    hardly_begun = copied / "concat/seed-0/fold-0"
    for path in list(hardly_begun.iterdir()):
        if path.name != "config.yaml":
            path.unlink()
    unscored = copied / "visual/seed-0/fold-1"
    trained = (unscored / "model.safetensors").stat().st_mtime_ns
    (unscored / "score.json").unlink()
    comparison = compared(cache, copied, VARIANTS)
    assert (comparison["num_trained"], comparison["num_skipped"], comparison["failures"]) == (3, 15, [])
    assert results_of(comparison) == results_of(finished[1])
    assert not (killed / ".part-model.safetensors").exists()
    assert (unscored / "model.safetensors").stat().st_mtime_ns == trained


def test_strange_files_in_the_place_of_a_run_stay(copied: Path, cache: tuple[Path, Path]) -> None:
    place = copied / "visual/seed-1/fold-0"
    for name in ("config.json", "score.json"):
        (place / name).unlink()
    (place / "thesis.tex").write_text("years of work", encoding="utf-8")
    comparison = compared(cache, copied, VARIANTS)
    assert [failure["cell"] for failure in comparison["failures"]] == [str(place)]
    assert "expected a new folder" in comparison["failures"][0]["reason"]
    assert (place / "thesis.tex").exists()


def test_other_settings_are_refused(
    copied: Path, cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells_module, "train_one", training_forbidden)
    with pytest.raises(
        InputError, match=r"train\.epochs = 3, got one of train\.epochs = 2\. Choose another --out, or the settings"
    ):
        compared(cache, copied, VARIANTS, config_of(train={**SHORT, "epochs": 3}))
    with pytest.raises(InputError, match=r"split\.folds = 4, got one of split\.folds = 3\."):
        compared(cache, copied, VARIANTS, folds=4)
    with pytest.raises(InputError, match=r"expected a run or folds of it, got the other\. Choose another --out"):
        compared(cache, copied, VARIANTS, config_of(), folds=None)
    labels = tmp_path / "labels"
    shutil.copytree(cache[1], labels)
    with pytest.raises(InputError, match=f"expected a result of labels = {labels}, got one of labels = {cache[1]}"):
        compared((cache[0], labels), copied, VARIANTS)


def test_changed_labels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make_cache(tmp_path, num_clips=4, seconds=2.0)
    config = config_of(train={"epochs": 1})
    compared(cache, tmp_path / "out", ["visual"], config, num_seeds=1, folds=None)
    monkeypatch.setattr(cells_module, "train_one", training_forbidden)
    path = cache[1] / "clip01.csv"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.rsplit("\n", 2)[0] + "\n", encoding="utf-8")  # less its last row
    with pytest.raises(InputError, match=r"expected a result of labels_sha256 = \w{16}, got one of labels_sha256"):
        compared(cache, tmp_path / "out", ["visual"], config, num_seeds=1, folds=None)
    path.write_text(text, encoding="utf-8")
    comparison = compared(cache, tmp_path / "out", ["visual"], config, num_seeds=1, folds=None)
    assert (comparison["num_skipped"], comparison["num_clips"]) == (1, 1)
    split = tmp_path / "out/visual/seed-0/split.csv"
    split.write_text(split.read_text(encoding="utf-8").replace("val", "train"), encoding="utf-8")
    with pytest.raises(InputError, match="expected a result of split = changed"):
        compared(cache, tmp_path / "out", ["visual"], config, num_seeds=1, folds=None)


def test_what_cannot_be_compared_is_refused_before_anything_is_trained(
    cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells_module, "train_one", training_forbidden)
    with pytest.raises(InputError, match=r"--base: expected one of sage, visual, got late\. Add it to --variants\."):
        compared(cache, tmp_path / "out", ["sage", "visual"], base="late")
    with pytest.raises(InputError, match=r"expected a known variant, got 'sgae'\. Did you mean sage\?"):
        compared(cache, tmp_path / "out", ["sgae"])
    with pytest.raises(InputError, match="expected 3 or more folds, no more than groups"):
        compared(cache, tmp_path / "out", ["visual"], folds=7)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "split.csv").touch()
    with pytest.raises(InputError, match=r"expected the folder of a comparison, got a run\. Choose another --out\."):
        compared(cache, tmp_path / "run", ["visual"])
    with (tmp_path / "out" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another comparison is at work in this folder"):
            compared(cache, tmp_path / "out", ["visual"])


def test_a_run_that_fails_leaves_the_others(
    cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_one = cells_module.train_one

    def failing(corpus: Any, roles: Any, config: Config, *rest: Any) -> None:
        if (config.model.variant, config.seed, config.split.fold) == ("visual", 1, 2):
            raise InputError("training", expected="a finite loss", got="nan", todo="Lower it.")
        if (config.model.variant, config.seed, config.split.fold) == ("visual", 1, 1):
            raise ZeroDivisionError("of a variant of the user's own")
        train_one(corpus, roles, config, *rest)

    monkeypatch.setattr(cells_module, "train_one", failing)
    counts_reported: list[tuple[int, int]] = []
    comparison = compared(
        cache,
        tmp_path / "out",
        ["visual", "audio"],
        config_of(train={"epochs": 1}),
        base="audio",
        progress=lambda *counts: counts_reported.append(counts),
    )
    assert counts_reported == [(k, 12) for k in range(13)]
    assert comparison["failures"] == [
        {
            "cell": str(tmp_path / "out/visual/seed-1/fold-1"),
            "reason": "ZeroDivisionError: of a variant of the user's own",
        },
        {
            "cell": str(tmp_path / "out/visual/seed-1/fold-2"),
            "reason": "training: expected a finite loss, got nan. Lower it.",
        },
    ]
    visual, audio = comparison["rows"]
    assert (visual["seeds"], audio["seeds"]) == ([0], [0, 1])  # two folds of three are no score
    gain = visual["raw"]["mean"]["each"][0] - audio["raw"]["mean"]["each"][0]
    assert visual["raw_difference"]["mean"]["mean"] == pytest.approx(gain)
    assert "| visual (1 seeds) |" in (tmp_path / "out/table.md").read_text(encoding="utf-8")


def test_ctrl_c_keeps_what_is_done(cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_one, calls = cells_module.train_one, []

    def interrupted(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        train_one(*arguments)

    monkeypatch.setattr(cells_module, "train_one", interrupted)
    config = config_of(train={"epochs": 1})
    comparison = compared(cache, tmp_path / "out", ["visual"], config)
    assert (comparison["interrupted"], comparison["num_trained"], comparison["rows"]) == (True, 2, [])
    assert not (tmp_path / "out" / "table.csv").exists()
    comparison = compared(cache, tmp_path / "out", ["visual"], config)
    assert (comparison["interrupted"], comparison["num_trained"], comparison["num_skipped"]) == (False, 4, 2)


def test_without_folds_the_configured_split_is_scored(cache: tuple[Path, Path], tmp_path: Path) -> None:
    config = config_of(train={"epochs": 1}, split={"fractions": (0.7, 0.3, 0)})
    comparison = compared(cache, tmp_path / "out", ["visual", "audio"], config, folds=None, num_seeds=3)
    assert (comparison["num_folds"], comparison["split"], comparison["base"]) == (None, "val", "visual")
    scores = [score_run(tmp_path / "out/visual" / f"seed-{seed}") for seed in range(3)]
    assert comparison["rows"][0]["raw"]["mean"]["each"] == pytest.approx([score.raw.ccc["mean"] for score in scores])
    tested = {clip.clip_id for score in scores for clip in score.clips}
    assert 2 < comparison["num_clips"] == len(tested)  # seeds have splits of their own


# One cross-fit for all


GATED = ["sage", "sage-no-stage", "sage-no-tcn", "concat", "sage-no-transformer"]


def num_crossfits(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that were cross-fitted for, from now on, in this process."""
    compute, calls = shared_errors.out_of_fold_errors, list[Config]()

    def counted(corpus: Any, training: Any, config: Config, log: Any) -> torch.Tensor:
        calls.append(config)
        return compute(corpus, training, config, log)

    monkeypatch.setattr(shared_errors, "out_of_fold_errors", counted)
    return calls


def test_one_cross_fit_per_seed_and_fold(
    cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, config = num_crossfits(monkeypatch), config_of(train={**SHORT, "epochs": 1})
    comparison = compared(cache, tmp_path / "out", GATED, config, num_seeds=1)
    assert (comparison["num_trained"], comparison["failures"]) == (15, [])
    assert [call.split.fold for call in calls if call.model.tcn_blocks] == [0, 1, 2]
    assert [call.split.fold for call in calls if not call.model.tcn_blocks] == [0, 1, 2]  # its probes have no TCN
    assert len(list((tmp_path / "out/.crossfit").glob("*.safetensors"))) == 6
    calls.clear()
    compared(cache, tmp_path / "out", [*GATED, "sage-no-separation"], config, num_seeds=1)
    assert not calls


def test_shared_errors_are_those_of_a_run_by_itself(
    finished: tuple[Path, dict[str, Any]], cache: tuple[Path, Path], tmp_path: Path
) -> None:
    config = load_config(finished[0] / "sage/seed-1/fold-0/config.yaml")
    (run,) = train(open_store(cache[0]), cache[1], tmp_path / "run", config)
    kept = finished[0] / "sage/seed-1/fold-0/model.safetensors"
    assert (run / "model.safetensors").read_bytes() == kept.read_bytes()


def test_errors_of_anything_else_are_not_shared(
    cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = load_labelled(open_store(cache[0]), cache[1], config_of())
    shared = shared_errors.SharedErrors(tmp_path, labelled.features, "cpu")
    corpus, training = labelled.corpus, [0, 1, 2, 3]
    key = shared.key(corpus, training, config_of())
    same = [{"train": {**SHORT, "epochs": 9}}, {"loss": {"calibration": 0.7}}, {"model": {**SMALL, "layers": 3}}]
    assert {shared.key(corpus, training, config_of(**sections)) for sections in same} == {key}
    others = [{"seed": 1}, {"train": {**SHORT, "learning_rate": 0.1}}, {"model": {**SMALL, "dim": 10}}]
    others += [{"loss": {"unimodal": 0.7}}, {"data": {"window_s": 2}}]
    keys = {shared.key(corpus, training, config_of(**sections)) for sections in others}
    keys |= {shared.key(corpus, [0, 1, 2], config_of()), shared.key(corpus.only([1, 0]), training, config_of())}
    keys |= {replace(shared, device="cuda:1").key(corpus, training, config_of())}
    keys |= {replace(shared, features=dict.fromkeys(labelled.features, "x")).key(corpus, training, config_of())}
    corpus.truths[0].va[0] += 0.01  # type: ignore[union-attr]
    keys |= {shared.key(corpus, training, config_of())}
    assert len(keys | {key}) == len(others) + 6
    assert all(decides_errors(name) == (name not in SAME) for name in DECIDES | SAME)


DECIDES = {"seed", "data.grid_hz", "split.by", "train.learning_rate", "train.crossfit_epochs", "model.dim", "loss.mse"}
SAME = {"train.epochs", "train.modality_dropout", "model.layers", "model.variant", "loss.calibration", "loss.ordinal"}


def test_damaged_errors_are_computed_again(
    copied: Path, cache: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {path: path.read_bytes() for path in (copied / ".crossfit").glob("*.safetensors")}
    assert len(kept) == 6
    for path in kept:
        path.write_bytes(b"half")
    calls = num_crossfits(monkeypatch)
    compared(cache, copied, ["sage-no-transformer"])
    assert len(calls) == 6
    assert {path: path.read_bytes() for path in kept} == kept


def compute_slowly(folder: Path, place: tuple[Path, Path]) -> None:
    """Asks for shared errors in a process of its own; each computation leaves a line."""

    def slow(corpus: Any, *_: Any) -> torch.Tensor:
        with (folder / "computed").open("a") as file:
            file.write("once\n")
        time.sleep(1)
        return torch.full_like(corpus.mask, 0.5, dtype=torch.float32)

    shared_errors.out_of_fold_errors = slow
    labelled = load_labelled(open_store(place[0]), place[1], config_of())
    shared = shared_errors.SharedErrors(folder / "errors", labelled.features, "cpu")
    assert shared(labelled.corpus, [0, 1, 2, 3], config_of(), lambda event: None).eq(0.5).all()


@pytest.mark.slow
def test_processes_that_need_the_same_errors_compute_them_once(cache: tuple[Path, Path], tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=compute_slowly, args=(tmp_path, cache)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "computed").read_text() == "once\n"


def test_a_cell_that_would_wait_for_errors_lets_others_pass(cache: tuple[Path, Path], tmp_path: Path) -> None:
    errors, config = tmp_path / ".crossfit", config_of()
    bench = Bench(BenchSettings(str(cache[0]), cache[1], of_all(open_store(cache[0]), config, GATED), "cpu", errors))
    sage, no_stage, no_tcn, concat, no_transformer = plan(config, GATED, 1, None, tmp_path)
    assert bench.shared_errors is not None
    assert not any(bench.waits(cell, ()) for cell in (sage, no_stage, no_tcn, concat))
    assert [cell for cell in (no_stage, no_tcn, concat, no_transformer) if bench.waits(cell, [sage])] == [
        no_stage,
        no_transformer,
    ]
    left = [no_stage, no_transformer, concat, no_tcn]
    order = [next_item(left, [sage], bench.waits) for _ in range(4)]
    assert order == [concat, no_tcn, no_stage, no_transformer]
    bench.do(sage)
    assert not bench.waits(no_stage, [sage])


def test_a_cell_is_done_by_one_at_a_time(
    cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(train={"epochs": 1})
    (cell,) = plan(config, ["visual"], 1, None, tmp_path)
    settings = BenchSettings(str(cache[0]), cache[1], of_all(open_store(cache[0]), config, ["visual"]), "cpu", None)
    benches, calls, train_one = [Bench(settings), Bench(settings)], [], cells_module.train_one

    def slow(*arguments: Any) -> None:
        calls.append(arguments)
        time.sleep(0.5)
        train_one(*arguments)

    monkeypatch.setattr(cells_module, "train_one", slow)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda bench: bench.do(cell), benches)) == [None, None]
    assert len(calls) == 1


# Processes


@pytest.mark.slow
def test_processes_find_the_same(
    finished: tuple[Path, dict[str, Any]], cache: tuple[Path, Path], tmp_path: Path
) -> None:
    comparison = compared(cache, tmp_path / "out", ["sage", "visual"], num_seeds=1, jobs=2)
    assert (comparison["num_trained"], comparison["failures"]) == (6, [])
    for path in sorted((tmp_path / "out").rglob("model.safetensors")):
        assert path.read_bytes() == (finished[0] / path.relative_to(tmp_path / "out")).read_bytes()
    for row, first in zip(comparison["rows"], finished[1]["rows"][::2], strict=True):
        assert row["raw"]["mean"]["each"] == first["raw"]["mean"]["each"][:1]


def dies(*_: Any) -> None:
    os._exit(9)


@pytest.mark.slow
def test_a_process_that_dies_is_one_line(
    cache: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_module, "_in_worker", dies)
    with pytest.raises(InputError, match=r"--workers 2: one of the processes died\. Lower --workers"):
        compared(cache, tmp_path / "out", ["visual"], jobs=2)


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGUSR1,
        *(pytest.param(n, marks=pytest.mark.exhaustive) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)),
    ],
)
def test_a_stop_ends_all_processes_and_what_is_done_is_kept(
    cache: tuple[Path, Path], tmp_path: Path, number: signal.Signals
) -> None:
    settings = tmp_path / "tiny.yaml"
    settings.write_text(config_of().to_yaml(), encoding="utf-8")
    out = tmp_path / "out"
    enough = f"len(list(Path({str(out)!r}).rglob('score.json'))) >= 2"
    command = ["compare", cache[0], "--labels", cache[1], "--variants", "sage,concat", "--out", out]
    options = ["--config", settings, "--folds", "3", "--workers", "2", "--device", "cpu"]
    script = tmp_path / "held.py"
    with held(script, enough, *command, *options) as process:
        until(lambda: process.poll() is not None or num_held(script) == 2)
        assert process.poll() is None, process.communicate()[1]
        workers = children(process.pid)
        assert len(workers) >= 2
        if number in (signal.SIGTERM, signal.SIGUSR1):  # as SLURM sends them, to all processes of a job
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        printed, errors = process.communicate(timeout=MOST_S)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number, errors
        assert "interrupted: run the same command to resume" in printed + errors
    kept = len(list(out.rglob("seed-0/*/score.json")))
    assert 2 <= kept < 6
    comparison = compared(cache, out, ["sage", "concat"], num_seeds=1)
    assert (comparison["num_skipped"], comparison["num_trained"], comparison["failures"]) == (kept, 6 - kept, [])


# The table


def sums_of(rng: np.random.Generator, num_seeds: int, num_clips: int, truth: np.ndarray, noise: float) -> torch.Tensor:
    """(S, C, 2, 6) moments of noisy predictions of (C, 2, T)."""
    shape = (num_seeds, *truth.shape)
    predicted = torch.from_numpy(np.broadcast_to(truth, shape) + noise * rng.standard_normal(shape))
    known = torch.from_numpy(np.broadcast_to(truth, shape).copy())
    return moments(predicted, known, torch.ones(shape, dtype=torch.bool))


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    truth = rng.uniform(-1, 1, (7, 2, 30))
    one, other = sums_of(rng, 3, 7, truth, 0.4), sums_of(rng, 3, 7, truth, 0.6)
    return one, other


def test_the_paired_bootstrap_agrees_with_a_slow_one(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    one, other = pair
    rng = np.random.default_rng(5)
    gains = []
    for _ in range(200):
        times = rng.multinomial(7, np.full(7, 1 / 7))
        chosen = [clip for clip in range(7) for _ in range(times[clip])]
        sides = []
        for side in (one, other):
            scores = [ccc_of_moments(sum(side[seed][clip] for clip in chosen)) for seed in range(3)]  # type: ignore[arg-type]
            sides.append(torch.stack(scores).mean(0))
        gain = (sides[0] - sides[1]).tolist()
        gains.append([*gain, sum(gain) / 2])
    differences = difference(one, other, draws=200, seed=5)
    for d, name in enumerate(NAMES):
        expected = np.percentile(np.array(gains)[:, d], [2.5, 97.5])
        assert differences[name].interval == pytest.approx(tuple(expected), abs=1e-12)
    pooled = [torch.stack([ccc_of_moments(side[s].sum(0)) for s in range(3)]).mean(0) for side in pair]
    assert differences["valence"].mean == pytest.approx(float(pooled[0][0] - pooled[1][0]))


def test_pairing_is_worth_it(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    one, _ = pair
    same = difference(one, one)
    assert all(same[name] == Difference(0, Interval(0, 0), 1, 1) for name in NAMES)


def test_holm_corrects_as_in_his_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    corrected = holm([0.9, math.nan, 0.5])
    assert corrected[::2] == [1.0, 1.0]
    assert math.isnan(corrected[1])


def test_p_values_of_no_difference_are_uniform() -> None:
    """One in twenty is below 0.05 where two models are equally good, and nearly all are where one is better."""
    shares = []
    for noise in (0.5, 0.4):
        p_values = []
        for seed in range(60):
            rng = np.random.default_rng(seed)
            truth = rng.uniform(-1, 1, (25, 2, 30))
            pair = sums_of(rng, 1, 25, truth, noise), sums_of(rng, 1, 25, truth, 0.5)
            p_values.append(difference(*pair, draws=400)["mean"].p)
        shares.append(np.mean(np.array(p_values) < 0.05))
    assert shares[0] < 0.15
    assert shares[1] > 0.9


def test_clips_that_no_seed_scores_are_not_drawn(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    one, other = pair
    wide = [torch.cat([side, torch.zeros(3, 50, 2, 6, dtype=side.dtype)], dim=1) for side in pair]
    assert difference(*wide) == difference(one, other)


def test_seeds_with_splits_of_their_own_are_drawn_together(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    one, other = (side.clone() for side in pair)
    for seed in range(3):
        for side in (one, other):
            side[seed, [clip for clip in range(7) if clip % 3 != seed]] = 0
    gain = difference(one, other)
    assert all(math.isfinite(value) for name in NAMES for value in gain[name].interval)
    one[:, 1:] = other[:, 1:] = 0
    assert math.isnan(difference(one, other)["mean"].interval.low)


def score_of(variant: str, seed: int, sums: torch.Tensor, **changes: Any) -> CellScore:
    clips = [CellClip(f"c{i}", moments.tolist(), moments.tolist()) for i, moments in enumerate(sums)]
    return replace(CellScore(variant, seed, None, "test", 0.5, 1234567, 2.0, [], clips), **changes)


def test_the_score_of_a_cell_is_read_as_it_was_written(pair: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    score, path = score_of("sage", 3, pair[0][0]), tmp_path / "score.json"
    path.write_text(json.dumps(score.to_json()), encoding="utf-8")
    assert read_score(path) == score
    for text in ("{", "{}", "[]"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=r"score\.json: this file of a run cannot be read\. Remove"):
            read_score(path)


@pytest.mark.parametrize("untrained", [[], ["visual/a-1"]])
def test_every_form_of_the_table(pair: tuple[torch.Tensor, torch.Tensor], tmp_path: Path, untrained: list[str]) -> None:
    scores = [score_of("sage", seed, pair[0][seed], random_weights=untrained) for seed in range(3)]
    scores += [score_of("concat", seed, pair[1][seed], seconds=3.0 + seed) for seed in range(3)]
    table = tabulate(scores, ["sage", "concat"], "concat", None)
    assert [path.name for path in write_table(table, tmp_path)] == [
        f"table.{s}" for s in ("json", "csv", "md", "tex", "png", "svg", "pdf")
    ]
    assert json.loads((tmp_path / "table.json").read_text(encoding="utf-8")) == table.to_json()
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        sage, concat = csv.DictReader(file)
    row = table.rows[0]
    assert row.raw_difference is not None
    assert float(sage["raw_mean_mean"]) == row.raw["mean"].mean
    assert float(sage["raw_valence_difference_low"]) == row.raw_difference["valence"].interval.low
    assert (concat["raw_mean_difference"], concat["seconds_per_cell"], concat["base"]) == ("", "4.0", "concat")
    assert sage["random_weights"] == " ".join(untrained)
    page, text = (tmp_path / "table.md").read_text(encoding="utf-8"), describe_table(table)
    warning = "UNTRAINED ENCODER (random weights): visual/a-1"
    assert (warning in page, warning in text) == (bool(untrained), bool(untrained))
    shown = f"{row.raw['valence'].mean:.3f} ± {row.raw['valence'].std:.3f}"
    gain = f"{row.raw_difference['mean'].mean:+.3f} ["
    assert all(part in form for part in (shown, gain, "1,234,567") for form in (page, text))
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 4
    assert text.splitlines()[0] == "7 clips, 210 labels (test), no folds, 3 seeds; base concat"
    low, high = row.raw["mean"].interval
    assert low < row.raw["mean"].mean < high
    latex = (tmp_path / "table.tex").read_text(encoding="utf-8")
    assert rf"\textbf{{{row.raw['mean'].mean:.3f}}} [{low:.3f}, {high:.3f}]" in latex
    assert [line.count("&") for line in latex.splitlines() if line.endswith(r"\\")] == [4] * 3
    assert f"**{shown}**" in page
    assert row.raw_difference["mean"].p <= row.raw_difference["mean"].p_holm < 0.05
    assert "]*" in page
    for suffix, start in (("png", PICTURE), ("svg", b"<?xml"), ("pdf", b"%PDF-")):
        picture = (tmp_path / f"table.{suffix}").read_bytes()
        assert picture.startswith(start)
        assert len(picture) > 8_000


def test_the_picture_names_untrained_encoders(
    pair: tuple[torch.Tensor, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    titles: list[str] = []
    monkeypatch.setattr(Figure, "suptitle", lambda self, text, **_: titles.append(text))
    for untrained in ([], ["audio/b-2"]):
        scores = [score_of(v, 0, side[0], random_weights=untrained) for v, side in zip("ab", pair, strict=True)]
        write_table(tabulate(scores, ["a", "b"], "a", None), tmp_path)
    assert ["UNTRAINED ENCODER (random weights): audio/b-2" in title for title in titles] == [False, True]


def test_the_picture_shows_scores_and_differences_with_intervals(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores = [score_of(v, seed, side[seed]) for v, side in zip("ab", pair, strict=True) for seed in range(2)]
    table = tabulate(scores, ["a", "b"], "a", None)
    figure = draw_table(table, ["a", "b"], ["7 clips"])
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles[::3] == ["CCC, valence", "difference to a, valence"]
    row = table.rows[1]
    bars = [line.get_xdata() for line in figure.axes[0].lines]
    assert any(tuple(bar) == row.raw["valence"].interval for bar in bars)
    assert row.raw_difference is not None
    bars = [line.get_xdata() for line in figure.axes[3].lines]
    assert any(tuple(bar) == row.raw_difference["valence"].interval for bar in bars)
    alone = tabulate(scores[:2], ["a"], "a", None)
    assert len(draw_table(alone, ["a"], []).axes) == 3


def test_a_table_of_nothing_has_dashes(tmp_path: Path) -> None:
    table = tabulate([], ["sage", "concat"], "concat", 3)
    write_table(table, tmp_path)
    text = describe_table(table)
    assert "nan" not in text.lower()
    assert text.count("–") >= 2 * 4
    assert "NaN" not in (tmp_path / "table.json").read_text(encoding="utf-8")


# The command line


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command(copied: Path, cache: tuple[Path, Path], tmp_path: Path) -> None:
    settings = tmp_path / "tiny.yaml"
    settings.write_text(yaml.safe_dump(tiny(train=SHORT, model=SMALL)), encoding="utf-8")
    command = [
        "compare",
        cache[0],
        "--labels",
        cache[1],
        "--config",
        settings,
        "--folds",
        3,
        "--device",
        "cpu",
        "--preset",
        "base",
    ]
    seeds = ["--seeds", 2, "--workers", 1, "--out", copied]
    result = run(*command, *seeds, "--variants", "sage, concat,visual")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "0 runs done, 18 there already, 0 failed, of 18"
    assert lines[1].startswith("6 clips, ")
    assert lines[1].endswith("(test), 3 folds pooled, 2 seeds; base concat")
    assert lines[2].startswith("UNTRAINED ENCODER (random weights): audio/voice-")
    assert [line.split()[0] for line in lines[5:8]] == VARIANTS
    assert lines[8].startswith("difference to concat, with 95 % interval (paired bootstrap over clips;")
    assert lines[-1] == f"table.csv, .md, .tex, .json, .png, .svg and .pdf: {copied}"
    comparison = json.loads(run(*command, *seeds, "--variants", "visual,concat", "--base", "visual", "--json").stdout)
    assert (comparison["base"], comparison["num_skipped"]) == ("visual", 12)
    result = run(*command, *seeds, "--variants", "sage,concat", "--set", "train.epochs=9")
    assert result.exit_code == 1
    assert "train.epochs = 9, got one of train.epochs = 2" in result.stderr
    assert run(*command, *seeds, "--variants", ",").exit_code == 2
    (copied / "visual/seed-0/fold-0/config.json").unlink()
    (copied / "visual/seed-0/fold-0/mine.txt").touch()
    result = run(*command, *seeds, "--variants", "visual,concat")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].startswith(f"failed: {copied / 'visual/seed-0/fold-0'}: ")
