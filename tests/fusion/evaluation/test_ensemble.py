"""The score of several runs together is that of the mean of their predictions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sage_va.api import evaluate
from sage_va.cli import main
from sage_va.data import InputError, open_store
from sage_va.fusion.config import check_config
from sage_va.fusion.evaluation.ensemble import score_ensemble
from sage_va.fusion.evaluation.metrics import score, smoothed
from sage_va.fusion.evaluation.predict import predict
from sage_va.fusion.evaluation.score import load_part, score_run
from sage_va.fusion.run_folder import load_run
from sage_va.fusion.training.train import train
from sage_va.tests.synthetic import make_cache, tiny

torch.set_num_threads(1)
RUNS = {
    "concat": {"variant": "concat"},
    "visual": {"variant": "visual"},
    "folds": {"variant": "visual"},
    "elsewhere": {"variant": "visual"},
    "coarse": {"variant": "visual"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ensemble")
    cache, labels = make_cache(folder, num_clips=6, seconds=4)
    for name, model in RUNS.items():
        data = {"grid_hz": 10 if name == "coarse" else 25}
        split = {"by": "clip", **({"folds": 3} if name == "folds" else {"fractions": (0.5, 0.2, 0.3)})}
        sections = {"data": data, "split": split, "model": model, "train": {"epochs": 1}}
        config = check_config(tiny(**sections, seed=int(name == "elsewhere")), "test")
        train(open_store(cache), labels, folder / name, config)
    return folder


def test_the_mean_of_the_predictions_is_scored(runs: Path) -> None:
    both = score_ensemble([runs / "concat", runs / "visual"])
    first, other = (load_run(runs / name) for name in ("concat", "visual"))
    corpora = [load_part(run, open_store(run.cache), Path(run.labels), "test") for run in (first, other)]
    pairs = [
        predict(run.model, corpus, range(len(corpus.clips)), run.config.data)
        for run, corpus in zip((first, other), corpora, strict=True)
    ]
    raw = [replace(a, va=(a.va + b.va) / 2) for a, b in zip(*pairs, strict=True)]
    widths = first.smoothing_s, other.smoothing_s
    smooth = [
        replace(a, va=np.mean([smoothed(p.va, 25.0, w) for p, w in zip((a, b), widths, strict=True)], axis=0))
        for a, b in zip(*pairs, strict=True)
    ]
    assert both.raw.ccc == pytest.approx(score(raw, corpora[0]))
    assert both.smoothed.ccc == pytest.approx(score(smooth, corpora[0]))
    assert (both.variant, both.num_clips, both.smoothing_s) == ("mean of concat, visual", 2, list(widths))
    assert both.raw.ccc != score_run(runs / "concat").raw.ccc


def test_a_run_with_itself_scores_as_by_itself(runs: Path) -> None:
    for name in ("concat", "folds"):
        twice = score_ensemble([runs / name, runs / name])
        assert twice.raw.ccc == pytest.approx(score_run(runs / name).raw.ccc)
        assert twice.smoothed.ccc == pytest.approx(score_run(runs / name).smoothed.ccc)


def test_runs_on_other_clips_or_another_grid_are_refused(runs: Path) -> None:
    with pytest.raises(InputError, match=r"elsewhere: expected the scored clips of .*visual, got others, such as clip"):
        score_ensemble([runs / "visual", runs / "elsewhere"])
    with pytest.raises(InputError, match=r"coarse: expected the grid of .*visual, got another for clip"):
        score_ensemble([runs / "visual", runs / "coarse"])


def test_eval_and_evaluate_take_several_runs(runs: Path) -> None:
    places = [runs / "concat", runs / "visual"]
    result = CliRunner().invoke(main, ["eval", *map(str, places)])
    assert result.exit_code == 0, result.output
    assert "mean of concat, visual" in result.output
    assert evaluate(places).raw.ccc == score_ensemble(places).raw.ccc
