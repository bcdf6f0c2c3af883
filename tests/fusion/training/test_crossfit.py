"""The probes of the cross-fitting: as good as ridge regression, each blind to the clips that it estimates."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sage_va.benchmarks.studyforrest import SETTINGS, write_labels
from sage_va.cli import main
from sage_va.data import open_store
from sage_va.data.windows.corpus import Corpus
from sage_va.fusion.ccc import ccc
from sage_va.fusion.config import Config, load_config
from sage_va.fusion.training.crossfit import out_of_fold_errors, out_of_fold_estimates
from sage_va.fusion.training.labelled import crossfit_folds, load_labelled
from sage_va.tests.synthetic import make_cache, tiny

torch.set_num_threads(1)
SEEDS = range(2)
PENALTY = 0.03  # times the number of steps


@pytest.fixture(scope="module")
def series(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    source, folder = shared / "datasets/studyforrest_av_runs8.npz", tmp_path_factory.mktemp("studyforrest")
    cache = str(folder / "cache.zarr")
    for name in ("visual", "audio"):
        command = ["cache", "import", str(source), "--stream", f"{name}/lowlevel", "--hz", "25", "--key", name]
        result = CliRunner().invoke(main, [*command, "--out", cache, "--licence", "CC0-1.0"])
        assert result.exit_code == 0, result.output
    write_labels(np.load(source), folder / "labels", "none")
    return load_labelled(open_store(cache), folder / "labels", settings(0)).corpus


def settings(seed: int) -> Config:
    return load_config(SETTINGS, ["split.by=clip", "model.variant=sage", f"seed={seed}"])


def ridge(corpus: Corpus, m: int, folds: list[list[int]]) -> torch.Tensor:
    """Estimates (N, 2) of stream m in closed form, each fold by the others."""
    estimates, x, y = torch.zeros(len(corpus.va), 2), corpus.values[m].double(), corpus.va.double()
    for held_out in folds:
        test = torch.cat([torch.arange(len(y))[corpus.steps(index)] for index in held_out])
        counted = corpus.va_mask & corpus.mask[:, m]
        counted[test] = False
        mean, scale, level = x[counted].mean(0), x[counted].std(0) + 1e-9, y[counted].mean(0)
        scaled = (x - mean) / scale
        gram = scaled[counted].T @ scaled[counted] + PENALTY * counted.sum() * torch.eye(x.shape[1])
        weights = torch.linalg.solve(gram, scaled[counted].T @ (y[counted] - level))
        estimates[test] = (scaled[test] @ weights + level).float()
    return estimates


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("m", [pytest.param(0, marks=pytest.mark.exhaustive), 1], ids=["visual", "audio"])
def test_probes_are_as_good_as_ridge(series: Corpus, m: int) -> None:
    """On real labels, mean over valence and arousal and over seeds; eight epochs, as before, were too few."""
    stream, clips, gains = series.only([m]), range(len(series.clips)), []
    for seed in SEEDS:
        estimates = out_of_fold_estimates(stream, clips, settings(seed), lambda event: None)[:, 0]
        linear = ridge(series, m, crossfit_folds(series, clips, settings(seed)))
        scores = [ccc(each.T, series.va.T, series.va_mask.expand(2, -1)).mean() for each in (estimates, linear)]
        gains.append(float(scores[0] - scores[1]))
    assert np.mean(gains) > -0.02


def test_each_training_clip_is_estimated_by_a_probe_that_was_not_trained_on_it(tmp_path: Path) -> None:
    cache, labels = make_cache(tmp_path, num_clips=4, seconds=2.4)
    config = Config.model_validate(tiny(split={"by": "clip"}, train={"crossfit_epochs": 1}))
    corpus = load_labelled(open_store(cache), labels, config).corpus
    estimates = out_of_fold_estimates(corpus, [0, 1, 2], config, lambda event: None)
    errors = out_of_fold_errors(corpus, [0, 1, 2], config, lambda event: None)
    assert estimates[: corpus.offsets[3]].isfinite().all()
    assert estimates[corpus.offsets[3] :].isnan().all()
    counted = corpus.va_mask[:, None] & corpus.mask & estimates.isfinite().all(-1)
    torch.testing.assert_close(errors.isfinite(), counted)
    wanted = (estimates - corpus.va[:, None]).abs().sum(-1)
    torch.testing.assert_close(errors[counted], wanted[counted])
    other = corpus.va.clone()
    other[corpus.steps(0)] *= -1  # labels of a clip have no part in its own estimates
    again = out_of_fold_estimates(replace(corpus, va=other), [0, 1, 2], config, lambda event: None)
    torch.testing.assert_close(again[corpus.steps(0)], estimates[corpus.steps(0)])
