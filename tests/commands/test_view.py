"""`sage-va view`: what it prints, what it refuses, and a run from its folder to the page."""

import json
import re
import signal
import socket
import urllib.request
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from sage_va.cli import main
from sage_va.data import open_store
from sage_va.fusion.config import check_config
from sage_va.fusion.report import members
from sage_va.fusion.training.train import train
from sage_va.tests.media import grey_frames, write_media
from sage_va.tests.synthetic import make_cache, tiny
from sage_va.tests.waiting import MOST_S, running

pytestmark = pytest.mark.slow
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose test clips are clip00 …, with the recording of one of them in `media`."""
    folder = tmp_path_factory.mktemp("view")
    cache, labels = make_cache(folder, num_clips=4, seconds=2.4)
    short = {"epochs": 1, "crossfit_epochs": 1, "crossfit_folds": 2}
    model = {"dim": 8, "tcn_blocks": 1, "layers": 0}
    split = {"by": "clip", "fractions": [0.5, 0.25, 0.25]}
    train(open_store(str(cache)), labels, folder / "run", check_config(tiny(split=split, model=model, train=short), ""))
    (folder / "media").mkdir()
    for k in range(4):
        write_media(folder / "media" / f"clip{k:02}.mp4", grey_frames(4))
    return folder / "run"


def fails(*words: str) -> str:
    done = CliRunner().invoke(main, ["view", *words, "--no-browser", "--device", "cpu"])
    assert done.exit_code != 0
    assert "Traceback" not in done.output
    return done.output


def test_it_is_served_until_it_is_stopped(run: Path) -> None:
    words = ["view", run, "--media", run.parent / "media", "--no-browser", "--device", "cpu"]
    with running("-m", "sage_va", *words) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{22}/", url)
        with urllib.request.urlopen(url) as answer:
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            text = answer.read().decode()
        assert str(run.parent) not in text
        with urllib.request.urlopen(f"{url}clips/0") as answer:
            traces = json.load(answer)
        assert len(traces["va"]) == len(traces["truth"]) == 2
        with urllib.request.urlopen(f"{url}clips/0/video") as answer:
            assert answer.headers["Content-Type"] == "video/mp4"
        process.send_signal(signal.SIGINT)
        assert process.wait(MOST_S) == 0


def test_mistakes_are_named_in_one_line(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media = str(run.parent / "media")
    assert "does not exist" in fails(str(run), "--media", str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    assert "expected at least one recording, got none" in fails(str(run), "--media", str(tmp_path / "empty"))
    write_media(tmp_path / "others" / "x.mp4", grey_frames(2))
    assert "--media: expected a recording of clip" in fails(str(run), "--media", str(tmp_path / "others"))
    assert "expected a folder or a manifest" in fails(str(run), "--media", f"{media}/clip00.mp4")
    assert "got no match" in fails(str(run), "--media", media, "--clip", "absent")
    monkeypatch.setattr(members, "read_member", None)  # it would take its time: the port comes first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"--port {port}: it cannot be used (Address already in use)" in fails(
            str(run), "--media", media, "--port", port
        )
