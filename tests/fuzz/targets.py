"""Targets of fuzzing: every parser of files that others may have written, with seeds that it reads.

The promise: a parser returns, or raises InputError, and does so in bounded time. Nothing else leaves it.
"""

from __future__ import annotations

import contextlib
import json
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save as save_safetensors

from sage_va.data import Clip, InputError, open_store
from sage_va.data.clip import FrameClock
from sage_va.data.corpora.readers import read_eaf, read_trace
from sage_va.data.journal import journal_line, read_lines
from sage_va.data.labels import read_label_file
from sage_va.data.manifest import find_sources
from sage_va.data.store.entry import Entry, array_types, expected_bytes
from sage_va.data.store.record_checks import record_problem
from sage_va.data.submission import check_submission, read_sample
from sage_va.data.tensor_file import DamagedTensorsError, load_tensors
from sage_va.data.transfer.read_csv import Rules, read_csv
from sage_va.data.windows.splits import read_split
from sage_va.fusion.config import Config, load_config
from sage_va.fusion.evaluation.groups import _read as read_groups
from sage_va.fusion.experiments.search_space import load_space
from sage_va.fusion.report.curves import _curves_of, _media_of
from sage_va.fusion.report.page import embedded_json
from sage_va.fusion.run_folder import load_run
from sage_va.testing import SHA, VISUAL, VISUAL_NAME, make_track, put

CORPUS = Path(__file__).parent / "corpus"
WORDS = [
    *(b"NaN", b"inf", b"-1", b"1e999", b"9" * 400, b"0x10", b"1/0", b"-0.0", b"true", b"null", b"1_000", b"\xd9\xa1"),
    *(
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\r\n",
        b"\n",
        b"\t",
        b" ",
        b'"',
        b"'",
        b",",
        b";",
        b":",
        b"#",
    ),
    *(b"[" * 2000, b"{" * 50, b"]", b"}", b"&a ", b"*a", b"!!python/object:os.system ", b"<<: *a", b"- ", b"---\n"),
    *(b"../x", b"/etc/passwd", b"=2E", b"%s", b"\x1b[2J", b"\xe2\x80\xae", b"<!DOCTYPE x>", b"&lt;", b"__class__"),
]


@dataclass(frozen=True)
class Target:
    """One parser.

    Args:
        name: of the file that it reads.
        seeds: contents that it accepts.
        parse: reads the file.
    """

    name: str
    seeds: tuple[bytes, ...]
    parse: Callable[[Path], object]


def run(target: Target, content: bytes, folder: Path) -> None:
    """Lets a parser read a content; raises whatever breaks the promise."""
    path = folder / target.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with warnings.catch_warnings(), contextlib.suppress(InputError):
        warnings.simplefilter("ignore")
        target.parse(path)


def mutations(target: Target, seed: int) -> Iterator[bytes]:
    """Yields contents without end: seeds and saved ones, changed at a few places."""
    chance = random.Random(f"{target.name} {seed}")
    pool = [*target.seeds, *saved(target)]
    while True:
        content = bytearray(chance.choice(pool))
        for _ in range(chance.choice((1, 1, 2, 4, 8))):
            _mutate(content, chance, pool)
        yield bytes(content)


def saved(target: Target) -> list[bytes]:
    """Returns the saved corpus of a target: what once broke it, or reached code that nothing else did."""
    folder = CORPUS / target.name.replace("/", "-")
    return [path.read_bytes() for path in sorted(folder.glob("*"))] if folder.is_dir() else []


def _mutate(content: bytearray, chance: random.Random, pool: list[bytes]) -> None:
    start = chance.randint(0, len(content))
    stop = min(len(content), start + chance.choice((0, 1, 1, 2, 8, 64)))
    kind = chance.randrange(5)
    if kind == 0 and content:
        content[min(start, len(content) - 1)] ^= 1 << chance.randrange(8)
    elif kind == 1:
        content[start:stop] = b""
    elif kind == 2:
        content[start:stop] = chance.choice(WORDS)
    elif kind == 3:
        content[start:start] = content[start:stop] * chance.choice((1, 2, 100))
    else:
        other = chance.choice(pool)
        begin = chance.randint(0, len(other))
        content[start:stop] = other[begin : begin + chance.choice((1, 8, 64))]


def _record(path: Path) -> None:
    """Reads a commit record whose seal would be right: whatever passes the checks can be used."""
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    if not isinstance(record, dict) or record_problem(record):
        return
    array_types(record)
    expected_bytes(record)
    clip = Clip.from_json(record["clip"])
    assert clip.clock is None or clip.clock.pts.nbytes < 2**28, "a record of a few bytes fills the memory"


def _pack(path: Path) -> None:
    store = open_store(path)
    for clip_id in store.clip_ids():
        for stream in store.streams():
            with contextlib.suppress(InputError):
                store.read(clip_id, stream)
    list(store.verify())


def _tensors(path: Path) -> None:
    with contextlib.suppress(DamagedTensorsError):  # of which its readers make an InputError
        load_tensors(path)


def _run(path: Path) -> None:
    for name, content in _RUN.items():
        if name != path.name:
            (path.parent / name).write_bytes(content)
    load_run(path.parent)


def _submission(path: Path) -> None:
    sample = path.parent / "sample-of-it.txt"
    sample.write_bytes(SAMPLE)
    check_submission(path, read_sample(sample))


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def _record_seed() -> bytes:
    clip = Clip("a", "ann", 0.2, FrameClock.regular(25, 5), {"path": "a.mp4", "bytes": 1, "sha256": SHA})
    return _json(Entry.of(clip, VISUAL_NAME, make_track(1), fingerprint=VISUAL, source_sha256=SHA).record)


def _pack_seed() -> bytes:
    import tempfile

    from sage_va.data.transfer.copy import copy

    with tempfile.TemporaryDirectory() as folder:
        put(open_store(f"{folder}/c.zarr", "a"), "a")
        copy(f"{folder}/c.zarr", f"{folder}/c.zarr.zip")
        return Path(folder, "c.zarr.zip").read_bytes()


def _run_seed() -> dict[str, bytes]:
    import tempfile

    from sage_va.fusion.config import check_config
    from sage_va.fusion.training.train import train
    from sage_va.tests.synthetic import make_cache, tiny

    with tempfile.TemporaryDirectory() as folder:
        cache, labels = make_cache(Path(folder), num_clips=4, seconds=1.6)
        small = tiny(model={"variant": "visual", "dim": 4, "heads": 1, "tcn_blocks": 0}, train={"epochs": 1})
        train(open_store(cache), labels, Path(folder, "run"), check_config(small, "small"))
        return {path.name: path.read_bytes() for path in Path(folder, "run").iterdir() if path.is_file()}


_RUN: dict[str, bytes] = {}
MANIFEST = b"clip_id,path,subject_id,start_s,end_s,crops,fps\na,a.mp4,ann,0.5,2,,\nb,,,,,b,25\n"
LABELS = b"time_s,valence,arousal\n0,0.1,-0.2\n0.04,0.5,1\n0.08,-5,-5\n"
SAMPLE = b"image_location,valence,arousal\n1-30-1280x720/00001.jpg,0,0\n1-30-1280x720/00002.jpg,0,0\n"
CURVES = {
    "runs": [
        {
            "run": "runs/a",
            "variant": "sage",
            "strengths": [0, 1],
            "kinds": {"noise": {"means": [0.5, 0.4], "taken": True, "ccc": {"mean": [0.5, 0.4]}}},
        }
    ]
}
SCORE = {"means": [0.5], "score": {"mean": 0.5}, "difference": {"mean": {"mean": -0.1, "interval": [-0.2, 0.0]}}}
SCORES = {"runs": [{"run": "runs/a", "variant": "sage", "clean": {"mean": 0.5}, "kinds": {"babble": SCORE}}]}
EAF = b"""<?xml version="1.0"?><ANNOTATION_DOCUMENT><HEADER TIME_UNITS="milliseconds"/><TIME_ORDER>
<TIME_SLOT TIME_SLOT_ID="a" TIME_VALUE="0"/><TIME_SLOT TIME_SLOT_ID="b" TIME_VALUE="900"/></TIME_ORDER>
<TIER TIER_ID="valence"><ANNOTATION><ALIGNABLE_ANNOTATION TIME_SLOT_REF1="a" TIME_SLOT_REF2="b">
<ANNOTATION_VALUE>0.5</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>"""
SPACE = yaml.safe_dump({"model.variant": ["sage", "concat"], "train.noise": {"low": 0.0, "high": 1.0}}).encode()
JOURNAL = b"".join(
    journal_line(line) for line in ({"event": "create", "root": {}}, {"event": "commit", "clip_id": "a"})
)
TENSORS = save_safetensors({"a": torch.zeros(2, 3), "b": torch.ones(1)}, {"sha256": "0" * 64, "facts": "{}"})


def targets() -> list[Target]:
    """Returns all parsers."""
    features = b"frame,time_s,confidence,success,f_0\n1,0.0,0.9,1,0.5\n2,0.04,0.8,1,0.25\n"
    return [
        Target("manifest.csv", (MANIFEST,), lambda path: find_sources([str(path)])),
        Target(
            "manifest.jsonl",
            (b'{"clip_id": "a", "path": "a.mp4", "start_s": 1}\n',),
            lambda path: find_sources([str(path)]),
        ),
        Target("labels.csv", (LABELS,), read_label_file),
        Target("labels.txt", (b"valence,arousal\n0.1,0.2\n-5,-5\n0.3,0.4\n",), read_label_file),
        Target("features.csv", (features,), lambda path: read_csv(path, Rules(), "")),
        Target("trace.csv", (b"time;valence\n0;0.5\n40;0.25\n", LABELS), read_trace),
        Target("annotated.eaf", (EAF,), read_eaf),
        Target("split.csv", (b"clip_id,split\na,train\nb,val\nc,test\n",), read_split),
        Target(
            "groups.csv", (b"subject_id,gender,age\nann,f,30\nbob,m,40\n",), lambda path: read_groups(path, "gender")
        ),
        Target("sample.txt", (SAMPLE,), read_sample),
        Target("submission.txt", (SAMPLE,), _submission),
        Target("config.yaml", (Config().to_yaml().encode(), b"model: {variant: concat}\nseed: 1\n"), load_config),
        Target("space.yaml", (SPACE,), lambda path: load_space(path, Config())),
        Target("journal.jsonl", (JOURNAL,), lambda path: list(read_lines(path))),
        Target("record.json", (_record_seed(),), _record),
        Target("cache.zarr.zip", (_pack_seed(),), _pack),
        Target("weights.safetensors", (TENSORS,), _tensors),
        Target("robustness.json", (_json(CURVES),), lambda path: embedded_json({"rows": _curves_of(path)})),
        Target("media.json", (_json(SCORES),), lambda path: embedded_json({"rows": _media_of(path)})),
    ]


def run_targets() -> list[Target]:
    """Returns the parsers of a run's folder, which takes a training to make."""
    _RUN.update(_run_seed())
    names = ("config.json", "split.csv", "model.safetensors")
    return [Target(f"run/{name}", (_RUN[name],), _run) for name in names]
