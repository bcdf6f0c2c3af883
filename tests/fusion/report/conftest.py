"""Small runs for the tests of the report and of its pictures."""

from pathlib import Path

import pytest
import torch

from sage_va.data import open_store
from sage_va.fusion.config import check_config
from sage_va.fusion.training.train import train
from sage_va.tests.synthetic import make_cache, tiny

torch.set_num_threads(1)
SHORT = {"epochs": 2, "crossfit_epochs": 1, "crossfit_folds": 2}
SMALL = {"dim": 8, "tcn_blocks": 1, "layers": 0}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two seeds of sage and one run of concat on one split, and one of concat on another; encoders are random."""
    folder = tmp_path_factory.mktemp("report")
    cache, labels = make_cache(folder, num_clips=8, seconds=2.4, weights="random")
    places = {}
    for name, variant, seed, clips in (
        ("sage-0", "sage", 0, [0.5, 0.25, 0.25]),
        ("concat-0", "concat", 0, [0.5, 0.25, 0.25]),
        ("sage-1", "sage", 1, [0.5, 0.25, 0.25]),
        ("other", "concat", 0, [0.5, 0.125, 0.375]),
    ):
        split = {"by": "clip", "fractions": clips}
        config = check_config(tiny(seed=seed, split=split, model={**SMALL, "variant": variant}, train=SHORT), name)
        train(open_store(str(cache)), labels, folder / name, config)
        places[name] = folder / name
    return places
