"""benchmarks/shift.py: equal terms for all rows, conditions, and lines that survive a kill."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sage_va.benchmarks import shift, shift_table
from sage_va.benchmarks.shift_ceilings import true_ratio, with_true_ratio
from sage_va.benchmarks.shift_kinds import CLEAN, CONDITIONS, KINDS, RATIOS, TestClips, draw, family_weights
from sage_va.benchmarks.shift_lines import Line, pack, read_lines
from sage_va.benchmarks.synthetic import SyntheticData
from sage_va.fusion.ccc import ccc_of_moments, moments

torch.set_num_threads(1)
SMALL = SyntheticData(clips=4, subjects=4, seconds=12.0, seed=3)
SCALES = [torch.ones(16), torch.ones(16)]


def line_of(row: str, seed: int, noise: float, size: int = 28, num_clips: int = 6) -> Line:
    """A cell whose estimates are the labels and some noise, the same under every condition."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(num_clips, 2, 400, generator=generator) - 0.5
    estimate = truth + noise * torch.randn(truth.shape, generator=generator)
    sums = moments(estimate, truth, torch.ones_like(truth, dtype=torch.bool)).double()
    packed = pack(dict.fromkeys(CONDITIONS, sums))
    return Line(seed, size, row, settings="s", commit="c", num_parameters=9, seconds=(1.0, 1.0), **packed)


def test_a_line_keeps_the_moments_of_its_clips() -> None:
    torch.manual_seed(0)
    truth, estimate = torch.rand(2, 5, 2, 300) - 0.5
    sums = moments(estimate, truth, torch.ones_like(truth, dtype=torch.bool)).double()
    line = Line(0, 28, "sage", "s", "c", 9, (1.0, 1.0), **pack({CLEAN: sums, "bad-5": 2 * sums}))
    kept = line.moments()
    assert list(kept) == [CLEAN, "bad-5"]
    torch.testing.assert_close(ccc_of_moments(kept[CLEAN]), ccc_of_moments(sums), atol=5e-4, rtol=0)
    assert line.ccc[CLEAN] == pytest.approx(float(ccc_of_moments(sums.sum(0)).mean()), abs=1e-4)


def test_a_torn_line_is_left_out_and_the_next_one_begins_anew(tmp_path: Path) -> None:
    path, whole = tmp_path / "shift.jsonl", line_of("sage", 0, 0.1)
    shift.append(path, whole)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"seed": 1, "size"')
    shift.append(path, replace(whole, seed=2))
    assert [line.seed for line in read_lines(path)] == [0, 2]
    assert asdict(read_lines(path)[0])["ccc"] == whole.ccc
    assert read_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("name", shift.ROWS)
def test_all_rows_have_as_many_parameters_and_steps(name: str) -> None:
    ours, other = (shift.config_of(row, 6, 0) for row in ("sage", name))
    assert other.train.epochs == ours.train.epochs
    assert ours.train.epochs * 6 == pytest.approx(shift.config_of("sage", 28, 0).train.epochs * 28, rel=0.05)
    changed = {key for key, value in other.flat().items() if ours.flat()[key] != value}
    assert {key for key in changed if not key.startswith(("model.", "loss."))} <= {
        "train.noise",
        "train.modality_dropout",
    }


def test_weights_of_kinds_and_families_sum_to_one() -> None:
    assert all(sum(kind.weights.values()) == pytest.approx(1) for kind in KINDS.values())
    for family in ("noise", "missing"):
        assert sum(family_weights(family).values()) == pytest.approx(1)
    assert KINDS["absent"].weights[CLEAN] == pytest.approx(1 / 8)
    assert KINDS["absent"].weights["dropped/audio/1"] == pytest.approx(1 / 16)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TestClips]:
    folder = tmp_path_factory.mktemp("shift")
    place = draw(folder / "drawn", SMALL)
    return place, TestClips(folder, SMALL, place, ["clip001", "clip002", "clip003"], 5.0)


@pytest.mark.parametrize("condition", [name for name in CONDITIONS if name != CLEAN])
def test_a_condition_changes_its_modality_and_no_label(drawn: tuple[Path, TestClips], condition: str) -> None:
    clean, changed = drawn[1].under(CLEAN, SCALES), drawn[1].under(condition, SCALES)
    torch.testing.assert_close(changed.va, clean.va)
    kinds = [clean.values, clean.quality, [clean.mask[:, m] for m in range(2)]]
    others = [changed.values, changed.quality, [changed.mask[:, m] for m in range(2)]]
    differs = [
        any(not torch.equal(a[m].nan_to_num(9), b[m].nan_to_num(9)) for a, b in zip(kinds, others, strict=True))
        for m in range(2)
    ]
    modality = condition.split("/")[1] if "/" in condition else None
    assert differs == [modality in (None, "visual"), modality in (None, "audio")]
    if condition in RATIOS or condition.startswith(("frozen", "zeros", "gain", "drift", "impulses", "swapped")):
        assert torch.equal(changed.mask, clean.mask)


def test_other_ratios_leave_the_signal_and_make_the_noise_stronger(drawn: tuple[Path, TestClips]) -> None:
    clean, worse = drawn[1].corpora[CLEAN], drawn[1].corpora["bad-20"]
    assert worse.values[0].float().std() > 1.2 * clean.values[0].float().std()
    ratios = np.concatenate([true_ratio(worse, drawn[1].folders["bad-20"], index) for index in range(3)])
    assert {-20.0, 9.0, 0.0} <= set(np.unique(ratios[:, 0]))
    good = torch.from_numpy(ratios[:, 0] >= 0) & clean.mask[:, 0]
    assert (worse.values[0][good].float() - clean.values[0][good].float()).abs().median() < 1e-3
    assert with_true_ratio(worse, drawn[1].folders["bad-20"]).quality[0][:, 0].min() == -2


def test_the_base_against_itself_is_nothing_and_a_better_row_is_ahead() -> None:
    better = [line_of("sage", seed, 0.1) for seed in (20, 21)]
    worse = [line_of("concat-quality-noise", seed, 0.3) for seed in (20, 21)]
    results = shift_table.Results([*better, *worse, line_of("sage", 22, 5.0)])  # the base lacks seed 22
    noise = shift_table.FAMILIES[0]
    none, gain = (results.compared(row, "concat-quality-noise", noise) for row in ("concat-quality-noise", "sage"))
    assert none is not None
    assert gain is not None
    assert (none.mean, none.interval(), none.p) == (0, (0, 0), 1)
    assert gain.mean > 0.1
    assert gain.interval()[0] > 0
    assert gain.p < 0.01
    assert results.compared("sage", "concat-quality-noise", shift_table.FAMILIES[2]) is None
    text = shift_table.report([*better, *worse])
    assert "| noise | +." in text
    assert "In distribution: +" in text
    assert shift_table.report([]) == "No finished cells."


def test_cells_of_other_settings_are_not_mixed() -> None:
    old = line_of("concat", 20, 0.1, size=6)
    shift.check_settings([old], [("concat", 6)], [20])  # nothing is left to do
    shift.check_settings([replace(old, settings=shift.settings_of("concat", 6))], [("concat", 6)], [20, 21])
    with pytest.raises(SystemExit, match=r"concat with 6 clips was trained with other settings, at commit c\."):
        shift.check_settings([old], [("concat", 6)], [20, 21])


def test_seeds_are_spans_or_lists() -> None:
    assert shift.seeds_of("20-22,5") == [20, 21, 22, 5]


@pytest.mark.exhaustive
def test_an_experiment_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shift, "DATA", replace(shift.DATA, seconds=6.0))
    out, cells = tmp_path / "shift.jsonl", [("concat", 6), ("late", 6)]
    assert shift.do_seed(0, cells[:1], out, float("inf"))
    assert not shift.do_seed(0, cells, out, 0.0)
    assert shift.do_seed(0, cells, out, float("inf"))
    assert [(line.row, line.size) for line in read_lines(out)] == cells
    assert "late-true-ratio" in shift_table.Results(read_lines(out)).rows
