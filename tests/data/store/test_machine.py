"""Every store that can be written against a dictionary: whatever is done to it, in whatever order, they agree."""

import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from sage_va.data import Clip, InputError, Store, open_store, stream_name
from sage_va.testing import SHA, make_track, problems, same

FINGERPRINTS = {
    stream_name(f["modality"], "toy", f): f
    for f in ({"modality": "visual"}, {"modality": "visual", "layer": 3}, {"modality": "audio"})
}
CLIPS = st.sampled_from(["a", "b/ü #1", "long/" + "x" * 300])
STREAMS = st.sampled_from(sorted(FINGERPRINTS))
SEEDS = st.integers(1, 9)
MEDIA = st.sampled_from([SHA, "6" * 64])
FORMS = {"zarr": "{}.zarr", "h5": "{}.h5", "icechunk": "icechunk://{}"}


class Model:
    """The content of a cache: seed and medium of each entry, and the stream of each alias."""

    def __init__(self) -> None:
        self.entries, self.aliases = dict[tuple[str, str], tuple[int, str]](), dict[str, str]()

    def streams(self, clip_id: str | None = None) -> list[str]:
        return sorted({stream for clip, stream in self.entries if clip_id in (None, clip)})

    def clip_ids(self, stream: str | None = None) -> list[str]:
        return sorted({clip for clip, name in self.entries if stream in (None, name)})


class CacheMachine(RuleBasedStateMachine):
    """A cache and its model, and another one to copy into."""

    FORM: ClassVar[str]

    @initialize()
    def create(self) -> None:
        memory = "/dev/shm"
        self.folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
        self.url = FORMS[self.FORM].format(self.folder / "cache")
        self.store, self.model, self.pointed = open_store(self.url, "a"), Model(), set[str]()
        self.other, self.other_model = open_store(self.folder / "other.zarr", "a"), Model()

    def put(self, store: Store, clip_id: str, stream: str, seed: int, medium: str, overwrite: bool = False) -> None:
        fingerprint = FINGERPRINTS[stream]
        track = make_track(seed)
        store.commit(Clip(clip_id), stream, track, fingerprint=fingerprint, source_sha256=medium, overwrite=overwrite)

    def now_has(self, clip_id: str, stream: str, seed: int, medium: str) -> None:
        self.model.entries[clip_id, stream] = seed, medium
        if stream not in self.pointed:
            self.model.aliases[stream[:-9]] = stream
            self.pointed.add(stream)

    @rule(clip_id=CLIPS, stream=STREAMS, seed=SEEDS, medium=MEDIA)
    def commit(self, clip_id: str, stream: str, seed: int, medium: str) -> None:
        known = self.model.entries.get((clip_id, stream))
        if known and known[1] != medium:
            with pytest.raises(InputError, match="got a file with other bytes"):
                self.put(self.store, clip_id, stream, seed, medium)
        else:
            self.put(self.store, clip_id, stream, seed, medium)
            if not known:
                self.now_has(clip_id, stream, seed, medium)

    @rule(clip_id=CLIPS, stream=STREAMS, seed=SEEDS, medium=MEDIA)
    def overwrite(self, clip_id: str, stream: str, seed: int, medium: str) -> None:
        self.put(self.store, clip_id, stream, seed, medium, overwrite=True)
        self.now_has(clip_id, stream, seed, medium)

    @rule(clip_id=CLIPS, stream=STREAMS)
    def discard(self, clip_id: str, stream: str) -> None:
        self.store.discard(clip_id, stream)
        self.model.entries.pop((clip_id, stream), None)

    @rule(stream=STREAMS, name=st.sampled_from(["toy", "best", "Ü b.2"]))
    def point(self, stream: str, name: str) -> None:
        alias = f"{stream.split('/')[0]}/{name}"
        self.store.point(stream, alias)
        self.model.aliases[alias] = stream

    @rule()
    def reopen(self) -> None:
        self.store.finish()
        self.store, self.pointed = open_store(self.url, "a"), set()

    @rule()
    def sweep(self) -> None:
        done = self.store.sweep()
        assert [line for line in done if line != "made index.h5 anew"] == []
        assert self.store.leftovers() == []

    @rule()
    def verify(self) -> None:
        checked = [(clip_id, stream) for clip_id, stream, problem in self.store.verify() if not problem]
        assert sorted(checked) == sorted(self.model.entries)

    @rule(part=st.sets(st.tuples(CLIPS, STREAMS), max_size=4))
    def copy(self, part: set[tuple[str, str]]) -> None:
        pairs = sorted(part & self.model.entries.keys() - self.other_model.entries.keys())
        moved = list(self.other.add(self.store.entry(*pair) for pair in pairs))
        assert [(entry.clip_id, entry.stream) for entry in moved] == pairs
        for pair in pairs:
            self.other_model.entries[pair] = self.model.entries[pair]
            self.other_model.aliases.setdefault(pair[1][:-9], pair[1])

    @rule()
    def copy_back(self) -> None:
        """Entries that are there stay; others come in, with an alias only where there is none."""
        list(self.store.add(self.other.entry(*pair) for pair in sorted(self.other_model.entries)))
        for pair in sorted(self.other_model.entries):
            self.model.entries.setdefault(pair, self.other_model.entries[pair])
            self.model.aliases.setdefault(pair[1][:-9], pair[1])

    @rule(clip_id=CLIPS, stream=STREAMS)
    def read(self, clip_id: str, stream: str) -> None:
        for store in (self.store, open_store(self.url)):
            if (clip_id, stream) in self.model.entries:
                assert same(store.read(clip_id, stream), make_track(self.model.entries[clip_id, stream][0]))
            else:
                with pytest.raises(InputError, match="expected a committed stream, got none"):
                    store.read(clip_id, stream)

    @invariant()
    def they_agree(self) -> None:
        for store, model in (
            (self.store, self.model),
            (open_store(self.url), self.model),
            (self.other, self.other_model),
        ):
            assert store.streams() == model.streams()
            assert store.clip_ids() == model.clip_ids()
            assert store.aliases() == dict(sorted(model.aliases.items()))
            for stream in FINGERPRINTS:
                assert store.clip_ids(stream) == model.clip_ids(stream)
            for clip_id in model.clip_ids():
                assert store.streams(clip_id) == model.streams(clip_id)
                assert store.clip(clip_id) == Clip(clip_id)

    @invariant()
    def what_is_there_is_known(self) -> None:
        for (clip_id, stream), (_, medium) in self.model.entries.items():
            assert self.store.has(clip_id, stream, medium)
            assert self.store.resolve(stream) == stream
        for alias, stream in self.model.aliases.items():
            if stream in self.model.streams():
                assert self.store.resolve(alias) == stream

    def teardown(self) -> None:
        """The content is that of a cache into which the same was put at once."""
        again = open_store(self.folder / "again.zarr", "a")
        for (clip_id, stream), (seed, medium) in self.model.entries.items():
            self.put(again, clip_id, stream, seed, medium)
        assert self.store.content_sha256() == again.content_sha256()
        assert problems(self.store) == problems(self.other) == []
        shutil.rmtree(self.folder)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize(("examples", "steps"), [(10, 15), pytest.param(60, 30, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("form", FORMS)
def test_a_store_is_a_dictionary(form: str, examples: int, steps: int) -> None:
    if form == "icechunk" and not (find_spec("icechunk") and find_spec("sage_va.data.store.icechunk_store")):
        pytest.skip("no Icechunk here")
    machine = type("Machine", (CacheMachine,), {"FORM": form})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=steps))
