"""The verbs that `faults.py` kills: what each begins with, its command, and what must be equal in the end."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import re
import signal
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sage_va.api import train
from sage_va.cli import main
from sage_va.data import open_store
from sage_va.data.transfer.copy import copy
from sage_va.data.watched_folder import WatchedFolder
from sage_va.fusion.config import check_config
from sage_va.fusion.run_folder import load_run
from sage_va.tests.synthetic import latent, make_cache, tiny, write_labels

NUM_RECORDINGS = 3
SETTINGS = {
    "train": {"epochs": 3, "crossfit_epochs": 1, "crossfit_folds": 2},
    "model": {"dim": 8, "tcn_blocks": 1, "layers": 1},
}
MEASURED = {  # by a clock; and how much of the work an interrupted run had done
    *("windows_per_s", "data_share", "limited_by", "seconds", "seconds_per_cell", "time", "created"),
    *("num_skipped", "num_trained"),
}


@dataclass(frozen=True)
class Case:
    """A verb on a store.

    Args:
        verb, store: names in the table.
        command: of the command line, run in the folder.
        needs: files and folders of the material.
        out: what it makes; the name of a cache or a folder.
        compared_by: `bytes` or `content`.
        codes: exit codes of a run that is left alone.
        is_cache: True where `out` is a cache.
        most_kills: in one folder. A watch gives a recording up that ended the program three times.
    """

    verb: str
    store: str
    command: tuple[str, ...]
    needs: tuple[str, ...]
    out: str
    compared_by: str = "bytes"
    codes: tuple[int, ...] = (0,)
    is_cache: bool = True
    most_kills: int = 4

    @property
    def name(self) -> str:
        """verb:store."""
        return f"{self.verb}:{self.store}"

    @property
    def folder(self) -> str:
        """A name for files."""
        return re.sub(r"[^\w.-]+", "-", self.name)

    def settle(self) -> None:
        """Saves the state of a training at every step, so that a kill meets all its writes."""
        from sage_va.fusion.training import resume_state

        resume_state.EVERY_S = 0.0
        if self.verb == "predict --watch":
            from sage_va.commands import watch

            watch.WatchedFolder = partial(WatchedFolder, settle_s=0.0)
            watch.POLL_S = 0.05
            threading.Thread(target=_end_when_done, args=(Path(self.out),), daemon=True).start()

    def state(self, place: Path) -> dict[str, str]:
        """Returns what must be equal: the hash of each file, or of a cache's content."""
        if self.is_cache and self.compared_by == "content":
            store = open_store(self.out)
            wrong = [problem for *_, problem in store.verify() if problem]
            return {"content": store.content_sha256(), "problems": "; ".join(map(str, wrong))}
        if self.verb == "sweep":
            return sweep_state(place / self.out)
        root = place / self.out
        files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(place).as_posix(): hash_of(path, place) for path in files if counts(path)}

    def problems(self, place: Path) -> str:
        """Returns what is damaged in a cache just after a kill; repair begins with damage."""
        if not self.is_cache or self.verb == "repair":
            return ""
        try:
            store = open_store(self.out)
        except Exception as error:  # not yet there
            return (
                "" if "no cache" in str(error) or "no such" in str(error) or not begun(place / self.out) else str(error)
            )
        return "; ".join(str(problem) for *_, problem in store.verify() if problem)


def _end_when_done(out: Path) -> None:
    """Ends a watch as a batch system would, once all recordings are done."""
    ledger = out / "watch.jsonl"
    while True:
        time.sleep(0.05)
        listens = callable(signal.getsignal(signal.SIGTERM))
        if listens and ledger.exists() and ledger.read_bytes().count(b'"done"') >= NUM_RECORDINGS:
            os.kill(os.getpid(), signal.SIGTERM)
            return


def begun(path: Path) -> bool:
    """True where a cache should be readable: its root is there."""
    return path.is_file() or any((path / name).exists() for name in ("zarr.json", "cache.json"))


FOLLOW = ("metrics.csv", "table.csv", "table.md", "table.tex", "table.png", "index.h5")  # from files that are compared


def counts(path: Path) -> bool:
    """True for a file that is a result by itself: no journal, lock or table, nor what the next writer tidies."""
    return path.name not in (*FOLLOW, "journal.jsonl", "watch.jsonl", "lock", ".lock") and "staging" not in path.parts


def hash_of(path: Path, place: Path) -> str:
    """Returns the SHA-256 of a file: of JSON its values without those of a clock, and without the case's own folder."""
    content = path.read_bytes().replace(str(place).encode(), b"")
    if path.suffix == ".json":
        content = plain_json(json.loads(content))
    elif path.suffix == ".html":
        content = re.sub(rb'"made":"[^"]*"', b"", content)
    elif path.suffix == ".eaf":
        content = re.sub(rb' DATE="[^"]*"', b"", content)
    elif path.suffix == ".jsonl":
        content = b"\n".join(plain_json(json.loads(line)) for line in content.splitlines())
    return hashlib.sha256(content).hexdigest()


def sweep_state(out: Path) -> dict[str, str]:
    """Returns how many trials count; the best run must load. A killed trial is lost, so that others are drawn."""
    with (out / "trials.csv").open(newline="", encoding="utf-8") as file:
        states = [row["state"] for row in csv.DictReader(file)]
    load_run(out / "best")
    return {"trials that count": str(sum(state in ("complete", "pruned") for state in states))}


def plain_json(value: Any) -> bytes:
    """Returns a JSON value as text, with keys in order and without measured times."""

    def kept(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: kept(each) for key, each in part.items() if key not in MEASURED}
        return [kept(each) for each in part] if isinstance(part, list) else part

    return json.dumps(kept(value), sort_keys=True).encode()


TRAIN = ("--labels", "labels", "--config", "tiny.yaml", "--device", "cpu")
OUTS = {"zarr": "c.zarr", "HDF5 folder": "c.h5", "Icechunk": "icechunk://c"}
COPIES = {
    "zarr": ("d.zarr", "bytes"),
    "HDF5 file": ("d.h5", "bytes"),
    "pack": ("d.zarr.zip", "content"),
    "packs": ("d.packs", "content"),
    "Icechunk": ("icechunk://d", "content"),
}


def _by(store: str) -> str:
    return "content" if store == "Icechunk" else "bytes"


CASES = [
    *(
        Case(
            "extract",
            store,
            ("extract", "media", "--out", out, "--audio", "logmel", "--device", "cpu"),
            ("media",),
            out,
            _by(store),
        )
        for store, out in OUTS.items()
    ),
    *(
        Case(
            "import",
            store,
            ("cache", "import", "features", "--stream", "visual/face", "--hz", "25", "--out", out),
            ("features",),
            out,
            _by(store),
        )
        for store, out in OUTS.items()
    ),
    *(
        Case("copy", store, ("cache", "copy", "cache.zarr", out), ("cache.zarr",), out, by)
        for store, (out, by) in COPIES.items()
    ),
    Case("repair", "zarr", ("cache", "repair", "damaged.zarr"), ("damaged.zarr",), "damaged.zarr"),
    Case("repair", "HDF5 folder", ("cache", "repair", "damaged.h5"), ("damaged.h5",), "damaged.h5"),
    Case("gc", "zarr", ("cache", "gc", "old.zarr"), ("old.zarr",), "old.zarr"),
    Case("gc", "HDF5 folder", ("cache", "gc", "old.h5"), ("old.h5",), "old.h5"),
    Case(
        "train",
        "run",
        ("train", "cache.zarr", *TRAIN, "--out", "run", "--resume"),
        ("cache.zarr", "labels", "tiny.yaml"),
        "run",
        is_cache=False,
    ),
    Case(
        "compare",
        "runs",
        ("compare", "cache.zarr", *TRAIN, "--variants", "concat,late", "--seeds", "1", "--jobs", "1", "--out", "runs"),
        ("cache.zarr", "labels", "tiny.yaml"),
        "runs",
        is_cache=False,
    ),
    Case(
        "sweep",
        "runs",
        ("sweep", "cache.zarr", *TRAIN, "--space", "space.yaml", "--trials", "3", "--jobs", "1", "--out", "sweep"),
        ("cache.zarr", "labels", "tiny.yaml", "space.yaml"),
        "sweep",
        is_cache=False,
        compared_by="finished trials",
    ),
    Case(
        "predict",
        "CSV, ELAN, WebVTT",
        (
            "predict",
            "trained",
            "cache.zarr",
            "--out",
            "p",
            "--format",
            "csv",
            "--format",
            "eaf",
            "--format",
            "vtt",
            "--device",
            "cpu",
        ),
        ("cache.zarr", "labels", "trained"),
        "p",
        is_cache=False,
    ),
    Case(
        "predict --watch",
        "CSV",
        ("predict", "listener", "--watch", "media", "--out", "p", "--device", "cpu"),
        ("media", "listener", "voice.zarr", "said"),
        "p",
        codes=(0, 143),
        is_cache=False,
        most_kills=2,
    ),
    Case(
        "report",
        "HTML",
        ("report", "trained", "--out", "report.html", "--device", "cpu"),
        ("cache.zarr", "labels", "trained"),
        "report.html",
        is_cache=False,
    ),
    Case(
        "export",
        "model",
        ("export", "trained", "--out", "model"),
        ("cache.zarr", "labels", "trained"),
        "model",
        is_cache=False,
    ),
    Case(
        "cache export",
        "npy",
        ("cache", "export", "cache.zarr", "--stream", "visual/face", "--out", "npy"),
        ("cache.zarr",),
        "npy",
        is_cache=False,
    ),
]


def make_material(folder: Path) -> None:
    """Writes all that the cases begin with: recordings, features, labels, caches and a trained run."""
    from sage_va.tests.media import tone, write_media

    folder.mkdir(parents=True)
    (folder / "features").mkdir()
    for number in range(NUM_RECORDINGS):
        write_media(folder / "media" / f"talk{number}.wav", audio=tone(0.6 + 0.2 * number, seed=number))
        np.save(folder / "features" / f"clip{number}.npy", np.random.default_rng(number).standard_normal((50, 8)))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny(**SETTINGS)), encoding="utf-8")
    space = {"train.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}, "model.variant": ["concat", "late"]}
    (folder / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    cache, labels = make_cache(folder, num_clips=8, seconds=2.4, weights="random")
    train(cache, labels, folder / "trained", check_config(tiny(**SETTINGS), "tiny"))
    _make_damaged(folder)
    _make_old(folder)
    _make_listener(folder)


def _make_damaged(folder: Path) -> None:
    """Copies of the cache with a changed byte in each of two entries."""
    for layout in ("zarr", "h5"):
        open_store(folder / f"damaged.{layout}", "a", licence="test")
        copy(f"{folder}/cache.zarr", f"{folder}/damaged.{layout}")
        files = sorted(path for path in (folder / f"damaged.{layout}").rglob("*") if _holds_values(path))
        for path in (files[0], files[-1]):
            content = bytearray(path.read_bytes())
            content[-7] ^= 4
            path.write_bytes(bytes(content))


def _holds_values(path: Path) -> bool:
    in_hdf5 = path.suffix == ".h5" and path.name != "index.h5"
    return path.is_file() and (in_hdf5 or {"values", "c"} <= set(path.parts))


def _make_old(folder: Path) -> None:
    """Caches with streams that no alias points to any longer."""
    for weights in ("older", "newer"):
        make_cache(folder / "old", num_clips=4, seconds=1.0, weights=weights)
    (folder / "old" / "cache.zarr").rename(folder / "old.zarr")
    open_store(folder / "old.h5", "a", licence="test")
    copy(f"{folder}/old.zarr", f"{folder}/old.h5")


def _make_listener(folder: Path) -> None:
    """A model of audio features that need no weights, for recordings."""
    words = [
        "extract",
        str(folder / "media"),
        "--out",
        str(folder / "voice.zarr"),
        "--audio",
        "logmel",
        "--device",
        "cpu",
    ]
    with contextlib.suppress(SystemExit):
        main(words, standalone_mode=False)
    (folder / "said").mkdir()
    for number in range(NUM_RECORDINGS):
        write_labels(folder / "said" / f"talk{number}.csv", *latent(np.random.default_rng(number), 1.0), hz=25.0)
    small = {"train": {"epochs": 1}, "model": {**SETTINGS["model"], "variant": "audio"}, "split": {"by": "clip"}}
    train(folder / "voice.zarr", folder / "said", folder / "listener", check_config(tiny(**small), "tiny"))
