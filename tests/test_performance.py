"""docs/performance.md: written from the JSON of the benchmarks, by commands that exist."""

import json
import shlex
from pathlib import Path

import pytest

from sage_va.benchmarks import bench, frame
from sage_va.benchmarks.frame import Figure
from sage_va.tests.test_docs import check_command

RESULTS = bench.results()


def test_the_page_is_up_to_date() -> None:
    assert bench.PAGE.read_text(encoding="utf-8") == bench.page(RESULTS), "run: python benchmarks/bench.py --page"
    assert "generated" in bench.PAGE.read_text(encoding="utf-8").splitlines()[2]


def test_every_program_has_figures_and_no_figures_are_left_over() -> None:
    assert {path.stem for path in frame.RESULTS.glob("*.json")} == set(bench.PROGRAMS)


@pytest.mark.parametrize("name", bench.PROGRAMS)
def test_every_figure_has_a_command_that_exists(name: str) -> None:
    _, short, full = bench.PROGRAMS[name]
    for words in (short, full, shlex.split(RESULTS[name]["command"])[2:]):
        check_command(["python", f"benchmarks/{name}.py", *words])
    assert "add_json_option(" in (frame.ROOT / f"benchmarks/{name}.py").read_text(encoding="utf-8")
    assert RESULTS[name]["command"].startswith(f"python benchmarks/{name}.py")
    assert frame.figures_of(RESULTS[name])


@pytest.mark.parametrize("name", bench.PROGRAMS)
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
