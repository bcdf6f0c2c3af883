"""Signals end a command in order: what is done is saved, the exit code names the signal, and no more than 8 s pass."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sage_va.commands.stopping import GRACE_S
from sage_va.data import open_store
from sage_va.data.maintenance import verify
from sage_va.fusion.config import check_config
from sage_va.fusion.training.resume_state import StateFile
from sage_va.tests.synthetic import make_cache, tiny
from sage_va.tests.waiting import MOST_S, running, until

OF_MACHINES = [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


ASKED = """
import os, signal
from sage_va.commands.stopping import interruptible
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    signal.signal(number, handler)  # a background job ignores the one, a job under nohup the other
before = signal.getsignal({number})
with interruptible() as stop:
    assert not stop.is_set()
    os.kill(os.getpid(), {number})
    assert stop.is_set()
    assert stop.code == 128 + {number}
assert signal.getsignal({number}) is before
"""

ASKED_TWICE = """
import os, signal
from sage_va.commands.stopping import interruptible
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with interruptible():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print("stopped")
"""

SEVERAL = """
import os, signal
from sage_va.commands.stopping import interruptible
with interruptible() as stop:
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
        os.kill(os.getpid(), number)
    assert stop.code == 128 + signal.SIGUSR1
"""

NESTED = """
import os, signal, threading
from sage_va.commands.stopping import interruptible
start = threading.Timer.start
def start_late(timer):
    os.kill(os.getpid(), signal.SIGTERM)
    start(timer)
threading.Timer.start = start_late
with interruptible() as stop:
    os.kill(os.getpid(), signal.SIGUSR1)
assert stop.is_set()
"""

NOHUP = """
import os, signal
from sage_va.commands.stopping import interruptible
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with interruptible() as stop:
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stop.is_set()
assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
"""

ENDED = """
import os, signal
from sage_va.commands.stopping import ended_by_signals
with ended_by_signals():
    os.kill(os.getpid(), signal.SIGTERM)
"""


def output_of(program: str) -> tuple[str, str]:
    """Runs a program in a process of its own, since a signal that comes late would end the tests."""
    done = ended(program)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def ended(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=MOST_S, check=False)


@pytest.mark.parametrize("number", [signal.SIGINT, *OF_MACHINES])
def test_the_first_asks(number: signal.Signals) -> None:
    assert "Finishing the clips in work" in output_of(ASKED.format(number=int(number)))[1]


def test_the_second_ctrl_c_stops() -> None:
    assert output_of(ASKED_TWICE)[0] == "stopped\n"


def test_a_batch_system_may_send_several() -> None:
    """Such as USR1 before the end of the time, and TERM at it, each to every process of the job."""
    output_of(SEVERAL)


def test_one_signal_may_come_within_the_other() -> None:
    output_of(NESTED)


def test_nohup_keeps_its_meaning() -> None:
    output_of(NOHUP)


def test_a_block_ends_as_by_ctrl_c() -> None:
    done = ended(ENDED)
    assert (done.returncode, done.stderr) == (143, "interrupted: run the same command to resume\n")


def test_what_does_not_end_is_given_up() -> None:
    """Here the work ignores the event; it also stands for a read from a disk that does not answer."""
    program = (
        "import os, signal, time\n"
        "from sage_va.commands import stopping\n"
        "stopping.GRACE_S = 0.2\n"
        "with stopping.interruptible():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
    )
    done = ended(program)
    assert GRACE_S < 10  # what `docker stop` waits
    assert done.returncode == 143
    assert "given up. What was saved is whole; run the same command to resume." in done.stderr


PATIENT = """
from sage_va.cli import main
from sage_va.commands import stopping
stopping.GRACE_S = 3600  # work on a busy machine is not given up
main(prog_name="sage-va")
"""


def ended_by(number: signal.Signals, words: Sequence[object], ready: Callable[[], bool]) -> str:
    """Sends a signal to all processes of a command once it is at work, as SLURM does; returns what it printed."""
    with running("-c", PATIENT, *words) as process:
        until(lambda: ready() or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        os.killpg(process.pid, number)
        _, printed = process.communicate(timeout=MOST_S)
    assert process.returncode == 128 + number, printed
    assert "Traceback" not in printed
    return printed


@pytest.mark.slow
def test_a_training_saves_its_state(tmp_path: Path) -> None:
    cache, labels = make_cache(tmp_path, num_clips=6, seconds=4)
    config = check_config(tiny(train={"epochs": 100_000, "patience": 100_000}), "test")
    run, settings = tmp_path / "run", tmp_path / "tiny.yaml"
    settings.write_text(config.to_yaml(), encoding="utf-8")
    words = ["train", cache, "--labels", labels, "--out", run, "--config", settings, "--device", "cpu"]
    log = run / "metrics.jsonl"
    begun = [0]

    def at_work() -> bool:
        return log.exists() and log.read_text(encoding="utf-8").count("\n") > begun[0] + 3

    for number, resume in zip(OF_MACHINES, ([], ["--resume"], ["--resume"]), strict=True):
        assert "interrupted: run the same command with --resume" in ended_by(number, [*words, *resume], at_work)
        begun[0] = log.read_text(encoding="utf-8").count("\n")
        assert StateFile(run / "last.safetensors", {}).num_epochs == begun[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "workers"), [pytest.param(signal.SIGTERM, 1, marks=pytest.mark.exhaustive), (signal.SIGUSR1, 2)]
)
def test_an_extraction_finishes_its_clips(tmp_path: Path, number: signal.Signals, workers: int) -> None:
    media, cache = tmp_path / "media", tmp_path / "c.zarr"
    media.mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000 * 3).astype(np.float32)
    soundfile.write(media / "0.wav", noise, 16_000)
    for k in range(1, 2000):  # more than are extracted before the signal, however late it comes
        (media / f"{k}.wav").hardlink_to(media / "0.wav")
    words = ["extract", media, "--out", cache, "--audio", "logmel", "--workers", workers, "--device", "cpu"]
    ended_by(number, words, lambda: any(cache.glob("audio/*/*")))
    store = open_store(cache)
    assert verify(store).problems == []
    num_done = len(store.clip_ids())
    assert 0 < num_done < 2000
    for clip_id in sorted({path.name for path in media.iterdir()} - {*store.clip_ids()})[20:]:
        (media / clip_id).unlink()
    command = [sys.executable, "-m", "sage_va", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MOST_S, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{num_done} there already" in done.stdout
