"""The names of `sage_va`: what docs/python.md says runs, imports are light, and the three functions go together."""

import re
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sage_va
from sage_va import api
from sage_va.data import InputError, Store, open_store
from sage_va.fusion.config import check_config
from sage_va.tests.synthetic import make_cache, tiny

torch.set_num_threads(1)
SNIPPETS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).resolve().parents[1] / "docs/python.md").read_text("utf-8"), re.DOTALL
)
QUICK = tiny(model={"variant": "concat"}, train={"epochs": 1})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    home = tmp_path_factory.mktemp("api")
    cache, labels = make_cache(home, num_clips=6, seconds=3)
    run = sage_va.train(str(cache), str(labels), str(home / "run"), QUICK)
    assert run == home / "run"
    return run, cache, labels


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for snippet in SNIPPETS:
        exec(snippet, names)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("9 clips")
    (weight,) = [line.split()[-1] for line in lines if line.startswith("weight of the voice while the face is away: ")]
    assert 0.7 < float(weight) < 1  # near its last frames, the face still counts
    assert len(SNIPPETS) == 7
    assert names["score"].split == "test"
    assert names["own"].num_clips == 9
    files = ["cache.zarr", "clip0.png", "labels", "model", "report.html", "runs"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files


def test_names_are_there_and_others_are_not() -> None:
    for name in sage_va.__all__:
        assert getattr(sage_va, name) is not None
        assert name in dir(sage_va)
    with pytest.raises(AttributeError, match="has no attribute 'predcit'"):
        sage_va.predcit  # noqa: B018


def imported(code: str) -> set[str]:
    """Packages that are loaded after some code, in a fresh process."""
    code = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    return set(done.stdout.split())


def test_imports_bring_no_more_than_they_need() -> None:
    optional = {"onnx", "onnxscript", "onnxruntime", "matplotlib", "optuna", "accelerate", "wandb", "mlflow"}
    stage_one = {"timm", "transformers", "av", "cv2", "torchvision", "librosa", "soxr"}
    assert not imported("import sage_va") & {"torch", "zarr", "numpy", "huggingface_hub"}
    assert "torch" not in imported("from sage_va import Clip, Track, open_store")
    modules = imported("from sage_va import SAGE, train, evaluate, predict, open_store")
    assert {"torch", "huggingface_hub"} <= modules
    assert not modules & (optional | stage_one)


def test_a_configuration_in_each_form(trained: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from sage_va import api

    configs: list[Any] = []
    monkeypatch.setattr(api, "train_runs", lambda store, labels, out, config, **_: configs.append(config))
    _, cache, labels = trained
    for config in ("auto", "base", {"train": {"epochs": 3}}, check_config(QUICK, "test"), {"seed": 7}):
        sage_va.train(open_store(cache), labels, "unused", config)
    auto, base, sections, whole, seeded = configs
    assert (auto.model.dim, auto.train.epochs, base.model.dim) == (32, 30, 256)
    assert (sections.model.dim, sections.train.epochs, sections.train.batch_size) == (32, 3, 8)
    assert whole == check_config(QUICK, "test")
    assert (seeded.seed, seeded.model.dim) == (7, 32)
    for config, line in (
        ("tinny", r"config: expected a known preset, got 'tinny'\. Known: auto, tiny"),
        ({"train": {"epoch": 3}}, r"got 'train\.epoch'\. Did you mean train\.epochs"),
        ({"train": 3}, r"config: train: expected"),
    ):
        with pytest.raises(InputError, match=line):
            sage_va.train(cache, labels, "unused", config)


def test_evaluate_takes_runs_models_and_their_places(trained: tuple[Path, Path, Path], tmp_path: Path) -> None:
    run, cache, labels = trained
    model = sage_va.SAGE.from_run(run)
    model.save_pretrained(tmp_path / "model")
    assert sage_va.evaluate(run).split == "test"
    assert sage_va.evaluate(str(run), cache=cache, labels=labels, split="val").split == "val"
    first, second = (sage_va.evaluate(m, cache=cache, labels=labels) for m in (model, tmp_path / "model"))
    assert first.to_json() == second.to_json()
    assert (first.split, first.num_clips) == ("all", 6)
    refusals: tuple[dict[str, Any], ...] = ({}, {"cache": cache}, {"cache": cache, "labels": labels, "split": "test"})
    for refused in refusals:
        with pytest.raises(InputError, match=r"expected a cache and labels, and no split.*evaluate\(model, cache="):
            sage_va.evaluate(model, **refused)


def test_predict_takes_the_same_and_warns_of_what_fails(trained: tuple[Path, Path, Path], tmp_path: Path) -> None:
    run, cache, _ = trained
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [sage_va.predict(m, cache) for m in (run, str(run), sage_va.SAGE.from_run(run))]
        results.append(sage_va.predict(run, open_store(cache)))
        results.append(sage_va.predict(run, [cache]))
    assert [[p.clip_id for p in predictions] for predictions in results] == [[f"clip{i:02}" for i in range(6)]] * 5
    assert all((p.va == q.va).all() for p, q in zip(results[0], results[3], strict=True))
    other, _ = make_cache(tmp_path, num_clips=2, seconds=2, weights="random")
    with pytest.warns(UserWarning, match=r"no prediction for clip0\d: .*expected a committed stream") as caught:
        assert sage_va.predict(run, other) == []
    assert len(caught) == 2


def test_every_clip_is_read_once_for_all_folds(
    trained: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cache, labels = trained
    folds = sage_va.train(cache, labels, tmp_path / "folds", {**QUICK, "split": {"folds": 3}})
    each = [sage_va.predict(folds / f"fold-{k}", cache) for k in range(3)]
    reads = Counter[tuple[str, str]]()

    def entry(store: Store, clip_id: str, stream: str, *more: Any) -> Any:
        reads[clip_id, stream] += 1
        return original(store, clip_id, stream, *more)

    original = Store.entry
    monkeypatch.setattr(Store, "entry", entry)
    together = sage_va.predict(folds, cache)
    assert set(reads.values()) == {1}
    assert len(reads) == 6 * 2
    for mean, *parts in zip(together, *each, strict=True):
        assert (mean.va == np.mean([part.va for part in parts], axis=0)).all()


def test_predictions_stay_in_their_folder(
    trained: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the id of a clip would lead out of it."""
    run, cache, _ = trained
    plain = api.predict_each

    def renamed(models: Any, media: Any, keep: Any, *rest: Any, **options: Any) -> Any:
        def keep_renamed(clip: Any, prediction: Any) -> None:
            keep(clip, replace(prediction, clip_id="../x"))

        return plain(models, media, keep_renamed, *rest, **options)

    monkeypatch.setattr(api, "predict_each", renamed)
    files = api.predict_to_files(run, [str(cache)], tmp_path / "deep/out")
    assert files.clips == []
    assert all("this name leads out of" in row["reason"] for row in files.failures)
    assert [path.name for path in (tmp_path / "deep").rglob("*.csv")] == []
