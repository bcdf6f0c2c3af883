"""Normalisation by subject, clip or past in a training: the same in eval, predict and streaming, refused elsewhere."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sage_va import SAGE
from sage_va.api import load_models
from sage_va.cli import main
from sage_va.data import InputError, open_store
from sage_va.fusion.config import check_config
from sage_va.fusion.evaluation.predict import predict
from sage_va.fusion.evaluation.score import load_part
from sage_va.fusion.export.onnx import export_onnx
from sage_va.fusion.models.variants import build_model
from sage_va.fusion.run_folder import load_run
from sage_va.fusion.streaming import StreamingModel
from sage_va.fusion.training.train import train
from sage_va.tests.synthetic import make_cache, streams_of, tiny

torch.set_num_threads(1)
SUBJECTS = ["ann", "ann", "bob", "bob", "cid", "dan", "eve", "eve"]


def config_of(kind: str, **sections: Any) -> Any:
    sections = {"model": {"variant": "concat"}, "train": {"epochs": 1}, **sections}
    return check_config(tiny(data={"normalise": kind, "grid_hz": 25.0}, **sections), "test")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache, labels, and a run of each kind."""
    home = tmp_path_factory.mktemp("normalise")
    cache, labels = make_cache(home, num_clips=8, seconds=3, subjects=SUBJECTS)
    for kind in ("subject", "clip", "causal"):
        model = {"variant": "concat", "causal": kind == "causal", "memory_steps": 20}
        train(open_store(cache), labels, home / kind, config_of(kind, model=model))
    return home


@pytest.mark.parametrize("kind", ["subject", "clip", "causal"])
def test_eval_and_predict_normalise_alike(runs: Path, kind: str) -> None:
    run, store = load_run(runs / kind), open_store(runs / "cache.zarr")
    assert {stream.normalise for stream in run.streams} == {kind}
    corpus = load_part(run, store, runs / "labels", "val")
    scored = predict(run.model, corpus, range(len(corpus.clips)), run.config.data)
    alone = SAGE.from_run(runs / kind).predict(store, [prediction.clip_id for prediction in scored])
    for one, other in zip(scored, alone, strict=True):
        np.testing.assert_allclose(one.va, other.va, atol=1e-5)


def test_a_saved_model_keeps_its_kind(runs: Path, tmp_path: Path) -> None:
    model = SAGE.from_run(runs / "subject")
    model.save_pretrained(tmp_path / "model")
    again = SAGE.from_pretrained(tmp_path / "model")
    assert [stream.normalise for stream in again.streams] == ["subject", "subject"]
    clips = (runs / "cache.zarr", ["clip00"])
    assert (again.predict(*clips)[0].va == model.predict(*clips)[0].va).all()


def test_streaming_takes_the_mean_of_the_past(runs: Path) -> None:
    run, store = load_run(runs / "causal"), open_store(runs / "cache.zarr")
    (expected,) = SAGE.from_run(runs / "causal").predict(store, ["clip03"])
    raw = [replace(stream, normalise="training") for stream in run.streams]
    from sage_va.data.windows.load import load_corpus

    corpus = load_corpus(store, raw, ["clip03"], grid_hz=25, keep=False)
    model = StreamingModel(run)
    for _ in range(2):
        model.reset()
        for t in range(corpus.num_steps):
            valid = corpus.mask[t].tolist()
            values = [x[t].float().numpy() if good else None for x, good in zip(corpus.values, valid, strict=True)]
            quality = [q[t].numpy() for q in corpus.quality]
            np.testing.assert_allclose(model.step(values, quality).va, expected.va[t], atol=2e-5)


def test_what_needs_the_whole_clip_does_not_stream() -> None:
    message = r"data.normalise: expected training or causal with model.causal=true, got clip. Set data.normalise=causal"
    with pytest.raises(InputError, match=message):
        config_of("clip", model={"causal": True})
    streams = [replace(stream, normalise="subject") for stream in streams_of()]
    model = build_model(streams, config_of("causal", model={"variant": "concat", "causal": True}).model)
    with pytest.raises(InputError, match="its features are normalised by subject, which asks for whole clips"):
        StreamingModel(model)


def test_a_graph_of_windows_is_refused(runs: Path, tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    with pytest.raises(InputError, match=r"expected data.normalise=training, got clip. Train with"):
        export_onnx(runs / "clip", tmp_path / "model.onnx")


def test_models_of_different_kinds_are_no_ensemble(runs: Path) -> None:
    with pytest.raises(InputError, match=r"expected a model of .* normalised by subject, .* got .* normalised by clip"):
        load_models([runs / "subject", runs / "clip"])


def test_clips_that_were_loaded_otherwise_are_refused(runs: Path) -> None:
    run = load_run(runs / "clip")
    corpus = load_part(run, open_store(runs / "cache.zarr"), runs / "labels", "val")
    with pytest.raises(
        InputError, match=r"corpus: expected visual/\S+ normalised by subject, got visual/\S+ normalised by"
    ):
        SAGE.from_run(runs / "subject").predict(corpus)


@pytest.mark.parametrize(
    ("subjects", "by", "message"),
    [
        (
            SUBJECTS,
            "clip",
            r"expected each subject in one part of the split, got clips of \w+ in .* Set split.by=subject",
        ),
        (None, "subject", r"data.normalise: expected clips whose subjects are known, got none. Name subjects in the"),
    ],
)
def test_statistics_of_a_subject_do_not_pass_between_parts(
    subjects: list[str] | None, by: str, message: str, tmp_path: Path
) -> None:
    cache, labels = make_cache(tmp_path, num_clips=8, seconds=2, subjects=subjects)
    with pytest.raises(InputError, match=message):
        train(open_store(cache), labels, tmp_path / "run", config_of("subject", split={"by": by}))
    assert not (tmp_path / "run").exists()


def test_train_says_how_features_are_normalised(runs: Path, tmp_path: Path) -> None:
    settings = ("--set", "data.normalise=clip", "--set", "train.epochs=1", "--set", "model.variant=concat")
    done = CliRunner().invoke(
        main,
        ["train", f"{runs / 'cache.zarr'}", "--labels", f"{runs / 'labels'}", "--out", f"{tmp_path / 'r'}", *settings],
    )
    assert done.exit_code == 0, done.output
    assert "features normalised by clip\n" in done.stderr


def test_clips_without_labels_of_a_subject_are_not_trained_on(tmp_path: Path) -> None:
    """The official test clips have no labels; before, their features moved the statistics of the training."""
    cache, labels = make_cache(tmp_path, num_clips=8, seconds=2, subjects=SUBJECTS)
    (labels / "clip00.csv").unlink()
    message = rf"expected labels for all clips of a subject, got clip00 of {SUBJECTS[0]} without any"
    with pytest.raises(InputError, match=message):
        train(open_store(cache), labels, tmp_path / "run", config_of("subject"))
    assert train(open_store(cache), labels, tmp_path / "run", config_of("clip"))
