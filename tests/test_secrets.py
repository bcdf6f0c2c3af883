"""Files that leave a machine hold no place of it, no name of its user, and no credentials.

A run is not made to be passed on: its configuration names the cache and the labels that it was trained with. Exported
models, reports, features, packs and their cards, predictions, and what trackers get are.
"""

import csv
import getpass
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from sage_va.cli import main
from sage_va.data import InputError, open_store
from sage_va.data.atomic import HOST
from sage_va.data.store.address import check_no_credentials
from sage_va.fusion.config import check_config
from sage_va.fusion.training import trackers
from sage_va.fusion.training.train import train
from sage_va.tests.synthetic import make_cache, tiny

torch.set_num_threads(1)
PLACE, KEY, TOKEN = "home-of-alice", "AKIASESAME", "hf_opensesame"
SUBJECT = "subject-bob"


def words() -> list[str]:
    """Words that must not be in a file that leaves the machine; a short name of a user would be in any file."""
    names = [name for name in (getpass.getuser(), socket.gethostname(), HOST, str(Path.home())) if len(name) > 5]
    return [PLACE, KEY, TOKEN, os.getcwd(), *names]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A run whose cache, labels and split lie in a place that must stay secret; and what a tracker got of it."""
    home = tmp_path_factory.mktemp(PLACE)
    cache, labels = make_cache(home, num_clips=6, seconds=2.4, subjects=[SUBJECT] * 2 + list("abcd"))
    roles = ["train"] * 3 + ["val", "test", "test"]
    with (home / "split.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("clip_id", "split"), *((f"clip{i:02}", role) for i, role in enumerate(roles))])
    sent: dict[str, Any] = {}

    class Kept:
        run_id = "1"

        def __init__(self, tracked: Any) -> None:
            sent["run"] = {**tracked.config.model_dump(mode="json"), "metadata": dict(tracked.metadata)}

        def __getattr__(self, name: str) -> Any:
            return lambda *words, **more: sent.setdefault(name, []).append((words, more))

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("AWS_SECRET_ACCESS_KEY", KEY), ("AWS_ACCESS_KEY_ID", KEY), ("HF_TOKEN", TOKEN)):
            patch.setenv(name, value)
        patch.setitem(trackers.TRACKER_KINDS, "wandb", trackers.TrackerKind(Kept, "json", ""))
        section = {"by": "file", "file": str(home / "split.csv")}
        settings = tiny(split=section, train={"epochs": 1, "crossfit_epochs": 1}, model={"variant": "concat"})
        train(open_store(cache), labels, home / "run", check_config(settings, "test"), track=["wandb"])
        yield home, sent


def leaks(folder: Path) -> dict[str, list[str]]:
    """Names of files, and the words of `words` in them."""
    texts = {path: path.read_bytes() for path in [folder, *folder.rglob("*")] if path.is_file()}
    assert texts
    marked = {path.name: [word for word in words() if word.encode() in text] for path, text in texts.items()}
    return {name: there for name, there in marked.items() if there}


COMMANDS = {
    "a model": ("export", "run", "--out", "OUT"),
    "a report": ("report", "run", "--out", "OUT/report.html"),
    "predictions": ("predict", "run", "cache.zarr", "--out", "OUT", "--format", "csv", "--format", "eaf"),
    "features": ("cache", "export", "cache.zarr", "--stream", "visual/face", "--out", "OUT"),
    "a pack": ("cache", "copy", "cache.zarr", "OUT/c.zarr.zip"),
    "packs": ("cache", "copy", "cache.zarr", "OUT/c.packs"),
    "an HDF5 file": ("cache", "copy", "cache.zarr", "OUT/c.h5"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_leaves_the_machine(
    run: tuple[Path, dict[str, Any]], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run[0])
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / ("files" if name in ("a model", "features") else "")
    done = CliRunner().invoke(main, [word.replace("OUT", str(target)) for word in COMMANDS[name]])
    assert done.exit_code == 0, done.output
    assert not leaks(tmp_path / "out")


def test_what_trackers_get(run: tuple[Path, dict[str, Any]]) -> None:
    assert run[1]["run"]["split"]["file"] == "stays with its author"
    text = json.dumps(run[1], default=str)
    assert not [word for word in words() if word in text]


def test_a_journal_names_no_user_and_no_place(run: tuple[Path, dict[str, Any]]) -> None:
    assert not leaks(run[0] / "cache.zarr")


@pytest.mark.parametrize(
    "url",
    [
        f"s3://alice:{KEY}@bucket/x",
        f"https://alice:{KEY}@host/x.packs",
        f"https://{KEY}@host/x.packs",
        f"https://host/x.zarr.zip?X-Amz-Signature={KEY}",
        f"s3://bucket/x?key={KEY}",
        f"icechunk://s3://alice:{KEY}@bucket/x",
        f"gs://a:{KEY}@bucket/x.packs",
    ],
)
def test_addresses_with_credentials_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="the address holds credentials, or a signature") as refused:
        open_store(url)
    assert KEY not in str(refused.value)
    done = CliRunner().invoke(main, ["cache", "ls", url])
    assert done.exit_code == 1
    assert KEY not in done.output


@pytest.mark.parametrize("url", ["hf://datasets/USER/NAME@main/x", "icechunk://place@v1", "a:b@c/x.zarr", "s3://b/x@y"])
def test_other_addresses_with_an_at_sign_pass(url: str) -> None:
    check_no_credentials(url)
