"""Features relative to the subject, the clip, or the clip so far: what the numbers are, and what they depend on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_va.data import Clip, FrameClock, Store, Track, open_store, stream_name
from sage_va.data.windows.corpus import Corpus
from sage_va.data.windows.load import choose_streams, load_corpus, normaliser_of, read_clips
from sage_va.data.windows.memmap_cache import mapped_folder
from sage_va.data.windows.normalise import RunningMean, StepMoments, less_running_mean, standardised

FINGERPRINT = {"encoder": {"name": "drawn", "modality": "visual"}}
STREAM = stream_name("visual", "drawn", FINGERPRINT)
SUBJECTS = {"a": "ann", "b": "ann", "c": "bob", "d": None}


def values_of(clip_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Values around 100 (one column does not vary), and a mask with gaps."""
    rng = np.random.default_rng(ord(clip_id))
    values = np.column_stack([100 + rng.normal(ord(clip_id), 3, (50, 3)), np.full(50, 7)])
    return values.astype(np.float16), rng.random(50) < 0.8


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SAGE_VA_CACHE", str(tmp_path / "home"))
    store = open_store(tmp_path / "c.zarr", "a")
    for clip_id, subject in SUBJECTS.items():
        add(store, clip_id, subject, *values_of(clip_id))
    return store


def add(store: Store, clip_id: str, subject: str | None, values: np.ndarray, mask: np.ndarray) -> None:
    clock = FrameClock.regular(25, len(values))
    clip = Clip(clip_id, subject, len(values) / 25, clock)
    store.commit(clip, STREAM, Track.of(values, clock.times_s, mask), fingerprint=FINGERPRINT, source_sha256=clip_id)


def load(store: Store, kind: str, clip_ids: Any = "abcd", **options: Any) -> Corpus:
    import dataclasses

    streams = [dataclasses.replace(stream, normalise=kind) for stream in choose_streams(store, ["visual"])]
    return load_corpus(store, streams, list(clip_ids), grid_hz=25, **options)


def valid(clip_id: str) -> np.ndarray:
    values, mask = values_of(clip_id)
    return values[mask].astype(np.float64)


def of_clip(corpus: Corpus, index: int) -> np.ndarray:
    steps = corpus.steps(index)
    values, mask = corpus.values[0][steps].numpy(), corpus.mask[steps, 0].numpy()
    assert not values[~mask].any()
    return values[mask]


@pytest.mark.parametrize("keep", [True, False])
def test_each_kind_uses_its_own_statistics(store: Store, keep: bool) -> None:
    clip, subject, causal, training = (
        load(store, kind, keep=keep) for kind in ("clip", "subject", "causal", "training")
    )
    ann = np.concatenate([valid("a"), valid("b")])
    for index, clip_id in enumerate("abcd"):
        x = valid(clip_id)
        scale = np.where(x.std(0) > 0, x.std(0), 1)
        np.testing.assert_allclose(of_clip(clip, index), (x - x.mean(0)) / scale, atol=1e-5)
        of_ann = (x - ann.mean(0)) / np.where(ann.std(0) > 0, ann.std(0), 1)
        expected = of_ann if clip_id in "ab" else (x - x.mean(0)) / scale  # bob has one clip, d no subject
        np.testing.assert_allclose(of_clip(subject, index), expected, atol=1e-5)
        running = np.stack([x[t] - x[: t + 1].mean(0) for t in range(len(x))])
        np.testing.assert_allclose(of_clip(causal, index), running, atol=1e-4)
        assert (of_clip(training, index) == valid(clip_id)).all()
    assert (str(training.values[0].dtype), str(clip.values[0].dtype)) == ("torch.float16", "torch.float32")


def test_what_is_constant_for_a_person_plays_no_part(store: Store, tmp_path: Path) -> None:
    """Another offset and scale for each subject gives the same normalised features; for `causal`, another offset."""
    other = open_store(tmp_path / "other.zarr", "a")
    offsets = {"a": 50.0, "b": 50.0, "c": 100.0, "d": -80.0}  # a and b show one person
    for clip_id, subject in SUBJECTS.items():
        values, mask = values_of(clip_id)
        scale = 1 if clip_id in "ab" else 4  # causal keeps the scale
        changed = (scale * values.astype(np.float32) + offsets[clip_id]).astype(np.float32)
        add(other, clip_id, subject, changed, mask)
    for kind in ("clip", "subject"):
        for index in range(4):
            one, two = (of_clip(load(place, kind), index) for place in (store, other))
            np.testing.assert_allclose(one, two, atol=1e-4)
    for index in range(2):
        one, two = (of_clip(load(place, "causal"), index) for place in (store, other))
        np.testing.assert_allclose(one, two, atol=1e-4)


def test_a_clip_alone_gets_the_statistics_of_its_subject_from_the_cache(store: Store) -> None:
    together = load(store, "subject")
    (alone,) = (load(store, "subject", "b", keep=False),)
    assert (of_clip(alone, 0) == of_clip(together, 1)).all()


def test_the_memory_mapped_cache_holds_each_kind_by_itself_and_follows_the_subject(store: Store) -> None:
    for kind in ("training", "clip", "subject", "causal", "subject"):
        load(store, kind)
    entries = [path for path in mapped_folder().iterdir() if (path / "meta.json").exists()]
    assert len(entries) == 4
    before = of_clip(load(store, "subject", "ab"), 0)
    add(store, "e", "ann", *values_of("e"))  # another clip of ann
    after = of_clip(load(store, "subject", "ab"), 0)
    assert not np.allclose(before, after)


def test_a_shared_normaliser_reads_each_clip_of_a_subject_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    reads: list[str] = []
    entry = Store.entry
    monkeypatch.setattr(
        Store, "entry", lambda self, clip_id, *rest: (reads.append(clip_id), entry(self, clip_id, *rest))[1]
    )
    streams = [dataclasses.replace(stream, normalise="subject") for stream in choose_streams(store, ["visual"])]
    normaliser = normaliser_of(store, streams, 25)
    for clip_id in "ab":
        load_corpus(store, streams, [clip_id], grid_hz=25, keep=False, normaliser=normaliser)
    assert sorted(reads) == ["a", "a", "b", "b"]  # once for the subject, once for the clip


@given(st.integers(0, 60), st.integers(1, 60), st.integers(0, 2**32))
@settings(max_examples=30)
def test_moments_of_parts_are_those_of_the_whole(cut: int, length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, mask = 1000 + rng.standard_normal((length, 3)), rng.random(length) < 0.7
    whole = StepMoments.of(x, mask)
    parts = StepMoments.of(x[:cut], mask[:cut]).with_(StepMoments.of(x[cut:], mask[cut:]))
    assert parts.n == whole.n == mask.sum()
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-9)
    np.testing.assert_allclose(parts.squares, whole.squares, atol=1e-6)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32))
@settings(max_examples=30)
def test_a_running_mean_looks_at_no_later_step_and_goes_step_by_step(length: int, dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, mask = rng.standard_normal((length, dim)).astype(np.float32), rng.random(length) < 0.7
    whole, cut = less_running_mean(x, mask), int(rng.integers(length)) + 1
    assert (less_running_mean(x[:cut], mask[:cut]) == whole[:cut]).all()
    mean = RunningMean()
    steps = np.stack([mean.subtract(one) if good else np.zeros(dim) for one, good in zip(x, mask, strict=True)])
    np.testing.assert_allclose(steps, whole, atol=1e-6)


def test_a_clip_without_a_valid_step_stays_empty() -> None:
    x, none = np.ones((4, 2), np.float16), np.zeros(4, bool)
    for out in (standardised(x, none, StepMoments.of(x, none)), less_running_mean(x, none)):
        assert (out == 0).all()


def test_records_are_read_for_subjects_only_where_they_decide(store: Store) -> None:
    clips = read_clips(store, ["a", "d"])
    streams = choose_streams(store, ["visual"])
    assert normaliser_of(store, streams, 25).identity(clips[0]) == []
