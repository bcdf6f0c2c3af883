"""A causal model that is given a clip in chunks, or step by step, says what it says of the whole clip in one pass."""

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sage_va.data import InputError, open_store
from sage_va.data.windows.corpus import Corpus, Stream, Windows
from sage_va.fusion.config import DataConfig, ModelConfig, check_config
from sage_va.fusion.evaluation import predict as evaluate
from sage_va.fusion.evaluation.predict import Prediction, predict
from sage_va.fusion.models.attention import band
from sage_va.fusion.models.base import FusionModel, Output, VAModel
from sage_va.fusion.models.causal_cache import Memory
from sage_va.fusion.models.sage import Encoded, Fused
from sage_va.fusion.models.variants import VARIANTS, build_model, resolve, variant_streams
from sage_va.fusion.run_folder import load_run
from sage_va.fusion.streaming import LiveModel, StreamingModel
from sage_va.fusion.training.train import train
from sage_va.tests.synthetic import make_cache, random_corpus, random_windows, streams_of, tiny

torch.set_num_threads(1)
MEMORY_STEPS, LENGTH = 7, 30
PARTS: dict[str, Callable[[Output], torch.Tensor | None]] = {
    "va": lambda output: output.va,
    "unimodal": lambda output: output.unimodal,
    "weights": lambda output: output.fused.weights,
    "reliability": lambda output: output.fused.reliability,
    "stage": lambda output: output.fused.stage,
}
KINDS: dict[str, dict[str, Any]] = {
    **{name: {"variant": name} for name in VARIANTS},
    "depth": {"stage": "depth"},
    "given": {"stage": "given"},
    "deep": {"layers": 3, "tcn_blocks": 3, "tcn_kernel": 4, "separate_heads": True, "quality_input": True},
    "no past": {"variant": "xattn", "tcn_kernel": 1, "memory_steps": 1},
}


def make(streams: Sequence[Stream] | None = None, **settings: Any) -> VAModel:
    torch.manual_seed(0)
    small = {"dim": 8, "heads": 2, "tcn_blocks": 2, "layers": 1, "causal": True, "memory_steps": MEMORY_STEPS}
    config = resolve(check_config({"model": {**small, **settings}}, "test")).model
    model = build_model(variant_streams(config.variant, streams or streams_of()), config)
    with torch.no_grad():
        for parameter in model.parameters():  # far from their gentle beginning, so that what is lost would show
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def clip_of(model: VAModel, num_clips: int = 2, length: int = LENGTH) -> Windows:
    """Clips with spans in which a stream is not valid, none is, and signals are not measured."""
    windows = random_windows(model.streams, num_clips, length, valid=0.8)
    windows.mask[:, 4:15, 0] = False
    windows.mask[:, 10:12] = False
    for quality in windows.quality:
        quality[:, 3:6] = torch.nan
    return windows


def sizes(kind: str, length: int = LENGTH) -> list[int]:
    if kind == "single":
        return [1] * length
    rng, chunks = np.random.default_rng(1), []
    while sum(chunks) < length:
        chunks.append(min(int(rng.integers(1, 12)), length - sum(chunks)))
    return chunks


def in_chunks(model: VAModel, windows: Windows, lengths: Sequence[int]) -> Iterator[Output]:
    memory, first = Memory(), 0
    for length in lengths:
        chunk = windows.each(lambda tensor, a=first, b=first + length: tensor[:, a:b])
        first += length
        yield model(chunk, memory)


def assert_together(outputs: Sequence[Output], expected: Output, steps: slice = slice(None)) -> None:
    for name, part in PARTS.items():
        wanted = part(expected)
        assert (wanted is None) == (part(outputs[0]) is None)
        if wanted is not None:
            whole = torch.cat([part(output) for output in outputs], dim=1)  # type: ignore[misc]
            torch.testing.assert_close(whole[:, steps], wanted[:, steps], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_chunks_of_any_size_say_what_one_pass_says(kind: str) -> None:
    model = make(**KINDS[kind])
    windows = clip_of(model)
    whole = model(windows)
    assert whole.va.std(dim=1).min() > 1e-3  # far above the tolerance
    for lengths in (sizes("single"), sizes("random"), [LENGTH]):
        assert_together(list(in_chunks(model, windows, lengths)), whole)


@torch.no_grad()
def test_three_streams_too() -> None:
    for variant in ("sage", "xattn", "rjca", "raav"):
        model = make(streams_of((8, 6, 5), (1, 0, 2)), variant=variant)
        windows = clip_of(model)
        assert_together(list(in_chunks(model, windows, sizes("random"))), model(windows))


@torch.no_grad()
def test_a_chunk_goes_on_where_the_one_before_ended() -> None:
    """The other tests could not tell a model that forgets from one that remembers, if the past did not matter."""
    for name, kind in KINDS.items():
        model = make(**kind)
        windows = clip_of(model)
        whole = model(windows).va[:, 16:]
        forgetful = model(windows.each(lambda tensor: tensor[:, 16:])).va
        assert torch.allclose(forgetful, whole, atol=1e-5) == (name in ("linear", "no past"))


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_later_step_never_changes_an_earlier_output(variant: str) -> None:
    model = make(variant=variant)
    windows = clip_of(model)
    later = [torch.cat([v[:, :25], torch.randn_like(v[:, 25:])], 1) for v in windows.values]
    assert_together([model(dataclasses.replace(windows, values=later))], model(windows), slice(25))
    assert_together(list(in_chunks(model, windows, [13, 12])), model(windows.each(lambda tensor: tensor[:, :25])))


@pytest.mark.parametrize("kind", ["xattn", "jca", "raav", "concat", "depth"])
def test_attention_looks_back_so_many_steps_and_no_further(kind: str) -> None:
    once = {"tcn_blocks": 0, "layers": int(kind == "concat"), "num_stages": 2}
    model = make(**{**KINDS[kind], **once})
    windows = random_windows(model.streams, 1, LENGTH, valid=1.1)
    for values in windows.values:
        values.requires_grad_()
    model(windows).va[0, 20].sum().backward()
    grads = [values.grad for values in windows.values]
    touched = torch.stack([grad[0].abs().sum(-1) for grad in grads if grad is not None]).sum(0).nonzero()[:, 0]
    assert (touched.min().item(), touched.max().item()) == (20 - MEMORY_STEPS + 1, 20)


def test_a_band_of_keys() -> None:
    allowed = band(2, 4, 3, torch.device("cpu"))
    assert allowed.tolist() == [[True, True, True, False], [False, True, True, True]]


@torch.no_grad()
def test_a_causal_clip_far_shorter_than_its_batch_mates() -> None:
    """Padding longer than the memory: no step of it has a valid step to look at."""
    for kind in KINDS.values():
        model = make(**kind)
        windows = clip_of(model)
        for mask in (windows.inside, windows.mask):
            mask[1, 5:] = False
        alone = model(windows.each(lambda tensor: tensor[1:, :5]))
        outputs = [model(windows), *in_chunks(model, windows, [11, 19])]
        for name, part in PARTS.items():
            if (wanted := part(alone)) is not None:
                torch.testing.assert_close(part(outputs[0])[1:, :5], wanted, rtol=1e-5, atol=1e-5, msg=name)
        assert all(torch.isfinite(output.va).all() for output in outputs)


# Prediction


STREAMS = streams_of()
LENGTHS = [37, 90, 64, 1, 16]
NAMES = ("va", "unimodal", "weights", "reliability", "stage")


def corpus_of(model: VAModel) -> Corpus:
    corpus = random_corpus(model.streams, LENGTHS)
    last = int(corpus.offsets[4])
    corpus.quality[0][last + 2 : last + 5] = torch.nan
    corpus.mask[last + 4 : last + 9, 0] = False
    corpus.mask[last + 7 : last + 8] = False
    model.fit_normalisation(corpus, range(len(LENGTHS)))
    return corpus


def follow(live: StreamingModel, corpus: Corpus, index: int) -> list[Any]:
    estimates = []
    for step in range(*corpus.steps(index).indices(corpus.num_steps)):
        valid = corpus.mask[step].tolist()
        values = [x[step].numpy() if yes else None for x, yes in zip(corpus.values, valid, strict=True)]
        estimates.append(live.step(values, [q[step].numpy() for q in corpus.quality]))
    return estimates


def assert_alike(predictions: Sequence[Prediction], expected: Sequence[Prediction]) -> None:
    for a, b in zip(predictions, expected, strict=True):
        assert a.clip_id == b.clip_id
        for name in NAMES:
            assert (getattr(a, name) is None) == (getattr(b, name) is None)
            if getattr(a, name) is not None:
                np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_live_model_says_step_by_step_what_predict_says(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "CHUNK_STEPS", 6)
    model = make(**KINDS[kind])
    corpus = corpus_of(model)
    live, clips = StreamingModel(model), [0, 4] if kind == "sage" else [4]
    for prediction, index in zip(predict(model, corpus, clips, DataConfig()), clips, strict=True):
        estimates = follow(live, corpus, index)
        live.reset()
        assert len(estimates) == len(prediction.va)
        for name in ("va", "weights", "reliability", "stage"):
            wanted = getattr(prediction, name)
            assert all((getattr(each, name) is None) == (wanted is None) for each in estimates)
            if wanted is not None:
                np.testing.assert_allclose([getattr(each, name) for each in estimates], wanted, rtol=1e-5, atol=1e-5)


def test_a_causal_prediction_does_not_depend_on_windows_mates_or_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for variant in ("sage", "raav", "rjca", "late"):
        model = make(variant=variant)
        corpus = corpus_of(model)
        usual = predict(model, corpus, range(5), DataConfig())
        for window, hop in ((30, 20), (90, 90), (1, 1)):
            predictions = predict(model, corpus, range(5), DataConfig(window_s=window / 25, hop_s=hop / 25))
            assert all(np.array_equal(a.va, b.va) for a, b in zip(predictions, usual, strict=True))
        monkeypatch.setattr(evaluate, "CHUNK_STEPS", 16)
        order = [3, 1, 4, 0, 2]
        assert_alike(predict(model, corpus, order, DataConfig(), batch_size=2), [usual[index] for index in order])
        monkeypatch.undo()


@torch.no_grad()
def test_a_causal_prediction_is_one_pass_over_the_clip() -> None:
    model = make()
    corpus = corpus_of(model)
    (prediction,) = predict(model, corpus, [1], DataConfig(window_s=0.8, hop_s=0.4))
    steps = corpus.steps(1)
    inside = torch.ones(1, 90, dtype=torch.bool)
    values, quality = ([x[None, steps] for x in parts] for parts in (corpus.values, corpus.quality))
    place = torch.arange(*steps.indices(corpus.num_steps))[None]
    whole = model(Windows(values, quality, corpus.mask[None, steps], inside, corpus.va[None, steps], inside, place))
    np.testing.assert_allclose(prediction.va, whole.va[0].numpy(), atol=1e-5)


def test_no_clip_is_no_prediction() -> None:
    model = make()
    assert predict(model, corpus_of(model), [], DataConfig()) == []


# Live


@pytest.mark.parametrize("kind", ["linear", "late", "xattn", "rjca", "raav", "sage", "depth", "deep", "no past"])
def test_what_is_remembered_stops_growing(kind: str) -> None:
    model = make(**KINDS[kind])
    live, windows = StreamingModel(model), clip_of(model, 1, 120)
    assert live.num_values == 0
    num_kept = []
    for step in range(120):
        live.step([x[0, step].numpy() for x in windows.values])
        num_kept.append(live.num_values)
    assert len(set(num_kept[-60:])) == 1  # beyond the longest convolution, the memory of attention and the reach
    bytes_kept = sum(kept.untyped_storage().nbytes() for kept in live._memory._kept)
    assert bytes_kept <= 4 * live.num_values  # nothing longer hides behind a view


def test_reset_begins_another_recording() -> None:
    model = make()
    corpus, live = corpus_of(model), StreamingModel(model)
    first = np.array([each.va for each in follow(live, corpus, 0)])
    carried = np.array([each.va for each in follow(live, corpus, 0)])
    live.reset()
    again = np.array([each.va for each in follow(live, corpus, 0)])
    assert np.array_equal(again, first)
    assert np.abs(carried[0] - first[0]).max() > 1e-4


def test_a_live_model_leaves_its_source_alone() -> None:
    model = make(dropout=0.5).train()
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    live = StreamingModel(model)
    values = [np.ones(stream.dim) for stream in model.streams]
    va = live.step(values).va
    assert model.training
    assert torch.equal(torch.get_rng_state(), drawn)
    assert model.state_dict().keys() == before.keys()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    live.reset()
    assert np.array_equal(live.step(values).va, va)
    model(clip_of(model)).va.sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "tcn" in name)


def test_none_is_a_stream_that_is_not_valid_now() -> None:
    live = StreamingModel(make(gaps=False))
    both = live.step([np.ones(8), np.ones(6)])
    one = live.step([None, np.ones(6)])
    none = live.step([None, None])
    assert both.weights is not None
    assert one.weights is not None
    assert none.weights is not None
    assert both.weights.min() > 0
    assert one.weights.tolist() == [0, 1]
    assert none.weights.tolist() == [0, 0]
    assert all(each.va.shape == (2,) and np.isfinite(each.va).all() for each in (both, one, none))


def test_a_variant_without_a_gate_estimates_no_reliability() -> None:
    estimate = StreamingModel(make(variant="concat")).step([np.ones(8), np.ones(6)])
    assert (estimate.reliability, estimate.weights, estimate.stage) == (None, None, None)


@pytest.mark.parametrize(
    ("values", "quality", "says"),
    [
        ([np.ones(8)], None, r"step: values: expected one for each of s0, s1, got 1\."),
        ([np.ones(8), np.ones(6)], [None], r"step: quality: expected one for each of s0, s1, got 1\."),
        ([np.ones(8), np.ones((1, 6))], None, r"step: values of s1: expected shape \(6,\), got \(1, 6\)\."),
        ([np.ones(8), np.full(6, np.nan)], None, r"values of s1: expected finite numbers, got NaN or inf\. Give None"),
        ([np.ones(8), None], [np.ones(2), None], r"step: quality of s0: expected shape \(1,\), got \(2,\)\."),
    ],
)
def test_a_step_that_does_not_fit_is_one_line(values: Any, quality: Any, says: str) -> None:
    live = StreamingModel(make())
    with pytest.raises(InputError, match=says):
        live.step(values, quality)
    assert live.num_values == 0


def test_a_centred_model_is_refused() -> None:
    with pytest.raises(
        InputError,
        match=r"StreamingModel: expected a causal model, got .*false\. Train one with --set model\.causal=true",
    ):
        StreamingModel(make(causal=False))


class Change(nn.Module):
    """A fusion of somebody else, which looks at the step before and knows nothing of a memory."""

    def forward(self, x: Encoded) -> Fused:
        return Fused(torch.diff(x.h[0], dim=1, prepend=x.h[0][:, :1]))


class Whole(VAModel):
    """A model of somebody else, which takes windows and nothing beside."""

    def forward(self, windows: Windows) -> Output:  # pyright: ignore[reportIncompatibleMethodOverride]
        va = windows.values[0][..., :2].cumsum(1).tanh()
        return Output(va, va[..., None, :].expand(*windows.mask.shape, 2), Fused(va))


@pytest.mark.parametrize("kind", [Change, Whole])
def test_who_takes_no_memory_is_refused_live_and_predicts_in_windows(kind: type) -> None:
    config = ModelConfig(dim=8, heads=2, tcn_blocks=1, layers=0, causal=True)
    model = Whole(STREAMS, config) if kind is Whole else FusionModel(STREAMS, config, Change())
    assert not model.can_stream
    corpus = corpus_of(model)
    (a,), (b,) = (predict(model, corpus, [1], DataConfig(window_s=w / 25, hop_s=w / 25)) for w in (30, 90))
    assert a.va.shape == (90, 2)
    assert np.abs(a.va - b.va).max() > 1e-3
    with pytest.raises(
        InputError, match=r"variant sage cannot go step by step, as it takes no memory\. See docs/stream"
    ):
        StreamingModel(model)


DOC = (Path(__file__).resolve().parents[2] / "docs/streaming.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"```python\n(from .*?)```", DOC, re.DOTALL)
CENTRED = {"model": {"variant": "concat"}, "train": {"epochs": 1}}
(MEMBER,) = re.findall(r"```python\n(# .*?)```", DOC, re.DOTALL)


@pytest.mark.parametrize(("variant", "weights"), [("sage", r"  weights 0\.\d\d 0\.\d\d"), ("concat", "")])
def test_the_documented_example_runs(
    variant: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a gate and without one: 60 steps of face and voice, then the voice alone."""
    cache, labels = make_cache(tmp_path, num_clips=6, seconds=4)
    settings = tiny(model={"causal": True, "variant": variant}, train={"epochs": 1, "crossfit_epochs": 1})
    train(open_store(cache), labels, tmp_path / "runs/streaming", check_config(settings, "test"))
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(EXAMPLE, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 100
    if weights:
        shares = [float(line.split()[-2]) for line in lines[2:]]  # of the face, which is lost after 60 steps
        assert min(shares[:60]) > max(shares[-10:]) == 0
    assert re.fullmatch(r"2\.40 s  valence [+-]\d\.\d\d  arousal [+-]\d\.\d\d" + weights, lines[2 + 60])


def test_a_run_that_cannot_stream_is_named(tmp_path: Path) -> None:
    cache, labels = make_cache(tmp_path, num_clips=6, seconds=2)
    train(open_store(cache), labels, tmp_path / "run", check_config(tiny(**CENTRED), "test"))
    with pytest.raises(InputError, match=r"run: expected a causal model, got model\.causal=false"):
        StreamingModel(load_run(tmp_path / "run"))


def test_the_former_name_is_accepted() -> None:
    assert LiveModel is StreamingModel


@torch.no_grad()
def test_the_documented_fusion_remembers() -> None:
    namespace: dict[str, Any] = {}
    exec(MEMBER, namespace)
    streams = streams_of()
    config = ModelConfig(dim=8, heads=2, tcn_blocks=1, layers=1, causal=True, memory_steps=MEMORY_STEPS)
    model = FusionModel(streams, config, namespace["Rising"]()).eval()
    windows = clip_of(model)
    assert model.can_stream
    assert_together(list(in_chunks(model, windows, sizes("random"))), model(windows))
