"""Models travel: saved and loaded they predict the same, nothing of their author goes along, and the card is true."""

import csv
import dataclasses
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import ModelCard, ModelHubMixin
from huggingface_hub.errors import LocalEntryNotFoundError

from sage_va.api import predict_to_files
from sage_va.cli import main
from sage_va.data import InputError, open_store
from sage_va.data.windows.load import load_corpus
from sage_va.fusion.config import check_config
from sage_va.fusion.evaluation.metrics import NAMES, Agreement, Interval
from sage_va.fusion.evaluation.predict import Prediction, predict
from sage_va.fusion.evaluation.score import score_run
from sage_va.fusion.export import pretrained
from sage_va.fusion.export.metadata import ClipCounts, ModelMetadata, PublishedScore
from sage_va.fusion.export.model_card import MARK, card_of
from sage_va.fusion.export.pretrained import SAGE
from sage_va.fusion.models.variants import build_model
from sage_va.fusion.run_folder import load_run
from sage_va.fusion.training.train import train
from sage_va.tests.attacks import write_model
from sage_va.tests.synthetic import make_cache, random_windows, streams_of, tiny

torch.set_num_threads(1)
SUBJECTS = [f"person-{name}" for name in ("ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal")]
FILES = ["README.md", "config.json", "model.safetensors"]
METADATA = ModelMetadata(smoothing_s=0.5, licence="CC-BY-4.0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A run of two epochs whose split lies in a file, its cache and its labels."""
    home = tmp_path_factory.mktemp("secretplace")
    cache, labels = make_cache(home, num_clips=8, seconds=4, subjects=SUBJECTS)
    roles = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    with (home / "mysplit.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(f"clip{i:02}", role) for i, role in enumerate(roles)]
        csv.writer(file).writerows([("clip_id", "split"), *rows])
    split = {"by": "file", "file": str(home / "mysplit.csv")}
    config = check_config(tiny(split=split, train={"epochs": 2, "crossfit_epochs": 1}), "test")
    train(open_store(cache), labels, home / "run", config)
    return home / "run", cache, labels


@pytest.fixture(scope="module")
def saved(trained: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("saved") / "model"
    SAGE.from_run(trained[0]).save_pretrained(out)
    return out


def untrained(restricted: bool = False, weights: str = "trained", licence: str | None = None, **model: Any) -> SAGE:
    streams = [s.__class__(**{**vars(s), "fingerprint": {"encoder": {"weights": weights}}}) for s in streams_of()]
    config = check_config(tiny(model=model), "test").on_grid(25)
    return SAGE(build_model(streams, config.model), config, restricted=restricted, licence=licence)


def same(a: Prediction, b: Prediction) -> bool:
    return all(np.array_equal(x, vars(b)[name], equal_nan=False) for name, x in vars(a).items() if name != "clip_id")


def test_a_saved_model_is_the_run_s(trained: tuple[Path, Path, Path], saved: Path) -> None:
    run, model = load_run(trained[0]), SAGE.from_pretrained(saved)
    assert sorted(path.name for path in saved.iterdir()) == FILES
    state = run.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.model.state_dict().items())
    assert (model.streams, model.smoothing_s, model.sigma) == (run.streams, run.smoothing_s, run.sigma)
    assert (model.licence, model.restricted, model.random_weights) == ("test", False, [])
    assert model.config.model == run.config.model
    assert model.config == SAGE.from_run(trained[0], scored=False).config
    assert model.data == ClipCounts({"train": 4, "val": 2, "test": 2}, pytest.approx(8 * 4 / 3600))
    assert not model.model.training


def test_it_predicts_as_the_run_does(trained: tuple[Path, Path, Path], saved: Path) -> None:
    run, store = load_run(trained[0]), open_store(trained[1])
    corpus = load_corpus(store, run.streams, ["clip03", "clip06"], grid_hz=25.0, keep=False)
    wanted = predict(run.model, corpus, [0, 1], run.config.data)
    model = SAGE.from_pretrained(saved)
    for predictions in (
        model.predict(store, ["clip03", "clip06"]),
        model.predict(corpus),
        model.predict(corpus, ["clip06"]),
    ):
        expected = wanted[-len(predictions) :]
        assert [p.clip_id for p in predictions] == [p.clip_id for p in expected]
        assert [p.va for p in predictions] == [pytest.approx(p.va, abs=1e-6) for p in expected]
    again = SAGE.from_run(trained[0], scored=False).predict(store, ["clip03"])
    assert same(again[0], model.predict(str(trained[1]), ["clip03"])[0])
    assert len(model.predict(store)) == 8


def test_streams_of_a_corpus_are_put_in_order_and_others_refused(trained: tuple[Path, Path, Path], saved: Path) -> None:
    model, store = SAGE.from_pretrained(saved), open_store(trained[1])
    corpus = load_corpus(store, model.streams, ["clip00"], grid_hz=25.0, keep=False)
    assert same(model.predict(corpus.only([1, 0]))[0], model.predict(corpus)[0])
    with pytest.raises(InputError, match=r"corpus: expected the stream visual/face-\w+, got audio/voice-\w+\. Load"):
        model.predict(corpus.only([1]))
    slow = load_corpus(store, model.streams, ["clip00"], grid_hz=10.0, keep=False)
    with pytest.raises(InputError, match=r"expected a grid of 25 Hz, got 10 Hz\."):
        model.predict(slow)


def test_it_is_a_module() -> None:
    model = untrained(variant="concat")
    windows = random_windows(model.streams)
    output = model(windows)
    assert output.va.shape == (3, 20, 2)
    output.va.sum().backward()
    assert any(weight.grad is not None for weight in model.parameters())
    assert torch.equal(output.va, model.model(windows).va)


def test_nothing_of_the_author_travels(trained: tuple[Path, Path, Path], saved: Path) -> None:
    run, cache, labels = trained
    clips = [f"clip{i:02}" for i in range(8)]
    secrets = ["secretplace", "mysplit", str(cache), str(labels), *clips, *SUBJECTS]
    kept = "".join((run / name).read_text(encoding="utf-8") for name in ("config.json", "split.csv"))
    assert {secret for secret in secrets if secret in kept} == {*secrets} - {*SUBJECTS}
    for name in FILES:
        content = (saved / name).read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], name
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    assert config["config"]["split"]["file"] == "stays with its author"


def test_the_card_holds_the_score(trained: tuple[Path, Path, Path], saved: Path) -> None:
    text, score = (saved / "README.md").read_text(encoding="utf-8"), score_run(trained[0])
    card = ModelCard(text)
    assert (card.data.license, card.data.license_name, card.data.library_name) == ("other", "test", "sage-va")
    assert card.data.eval_results is not None
    values = {result.metric_name.split()[-1]: result.metric_value for result in card.data.eval_results}
    assert values == {t: round(score.raw.ccc[t], 4) for t in ("valence", "arousal")}
    assert {result.dataset_split for result in card.data.eval_results} == {"test"}
    (low, high), value = score.raw.interval["valence"], score.raw.ccc["valence"]
    assert f"| valence | {value:.3f} [{low:.3f}, {high:.3f}] |" in text
    assert "on 2 test clips with" in text
    assert "4 to train on, 2 for validation, 2 for the test; 0.01 h in all" in text
    for words in (
        "lie detector",
        "hiring",
        "appears to annotators",
        "Licence of the data that it was trained on: test.",
    ):
        assert words in text
    assert [name for name in ("UNTRAINED", "Restricted", "Not scored", "no test score") if name in text] == []
    for stream in load_run(trained[0]).streams:
        assert f"| {stream.name} |" in text


def test_a_card_says_what_is_not_known() -> None:
    model = untrained(weights="random")
    text = card_of(model.config, model.streams, METADATA)
    assert "**UNTRAINED ENCODER (random weights): visual/s0-00000000, audio/s1-00000000.**" in text
    assert "**Not scored**" in text
    assert ModelCard(text).data.to_dict()["license"] == "cc-by-4.0"
    agreement = Agreement(dict.fromkeys(NAMES, math.nan), dict.fromkeys(NAMES, Interval(math.nan, 0.5)))
    scores = PublishedScore("val", 1, 9, agreement, agreement)
    text = card_of(model.config, model.streams, dataclasses.replace(METADATA, scores=scores))
    assert "**There is no test score.** The val clips also decided" in text
    assert "| valence | not defined [not defined, 0.500] |" in text
    assert ModelCard(text).data.eval_results is None


def test_restricted_data_are_said_and_kept_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = untrained(restricted=True, licence="EULA of X")
    model.save_pretrained(tmp_path / "m")
    again = SAGE.from_pretrained(tmp_path / "m")
    assert (again.restricted, again.licence) == (True, "EULA of X")
    text = (tmp_path / "m/README.md").read_text(encoding="utf-8")
    assert "**Restricted:**" in text
    assert "extra_gated_prompt" in ModelCard(text).data.to_dict()
    for private in (None, False):
        with pytest.raises(InputError, match=r"a/b: expected a private repository.*EULA of X.*say private=True"):
            again.push_to_hub("a/b", private=private)
    pushed: list[str] = []
    public = SimpleNamespace(private=False)
    hub = SimpleNamespace(create_repo=lambda *a, **k: None, model_info=lambda repo: public)
    monkeypatch.setattr(pretrained, "HfApi", lambda token: hub)
    monkeypatch.setattr(ModelHubMixin, "push_to_hub", lambda self, repo, **k: pushed.append(repo) or "address")
    with pytest.raises(InputError, match=r"a/b: expected a private repository.*got a public one"):
        again.save_pretrained(tmp_path / "n", push_to_hub=True, repo_id="a/b", private=True)
    assert pushed == []
    public.private = True
    assert again.push_to_hub("a/b", private=True) == "address"
    assert untrained().push_to_hub("a/c") == "address"
    assert pushed == ["a/b", "a/c"]


def test_without_cache_or_labels_it_is_not_scored(trained: tuple[Path, Path, Path], tmp_path: Path) -> None:
    moved = tmp_path / "run"
    moved.mkdir()
    for path in trained[0].iterdir():
        text = path.read_bytes()
        gone = str(trained[1].parent).encode()
        (moved / path.name).write_bytes(text.replace(gone, b"/gone") if path.suffix == ".json" else text)
    model = SAGE.from_run(moved)
    assert (model.scores, model.data) == (None, ClipCounts({"train": 4, "val": 2, "test": 2}, None))
    scored = SAGE.from_run(moved, cache=str(trained[1]), labels=trained[2])
    assert scored.scores == SAGE.from_run(trained[0]).scores
    assert scored.scores is not None
    assert set(scored.scores.to_json()) == {"split", "num_clips", "num_labels", "raw", "smoothed"}
    with pytest.raises(InputError, match="absent"):
        SAGE.from_run(moved, cache=str(tmp_path / "absent.zarr"))


def test_it_scores_labelled_clips_of_others(trained: tuple[Path, Path, Path], saved: Path, tmp_path: Path) -> None:
    model = SAGE.from_pretrained(saved)
    scores = model.score(trained[1], trained[2])
    assert (scores.split, scores.num_clips, scores.run) == ("all", 8, None)
    tests = score_run(trained[0])
    ours = {clip.clip_id: clip.ccc["mean"] for clip in scores.clips}
    assert {clip.clip_id: pytest.approx(clip.ccc["mean"], abs=1e-6) for clip in tests.clips}.items() <= ours.items()
    (tmp_path / "stranger.csv").write_text("time_s,valence,arousal\n0,0,0\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"expected labels for clips of .*, got none\."):
        model.score(trained[1], tmp_path)


def test_a_card_of_ones_own_stays(tmp_path: Path) -> None:
    model, card = untrained(), tmp_path / "README.md"
    model.save_pretrained(tmp_path)
    assert MARK in card.read_text(encoding="utf-8")
    model.licence = "mit"
    model.save_pretrained(tmp_path)
    assert "license: mit" in card.read_text(encoding="utf-8")
    card.write_text("mine", encoding="utf-8")
    model.save_pretrained(tmp_path)
    assert card.read_text(encoding="utf-8") == "mine"


def test_what_cannot_be_saved_or_loaded(
    trained: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="expected a folder for the model alone, got a run"):
        untrained().save_pretrained(trained[0])
    load_run(trained[0])
    untrained().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"expected a whole saved model, got DamagedTensorsError: .*Fetch or export"):
        SAGE.load(tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="expected a whole saved model, got KeyError: 'config'"):
        SAGE.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="expected the folder of a finished run, got none"):
        SAGE.load(tmp_path)

    def offline(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("not here")

    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", offline)
    with pytest.raises(InputError, match=r"absent/none: expected a saved model, here or on the hub, got Local"):
        SAGE.load("absent/none")
    with pytest.raises(InputError, match="no such/place/x: expected a saved model"):
        SAGE.load("no such/place/x")


def test_it_comes_from_the_hub(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fetch(repo_id: str, filename: str, **options: Any) -> str:
        asked.append((repo_id, filename, options["revision"]))
        return str(saved / filename)

    for module in ("huggingface_hub.hub_mixin", "sage_va.fusion.export.pretrained"):
        monkeypatch.setattr(
            f"{module}.hf_hub_download", lambda repo_id, filename, **options: fetch(repo_id, filename, **options)
        )
    model = SAGE.from_pretrained("someone/model", revision="v2")
    assert model.described() == SAGE.from_pretrained(saved).described()
    assert set(asked) == {("someone/model", name, "v2") for name in ("config.json", "model.safetensors")}


def test_predict_takes_the_folder_in_place_of_a_run(
    trained: tuple[Path, Path, Path], saved: Path, tmp_path: Path
) -> None:
    of_run = predict_to_files(trained[0], [str(trained[1])], tmp_path / "run")
    done = CliRunner().invoke(main, ["predict", str(saved), str(trained[1]), "--out", str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    assert len(of_run.clips) == 8
    for clip_id in of_run.clips:
        assert (tmp_path / f"run/{clip_id}.csv").read_bytes() == (tmp_path / f"model/{clip_id}.csv").read_bytes()


def test_the_verb_export(trained: tuple[Path, Path, Path], saved: Path, tmp_path: Path) -> None:
    def export(*arguments: Any) -> Any:
        return CliRunner().invoke(main, ["export", *(str(argument) for argument in arguments)])

    done = export(trained[0], "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert re.search(r"out: model\.safetensors, config\.json, README\.md \(test CCC -?0\.\d{3}\)\n$", done.stdout)
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (saved / name).read_bytes()
    summary = json.loads(export(saved, "--out", tmp_path / "again", "--json").stdout)
    assert (summary["out"], summary["onnx"], summary["variant"], summary["licence"]) == (
        str(tmp_path / "again"),
        None,
        "sage",
        "test",
    )
    assert summary["scores"]["split"] == "test"
    assert export(trained[0]).exit_code == 2
    assert "Name what to write: --out FOLDER" in export(trained[0]).output
    refused = export(saved, "--out", tmp_path / "x", "--labels", trained[2])
    assert refused.exit_code == 1
    assert "expected a run, to be scored, got a saved model" in refused.output
    assert "Traceback" not in refused.output
    untrained(restricted=True, weights="random").save_pretrained(tmp_path / "gated")
    text = export(tmp_path / "gated", "--out", tmp_path / "gated2").stdout
    assert "UNTRAINED ENCODER (random weights): visual/s0-00000000" in text
    assert "Restricted data (licence: not stated)" in text
    assert "(not scored: cache or labels not found" in text


def test_a_model_needs_the_rate_of_its_grid() -> None:
    config = check_config(tiny(), "test")
    model = build_model(streams_of(), config.model)
    with pytest.raises(InputError, match=r"data\.grid_hz: expected the rate that the model was trained at, got none\."):
        SAGE(model, config)


@pytest.mark.parametrize("changes", [{"stream": 1_000_000, "dim": 256}, {"layers": 100, "dim": 8192}])
def test_a_configuration_larger_than_the_weights_takes_no_memory(tmp_path: Path, changes: dict[str, int]) -> None:
    write_model(tmp_path / "model", **changes)
    message = r"model\.safetensors: expected the [\d,]{9,} numbers that its configuration declares, got 2\d,\d+ bytes"
    with pytest.raises(InputError, match=message):
        SAGE.from_pretrained(tmp_path / "model")


def test_a_configuration_of_a_billion_layers_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "model", layers=10**9)
    with pytest.raises(InputError, match=r"model\.layers: expected less than or equal to 100"):
        SAGE.from_pretrained(tmp_path / "model")
