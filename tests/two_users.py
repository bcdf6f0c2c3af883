"""Two users of one group who share a folder (setgid, umask 002): `python -m sage_va.tests.two_users SCENARIO FOLDER`.

Run as root, in a process of its own. Each phase of a scenario is done by the first user, by the second, or by both at
once. Users may not read what belongs to root, such as an interpreter in its home: a rehearsal finds the modules that
the scenario imports, and they are imported before the users begin.
"""

import contextlib
import importlib
import itertools
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sage_va.data import InputError, open_store
from sage_va.data.maintenance import collect_garbage, repair, verify
from sage_va.data.transfer.copy import copy
from sage_va.testing import VISUAL_NAME, put

GROUP, USERS = 61000, (61001, 61002)
PHASES = ((0,), (1,), (0, 1))
Work = Callable[[Path, int, int], None]


def fill(url: str, user: int, phase: int) -> None:
    """Adds, replaces and removes entries of a cache; both users also make the same ones."""
    store = open_store(url, "a")
    for clip_id in ("both", f"{phase}-{user}-a", f"{phase}-{user}-b"):
        put(store, clip_id)
        put(store, clip_id, "audio")
    put(store, "both", seed=phase, overwrite=True)
    store.discard(f"{phase}-{user}-a", VISUAL_NAME)
    store.log_failure("x", "no face")
    store.sweep()
    store.finish()
    if phase == 1:
        repair(url)
        collect_garbage(url)
        assert verify(open_store(url)).problems == []


def stores(folder: Path, user: int, phase: int) -> None:
    for name in ("c.zarr", "c.h5"):
        fill(str(folder / name), user, phase)


def repository(folder: Path, user: int, phase: int) -> None:
    fill(f"icechunk://{folder / 'repo'}", user, phase)


def packs(folder: Path, user: int, phase: int) -> None:
    own = folder / f"source-{user}.zarr"
    put(open_store(own, "a"), f"{phase}-{user}")
    copy(str(own), str(folder / "x.packs"))
    for name in ("x.zarr.zip", "x-single.h5"):
        with contextlib.suppress(InputError):  # the other one writes it at this moment
            copy(str(own), str(folder / name))
    assert verify(open_store(folder / "x.packs")).problems == []


def training(folder: Path, user: int, phase: int) -> None:
    """The first begins, the second resumes; then both train into one folder at once, and one of them is refused."""
    from sage_va.fusion.config import check_config
    from sage_va.fusion.run_folder import load_run
    from sage_va.fusion.training.train import train
    from sage_va.tests.synthetic import make_cache, tiny

    if phase == 0:
        make_cache(folder, num_clips=6, seconds=2.4)
    config = check_config(tiny(train={"epochs": 3, "crossfit_epochs": 1}), "test")
    store, steps = open_store(folder / "cache.zarr"), itertools.count()
    out = folder / ("run" if phase < 2 else "another")
    try:
        train(store, folder / "labels", out, config, resume=phase < 2, stop=lambda: phase == 0 and next(steps) > 8)
        load_run(out)
    except KeyboardInterrupt:
        assert phase == 0
    except InputError as error:
        if phase < 2 or not any(text in str(error) for text in ("at work", "unfinished run", "files in it")):
            raise


def experiments(folder: Path, user: int, phase: int) -> None:
    from sage_va.fusion.config import check_config
    from sage_va.fusion.experiments.compare import compare
    from sage_va.fusion.experiments.search_space import load_space
    from sage_va.fusion.experiments.sweep import sweep
    from sage_va.tests.synthetic import make_cache, tiny

    if phase == 0:
        make_cache(folder, num_clips=6, seconds=2.4)
        (folder / "space.yaml").write_text("train.learning_rate: {low: 0.001, high: 0.1, log: true}\n")
    small = {"dim": 4, "tcn_blocks": 0, "layers": 0}
    config = check_config(tiny(train={"epochs": 1, "crossfit_epochs": 1}, model={"variant": "concat", **small}), "test")
    store, labels = open_store(folder / "cache.zarr"), folder / "labels"
    space = load_space(folder / "space.yaml", config)
    done = sweep(store, labels, folder / "sweep", config, space, num_trials=2 + 2 * phase, jobs=1)
    assert not done.failures, done.failures
    names = ["concat", "sage"]
    try:
        table = compare(store, labels, folder / "compare", config, names, num_seeds=1 + phase, folds=3, jobs=1)
        assert not table.failures, table.failures
    except InputError as error:
        if "another comparison is at work" not in str(error):
            raise


def homeless(folder: Path, user: int, phase: int) -> None:
    """As in a container whose user has neither HOME nor an entry in passwd."""
    import soundfile
    from click.testing import CliRunner

    from sage_va.cli import main
    from sage_va.tests.synthetic import make_cache

    if phase:
        return
    os.environ.pop("HOME", None)
    make_cache(folder, num_clips=6, seconds=2.4)
    (folder / "media").mkdir()
    soundfile.write(folder / "media" / "a.wav", [0.1, -0.1] * 8_000, 16_000)
    settings = ["--set", "train.epochs=1", "--variant", "concat", "--preset", "tiny", "--device", "cpu"]
    words = [
        ["cache", "verify", folder / "cache.zarr"],
        ["train", folder / "cache.zarr", "--labels", folder / "labels", "--out", folder / "run", *settings],
        ["eval", folder / "run", "--device", "cpu"],
        ["predict", folder / "run", folder / "cache.zarr", "--out", folder / "predictions"],
        ["export", folder / "run", "--out", folder / "model"],
        ["extract", folder / "media", "--out", folder / "media.zarr", "--audio", "logmel", "--device", "cpu"],
    ]
    for command in words:
        done = CliRunner().invoke(main, [str(word) for word in command])
        assert done.exit_code == 0, f"{command}: {done.output} {done.exception!r}"
    done = CliRunner().invoke(main, ["doctor", str(folder / "cache.zarr")])
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)


SCENARIOS: dict[str, Work] = {
    "stores": stores,
    "repository": repository,
    "packs": packs,
    "training": training,
    "experiments": experiments,
    "homeless": homeless,
}


def forked(work: Callable[[], Any], user: int | None) -> tuple[int, int]:
    """Begins work in a child, as a user; returns its process and the pipe that its result comes from."""
    receive, send = os.pipe()
    process = os.fork()
    if process:
        os.close(send)
        return process, receive
    try:
        if user is not None:
            os.setgroups([GROUP])
            os.setgid(GROUP)
            os.setuid(user)
        os.umask(0o002)
        os.write(send, json.dumps(work()).encode())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(process: int, receive: int) -> Any:
    with os.fdopen(receive, "rb") as pipe:
        result = pipe.read()
    assert os.waitpid(process, 0)[1] == 0, "see above"
    return json.loads(result)


def shared_folder(folder: Path) -> Path:
    folder.mkdir()
    os.chown(folder, USERS[0], GROUP)
    folder.chmod(0o2775)
    return folder


def rehearsed(work: Work, folder: Path) -> list[str]:
    """Returns the modules that are loaded once root has done all phases; done in a child, to leave no threads here."""

    def rehearsal() -> list[str]:
        os.environ["SAGE_VA_CACHE"] = str(folder / "user-cache")
        for phase, users in enumerate(PHASES):
            for user in users:
                with contextlib.suppress(InputError):
                    work(folder, user, phase)
        return sorted(sys.modules)

    folder.mkdir()
    return ended(*forked(rehearsal, None))


def main(scenario: str, folder: Path) -> None:
    work = SCENARIOS[scenario]
    os.environ["HF_HOME"] = str(shared_folder(folder / "hub"))
    for name in rehearsed(work, folder / "rehearsal"):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    shared = shared_folder(folder / "shared")
    os.environ["SAGE_VA_CACHE"] = str(shared_folder(folder / "user-cache"))
    for phase, users in enumerate(PHASES):
        begun = [forked(lambda user=user, phase=phase: work(shared, user, phase), USERS[user]) for user in users]
        for child in begun:
            ended(*child)
    closed = [str(path) for path in shared.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o060 != 0o060]
    assert not closed, closed


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
