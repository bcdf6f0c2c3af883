"""The contract that every store keeps, as tests: derive from `StoreContract` to test a store of your own.

```python
class TestMyStore(StoreContract):
    @pytest.fixture
    def opened(self, tmp_path):
        return lambda mode="a", name="cache", **terms: MyStore(tmp_path / name, mode, **terms)
```

Needs pytest and hypothesis. Nothing in the package imports this file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from .data import Clip, FrameClock, InputError, Store, Track, open_store, stream_name
from .data.store.base import in_subset
from .data.store.entry import Entry

SHA = "5" * 64
VISUAL = {"modality": "visual", "encoder": {"name": "toy"}}
AUDIO = {"modality": "audio", "encoder": {"name": "toy"}}
VISUAL_NAME, AUDIO_NAME = stream_name("visual", "toy", VISUAL), stream_name("audio", "toy", AUDIO)


def make_track(seed: int, num_frames: int = 5, dim: int = 3, dtype: Any = np.float16) -> Track:
    """Returns random features, some of them masked, with one quality signal; equal for equal arguments."""
    rng = np.random.default_rng(seed)
    mask = rng.random(num_frames) < 0.8
    score = rng.random(num_frames).astype(np.float32)
    values = rng.standard_normal((num_frames, dim)).astype(dtype)
    return Track.of(values, np.cumsum(rng.random(num_frames) + 0.01), mask, {"score": ("1", score)})


def put(store: Store, clip_id: str, modality: str = "visual", seed: int = 0, **more: Any) -> None:
    """Commits a track to a stream called `toy`.

    Args:
        seed: of `make_track`.
        more: `track`, `clip`, and keywords of `Store.commit`.
    """
    fingerprint = VISUAL if modality == "visual" else AUDIO
    more = {"fingerprint": fingerprint, "source_sha256": SHA, **more}
    clip = more.pop("clip", Clip(clip_id))
    track = more.pop("track", None) or make_track(seed)
    store.commit(clip, stream_name(modality, "toy", more["fingerprint"]), track, **more)


def same(one: Track, other: Track) -> bool:
    """True where two tracks are equal bit by bit, types and units included."""
    arrays = ("values", "times_s", "mask", "quality")
    equal = [np.array_equal(getattr(one, a), getattr(other, a), equal_nan=a != "mask") for a in arrays]
    kinds = [getattr(one, a).dtype == getattr(other, a).dtype for a in arrays]
    return all(equal) and all(kinds) and list(one.quality_units.items()) == list(other.quality_units.items())


def problems(store: Store) -> list[tuple[str, str, str]]:
    """Returns (clip_id, stream, what) of all that `verify` reports."""
    return [(p.clip_id, p.stream, p.what) for _, _, p in store.verify() if p]


@st.composite
def tracks(draw: st.DrawFn) -> Track:
    """Draws tracks of all stored types, from one frame to 1,100, with times that need not begin at 0."""
    num_frames, dim = draw(st.sampled_from([1, 2, 7, 511, 513, 1100])), draw(st.integers(1, 9))
    num_signals = draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype: Any = draw(st.sampled_from([np.float16, np.float32, ml_dtypes.bfloat16]))
    values = rng.standard_normal((num_frames, dim)).astype(dtype)
    mask = rng.random(num_frames) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    times_s = draw(st.floats(-10, 1e5)) + np.cumsum(rng.random(num_frames) + 1e-3)
    signals = {f"z{9 - q}": ("unit", np.where(rng.random(num_frames) < 0.3, np.nan, 0.5)) for q in range(num_signals)}
    return Track.of(values, times_s, mask, signals)


class StoreContract:
    """The contract of every store: what goes in comes out, the first writer of an entry wins, names and terms hold, and
    equal content has an equal hash in every layout.

    A subclass defines the fixture `opened`. What only a layout's own tests can show is not part of it: damaged bytes,
    a killed writer, several writers at once.
    """

    @pytest.fixture(autouse=True)
    def _no_waiting_for_the_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No test can cut the power, so none needs to wait for real syncs; that they are called is tested apart."""
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    @pytest.fixture
    def opened(self, tmp_path: Path) -> Callable[..., Store]:
        """A function that opens a store: of a mode ("a" by default), a name ("cache") and the terms of `open_store`."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, opened: Callable[..., Store]) -> Store:
        """An empty store, to write to."""
        return opened()

    def test_what_is_read_is_what_was_committed(self, opened: Callable[..., Store]) -> None:
        store, count = opened(), iter(range(1000))

        @given(tracks())
        @hypothesis_settings(max_examples=20)
        def check(track: Track) -> None:
            clip_id = f"clip {next(count)}"
            put(store, clip_id, track=track, report={"frames": 3})
            again = opened("r").read(clip_id, VISUAL_NAME)
            assert same(again, track)
            assert np.isnan(again.values[~again.mask]).all()
            record = store.record(clip_id, VISUAL_NAME)
            assert record["shape"] == [track.num_frames, track.dim]
            assert record["num_valid"] == track.mask.sum()
            assert record["fingerprint"] == VISUAL
            assert record["report"] == {"frames": 3}

        check()
        assert problems(store) == []

    def test_first_writer_wins(self, store: Store) -> None:
        put(store, "a", seed=1)
        put(store, "a", seed=2)
        assert same(store.read("a", VISUAL_NAME), make_track(1))

    def test_overwriting_replaces(self, store: Store) -> None:
        put(store, "a", seed=1)
        put(store, "a", seed=2, overwrite=True, source_sha256="6" * 64)
        assert same(store.read("a", VISUAL_NAME), make_track(2))
        assert store.has("a", VISUAL_NAME, "6" * 64)
        assert problems(store) == []
        assert store.leftovers() == []

    def test_entries_are_committed_together(self, opened: Callable[..., Store]) -> None:
        store = opened()
        put(store, "b", seed=5)
        facts: dict[str, Any] = {"fingerprint": VISUAL, "source_sha256": SHA}
        prepared = [store.prepare(Clip(name), VISUAL_NAME, make_track(1), **facts) for name in ("a", "b", "c")]
        assert [entry is None for entry in prepared] == [False, True, False]
        store.commit_all([entry for entry in prepared if entry])
        seeds = {"a": 1, "b": 5, "c": 1}
        assert all(same(opened("r").read(name, VISUAL_NAME), make_track(seed)) for name, seed in seeds.items())
        late = [Entry.of(Clip(name), VISUAL_NAME, make_track(2), **facts) for name in ("a", "d")]
        store.commit_all(late)
        assert same(store.read("a", VISUAL_NAME), make_track(1))
        assert same(store.read("d", VISUAL_NAME), make_track(2))
        store.commit_all(late, overwrite=True)
        assert same(store.read("a", VISUAL_NAME), make_track(2))
        assert problems(store) == []
        assert store.leftovers() == []

    def test_another_medium_under_the_same_name_is_refused(self, store: Store) -> None:
        assert not store.has("a", VISUAL_NAME, SHA)
        put(store, "a")
        assert store.has("a", VISUAL_NAME, SHA)
        text = rf"a: expected the medium that {VISUAL_NAME} was made from, got a file with other bytes\. Give the new"
        with pytest.raises(InputError, match=text):
            store.has("a", VISUAL_NAME, "0" * 64)
        with pytest.raises(InputError, match=text):
            put(store, "a", source_sha256="0" * 64)

    def test_a_discarded_entry_is_made_again(self, store: Store) -> None:
        put(store, "a", seed=1)
        put(store, "b", seed=2)
        store.discard("a", VISUAL_NAME)
        assert store.clip_ids() == ["b"]
        assert not store.has("a", VISUAL_NAME, SHA)
        assert problems(store) == []
        put(store, "a", seed=3)
        assert same(store.read("a", VISUAL_NAME), make_track(3))

    def test_an_alias_means_the_stream_that_was_extracted_last(self, store: Store) -> None:
        put(store, "a", seed=1)
        other = {**VISUAL, "layer": 3}
        put(store, "a", seed=2, fingerprint=other)
        assert store.aliases() == {"visual/toy": stream_name("visual", "toy", other)}
        assert store.resolve("visual/toy") == store.resolve("visual") == stream_name("visual", "toy", other)
        store.point(VISUAL_NAME)
        assert store.resolve("visual") == VISUAL_NAME
        store.point(stream_name("visual", "toy", other), "visual/deep")
        assert store.resolve("visual/deep") == stream_name("visual", "toy", other)
        with pytest.raises(InputError, match=r"'visual': expected the name of one stream, got 2 that match"):
            store.resolve("visual")
        with pytest.raises(InputError, match=r"alias 'audio/x': expected MODALITY/NAME of the stream"):
            store.point(VISUAL_NAME, "audio/x")
        assert problems(store) == []

    def test_entries_travel_untouched(self, opened: Callable[..., Store], tmp_path: Path) -> None:
        store = opened()
        put(store, "a", seed=1)
        put(store, "b/ü #1", "audio", seed=2)
        put(store, "x" * 300, seed=3, track=make_track(3, dtype=ml_dtypes.bfloat16))
        other = open_store(tmp_path / "other.zarr", "a")
        pairs = [(clip_id, stream) for stream in store.streams() for clip_id in store.clip_ids(stream)]
        moved = list(other.add(store.entry(*pair) for pair in pairs))
        assert [(entry.clip_id, entry.stream) for entry in moved] == pairs
        assert other.content_sha256() == store.content_sha256()
        assert other.aliases() == store.aliases()

    def test_what_is_there_stays_when_another_is_added(self, opened: Callable[..., Store]) -> None:
        store, other = opened(), opened(name="other")
        put(store, "a", seed=1)
        put(other, "a", seed=2)
        list(store.add([other.entry("a", VISUAL_NAME)]))
        assert same(store.read("a", VISUAL_NAME), make_track(1))
        assert problems(store) == []

    def test_the_terms_stay(self, opened: Callable[..., Store]) -> None:
        opened(licence="EULA", restricted=True)
        assert opened("r").root()["licence"] == "EULA"
        assert opened("r").root()["restricted"] is True
        opened(licence="EULA")
        with pytest.raises(InputError, match="expected the licence that the cache was made with, 'EULA', got 'CC0'"):
            opened(licence="CC0")
        with pytest.raises(InputError, match="expected the restricted that the cache was made with, True, got False"):
            opened(restricted=False)

    def test_a_part_can_be_verified(self, store: Store) -> None:
        for k in range(20):
            put(store, f"c{k}")
        checked = [[clip for clip, _, _ in store.verify(in_subset(f"{k}/3"))] for k in (1, 2, 3)]
        assert sorted(clip for part in checked for clip in part) == store.clip_ids()
        assert all(checked)
        assert len(list(store.verify(in_subset("100%")))) == 20

    def test_names_resolve(self, store: Store) -> None:
        put(store, "a")
        put(store, "a", "audio")
        for name in ("visual", "visual/toy", VISUAL_NAME):
            assert store.resolve(name) == VISUAL_NAME
        with pytest.raises(InputError, match=r"stream 'visual/to': expected the name of one stream, got 0 that match"):
            store.resolve("visual/to")

    def test_another_fingerprint_is_another_entry(self, store: Store) -> None:
        put(store, "a", seed=1)
        other = {**VISUAL, "layer": 3}
        put(store, "a", seed=2, fingerprint=other)
        assert len(store.streams("a")) == 2
        assert same(store.read("a", VISUAL_NAME), make_track(1))
        assert same(store.read("a", stream_name("visual", "toy", other)), make_track(2))

    def test_a_name_that_does_not_fit_its_fingerprint_is_refused(self, store: Store) -> None:
        with pytest.raises(InputError, match=r"expected <modality>/<alias>-<first 8 hex of its fingerprint>"):
            store.commit(Clip("a"), "visual/toy-00000000", make_track(0), fingerprint=VISUAL, source_sha256=SHA)

    def test_a_clip_is_what_its_streams_say(self, store: Store) -> None:
        clock = FrameClock(Fraction(1, 1000), np.array([0, 33, 67, 100]))
        clip = Clip("a", "ann", 1.5, clock, {"path": "a.mp4", "bytes": 3, "sha256": SHA})
        put(store, "a", clip=clip)
        put(store, "a", "audio", clip=Clip("a", duration_s=1.4))
        restored = store.clip("a")
        assert restored == clip
        assert restored.clock is not None
        assert np.array_equal(restored.clock.times_s, clock.times_s)
        with pytest.raises(InputError, match=r"b: expected a clip of .*, got none of that name\. See `cache ls`"):
            store.clip("b")

    def test_missing_streams_are_refused(self, store: Store) -> None:
        put(store, "a")
        with pytest.raises(InputError, match=rf"a {AUDIO_NAME}: expected a committed stream, got none\. Extract or"):
            store.read("a", AUDIO_NAME)

    def test_content_hash_depends_on_content_alone(self, opened: Callable[..., Store]) -> None:
        work = [("a", "visual"), ("a", "audio"), ("b/ü #1", "visual"), ("x" * 300, "audio")]

        def clip(modality: str, clip_id: str) -> Clip:
            return Clip(clip_id, duration_s=1.5 if modality == "visual" else 1.4)

        stores = [opened(name=f"{k}") for k in range(3)]
        for store, jobs in zip(stores, (work, work[::-1], work), strict=True):
            for clip_id, modality in jobs:
                put(store, clip_id, modality, clip=clip(modality, clip_id))
        assert len({store.content_sha256() for store in stores}) == 1
        assert stores[0].clip_ids() == sorted({clip_id for clip_id, _ in work})
        assert stores[0].clip("a") == stores[1].clip("a")
        put(stores[2], "a", seed=9, overwrite=True)
        assert stores[2].content_sha256() != stores[0].content_sha256()

    def test_what_json_cannot_hold_is_refused_before_anything_is_written(self, store: Store) -> None:
        with pytest.raises(ValueError, match="JSON"):
            put(store, "a", report={"psnr": float("nan")})
        assert store.clip_ids() == []

    @pytest.mark.parametrize("clip_id", ["", "/etc/passwd", "a/../b", "a\0b", "a\nb", "a\\b", "\udcff"])
    def test_unsafe_ids_are_refused(self, store: Store, clip_id: str) -> None:
        with pytest.raises(InputError, match="expected a relative path in UTF-8 without"):
            put(store, clip_id)
