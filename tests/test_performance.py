"""docs/performance.md: written from the JSON of the benchmarks, by commands that exist."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sage_va import Clip, Track, open_store
from sage_va.benchmarks import bench, frame, scaling
from sage_va.benchmarks.frame import Figure
from sage_va.data import stream_name
from sage_va.tests.test_docs import check_command

RESULTS = bench.results()


def test_the_page_is_up_to_date() -> None:
    assert bench.PAGE.read_text(encoding="utf-8") == bench.page(RESULTS), "run: python benchmarks/bench.py --page"
    assert "generated" in bench.PAGE.read_text(encoding="utf-8").splitlines()[2]


def test_no_figures_are_left_over() -> None:
    of_guarantees = {"faults", "fuzz", "soak"}  # in docs/guarantees.md
    assert {path.stem for path in frame.RESULTS.glob("*.json")} - of_guarantees == set(RESULTS)


@pytest.mark.parametrize("name", bench.PROGRAMS)
def test_every_program_exists_with_its_options(name: str) -> None:
    for words in bench.PROGRAMS[name][1:]:
        check_command(["python", f"benchmarks/{name}.py", *(words or [])])
    assert "add_json_option(" in (frame.ROOT / f"benchmarks/{name}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RESULTS)
def test_every_figure_has_a_command_that_exists(name: str) -> None:
    words = shlex.split(RESULTS[name]["command"])
    assert words[:2] == ["python", f"benchmarks/{name}.py"]
    check_command(words)
    assert frame.figures_of(RESULTS[name])


@pytest.mark.parametrize("name", RESULTS)
def test_the_origin_of_every_figure_is_on_record(name: str) -> None:
    result = RESULTS[name]
    assert {"command", "date", "seconds", "commit", "machine", "versions", "figures"} == result.keys()
    assert result["machine"].keys() >= {"cpu", "cores", "memory_gb", "system", "gpu"}
    assert result["versions"].keys() >= {"python", "numpy", "torch", "av", "zarr", "h5py"}
    for figure in frame.figures_of(result):
        needs_gpu = figure.name.endswith("on a GPU")
        assert figure.value is not None or (needs_gpu and result["machine"]["gpu"] is None), figure


def test_a_target_decides() -> None:
    def met(value: float | None, **bounds: float) -> bool | None:
        return Figure("a", value, **bounds).met

    assert met(2, at_least=2) is True
    assert met(1.9, at_least=2) is False
    assert met(1.02, at_most=1.02) is True
    assert met(1.03, at_most=1.02) is False
    assert met(3, at_least=2, at_most=2.5) is False
    assert met(None, at_least=2) is None
    assert met(1) is None


def test_rows_of_the_page() -> None:
    assert bench.row(Figure("open", 0.5, "s", at_most=1)) == "| open | 0.5 s | ≤ 1 | yes |"
    assert bench.row(Figure("open", 1.234, "s", at_most=1, note="slow")) == "| open<br>slow | 1.23 s | ≤ 1 | **no** |"
    assert (
        bench.row(Figure("epochs on a GPU", None, "s", at_most=300)) == "| epochs on a GPU | not measured | ≤ 300 | – |"
    )
    assert bench.row(Figure("bytes", 12345.6)) == "| bytes | 12,346 | – | – |"


def test_a_program_that_has_not_run_says_so() -> None:
    page = bench.page({})
    assert page.count("Not measured yet.") == len(bench.PROGRAMS)
    assert "## Opening a cache\n\n```\npython benchmarks/opening.py\n```\n\nNot measured yet.\n" in page


def test_what_is_saved_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["/elsewhere/x.py", "--clips", "3", "--json"])
    figures = [Figure("a", 1.5, "s", at_most=2), Figure("b on a GPU", None)]
    frame.save(False, "/elsewhere/x.py", figures, tmp_path)
    assert not list(tmp_path.iterdir())
    frame.save(True, "/elsewhere/x.py", figures, tmp_path)
    result = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert frame.figures_of(result) == figures
    assert result["command"] == "python benchmarks/x.py --clips 3"
    assert frame.value_of("x", "a") == 1.5
    for name in ("b on a GPU", "c"):
        with pytest.raises(LookupError, match=f"x: {name}"):
            frame.value_of("x", name)
    with pytest.raises(AssertionError, match="one figure"):
        frame.save(True, "/elsewhere/x.py", [figures[0], figures[0]], tmp_path)
    with pytest.raises(AssertionError, match="NaN"):
        frame.save(True, "/elsewhere/x.py", [Figure("a", float("nan"))], tmp_path)


# Growth: on paper, and the simulation of a large extraction


def test_growth_is_computed_from_the_last_figures_of_the_disk() -> None:
    shown = {figure.name: figure.value for figure in frame.figures_of(RESULTS["scaling"])}
    for figure in scaling.paper(1_000_000):
        assert shown[figure.name] == pytest.approx(figure.value), "run: python benchmarks/bench.py --only scaling"
    for way, disk in scaling.measured_disks().items():
        limit = disk.clips_per_s(scaling.bytes_of(1))
        assert shown[f"one-step clips: clips that the disk takes, {way}"] == pytest.approx(limit)


def test_a_line_of_a_journal_has_about_so_many_bytes(tmp_path: Path) -> None:
    store = open_store(tmp_path / "cache.zarr", "a")
    track = Track.of(np.ones((1, 2), np.float32), np.zeros(1), np.ones(1, bool))
    for modality, alias in (("visual", "vit-small-patch14-dinov2-lvd142m"), ("audio", "wav2vec2-base")):
        fingerprint = {"modality": modality}
        name = stream_name(modality, alias, fingerprint)
        store.commit(Clip("recordings/talk1.mp4"), name, track, fingerprint=fingerprint, source_sha256="")
    lines = (tmp_path / "cache.zarr/.sage-va/journal.jsonl").read_bytes().splitlines(keepends=True)
    lengths = [len(line) for line in lines if b'"commit"' in line]
    assert sum(lengths) / len(lengths) == pytest.approx(scaling.JOURNAL_BYTES, rel=0.05)


FAST = scaling.Disk(0.0, 0.0, bytes_per_s=1e15)
STEADY = scaling.Fleet(4, hours_between_failures=1e9, slow_share=0.0, spread=0.0, seconds_per_clip=1.0)


def test_without_failures_and_waits_the_devices_are_the_limit() -> None:
    outcome = scaling.Simulation(STEADY, FAST, mean_frames=2000, num_clips=400).run()
    assert outcome.hours * 3600 == pytest.approx(400 / 4 * 2.0)
    assert (outcome.busy, outcome.repeated) == (pytest.approx(1), 0)


def test_a_slow_disk_is_the_limit_and_groups_move_it() -> None:
    one = scaling.Disk(wait_s=1.0, clip_s=0.0, max_group=1, bytes_per_s=1e15)
    single = scaling.Simulation(STEADY, one, mean_frames=1, num_clips=400).run()
    assert single.hours * 3600 == pytest.approx(400, rel=0.02)
    assert single.disk == pytest.approx(1, abs=0.01)
    grouped = scaling.Simulation(STEADY, replace(one, max_group=128), mean_frames=1, num_clips=400).run()
    assert grouped.hours < single.hours / 2
    assert one.clips_per_s(1000) == pytest.approx(1)
    assert replace(one, max_group=128).clips_per_s(1000) == pytest.approx(128)
    assert replace(one, max_group=128).clips_per_s(20 << 20) == pytest.approx(1)  # a group is bounded in bytes


def test_failures_repeat_work_and_lose_no_clip() -> None:
    fleet = replace(STEADY, hours_between_failures=0.02, restart_s=10)
    outcome = scaling.Simulation(fleet, FAST, mean_frames=2000, num_clips=400).run()
    assert outcome.repeated > 0
    assert 400 / 4 * 2.0 < outcome.hours * 3600 < 1000
    assert outcome.busy * outcome.hours * 3600 * 4 == pytest.approx(800)  # each clip counts once


def test_stragglers_cost_time() -> None:
    slow = scaling.Simulation(replace(STEADY, slow_share=0.5), FAST, mean_frames=20_000, num_clips=400).run()
    assert slow.hours > 1.3 * scaling.Simulation(STEADY, FAST, mean_frames=20_000, num_clips=400).run().hours
