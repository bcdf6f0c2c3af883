"""The console: results as text or JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from sage_va.commands import console
from sage_va.commands.console import Bar, failures, notes, show


@dataclass(frozen=True)
class Counted:
    num_clips: int
    share: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@pytest.mark.parametrize("result", [Counted(3, None), {"num_clips": 3, "share": None}])
def test_results_are_shown_as_text_or_json(result: Any, capsys: pytest.CaptureFixture[str]) -> None:
    show(result, True, lambda _: "")
    assert json.loads(capsys.readouterr().out) == {"num_clips": 3, "share": None}
    show(result, False, lambda shown: f"{type(shown).__name__}")
    assert capsys.readouterr().out == f"{type(result).__name__}\n"


def test_nan_is_no_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        show(Counted(3, float("nan")), True, lambda _: "")


def test_outside_of_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = iter([0.0, 1.0, 70.0, 70.0, 71.0, 140.0, 140.0])
    monkeypatch.setattr(console, "monotonic", lambda: next(now_s))
    with Bar("trials") as bar:
        bar.count(1, 4)
        bar.add("best 0.5")
        bar.count(2, 4)
        bar.tick()
        bar.tick()
    assert capsys.readouterr().err.splitlines() == ["2 of 4 trials, best 0.5", "4 of 4 trials, best 0.5"]


def test_identical_failures_are_one_line() -> None:
    rows = [(f"{name}.mp4", "no audio stream") for name in "abcdefg"]
    assert failures([*rows[:2], ("x.mp4", "an empty file"), *rows[2:]]) == [
        "failed: 7 clips (a.mp4, b.mp4, c.mp4, d.mp4, e.mp4 and 2 more, see --json): no audio stream",
        "failed: x.mp4: an empty file",
    ]
    assert notes({"b": ["cut", "dark"], "a": ["dark"]}) == ["note: 2 clips (a, b): dark", "note: b: cut"]
