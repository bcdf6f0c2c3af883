"""Names that others chose: whatever stands in them, what is printed neither acts on a terminal nor looks like ours."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from sage_va.cli import main
from sage_va.commands.console import plain_warnings, show
from sage_va.data import Clip, InputError, open_store
from sage_va.data.errors import visible
from sage_va.testing import VISUAL_NAME, put
from sage_va.tests.synthetic import make_cache

ESC, BIDI, LINE = "\x1b[2J\x1b]0;x\x07", "\u202egpm.\u2066", "\nfailed: b: forged"
ROOT = Path(__file__).resolve().parents[2]


def acting(text: str) -> list[str]:
    """Characters that act on a terminal or turn the direction of writing."""
    return [char for char in text if visible(char, keep="\n") != char]


def printed(*words: object, code: int | None = None) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert isinstance(done.exception, SystemExit | None), repr(done.exception)
    assert code is None or done.exit_code == code, done.output
    assert not acting(done.output), done.output
    return done.output


@given(st.text())
def test_no_text_acts(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable() or not acting(shown)
    assert len(shown.splitlines()) <= 1
    assert not [
        char for char in shown if char in "\x1b\x9b\r\n\u202e\u2066\u200b\ufeff" or "\ud800" <= char <= "\udfff"
    ]


@pytest.mark.parametrize("text", ["ünï 漢字 🙂", "👩‍💻", "می‌خواهم", "क्‍ष", "a  b"])
def test_ordinary_names_stay(text: str) -> None:
    assert visible(text) == text


def test_errors_are_one_line() -> None:
    error = InputError(f"a{ESC}{LINE}", expected="a", got=BIDI, todo="b")
    assert str(error) == r"a\x1b[2J\x1b]0;x\x07\nfailed: b: forged: expected a, got \u202egpm.\u2066. b"
    assert error.about(f"a{ESC}{LINE}") == r"expected a, got \u202egpm.\u2066. b"


def test_results_as_text_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"name": ESC + LINE, "rows": [{"note": BIDI}], "ü": "\U000e0041\x85"}
    show(result, False, lambda shown: f"name: {shown['name']}\nnote: {shown['rows'][0]['note']}")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [r"name: \x1b[2J\x1b]0;x\x07\nfailed: b: forged", r"note: \u202egpm.\u2066"]
    show(result, True, lambda _: "")
    text = capsys.readouterr().out
    assert json.loads(text) == result
    assert not acting(text)
    assert "ü" in text


def test_warnings_are_a_line() -> None:
    before = warnings.formatwarning
    with plain_warnings():
        assert warnings.formatwarning(f"a{ESC}{LINE}", UserWarning, "file.py", 1).count("\n") == 1
        assert not acting(warnings.formatwarning(UserWarning(ESC), UserWarning, "file.py", 1))
    assert warnings.formatwarning is before


def test_commands_print_through_the_console_alone() -> None:
    files = [path for path in (ROOT / "commands").rglob("*.py") if path.name not in ("console.py", "demo.py")]
    assert not [path.name for path in files if re.search(r"click\.s?echo|\bprint\(", path.read_text("utf-8"))]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache whose terms, clips, subjects and failures hold such characters, and whose bytes are in order."""
    place = tmp_path_factory.mktemp("hostile") / "c.zarr"
    store = open_store(place, "a", licence=f"CC0{ESC}{LINE}{BIDI}")
    clip_id = f"a{BIDI}.mp4"
    put(store, clip_id, clip=Clip(clip_id, subject_id=f"s{ESC}{LINE}"))
    store.point(VISUAL_NAME, f"visual/x{BIDI}")
    store.log("list", clips=2)
    store.log("start", clips=2, streams=[VISUAL_NAME])
    store.log_failure(f"b{ESC}", f"no frames{LINE}{BIDI}", streams=[VISUAL_NAME])
    return place


@pytest.mark.parametrize("verb", ["cache info", "cache ls", "cache verify", "cache gc", "status"])
def test_verbs_about_a_cache(hostile: Path, verb: str) -> None:
    text = printed(*verb.split(), hostile)
    assert not [line for line in text.splitlines() if line.startswith("failed: b: forged")]
    assert acting(printed(*verb.split(), hostile, "--json")) == []
    if verb in ("cache ls", "status"):
        assert r"\u202egpm.\u2066" in text


@pytest.fixture
def media(tmp_path: Path) -> Path:
    (tmp_path / "media").mkdir()
    for name in (f"a{ESC}.mp4", f"b{BIDI}.mp4", "c\n.mp4"):
        (tmp_path / "media" / name).write_bytes(b"no video")
    return tmp_path / "media"


def test_failures_of_extract(media: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    text = printed("extract", media, "--out", tmp_path / "c.zarr", "--audio", "prosody", code=1)
    assert r"\x1b[2J" in text
    assert r"\u202egpm" in text
    assert text.count("failed: ") == 3
    assert r"\x1b[2J" in printed("extract", media / f"a{ESC}.mp4", "--out", tmp_path / "c.zarr", "--audio", "logmel")


def test_labels_and_files_that_train_names(tmp_path: Path) -> None:
    cache, labels = make_cache(tmp_path, num_clips=2, seconds=1)
    label = sorted(labels.iterdir())[0]
    label.write_text(f"time_s,valence{ESC},arousal{BIDI}\n0,0,0\n", encoding="utf-8")
    text = printed("train", cache, "--labels", labels, "--out", tmp_path / "run", code=1)
    assert r"valence\x1b[2J" in text
    assert r"no\x1b[2J" in printed("predict", tmp_path / f"no{ESC}", cache, "--out", tmp_path / "p", code=2)
    assert r"\u202egpm" in printed("cache", "ls", tmp_path / f"no{BIDI}", code=1)
    assert r"\x1b" in printed("train", cache, "--labels", labels, "--out", tmp_path / "r", "--set", f"a{ESC}=1", code=1)


def test_predict_prints_names_of_a_cache(hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of a clip and its failure, with all that a result may name."""
    from sage_va import api
    from sage_va.api import PredictedFiles

    (tmp_path / "run").mkdir()
    fields: dict[str, Any] = {"clips": [f"a{BIDI}"], "failures": [{"clip_id": f"b{ESC}", "reason": f"c{LINE}"}]}
    fields |= {"out": tmp_path, "num_models": 1, "notes": {f"d{ESC}": [BIDI]}, "random_weights": [f"e{ESC}"]}
    fields |= {"at": "grid", "grid_hz": 5.0, "smoothing_s": (0.0,), "preparation": f"f{BIDI}"}
    result = PredictedFiles(runs=[], streams=[], formats=["csv"], **fields)
    monkeypatch.setattr(api, "predict_to_files", lambda *_, **__: result)
    text = printed("predict", tmp_path / "run", hostile, "--out", tmp_path / "p", code=1)
    assert r"failed: b\x1b[2J" in text
    assert r"c\nfailed: b: forged" in text
