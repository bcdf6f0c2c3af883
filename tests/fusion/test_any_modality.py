"""Streams of any modality are imported, trained, fused, masked and corrupted as face and voice are."""

import csv
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from sage_va.cli import main
from sage_va.data import InputError, open_store
from sage_va.data.store.fingerprint import check_alias, check_stream, is_modality
from sage_va.fusion.config import check_config
from sage_va.fusion.training.labelled import settle_grid
from sage_va.tests.pages import ROOT, blocks_of, sage_va_arguments
from sage_va.tests.synthetic import Kind, make_cache

torch.set_num_threads(1)
PAGE = ROOT / "docs" / "recipes" / "text.md"
SMALL = ("train.epochs=1", "train.crossfit_epochs=1", "train.batch_size=4", "model.dim=16", "data.grid_hz=5")
QUICK = ["--preset", "tiny", *(word for setting in SMALL for word in ("--set", setting))]


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, words, catch_exceptions=False)


def write_transcripts(folder: Path, clip_ids: list[str]) -> None:
    """A transcript per clip, with a word in three quarters of every second."""
    folder.mkdir()
    for clip_id in clip_ids:
        with (folder / f"{clip_id}.csv").open("w", encoding="utf-8", newline="") as file:
            rows = [(f"word{k}", f"{k:.2f}", f"{k + 0.75:.2f}") for k in range(4)]
            csv.writer(file).writerows([("word", "start_s", "end_s"), *rows])


@pytest.mark.slow  # 20 s: a training, a robustness table and a comparison
def test_the_recipe_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache, _ = make_cache(tmp_path, num_clips=6, seconds=4)
    write_transcripts(tmp_path / "words", open_store(cache).clip_ids())
    script, commands = (block for block in blocks_of(PAGE) if block.language in ("python", "bash"))
    Path("embed_words.py").write_text(script.text, encoding="utf-8")
    runpy.run_path("embed_words.py")
    quick = {"train": QUICK, "compare": [*QUICK, "--seeds", "1"], "eval": [], "cache": []}
    outputs = {}
    for words in commands.commands():
        if arguments := sage_va_arguments(words):
            done = invoke(*arguments, *quick[arguments[0]])
            assert done.exit_code == 0, done.output
            outputs[arguments[0]] = done.output
    track = open_store(cache).read("clip00", open_store(cache).resolve("text"))
    assert track.values.shape[1] == 16
    assert 0.7 < track.mask.mean() < 0.85
    assert "text-noise" in outputs["eval"]
    assert "text-hidden" in outputs["eval"]


def test_a_rare_stream_does_not_pace_the_grid(tmp_path: Path) -> None:
    kinds = {"visual/face": Kind(hz=25.0), "text/words": Kind(hz=2.0), "physio/ecg": Kind(hz=10.0)}
    cache, labels = make_cache(tmp_path, num_clips=3, seconds=4, kinds=kinds)
    store = open_store(cache)

    def paced(*streams: str) -> float | None:
        config = check_config({"model": {"variant": "concat"}, "data": {"streams": list(streams)}}, "test")
        return settle_grid(config, store, labels)[0].data.grid_hz

    assert paced() == 25.0
    assert paced("text", "physio") == 2.0


@pytest.mark.parametrize("name", ["text", "physio", "pose3d", "a"])
def test_a_modality_is_a_word_of_small_letters(name: str) -> None:
    assert is_modality(name)
    assert check_stream(f"{name}/x-0123abcd")
    assert check_alias(f"{name}/x")


@pytest.mark.parametrize("name", ["", "Text", "te xt", "..", ".sage-va", "aliases", "packs", "3d", "a/b", "a" * 33])
def test_other_names_are_no_modality(name: str) -> None:
    assert not is_modality(name)
    with pytest.raises(InputError):
        check_stream(f"{name}/x-0123abcd")
    with pytest.raises(InputError):
        check_alias(f"{name}/x")


def test_a_folder_of_other_files_is_still_refused(tmp_path: Path) -> None:
    (tmp_path / "c.zarr" / "photos").mkdir(parents=True)
    with pytest.raises(InputError, match="a folder of other files"):
        open_store(tmp_path / "c.zarr", "a")


def test_a_lost_root_is_restored_beside_other_modalities(tmp_path: Path) -> None:
    cache, _ = make_cache(tmp_path, num_clips=2, seconds=1, kinds={"text/words": Kind(hz=2.0)})
    before = open_store(cache).content_sha256()
    (cache / "zarr.json").unlink()
    with pytest.raises(InputError, match="repair"):
        open_store(cache, "a")
    assert invoke("cache", "repair", str(cache)).exit_code == 0
    assert open_store(cache).content_sha256() == before
    assert np.isfinite(open_store(cache).read("clip00", open_store(cache).resolve("text")).values).all()
