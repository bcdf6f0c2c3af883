"""`predict --watch`: recordings of a folder as they are completed, once each, also across kills and restarts."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("av")
pytest.importorskip("timm")
from sage_va import SAGE
from sage_va.api import predict_to_files
from sage_va.cli import main
from sage_va.commands import watch
from sage_va.commands.watch import Watch, WatchedRecording
from sage_va.data import InputError, open_store
from sage_va.data.manifest import find_sources
from sage_va.data.watched_folder import WatchedFolder
from sage_va.demo.corpus import draw_corpus
from sage_va.extract import encoders_from, extract
from sage_va.fusion.config import check_config
from sage_va.fusion.evaluation.sampling import Sampling
from sage_va.fusion.models.variants import build_model
from sage_va.fusion.training.labelled import choose_streams
from sage_va.tests.encoders import TINY_CONVNET
from sage_va.tests.synthetic import tiny
from sage_va.tests.waiting import MOST_S

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings in `media`, and an untrained model of their frames in `model`."""
    folder = tmp_path_factory.mktemp("watch")
    draw_corpus(folder, num_clips=2, seconds=2, fps=5, size=64)
    visual, _ = encoders_from(visual=TINY_CONVNET, visual_weights="random", device="cpu")
    store = open_store(folder / "c.zarr", "a")
    extract(find_sources([str(folder / "media")]), store, visual=visual)
    config = check_config(tiny(model={"variant": "visual"}, data={"grid_hz": 5.0}), "test")
    SAGE(build_model(choose_streams(store, ["visual"]), config.model), config).save_pretrained(folder / "model")
    return folder


@pytest.fixture
def folder(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recording and a broken one; files settle at once."""
    monkeypatch.setattr(watch, "WatchedFolder", partial(WatchedFolder, settle_s=0.0))
    monkeypatch.setattr(watch, "POLL_S", 0.01)
    (tmp_path / "in").mkdir()
    shutil.copy(place / "media" / "talk_00.mp4", tmp_path / "in")
    (tmp_path / "in" / "broken.mp4").write_bytes(b"no recording")
    return tmp_path


@pytest.fixture(scope="module")
def models(place: Path) -> list[SAGE]:
    return [SAGE.load(place / "model")]


def watch_for(
    num: int, folder: Path, models: list[SAGE], then: Callable[[], Any] = lambda: None, **options: Any
) -> list[WatchedRecording]:
    """Watches until `num` recordings are reported, or a second has passed without any more."""
    outcomes: list[WatchedRecording] = []
    stop = threading.Event()

    def report(outcome: WatchedRecording) -> None:
        outcomes.append(outcome)
        then()
        if len(outcomes) == num:
            stop.set()

    timer = threading.Timer(1.0 if num == 0 else 60.0, stop.set)
    timer.start()
    watching = Watch(models, folder / "in", folder / "out", ["csv"], Sampling(), **options)
    watching.run(report, stop, lambda num_done: None)
    timer.cancel()
    return outcomes


def test_each_recording_is_predicted_once_as_predict_does(folder: Path, place: Path, models: list[SAGE]) -> None:
    first = watch_for(2, folder, models)
    assert sorted(outcome.recording for outcome in first) == ["broken.mp4", "talk_00.mp4"]
    (broken,) = [outcome for outcome in first if outcome.failures]
    assert broken.failures["broken.mp4"].startswith("expected a recording, got ")
    predict_to_files(place / "model", [str(folder / "in" / "talk_00.mp4")], folder / "plain")
    file = folder / "out" / "talk_00.mp4.csv"
    assert file.read_bytes() == (folder / "plain" / "talk_00.mp4.csv").read_bytes()
    assert watch_for(0, folder, models) == []  # another start: nothing is done again, the failure neither
    (folder / "in" / "sub").mkdir()
    shutil.copy(place / "media" / "talk_01.mp4", folder / "in" / "sub" / "x.part")
    (folder / "in" / "sub" / "x.part").rename(folder / "in" / "sub" / "x.mp4")
    (last,) = watch_for(1, folder, models)
    assert last.files == [str(folder / "out" / "sub" / "x.mp4.csv")]
    os.utime(folder / "in" / "sub" / "x.mp4", (1, 1))  # another version
    assert [outcome.recording for outcome in watch_for(1, folder, models)] == ["sub/x.mp4"]


def test_predictions_of_an_earlier_version_are_named_where_the_later_fails(folder: Path, models: list[SAGE]) -> None:
    watch_for(2, folder, models)
    (folder / "in" / "talk_00.mp4").write_bytes(b"no recording")
    (outcome,) = watch_for(1, folder, models)
    assert list(outcome.failures) == ["talk_00.mp4"]
    assert outcome.notes == {"talk_00.mp4": ["kept from an earlier version of the recording: talk_00.mp4.csv"]}
    assert (folder / "out" / "talk_00.mp4.csv").exists()


def test_a_pattern_chooses(folder: Path, models: list[SAGE]) -> None:
    assert [outcome.recording for outcome in watch_for(1, folder, models, clips=["talk*"])] == ["talk_00.mp4"]
    assert watch_for(0, folder, models, clips=["talk*"]) == []
    (folder / "in" / "talk_00.mp4").rename(folder / "in" / "talk [1].mp4")
    (named,) = watch_for(1, folder, models, clips=["talk [1].mp4"])  # an id, though it looks like a pattern
    assert named.recording == "talk [1].mp4"


def test_a_recording_that_changes_meanwhile_is_not_written(
    folder: Path, models: list[SAGE], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "in" / "broken.mp4").unlink()
    plain, calls = watch.predict_sources, list[int]()

    def predict_and_touch(*arguments: Any, **options: Any) -> Any:
        rows = plain(*arguments, **options)
        calls.append(1)
        if len(calls) == 1:
            assert not list((folder / "out").glob("*.csv"))
            os.utime(folder / "in" / "talk_00.mp4", (2, 2))
        return rows

    monkeypatch.setattr(watch, "predict_sources", predict_and_touch)
    assert len(watch_for(1, folder, models)) == 1
    assert len(calls) == 2


def test_a_recording_that_was_away_meanwhile_is_not_taken_for_one_that_ends_the_program(
    folder: Path, models: list[SAGE], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "in" / "broken.mp4").unlink()
    place, plain, calls = folder / "in" / "talk_00.mp4", watch.predict_sources, list[int]()

    def predict_away(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > watch.MAX_ATTEMPTS:
            return plain(*arguments, **options)
        place.rename(folder / "away.mp4")  # as a share that is lost
        threading.Timer(0.2, (folder / "away.mp4").rename, [place]).start()
        return []

    monkeypatch.setattr(watch, "predict_sources", predict_away)
    (outcome,) = watch_for(1, folder, models)
    assert not outcome.failures


def test_a_full_disk_ends_the_watch_and_the_next_start_does_it_again(
    folder: Path, models: list[SAGE], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "in" / "broken.mp4").unlink()
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(watch, "write_prediction", fail)
        with pytest.raises(OSError, match="No space left"):
            watch_for(1, folder, models)
    assert [outcome.failures for outcome in watch_for(1, folder, models)] == [{}]


def test_a_recording_that_takes_the_process_with_it_is_given_up(
    folder: Path, models: list[SAGE], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "in" / "broken.mp4").unlink()

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt  # as abrupt as a test can be

    with monkeypatch.context() as patch:
        patch.setattr(watch, "predict_sources", die)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                watch_for(1, folder, models)
    (outcome,) = watch_for(1, folder, models)
    assert outcome.failures["talk_00.mp4"].startswith("the program ended 3 times while it was at work")


def test_two_watches_do_not_share_a_folder_of_predictions(folder: Path, models: list[SAGE]) -> None:
    def second() -> None:
        with pytest.raises(InputError, match=r"out: another watch writes there\. Choose another --out, or end it\."):
            watch_for(1, folder, models)

    watch_for(1, folder, models, then=second)


def test_predictions_of_other_options_are_not_mixed(folder: Path, models: list[SAGE]) -> None:
    watch_for(2, folder, models)
    with pytest.raises(InputError, match="it was written with other models or options"):
        watch_for(1, folder, models, extraction={"person": "largest"})


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_takes_recordings_or_a_folder(place: Path, folder: Path) -> None:
    model, out = place / "model", ("--out", folder / "out")
    both = run("predict", model, place / "media", "--watch", folder / "in", *out)
    assert (both.exit_code, "Name recordings or --watch, not both" in both.stderr) == (2, True)
    neither = run("predict", model, *out)
    assert (neither.exit_code, "Name recordings or a cache, or --watch a folder." in neither.stderr) == (2, True)
    useless = run("predict", model, "--watch", folder / "in", *out, "--person", "left")
    assert useless.stderr.strip().endswith("--person: the model sees whole frames, not faces. Leave it out.")
    assert useless.exit_code == 1
    (line,) = run("predict", model, "--watch", folder / "in", *out, "--person", "left", "--json").stdout.splitlines()
    assert "the model sees whole frames" in json.dumps(json.loads(line)["error"])


def start(place: Path, folder: Path, code: str = "") -> subprocess.Popen[str]:
    program = f"""
import functools, os, signal, sys
from sage_va.commands import stopping, watch
from sage_va.data.watched_folder import WatchedFolder
stopping.GRACE_S = 3600  # work on a busy machine is not given up
watch.WatchedFolder = functools.partial(WatchedFolder, settle_s=0.5)
{code}
from sage_va.cli import main
main()
"""
    arguments = ["predict", place / "model", "--watch", folder / "in", "--out", folder / "out", "--json"]
    command = [sys.executable, "-c", program, *map(str, arguments), "--format", "csv", "--format", "vtt"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


KILLED = """
plain, written = watch.write_prediction, []
def write(*arguments):
    if written:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(plain(*arguments))
watch.write_prediction = write
"""


@pytest.mark.slow
def test_killed_between_two_files_it_does_the_recording_again_and_a_signal_ends_it(place: Path, folder: Path) -> None:
    (folder / "in" / "broken.mp4").unlink()
    killed = start(place, folder, KILLED)
    assert killed.wait(timeout=MOST_S) == -signal.SIGKILL
    assert [path.name for path in (folder / "out").glob("talk*")] == ["talk_00.mp4.csv"]
    again = start(place, folder)
    assert again.stdout is not None
    row = json.loads(again.stdout.readline())
    assert [Path(file).name for file in row["files"]] == ["talk_00.mp4.csv", "talk_00.mp4.vtt"]
    (folder / "in" / "late.mp4").write_bytes(b"no recording")
    failed = json.loads(again.stdout.readline())
    assert list(failed["failures"]) == ["late.mp4"]
    again.send_signal(signal.SIGTERM)
    assert again.wait(timeout=MOST_S) == 0  # after 8 s it would be given up, with another code
    assert again.stdout.read() == ""
    assert not [path for path in (folder / "out").rglob("*") if path.name.endswith(".part")]
