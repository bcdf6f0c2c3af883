"""The variants: what makes each one itself, who may take which streams, and one that a package adds."""

import dataclasses
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from torch import nn

from sage_va.cli import main
from sage_va.data import InputError, open_store, plugins
from sage_va.data.windows.corpus import Stream, Windows
from sage_va.fusion.config import Config, ModelConfig, check_config
from sage_va.fusion.models import variants
from sage_va.fusion.models.attention import CrossAttention, JointCrossAttention
from sage_va.fusion.models.base import FusionModel, VAModel, num_evidence, strength
from sage_va.fusion.models.baselines import DCA, GMU, LFAN, RAAV, TAGF, Attended
from sage_va.fusion.models.sage import Encoded, Fused, ReliabilityFusion, given_stage
from sage_va.fusion.models.variants import VARIANTS, Variant, build_model, find_variant, resolve, variant_names
from sage_va.fusion.training.train import train
from sage_va.tests.synthetic import make_cache, random_windows, streams_of, tiny

torch.set_num_threads(1)
DIM = 16
ABLATIONS = [name for name in VARIANTS if name.startswith("sage-")]


def make(variant: str, **settings: Any) -> VAModel:
    torch.manual_seed(0)
    small = {"dim": DIM, "heads": 2, "tcn_blocks": 1, "layers": 1, **settings}
    config = resolve(check_config({"model": {"variant": variant, **small}}, "test"))
    model = build_model(streams_of(), config.model).eval()
    if variant == "linear":  # which starts at zero
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.1)
    return model


def fusion_of(variant: str, **settings: Any) -> Any:
    model = make(variant, **settings)
    assert isinstance(model, FusionModel)
    return model.fusion


def encoded(batch: int = 2, length: int = 9, num_streams: int = 2, masked: float = 0.0) -> Encoded:
    torch.manual_seed(1)
    mask = torch.rand(batch, length, num_streams) >= masked
    h = [torch.randn(batch, length, DIM) for _ in range(num_streams)]
    quality = [torch.zeros(batch, length, num_evidence(stream)) for stream in streams_of()]
    values = [torch.randn(batch, length, stream.dim) for stream in streams_of()]
    return Encoded(h, values, quality, mask, torch.ones(batch, length, dtype=torch.bool), mask)


def zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def test_there_are_fifteen_and_twelve_ablations() -> None:
    assert len(VARIANTS) == 27
    assert len(ABLATIONS) == 12
    assert all(variant.source for variant in VARIANTS.values())


@torch.no_grad()
def test_linear_is_one_layer_of_each_step_alone() -> None:
    model = make("linear")
    windows = random_windows(model.streams, 2, 12)
    whole = torch.atanh(model(windows).va)
    order = torch.randperm(12)
    moved = {name: getattr(windows, name)[:, order] for name in ("mask", "inside")}
    shuffled = dataclasses.replace(windows, values=[v[:, order] for v in windows.values], **moved)
    torch.testing.assert_close(torch.atanh(model(shuffled).va), whole[:, order])
    twice = dataclasses.replace(windows, values=[2 * v for v in windows.values])
    bias = model.get_parameter("bias")
    torch.testing.assert_close(torch.atanh(model(twice).va) - bias, 2 * (whole - bias), rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("missing", [0, 1])
def test_late_is_the_average_of_valid_estimates(missing: int) -> None:
    model = make("late")
    windows = random_windows(model.streams, 2, 12)
    windows.mask[:] = True
    windows.mask[0, :, missing] = False
    output = model(windows)
    torch.testing.assert_close(output.va[0], output.unimodal[0, :, 1 - missing])
    torch.testing.assert_close(output.va[1], output.unimodal[1].mean(-2))


@torch.no_grad()
def test_gmu_shares_out_each_dimension() -> None:
    fusion = fusion_of("gmu")
    assert isinstance(fusion, GMU)
    fusion.norm = nn.Identity()
    x = encoded()
    side = torch.cat(x.h, -1)
    z = torch.sigmoid(fusion.gate[0](side) - fusion.gate[1](side))  # for two streams the paper's z and 1 - z
    each = [torch.tanh(f(h)) for f, h in zip(fusion.transform, x.h, strict=True)]
    fused = fusion(x)
    torch.testing.assert_close(fused.features, z * each[0] + (1 - z) * each[1])
    torch.testing.assert_close(fused.weights[..., 0], z.mean(-1))
    assert fused.reliability is None


@torch.no_grad()
def test_cross_attention_hears_only_valid_steps_of_others() -> None:
    fusion = fusion_of("xattn")
    assert isinstance(fusion.attention, CrossAttention)
    x = encoded()
    x.mask[:, 4:, 1] = False
    before = fusion.attention(x.h, x.mask)
    x.h[1][:, 4:] = 7
    after = fusion.attention(x.h, x.mask)
    torch.testing.assert_close(after[0], before[0])
    x.h[1][:, :4] = 7
    assert not torch.allclose(fusion.attention(x.h, x.mask)[0], before[0])


@torch.no_grad()
def test_nothing_is_heard_where_no_other_is_valid() -> None:
    fusion = fusion_of("xattn")
    x = encoded()
    x.mask[..., 1] = False
    fusion.attention.attention[0].out_proj.bias.zero_()
    torch.testing.assert_close(fusion.attention(x.h, x.mask)[0], x.h[0])


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_joint_attention_is_the_papers_correlation(causal: bool) -> None:
    attention = fusion_of("jca", causal=causal).attention
    assert isinstance(attention, JointCrossAttention)
    x = encoded(batch=1)
    joint = torch.cat(x.h, -1)[0]
    for m in range(2):
        expected = []
        for t in range(9):
            context = joint[: t + 1] if causal else joint
            correlation = torch.tanh(attention.correlate[m](x.h[m][0, t]) @ context.T / (2 * DIM) ** 0.5)
            attended = attention.others[m](correlation @ context / len(context))
            mixed = torch.relu(attention.own[m](x.h[m][0, t]) + attended)
            expected.append(x.h[m][0, t] + attention.out[m](mixed))
        torch.testing.assert_close(attention(x.h, x.mask)[m][0], torch.stack(expected), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_rjca_is_jca_again_and_again_with_the_same_weights() -> None:
    once, thrice = fusion_of("jca"), fusion_of("rjca")
    assert sum(p.numel() for p in once.parameters()) == sum(p.numel() for p in thrice.parameters())
    assert isinstance(thrice, Attended)
    x = encoded()
    h = x.h
    for _ in range(3):
        h = thrice.attention(h, x.mask)
    torch.testing.assert_close(thrice(x).features, thrice.join(h))


@torch.no_grad()
@pytest.mark.parametrize("kept", [0, 1])
def test_dca_chooses_between_raw_and_attended(kept: int) -> None:
    fusion = fusion_of("dca")
    assert isinstance(fusion, DCA)
    x = encoded()
    for choose in fusion.choose:
        zero(choose)
        choose.bias[kept] = 100.0
    chosen = x.h if kept == 0 else fusion.attention(x.h, x.mask)
    torch.testing.assert_close(fusion(x).features, fusion.join([torch.relu(h) for h in chosen]))


@torch.no_grad()
def test_lfan_has_a_leader_whose_features_go_on_unweighted() -> None:
    fusion = fusion_of("lfan")
    assert isinstance(fusion, LFAN)
    assert fusion.leader == 0
    for value in fusion.value:
        zero(value)
    x = encoded()
    before = fusion(x).features
    x.h[1].normal_()
    torch.testing.assert_close(fusion(x).features, before)
    x.h[0].normal_()
    assert not torch.allclose(fusion(x).features, before)


def test_the_leader_is_the_first_visual_stream() -> None:
    face, voice = streams_of()
    model = build_model([voice, face], ModelConfig(variant="lfan", dim=DIM, heads=2))
    assert model.get_submodule("fusion").leader == 1


@torch.no_grad()
@pytest.mark.parametrize("depth", [0, 3])
def test_tagf_takes_what_its_gate_says_of_each_depth(depth: int) -> None:
    fusion = fusion_of("tagf")
    assert isinstance(fusion, TAGF)
    x = encoded()

    class Chosen(nn.Module):
        def forward(self, read: torch.Tensor) -> torch.Tensor:
            return torch.full((*read.shape[:-1], 1), -1e9).index_fill(-2, torch.tensor([depth]), 0.0)

    fusion.score = Chosen()
    torch.testing.assert_close(fusion(x).features, fusion.join(fusion.depths(x)[depth]))


@torch.no_grad()
def test_raav_trusts_its_prior_until_it_has_learnt() -> None:
    fusion = fusion_of("raav")
    assert isinstance(fusion, RAAV)
    zero(fusion.score)
    x = encoded()
    x.mask[0, :, 1] = False
    x.mask[1, :3, 0] = False
    weights = fusion(x).weights
    torch.testing.assert_close(weights[0], torch.tensor([1.0, 0.0]).expand(9, 2))
    torch.testing.assert_close(weights[1, :3], torch.tensor([0.0, 1.0]).expand(3, 2))
    torch.testing.assert_close(weights[1, 3:], torch.tensor([0.7, 0.3]).expand(6, 2))


@torch.no_grad()
def test_raav_keeps_the_sound_in_few_latents() -> None:
    """However the valid steps of the sound are ordered, the leader hears the same."""
    fusion = fusion_of("raav")
    x = encoded()
    turned = dataclasses.replace(x, h=[x.h[0], x.h[1].flip(1)])
    torch.testing.assert_close(fusion(turned).features, fusion(x).features)


@torch.no_grad()
def test_concat_quality_is_given_what_a_gate_reads() -> None:
    plain, informed = make("concat"), make("concat-quality")
    windows = random_windows(plain.streams, 2, 9)
    other = dataclasses.replace(windows, quality=[q + 1 for q in windows.quality])
    assert torch.equal(plain(other).va, plain(windows).va)
    assert not torch.allclose(informed(other).va, informed(windows).va)


def test_strength_is_the_log_power_of_valid_features() -> None:
    values = torch.tensor([[[3.0, 3.0], [0.1, 0.1], [5.0, 5.0]]])
    power = strength(values, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(power, torch.tensor([[[9.0], [0.01], [1.0]]]).log())


@torch.no_grad()
def test_given_stages_are_the_sets_of_active_modalities() -> None:
    active = torch.tensor([[[False, False], [True, False], [False, True], [True, True]]])
    assert given_stage(active, ["visual", "audio"]).argmax(-1).tolist() == [[0, 1, 2, 3]]
    faces = torch.tensor([[[False, False, True], [True, False, False], [False, True, False], [True, True, True]]])
    assert given_stage(faces, ["visual", "audio", "visual"]).argmax(-1).tolist() == [[1, 1, 2, 3]]


@torch.no_grad()
def test_a_voice_detector_decides_whether_sound_is_speech() -> None:
    face, voice = streams_of((8, 6), (0, 1))
    voice = dataclasses.replace(voice, quality_names=("voice",))
    model = build_model([face, voice], ModelConfig(stage="given", dim=DIM, heads=2, layers=0, tcn_blocks=1)).eval()
    windows = random_windows(model.streams, 1, 4)
    windows.mask[:] = True
    windows.quality[1][0, :, 0] = torch.tensor([0.9, 0.1, torch.nan, 0.5])
    assert model(windows).fused.stage.argmax(-1).tolist() == [[3, 1, 3, 3]]


def test_given_stages_take_any_number_of_streams() -> None:
    model = build_model(streams_of((4,) * 6, (0,) * 6), ModelConfig(stage="given", dim=DIM, heads=2, tcn_blocks=1))
    assert model(random_windows(model.streams, 1, 4)).fused.stage.shape[-1] == 4


@torch.no_grad()
def test_depth_stages_are_rounds_of_attention() -> None:
    fusion = fusion_of("sage", stage="depth", num_stages=2)
    assert isinstance(fusion, ReliabilityFusion)
    x = encoded()
    before = fusion(x)
    assert before.stage.shape[-1] == 2
    nn.init.normal_(fusion.interact.attention[0].out_proj.bias)
    assert not torch.allclose(fusion(x).features, before.features)
    zero(fusion.gate.stage)
    fusion.gate.stage.bias.copy_(torch.tensor([100.0, -100.0]))  # only what has not interacted
    alone = fusion(x).features
    nn.init.normal_(fusion.interact.attention[0].out_proj.bias)
    torch.testing.assert_close(fusion(x).features, alone)


def test_separate_heads() -> None:
    both, each = make("concat"), make("concat", separate_heads=True)
    assert [len(model.get_submodule("head.heads")) for model in (both, each)] == [1, 2]
    assert each(random_windows(each.streams, 2, 5)).va.shape == (2, 5, 2)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("sage-no-stage", "stage", "none"),
        ("sage-latent", "stage", "latent"),
        ("sage-depth", "stage", "depth"),
        ("sage-no-calibration", "calibrated", False),
        ("sage-no-separation", "separate", False),
        ("sage-no-tcn", "tcn_blocks", 0),
        ("sage-no-transformer", "layers", 0),
        ("sage-no-veto", "veto", 0.0),
        ("sage-no-gaps", "gaps", False),
        ("sage-no-quality", "quality_input", False),
        ("sage-shares", "weighting", "shares"),
    ],
)
def test_an_ablation_is_sage_less_one_thing(name: str, key: str, value: object) -> None:
    whole = Config().model_dump()
    resolved = resolve(check_config({"model": {"variant": name}}, "test"))
    assert resolve(resolved) == resolved
    expected = {**whole["model"], "quality_input": True, "variant": name, key: value}
    assert resolved.model_dump()["model"] == expected
    taught = name != "sage-no-calibration"
    assert bool(resolved.loss.calibration) is bool(resolved.loss.ordinal) is taught
    assert build_model(streams_of(), resolved.model).learns_reliability


def test_only_sage_learns_reliability() -> None:
    for name in VARIANTS:
        assert make(name).learns_reliability == name.startswith("sage")


@pytest.mark.parametrize(("variant", "stage"), [("xattn", "none"), ("dca", "none"), ("sage", "depth")])
def test_heads_must_part_the_width(variant: str, stage: str) -> None:
    with pytest.raises(InputError, match=r"model\.dim: expected a multiple of model\.heads = 4, got 30"):
        build_model(streams_of(), ModelConfig(variant=variant, dim=30, layers=0, stage=stage))  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["seed", "modle.layers", "model.leyers"])
def test_demands_of_keys_that_do_not_exist_are_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Variant(VARIANTS["concat"].build, "a test", demands={key: 1})
    monkeypatch.setattr(variants, "find_variant", lambda name: wrong)
    with pytest.raises(InputError, match=rf"expected demands such as model\.layers, got '{key}'\. Mend its package"):
        resolve(Config())


def test_a_gate_that_returns_no_reliability_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Loudest, "learns_reliability", True, raising=False)
    monkeypatch.setitem(VARIANTS, "loudest", LOUDEST)
    cache, labels = make_cache(tmp_path, seconds=3)
    config = check_config(tiny(model={"variant": "loudest"}), "test")
    with pytest.raises(InputError, match="variant loudest: expected a reliability, got none"):
        train(open_store(cache), labels, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_an_unknown_variant_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"variant sgae: expected a known variant, got 'sgae'\. Did you mean sage\?"):
        find_variant("sgae")
    with pytest.raises(InputError, match=r"got 'qqq'\. Known: linear, visual"):
        resolve(check_config({"model": {"variant": "qqq"}}, "test"))


class Loudest(nn.Module):
    """A fusion of somebody else: the stream with the largest features wins."""

    def forward(self, x: Encoded) -> Fused:
        h = torch.stack(x.h, -1)
        best = h.square().sum(-2).masked_fill(~x.mask, -1).argmax(-1, keepdim=True)
        return Fused(h.gather(-1, best[..., None, :].expand(*h.shape[:-1], 1))[..., 0])


LOUDEST = Variant(lambda streams, config: Loudest(), "a test")
NOT_ONE = "a string"


def added(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    points = [EntryPoint("loudest", value, variants.GROUP) for value in values]

    def found(group: str, name: str | None = None) -> list[EntryPoint]:
        return [p for p in points if group == variants.GROUP and name in (None, p.name)]

    monkeypatch.setattr(plugins, "entry_points", found)


HERE = "sage_va.tests.fusion.models.test_variants"


def test_a_package_adds_a_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    added(monkeypatch, f"{HERE}:LOUDEST")
    monkeypatch.setattr(EntryPoint, "load", lambda self: globals()[self.value.partition(":")[2]])
    assert variant_names()[-1] == "loudest"
    model = make("loudest")
    windows: Windows = random_windows(model.streams, 2, 7)
    assert model(windows).va.shape == (2, 7, 2)
    added(monkeypatch, f"{HERE}:LOUDEST", f"{HERE}:NOT_ONE")
    with pytest.raises(InputError, match="variant loudest: expected one package that adds it"):
        find_variant("loudest")
    added(monkeypatch, f"{HERE}:NOT_ONE")
    with pytest.raises(InputError, match=r"NOT_ONE is a str, not a Variant\. Mend or uninstall"):
        find_variant("loudest")


DOC = (Path(__file__).resolve().parents[3] / "docs/variants.md").read_text(encoding="utf-8")


@pytest.fixture
def steady(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The documented package, laid where an installed one lies."""
    folder, info = tmp_path / "site", tmp_path / "site/steady-1.dist-info"
    info.mkdir(parents=True)
    (source,) = re.findall(r"```python\n# steady.py\n(.*?)```", DOC, re.DOTALL)
    (folder / "steady.py").write_text(source)
    (toml,) = re.findall(r"```toml\n(.*?)```", DOC, re.DOTALL)
    points = tomllib.loads(toml)["project"]["entry-points"]
    lines = [f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in entries.items()) for group, entries in points.items()]
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: steady\nVersion: 1\n")
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(folder))
    yield
    sys.modules.pop("steady", None)


@pytest.mark.usefixtures("steady")
def test_the_documented_variant_trains_and_scores_as_it_stands(tmp_path: Path) -> None:
    assert "steady               our group, 2026" in CliRunner().invoke(main, ["variants"]).output
    cache, labels = make_cache(tmp_path)
    settings = tmp_path / "tiny.yaml"
    settings.write_text(yaml.safe_dump(tiny(train={"epochs": 2})))
    run = str(tmp_path / "run")
    where = [str(cache), "--labels", str(labels), "--out", run, "--config", str(settings), "--variant", "steady"]
    done = CliRunner().invoke(main, ["train", *where], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    scores = json.loads(CliRunner().invoke(main, ["eval", run, "--json"], catch_exceptions=False).output)
    assert scores["variant"] == "steady"
    assert scores["raw"]["ccc"]["mean"] is not None


@pytest.mark.usefixtures("steady")
@torch.no_grad()
def test_the_documented_variant_keeps_the_promises() -> None:
    model = make("steady", causal=True, layers=0)
    windows = random_windows(model.streams, 2, 30)
    later = dataclasses.replace(windows, values=[torch.cat([v[:, :20], v[:, 20:] + 1], 1) for v in windows.values])
    torch.testing.assert_close(model(later).va[:, :20], model(windows).va[:, :20])
    dirty = [torch.where(windows.mask[..., m, None], v, 9.0) for m, v in enumerate(windows.values)]
    torch.testing.assert_close(model(dataclasses.replace(windows, values=dirty)).va, model(windows).va)
    weights = model(windows).fused.weights
    assert weights is not None
    assert (weights[~windows.mask] == 0).all()


def test_what_cannot_be_imported_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    added(monkeypatch, "nowhere_at_all:X")
    with pytest.raises(InputError, match=r"nowhere_at_all:X cannot be imported: ModuleNotFoundError: No module named"):
        find_variant("loudest")


def test_a_package_may_add_a_whole_model(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Variant(lambda streams, config: VARIANTS["linear"].build(streams, config), "a test")
    monkeypatch.setattr(variants, "find_variant", lambda name: whole)
    streams: list[Stream] = streams_of()
    assert not isinstance(build_model(streams, ModelConfig(variant="mine")), FusionModel)
