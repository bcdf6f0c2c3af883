"""From cached Tracks to windows: one grid for streams of different rates, nothing leaks, every step is covered."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sage_va.data import Clip, DamagedError, FrameClock, InputError, Store, Track, open_store, stream_name
from sage_va.data.labels import Truth
from sage_va.data.windows import corpus as module
from sage_va.data.windows.corpus import Corpus, cut, plan_windows, window_starts
from sage_va.data.windows.load import choose_streams, load_corpus
from sage_va.data.windows.to_grid import CachedClip, clip_on_grid
from sage_va.tests.synthetic import random_corpus, streams_of


def commit(
    store: Store, clip_id: str, stream: str, track: Track, clock: FrameClock | None = None, **fingerprint: Any
) -> str:
    modality, alias = stream.split("/")
    fingerprint = {"modality": modality, "encoder": {"name": alias}, **fingerprint}
    name = stream_name(modality, alias, fingerprint)
    store.commit(Clip(clip_id, clock=clock), name, track, fingerprint=fingerprint, source_sha256="5")
    return name


def constant(value: float, times_s: np.ndarray, dim: int, dtype: Any = np.float16) -> Track:
    score = np.full(len(times_s), value, np.float32)
    return Track.of(np.full((len(times_s), dim), value, dtype), times_s, None, {"score": ("1", score)})


@pytest.fixture(autouse=True)
def _empty_user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forms are shared by content: without this, one test would find what another has made."""
    monkeypatch.setenv("SAGE_VA_CACHE", str(tmp_path / "user"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Clip k holds k + 1 everywhere; faces at 25 Hz, sound at 50 Hz, the sound of clip 1 a second late and longer."""
    store = open_store(tmp_path / "c.zarr", "a")
    for k, (start_s, sound_s) in enumerate([(0.0, 4.0), (1.0, 6.0), (0.0, 0.5)]):
        commit(store, f"clip{k}", "visual/face", constant(k + 1, np.arange(0, 4 if k < 2 else 0.5, 0.04), 3))
        heard_s = start_s + 0.0125 + np.arange(0, sound_s, 0.02)
        commit(store, f"clip{k}", "audio/voice", constant(k + 1, heard_s, 2, np.float32))
    return store


def load(store: Store, names: tuple[str, ...] = ("visual", "audio"), **options: Any) -> Corpus:
    return load_corpus(store, choose_streams(store, names), store.clip_ids(), **{"grid_hz": 25.0, **options})


class TestStarts:
    @given(st.integers(1, 500), st.integers(1, 100), st.data())
    def test_every_step_is_covered(self, num_steps: int, window: int, data: st.DataObject) -> None:
        hop = data.draw(st.integers(1, window))
        jitter = data.draw(st.integers(0, hop - 1))
        starts = window_starts(num_steps, window, hop, jitter)
        covered = np.zeros(max(num_steps, window), bool)
        for start in starts:
            covered[start : start + window] = True
        assert covered.all()
        assert (np.diff(starts) > 0).all()
        assert (np.diff(starts) <= hop).all()
        assert starts[0] == 0
        assert starts[-1] == max(0, num_steps - window)

    def test_examples(self) -> None:
        assert window_starts(10, 4, 2).tolist() == [0, 2, 4, 6]
        assert window_starts(11, 4, 3).tolist() == [0, 3, 6, 7]
        assert window_starts(11, 4, 3, jitter=2).tolist() == [0, 2, 5, 7]
        assert window_starts(3, 4, 2).tolist() == [0]


class TestCorpus:
    def test_streams_of_different_rates_meet_on_one_grid(self, store: Store) -> None:
        corpus = load(store)
        assert [stream.label for stream in corpus.streams] == ["visual", "audio"]
        assert [(s.dim, s.quality_names) for s in corpus.streams] == [(3, ("score",)), (2, ("score",))]
        assert [grid.first_step for grid in corpus.grids] == [0, 0, 0]
        assert [grid.num_steps for grid in corpus.grids] == [101, 176, 13]
        visual_mask, audio_mask = corpus.mask[corpus.steps(1)].T
        assert visual_mask.tolist() == [True] * 100 + [False] * 76
        assert audio_mask.tolist() == [False] * 25 + [True] * 151
        assert corpus.num_steps == len(corpus.mask) == len(corpus.values[0]) == len(corpus.va) == 290

    def test_nothing_leaks_over_the_borders_of_clips(self, store: Store) -> None:
        corpus = load(store)
        for k in range(3):
            for m in range(2):
                steps = corpus.steps(k)
                valid = corpus.mask[steps, m]
                assert (corpus.values[m][steps][valid] == k + 1).all()
                assert (corpus.values[m][steps][~valid] == 0).all()
                assert (corpus.quality[m][steps][valid] == k + 1).all()
        windows = cut(corpus, plan_windows(corpus, [0, 1, 2], 40, 13), 40)
        for b in range(len(windows.steps)):
            contents = [windows.values[m][b][windows.mask[b, :, m]].flatten().tolist() for m in range(2)]
            assert len({value for values in contents for value in values}) == 1

    def test_types_and_blanks(self, store: Store) -> None:
        corpus = load(store)
        assert [values.dtype for values in corpus.values] == [torch.float16, torch.float32]
        assert corpus.truths == [None, None, None]
        assert not corpus.va_mask.any()
        assert all(torch.isfinite(values).all() for values in corpus.values)

    def test_masked_frames_stay_masked(self, tmp_path: Path) -> None:
        store = open_store(tmp_path / "m.zarr", "a")
        mask = np.ones(50, bool)
        mask[10:20] = False
        score = np.where(mask, 0.5, np.nan)
        values = np.ones((50, 2), np.float16)
        commit(store, "a", "visual/face", Track.of(values, np.arange(50) / 25, mask, {"score": ("1", score)}))
        corpus = load(store, ("visual",))
        assert torch.equal(corpus.mask[:, 0], torch.from_numpy(mask))
        assert (corpus.values[0][10:20] == 0).all()
        np.testing.assert_array_equal(corpus.quality[0][:, 0].numpy(), score.astype(np.float32))

    def test_what_was_not_measured_does_not_dilute_what_was(self, tmp_path: Path) -> None:
        store = open_store(tmp_path / "q.zarr", "a")
        score = np.where(np.arange(100) % 2, np.nan, 0.8)
        track = Track.of(np.ones((100, 1), np.float16), np.arange(100) / 50, None, {"score": ("1", score)})
        commit(store, "a", "audio/voice", track)
        assert torch.allclose(load(store, ("audio",)).quality[0][:-1], torch.tensor(0.8))

    def test_the_choice_of_streams_never_moves_the_grid(self, store: Store) -> None:
        """Sound that goes on after the last frame has no label to stand beside."""
        clock = FrameClock(Fraction(1, 25), np.arange(100))
        commit(store, "long", "visual/face", constant(1, np.arange(100) / 25, 3), clock)
        commit(store, "long", "audio/voice", constant(1, np.arange(300) / 50, 2, np.float32), clock)
        grids = [
            load_corpus(store, choose_streams(store, names), ["long"], grid_hz=25).grids
            for names in (("visual",), ("audio",), ("visual", "audio"))
        ]
        assert grids[0] == grids[1] == grids[2]
        assert grids[0][0].num_steps == 100

    def test_labels_are_put_on_the_grid(self, store: Store) -> None:
        times = np.arange(0, 2, 1 / 30)
        va = np.full((60, 2), [0.25, -0.5], np.float32)
        mask = times < 1
        va[~mask] = -5
        truth = Truth(times, va, mask)
        corpus = load(store, truths={"clip1": truth})
        counted = corpus.va_mask[corpus.steps(1)]
        assert counted.nonzero()[:, 0].tolist() == list(range(25))
        assert torch.allclose(corpus.va[corpus.steps(1)][counted], torch.tensor([0.25, -0.5]))
        assert (corpus.va[~corpus.va_mask] == 0).all()
        assert corpus.truths == [None, truth, None]

    def test_only_some_streams(self, store: Store) -> None:
        corpus = load(store).only([1])
        assert [stream.modality for stream in corpus.streams] == ["audio"]
        assert corpus.mask.shape == (290, 1)
        assert corpus.find(["clip2", "clip0"]) == [2, 0]
        moved = corpus.to(torch.device("cpu"))
        assert torch.equal(moved.mask, corpus.mask)

    def test_another_fingerprint_is_refused(self, store: Store) -> None:
        visual, audio = choose_streams(store, ["visual", "audio"])
        other = replace(visual, fingerprint={**visual.fingerprint, "layer": 2})
        text = rf"{visual.name}: expected features with fingerprint \w{{8}}, got {visual.name[-8:]}\. Extract with the"
        with pytest.raises(InputError, match=text):
            load_corpus(store, [other, audio], ["clip0"], grid_hz=25)

    def test_clips_of_another_form_are_refused(self, store: Store) -> None:
        times = np.arange(3.0)
        commit(store, "clip3", "audio/voice", constant(1, times, 2, np.float32))
        wide = commit(store, "clip3", "visual/face", constant(1, times, 4))
        text = rf"clip3 {wide}: expected float16 values of 3 dimensions, quality score, got float16 values of 4 dim"
        with pytest.raises(InputError, match=text):
            load(store)
        commit(store, "clip4", "audio/voice", constant(1, times, 2, np.float32))
        commit(store, "clip4", "visual/face", Track.of(np.ones((3, 3), np.float32), times))
        text = r"clip4 .*, got float32 values of 3 dimensions, quality none\. Extract or import all clips of a stream"
        with pytest.raises(InputError, match=text):
            load_corpus(store, choose_streams(store, ["visual", "audio"]), ["clip0", "clip4"], grid_hz=25)

    def test_a_missing_stream_is_refused(self, store: Store) -> None:
        commit(store, "clip3", "visual/face", constant(1, np.arange(3.0), 3))
        with pytest.raises(InputError, match=r"clip3 audio/voice-\w+: expected a committed stream, got none"):
            load(store)
        with pytest.raises(InputError, match="expected clips to load, got none"):
            load_corpus(store, choose_streams(store, ["visual"]), [], grid_hz=25)

    def test_a_damaged_stream_is_refused(self, store: Store) -> None:
        name = store.resolve("visual")
        path = Path(store.url) / name / "clip1/values/c/0/0"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        with pytest.raises(DamagedError, match=f"clip1 {name}"):
            load(store)


class TestLabels:
    def test_one_stream_twice_is_refused(self, store: Store) -> None:
        with pytest.raises(InputError, match=r"streams: expected different streams, got .*\. Name each stream once"):
            choose_streams(store, ["visual", "visual/face"])

    def test_labels_tell_streams_apart(self, store: Store) -> None:
        times = np.arange(3.0)
        body = commit(store, "clip0", "visual/body", constant(1, times, 2))
        face = store.resolve("visual/face")
        other = commit(store, "clip0", "visual/face", constant(1, times, 2), layer=2)
        assert [s.label for s in choose_streams(store, [body, face, "audio"])] == ["body", "face", "audio"]
        assert [s.label for s in choose_streams(store, [other, face, body])] == [other, face, "body"]


class TestCut:
    def test_a_window_is_a_slice(self, store: Store) -> None:
        corpus = load(store)
        plan = plan_windows(corpus, [1, 0], 30, 20)
        windows = cut(corpus, plan, 30)
        assert windows.mask.shape == (len(plan), 30, 2)
        assert windows.inside.all()
        for b, (start, end) in enumerate(plan):
            assert start + 30 <= end
            assert torch.equal(windows.values[0][b], corpus.values[0][start : start + 30])
            assert torch.equal(windows.mask[b], corpus.mask[start : start + 30])
            assert windows.steps[b].tolist() == list(range(start, start + 30))
        assert {int(row[1]) for row in plan} == {int(corpus.offsets[1]), int(corpus.offsets[2])}

    def test_a_short_clip_is_padded_and_padding_counts_for_nothing(self, store: Store) -> None:
        truth = Truth(np.arange(13) / 25, np.zeros((13, 2), np.float32), np.ones(13, bool))
        corpus = load(store, truths={"clip2": truth})
        windows = cut(corpus, plan_windows(corpus, [2], 30, 20), 30)
        assert windows.inside.tolist() == [[True] * 13 + [False] * 17]
        assert not windows.mask[0, 13:].any()
        assert windows.va_mask.tolist() == windows.inside.tolist()
        assert windows.steps.max() == corpus.num_steps - 1

    @given(
        st.lists(st.integers(1, 30), min_size=1, max_size=5),
        st.integers(1, 40),
        st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
        st.integers(0, 2),
        st.sampled_from([0, module.HUGE_BYTES]),
    )
    def test_slices_are_what_gathering_gives(
        self, lengths: list[int], window: int, dtype: torch.dtype, num_signals: int, huge_bytes: int
    ) -> None:
        corpus = random_corpus(streams_of((4, 3), (num_signals, 0)), lengths)
        corpus = replace(corpus, values=[values.to(dtype) for values in corpus.values])
        plan = plan_windows(corpus, range(len(lengths)), window, max(1, window // 2))
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(module, "HUGE_BYTES", huge_bytes)
            windows = cut(corpus, plan, window)
        for batch, tensors in ((windows.values, corpus.values), (windows.quality, corpus.quality)):
            for one, tensor in zip(batch, tensors, strict=True):
                assert one.dtype == tensor.dtype
                assert torch.equal(one, tensor[windows.steps])
        assert torch.equal(windows.mask, corpus.mask[windows.steps] & windows.inside[..., None])
        assert torch.equal(windows.va, corpus.va[windows.steps])
        assert torch.equal(windows.va_mask, corpus.va_mask[windows.steps] & windows.inside)
        assert (windows.inside.sum(1).numpy() == np.minimum(plan[:, 1] - plan[:, 0], window)).all()

    def test_windows_are_copies(self, store: Store) -> None:
        corpus = load(store)
        windows = cut(corpus, plan_windows(corpus, [0], 30, 20), 30)
        for tensor in (*windows.values, *windows.quality, windows.va):
            tensor.fill_(-7)
        assert not any((values == -7).any() for values in (*corpus.values, *corpus.quality, corpus.va))

    def test_jitter_follows_the_seed(self, store: Store) -> None:
        corpus = load(store)
        plans = [plan_windows(corpus, [0, 1], 40, 20, np.random.default_rng(seed)) for seed in (1, 1, 2, 3)]
        assert np.array_equal(plans[0], plans[1])
        assert not all(np.array_equal(plans[0], plan) for plan in plans[2:])
        assert plan_windows(corpus, [], 40, 20).shape == (0, 2)


def test_a_step_in_a_month_makes_no_grid_of_a_month(tmp_path: Path) -> None:
    store = open_store(tmp_path / "c.zarr", "a")
    times_s = np.array([0.0, 0.04, 0.08, 3e6])
    track = Track.of(np.ones((4, 2), np.float32), times_s, np.ones(4, bool))
    stream = stream_name("visual", "x", {"a": 1})
    store.commit(Clip("a"), stream, track, fingerprint={"a": 1}, source_sha256="0" * 64)
    message = r"a: expected features without gaps of hours, for a grid of 25 Hz, got 4 steps of features in 3e\+06 s"
    with pytest.raises(InputError, match=message):
        clip_on_grid(store, [stream], CachedClip(Clip("a"), {stream: store.record("a", stream)}), 25)
