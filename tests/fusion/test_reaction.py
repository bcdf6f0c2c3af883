"""The gate reacts: a stream that turns bad as it never was in training loses its weight, and cannot drag the fusion.

Each model is trained on clean drawn clips and evaluated on others. One stream is then corrupted, while its mask still
says that it is valid. `sage-plain`, the gate without veto, fails what is asked of `sage`; a test says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sage_va.data import open_store
from sage_va.data.windows.corpus import Corpus
from sage_va.fusion.config import Config, check_config
from sage_va.fusion.evaluation.metrics import corpus_moments, pooled_ccc
from sage_va.fusion.evaluation.predict import Prediction, predict
from sage_va.fusion.models.base import VAModel
from sage_va.fusion.models.variants import build_model, resolve
from sage_va.fusion.training.crossfit import out_of_fold_errors
from sage_va.fusion.training.labelled import load_labelled
from sage_va.fusion.training.trainer import fit
from sage_va.tests.synthetic import Kind, make_cache

torch.set_num_threads(1)
STREAMS = {"visual": 0, "audio": 1}
NUM_TRAINING, NUM_VALIDATION = 8, 3
SETTINGS = {
    "data": {"grid_hz": 12.5, "window_s": 4.8, "hop_s": 3.2},
    "model": {"dim": 32, "layers": 1, "tcn_blocks": 2},
    "train": {"epochs": 30, "batch_size": 16, "learning_rate": 3e-3, "patience": 30, "crossfit_epochs": 8},
}


@dataclass(frozen=True)
class Trained:
    """A trained variant, and the clips that it is evaluated on."""

    model: VAModel
    corpus: Corpus
    config: Config

    def score(self, change: Callable[[Corpus, list[Tensor]], Corpus] | None = None) -> tuple[float, list[Prediction]]:
        """Mean CCC on the test clips, clean or changed, and the predictions."""
        corpus = change(self.corpus, self.model.feature_scales) if change else self.corpus
        test = range(NUM_TRAINING + NUM_VALIDATION, len(corpus.clips))
        predictions = predict(self.model, corpus, test, self.config.data)
        return pooled_ccc([clip.all for clip in corpus_moments(predictions, corpus)])["mean"], predictions


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    kinds = {"visual/face": Kind(noise=1.0), "audio/voice": Kind(hz=50.0, dim=6, noise=1.5)}
    cache, labels = make_cache(tmp_path_factory.mktemp("drawn"), num_clips=16, seconds=20.0, kinds=kinds)
    models: dict[str, Trained] = {}

    def of(variant: str) -> Trained:
        if variant not in models:
            models[variant] = train(variant, cache, labels)
        return models[variant]

    return of


def train(variant: str, cache: Path, labels: Path) -> Trained:
    config = resolve(check_config({**SETTINGS, "model": {**SETTINGS["model"], "variant": variant}}, "test"))
    corpus = load_labelled(open_store(cache), labels, config).corpus
    training, validation = list(range(NUM_TRAINING)), list(range(NUM_TRAINING, NUM_TRAINING + NUM_VALIDATION))
    torch.manual_seed(0)
    model = build_model(corpus.streams, config.model)
    errors = out_of_fold_errors(corpus, training, config, lambda event: None) if model.learns_reliability else None
    fit(model, corpus, training, validation, config, errors=errors)
    return Trained(model.eval(), corpus, config)


def noise(values: Tensor, scale: Tensor, corpus: Corpus) -> Tensor:
    return values + 3 * scale * torch.randn(values.shape, generator=torch.Generator().manual_seed(1))


def zeros(values: Tensor, scale: Tensor, corpus: Corpus) -> Tensor:
    return torch.zeros_like(values)


def frozen(values: Tensor, scale: Tensor, corpus: Corpus) -> Tensor:
    held = values.clone()
    for index in range(len(corpus.clips)):
        steps = corpus.steps(index)
        held[steps] = values[(steps.start + steps.stop) // 2]
    return held


def corrupting(kind: Callable[[Tensor, Tensor, Corpus], Tensor], m: int) -> Callable[[Corpus, list[Tensor]], Corpus]:
    def change(corpus: Corpus, scales: list[Tensor]) -> Corpus:
        values = list(corpus.values)
        values[m] = kind(values[m].float(), scales[m], corpus).to(values[m].dtype)
        return replace(corpus, values=values)

    return change


def weight(predictions: list[Prediction], m: int) -> float:
    """Mean weight of a stream over the steps at which both are valid."""
    return float(np.concatenate([p.weights[:, m][p.mask.all(1)] for p in predictions if p.weights is not None]).mean())


@pytest.mark.parametrize("kind", [noise, zeros, frozen])
@pytest.mark.parametrize("stream", STREAMS)
def test_a_bad_stream_loses_its_weight_and_cannot_drag_the_fusion(
    trained: Callable[[str], Trained], stream: str, kind: Callable[[Tensor, Tensor, Corpus], Tensor]
) -> None:
    m, (other,) = STREAMS[stream], STREAMS.keys() - {stream}
    sage, (alone, _) = trained("sage"), trained(other).score()
    _, clean = sage.score()
    ccc, bad = sage.score(corrupting(kind, m))
    assert weight(bad, m) < weight(clean, m) / 2
    assert ccc > alone - 0.02
    reliability = [np.concatenate([p.reliability[:, m][p.mask[:, m]] for p in each]).mean() for each in (clean, bad)]
    assert reliability[1] < reliability[0] / 2  # what is reported falls too


def test_the_gate_without_a_veto_does_not_react(trained: Callable[[str], Trained]) -> None:
    """Shows that the demands on `sage` are no matter of course."""
    plain, (alone, _) = trained("sage-plain"), trained("audio").score()
    _, clean = plain.score()
    ccc, bad = plain.score(corrupting(zeros, 0))
    assert weight(bad, 0) > 0.75 * weight(clean, 0)
    assert ccc < alone - 0.1


def test_clean_streams_cost_nothing(trained: Callable[[str], Trained]) -> None:
    assert trained("sage").score()[0] > trained("sage-plain").score()[0] - 0.005
