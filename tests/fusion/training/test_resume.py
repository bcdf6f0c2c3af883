"""A training that is stopped, or killed, and resumed ends with the same weights, bit for bit on a CPU."""

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sage_va.data import InputError, open_store, tensor_file
from sage_va.fusion.config import Config, check_config
from sage_va.fusion.training import resume_state as state_module
from sage_va.fusion.training.resume_state import StateFile
from sage_va.fusion.training.train import train
from sage_va.tests.synthetic import make_cache, tiny

torch.set_num_threads(1)
SHORT = {"epochs": 4, "crossfit_epochs": 1, "span_dropout": 0.3, "noise": 0.1}
HABITS = {
    "sage": {},
    "average": {"train": {"ema": 0.9}},
    "plateau": {"train": {"schedule": "plateau", "plateau_epochs": 1, "patience": 2, "epochs": 6}},
    "concat": {"model": {"variant": "concat"}},
}
Place = tuple[Path, Path]


def config_of(name: str = "sage", **train: Any) -> Config:
    habits = HABITS[name]
    model = {"dropout": 0.2, **habits.get("model", {})}
    return check_config(tiny(model=model, train={**SHORT, **habits.get("train", {}), **train}), "test")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_cache(tmp_path_factory.mktemp("cache"))


def train_in_pieces(cache: Place, out: Path, config: Config, stops: list[int]) -> int:
    """Trains, stopped after so many steps each time; returns how often it was stopped."""
    for number, steps in enumerate(itertools.chain(stops, [10**9])):
        count = itertools.count(1)
        try:
            train(open_store(cache[0]), cache[1], out, config, resume=True, stop=lambda: next(count) >= steps)  # noqa: B023
        except KeyboardInterrupt:
            continue
        return number
    raise AssertionError


def metrics_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    speed = ("windows_per_s", "data_share", "limited_by")
    return [{key: value for key, value in line.items() if key not in speed} for line in lines]


def same(run: Path, other: Path) -> bool:
    a, b = (load_file(path / "model.safetensors") for path in (run, other))
    return (
        a.keys() == b.keys()
        and all(torch.equal(a[name], b[name]) for name in a)
        and metrics_of(run) == metrics_of(other)
    )


@pytest.mark.parametrize("name", HABITS)
def test_a_training_in_pieces_is_the_training_at_once(cache: Place, tmp_path: Path, name: str) -> None:
    config = config_of(name)
    train(open_store(cache[0]), cache[1], tmp_path / "once", config)
    assert train_in_pieces(cache, tmp_path / "pieces", config, [1, 2, 7, 1, 5]) >= 4
    assert same(tmp_path / "once", tmp_path / "pieces")
    assert not list((tmp_path / "pieces").glob("last*")) + list((tmp_path / "pieces").glob("errors*"))


def test_it_goes_on_where_it_was(cache: Place, tmp_path: Path) -> None:
    config = config_of(epochs=6)
    count = itertools.count(1)
    with pytest.raises(KeyboardInterrupt):
        train(open_store(cache[0]), cache[1], tmp_path / "run", config, stop=lambda: next(count) >= 14)
    before = metrics_of(tmp_path / "run")
    assert 0 < len(before) < 6
    events: list[dict[str, Any]] = []
    train(open_store(cache[0]), cache[1], tmp_path / "run", config, resume=True, log=events.append)
    assert [event["epoch"] for event in events if event["event"] == "epoch"] == list(range(len(before), 6))
    assert not [event for event in events if event["event"] == "crossfit"]
    assert metrics_of(tmp_path / "run")[: len(before)] == before


KILLED = """
import os, signal, sys, threading
from pathlib import Path
import torch
from sage_va.data import open_store
from sage_va.fusion.training import resume_state
from sage_va.fusion.config import load_config
from sage_va.fusion.training.train import train
torch.set_num_threads(1)
resume_state.EVERY_S = 0.0
cache, labels, out, config, enough, later_s = sys.argv[1:]
save, num_saved = resume_state.StateFile.save, 0

def save_and_die(file, state):
    global num_saved
    save(file, state)
    num_saved += 1
    if num_saved == int(enough):
        kill = threading.Timer(float(later_s), os.kill, (os.getpid(), signal.SIGKILL))
        kill.start()
        if not float(later_s):
            kill.join()

resume_state.StateFile.save = save_and_die
train(open_store(cache), Path(labels), Path(out), load_config(Path(config)), resume=True)
"""


@pytest.mark.slow
def test_killed_at_any_time_nothing_is_lost(cache: Place, tmp_path: Path) -> None:
    """A real process, killed hard again and again, whose state is saved at every step."""
    config = config_of(epochs=6)
    train(open_store(cache[0]), cache[1], tmp_path / "once", config)
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    run = tmp_path / "killed"
    arguments = [*map(str, cache), str(run), str(tmp_path / "config.yaml")]
    for num_saved, later_s in ((1, 0), (8, 0), (8, 0), (1, 0.02)):  # at once, and somewhere in a step
        command = [sys.executable, "-c", KILLED, *arguments, str(num_saved), str(later_s)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    train(open_store(cache[0]), cache[1], run, config, resume=True)
    assert (run / "config.json").exists()
    assert same(tmp_path / "once", run)


def test_folds_go_on_too(cache: Place, tmp_path: Path) -> None:
    config = check_config(tiny(train=SHORT, model={"variant": "concat"}, split={"folds": 3}), "test")
    train(open_store(cache[0]), cache[1], tmp_path / "once", config)
    assert train_in_pieces(cache, tmp_path / "pieces", config, [15, 20]) == 2
    for fold in range(3):
        assert same(tmp_path / "once" / f"fold-{fold}", tmp_path / "pieces" / f"fold-{fold}")


def test_a_finished_run_is_left_alone(cache: Place, tmp_path: Path) -> None:
    config = config_of("concat")
    train(open_store(cache[0]), cache[1], tmp_path / "run", config)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    assert train(open_store(cache[0]), cache[1], tmp_path / "run", config, resume=True) == [tmp_path / "run"]
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()} == before


@pytest.fixture
def stopped(cache: Place, tmp_path: Path) -> Path:
    count = itertools.count()
    with pytest.raises(KeyboardInterrupt):
        train(open_store(cache[0]), cache[1], tmp_path / "run", config_of(), stop=lambda: next(count) > 8)
    return tmp_path / "run"


def test_an_unfinished_run_is_not_overwritten(cache: Place, stopped: Path) -> None:
    with pytest.raises(InputError, match=r"got an unfinished run\. Resume it with `train --resume`"):
        train(open_store(cache[0]), cache[1], stopped, config_of())


@pytest.mark.parametrize("left", [(".part-split.csv",), (".part-split.csv", "config.yaml")])
def test_a_run_that_was_killed_as_it_began_begins_again(cache: Place, tmp_path: Path, left: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in left:
        (run / name).write_text("half", encoding="utf-8")
    train(open_store(cache[0]), cache[1], run, config_of("concat", epochs=1), resume=True)
    assert (run / "config.json").exists()
    assert not list(run.glob(".part-*"))


def test_a_folder_of_something_else_is_no_run(cache: Place, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="expected a new folder, got one with files in it"):
        train(open_store(cache[0]), cache[1], tmp_path, config_of(), resume=True)
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8") == "mine"


def test_other_settings_are_refused(cache: Place, stopped: Path) -> None:
    with pytest.raises(InputError, match=r"expected a run of train\.epochs = 5, got one of 4\. Give the settings"):
        train(open_store(cache[0]), cache[1], stopped, config_of(epochs=5), resume=True)


def test_other_labels_are_refused(stopped: Path, tmp_path: Path) -> None:
    other = make_cache(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=r"expected a training of labels = \w+, got \w+\. Train with what it began"):
        train(open_store(other[0]), other[1], stopped, config_of(), resume=True)


def test_a_run_that_has_no_state_yet_keeps_its_split(cache: Place, stopped: Path, tmp_path: Path) -> None:
    (stopped / "last.safetensors").unlink(missing_ok=True)
    more = make_cache(tmp_path / "more", num_clips=14)
    with pytest.raises(InputError, match=r"split\.csv: expected the split that the run began with, got another"):
        train(open_store(more[0]), more[1], stopped, config_of(), resume=True)


@pytest.mark.parametrize("damaged", [False, True])
def test_errors_of_something_else_are_made_again(cache: Place, tmp_path: Path, damaged: bool) -> None:
    config = config_of()
    train(open_store(cache[0]), cache[1], tmp_path / "once", config)
    count = itertools.count()
    with pytest.raises(KeyboardInterrupt):
        train(open_store(cache[0]), cache[1], tmp_path / "run", config, stop=lambda: next(count) > 10)
    (tmp_path / "run" / "last.safetensors").unlink(missing_ok=True)
    other = {"errors": torch.zeros(7, 2)}
    save_file(other, tmp_path / "run" / "errors.safetensors", {"facts": "of other labels"})
    if damaged:
        (tmp_path / "run" / "errors.safetensors").write_bytes(b"half")
    train(open_store(cache[0]), cache[1], tmp_path / "run", config, resume=True)
    assert same(tmp_path / "once", tmp_path / "run")


def test_it_stops_between_the_probes_of_the_gate(cache: Place, tmp_path: Path) -> None:
    events: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        train(
            open_store(cache[0]),
            cache[1],
            tmp_path / "run",
            config_of(),
            stop=lambda: True,
            log=lambda event: events.append(event["event"]),
        )
    assert events.count("crossfit") == 1


def test_a_damaged_state_is_refused(cache: Place, stopped: Path) -> None:
    whole = (stopped / "last.safetensors").read_bytes()
    (stopped / "last.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"last\.safetensors: expected the state of a training"):
        train(open_store(cache[0]), cache[1], stopped, config_of(), resume=True)


def test_a_full_disk_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = StateFile(tmp_path / "last.safetensors", {})
    plain = {"course": {"epoch": 1}}
    file.save(({"x": torch.ones(3)}, plain))

    def full(*_: Any) -> None:
        (tmp_path / ".part-last.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file, "save", full)
    with pytest.raises(OSError, match="No space"):
        file.save(({"x": torch.zeros(3)}, plain))
    state = file.load()
    assert state is not None
    assert torch.equal(state[0]["x"], torch.ones(3))


def test_states_are_saved_now_and_then(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "last.safetensors", {})
    file.offer(lambda: pytest.fail("too early"))
    file.saved_s -= 31
    file.offer(lambda: ({"x": torch.ones(1)}, {"course": {"epoch": 0}}))
    assert (tmp_path / "last.safetensors").exists()


def test_no_pickle_in_a_state(stopped: Path) -> None:
    tensors = load_file(stopped / "last.safetensors")
    assert {name.split(".")[0] for name in tensors} >= {"model", "optimiser", "random", "plan"}


def test_a_state_of_an_earlier_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its optimiser counts weights that models no longer have."""
    file = StateFile(tmp_path / "last.safetensors", {})
    with monkeypatch.context() as earlier:
        earlier.setattr(state_module, "VERSION", 1)
        file.save(({"x": torch.ones(3)}, {}))
    with pytest.raises(InputError, match=r"last\.safetensors: this training was begun by another version of sage-va"):
        file.load()
